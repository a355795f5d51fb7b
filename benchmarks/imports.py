"""The time of `import ppl` beside that of `import jax`: CPU seconds of fresh processes.

`import ppl` loads what a name of it needs where that is first asked for, so the first name is there
too.
"""

import statistics
import subprocess
import sys

REPEATS = 7
STATEMENTS = ("import jax", "import jax, ppl", "import jax, equinox", "from ppl import sample")


def seconds(statement: str) -> float:
    """CPU seconds of one process that runs a statement; garbage is not collected meanwhile."""
    code = f"import gc, time; gc.disable(); {statement}; print(time.process_time())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> list[str]:
    """The section of the results."""
    runs = [[seconds(statement) for statement in STATEMENTS] for _ in range(REPEATS)]
    lines = ["## Importing", "", "| | CPU s | times `import jax` |", "|---|---:|---:|"]
    for statement, *column in zip(STATEMENTS, *runs, strict=True):
        ratio = statistics.median(x / run[0] for x, run in zip(column, runs, strict=True))
        lines.append(f"| `{statement}` | {statistics.median(column):.2f} | {ratio:.2f} |")
    return ["\n".join(lines)]
