"""Every Python block of README.md and docs/*.md runs, a file's blocks in order in one namespace."""

import linecache
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "docs" / "reference.md"
PAGES = [ROOT / "README.md", *sorted(set(ROOT.glob("docs/*.md")) - {GENERATED})]
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def python_blocks(text: str) -> Iterator[str]:
    """The code of each fenced Python block, moved down to the line where it stands in the page."""
    for block in FENCE.finditer(text):
        yield "\n" * text.count("\n", 0, block.start(1)) + block[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = page.read_text()
    # what reads source text by file and line, error messages included, finds the page
    linecache.cache[str(page)] = (len(text), None, text.splitlines(keepends=True), str(page))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for code in python_blocks(text):
        exec(compile(code, str(page), "exec"), namespace)


def test_blocks_keep_their_line_numbers():
    page = "# Title\n\n```python\na = 1\n```\n\ntext\n\n```text\n1\n```\n\n```python\nb = 2\n```\n"
    assert [code.splitlines().index(code.strip()) + 1 for code in python_blocks(page)] == [4, 14]


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_hold_nothing_of_a_machine(notebook: Path):
    """`python tests/run_notebooks.py --keep` writes them so."""
    text = notebook.read_text()
    assert not re.findall(r"(?<![\w.])/[\w./-]+\.py\b", text)
    assert '"name": "stderr"' not in text
