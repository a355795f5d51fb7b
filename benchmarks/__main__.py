"""Runs every benchmark, prints the tables and writes them to `benchmarks/results.md`."""

import importlib
import platform
import sys
from pathlib import Path

import jax

NAMES = ("imports", "bias", "vae", "hmm", "hmm_scan", "mixture", "sbn", "air", "fit")

HEADER = """# Benchmarks

Written by `make bench`. Everything is measured in one process, interleaved, after warm-up, with
`block_until_ready`; ratios are medians of paired runs, to be read before milliseconds, which depend
on the machine and on what else it is doing. FLOPs and bytes accessed are XLA's `cost_analysis`,
bytes held (temporaries and outputs) its `memory_analysis`.
"""


def main(names: list[str]) -> None:
    """Runs the named benchmarks (all by default)."""
    device = jax.devices()[0]
    about = f"JAX {jax.__version__}, {device.platform}, Python {platform.python_version()}."
    sections = [HEADER, about]
    for name in names or NAMES:
        for section in importlib.import_module(f"benchmarks.{name}").main():
            print(section, end="\n\n", flush=True)
            sections.append(section)
    if not names:
        Path(__file__).with_name("results.md").write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
