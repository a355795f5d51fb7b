"""The time of `import ppl` beside that of `import jax`: CPU seconds of fresh processes."""

import statistics
import subprocess
import sys

REPEATS = 7


def seconds(module: str) -> float:
    """CPU seconds of one process that imports a module; garbage is not collected meanwhile."""
    code = f"import gc, time; gc.disable(); import {module}; print(time.process_time())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> list[str]:
    """The section of the results."""
    runs = [(seconds("jax"), seconds("ppl")) for _ in range(REPEATS)]
    jax, ppl = (statistics.median(column) for column in zip(*runs, strict=True))
    ratio = statistics.median(b / a for a, b in runs)
    return [
        f"## Importing\n\n`import jax` {jax:.2f} s, `import ppl` {ppl:.2f} s: {ratio:.2f} times."
    ]
