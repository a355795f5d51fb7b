"""Runs notebooks from top to bottom, without a display, and times them: by default all.

    python tests/run_notebooks.py [--keep] [notebooks/NAME.ipynb ...]

With `--keep` their outputs are written back to them, without what was printed to stderr and
without the paths of this machine.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def executed(path: Path) -> tuple[Any, str | None]:
    """A notebook with its outputs, and its failure, or None."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return notebook, str(error)
    return notebook, None


def keep(notebook: Any, path: Path) -> None:
    """Writes a notebook, as every machine would."""
    import nbformat

    for cell in notebook.cells:
        cell.metadata = {}
        if "outputs" in cell:
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    text = re.sub(rf"({re.escape(str(ROOT))}|/[\w/]*ipykernel_\d+)/", "", nbformat.writes(notebook))
    path.write_text(text.rstrip("\n") + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="run_notebooks.py")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("paths", nargs="*", type=Path)
    given = parser.parse_args()
    if given.keep:
        os.environ.pop("MPLBACKEND", None)  # a kernel then shows its figures inline
    failed = 0
    for path in given.paths or sorted((ROOT / "notebooks").glob("*.ipynb")):
        start = time.perf_counter()
        notebook, error = executed(path)
        failed += error is not None
        print(f"{path.name}: {'failed' if error else 'ok'}, {time.perf_counter() - start:.1f} s")
        if error:
            print(error, file=sys.stderr)
        elif given.keep:
            keep(notebook, path)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
