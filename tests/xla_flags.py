"""Prints the XLA flags with which programs compile quickly, those that this release knows.

    XLA_FLAGS="$(python tests/xla_flags.py)" python -m pytest

XLA aborts at a flag that it does not know, so they are tried in another process.
"""

import os
import subprocess
import sys

QUICK = [
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]


def known(*flags: str) -> bool:
    """Whether XLA starts with these flags."""
    environment = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(start, env=environment, capture_output=True).returncode == 0


if __name__ == "__main__":
    print(*(QUICK if known(*QUICK) else filter(known, QUICK)))
