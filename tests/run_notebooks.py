"""Runs every notebook of notebooks/ from top to bottom, without a display, and times it."""

import sys
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def run(path: Path) -> str | None:
    """The failure of one notebook, or None."""
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
        return str(error)
    return None


def main() -> int:
    failed = 0
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        start = time.perf_counter()
        error = run(path)
        failed += error is not None
        print(f"{path.name}: {'failed' if error else 'ok'}, {time.perf_counter() - start:.1f} s")
        if error:
            print(error, file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
