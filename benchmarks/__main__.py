"""Runs benchmarks, prints the tables and writes those of a whole group to a file beside this."""

import importlib
import platform
import sys
from pathlib import Path

import jax

NAMES = (
    *("imports", "compiling"),
    *("bias", "vae", "hmm", "hmm_scan", "lanes_of_chains", "perturbed_scan", "kalman"),
    *("mixture", "flows", "sbn", "fit"),
)
PLDI = ("cone", "vae", "air", "air_training")

HEADER = """# Benchmarks

Written by `make bench` (or `make bench-pldi`). Everything is measured in one process, interleaved,
after warm-up, with `block_until_ready`; ratios are medians of paired runs, to be read before
milliseconds, which depend on the machine and on what else it is doing. FLOPs and bytes accessed are
XLA's `cost_analysis`, bytes held (temporaries and outputs) its `memory_analysis`.
"""

GROUPS = {"all": (NAMES, "results.md"), "pldi": (PLDI, "results-pldi.md")}
"""Benchmarks that are run together, and where their tables go."""


def main(words: list[str]) -> None:
    """Runs the named benchmarks, or a group of them (all by default)."""
    device = jax.devices()[0]
    about = f"JAX {jax.__version__}, {device.platform}, Python {platform.python_version()}."
    sections = [HEADER, about]
    group = words[0] if words and words[0] in GROUPS else None if words else "all"
    for name in GROUPS[group][0] if group else words:
        for section in importlib.import_module(f"benchmarks.{name}").main():
            print(section, end="\n\n", flush=True)
            sections.append(section)
    if group:
        target = Path(__file__).with_name(GROUPS[group][1])
        target.write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
