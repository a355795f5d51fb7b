"""Every Python block of README.md and docs/*.md runs, a file's blocks in order in one namespace.

And every link between the pages, as Markdown and as HTML, has its target.
"""

import importlib.util
import linecache
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "docs" / "reference.md"
OUTSIDE = [ROOT / "CONTRIBUTING.md"]
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


class Page(HTMLParser):
    """The targets that a page of HTML links to or shows, and the anchors that it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name == "id" and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[Path, Page]:
    """README and docs, the reference included, as `make docs` renders them."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    folder = tmp_path_factory.mktemp("docs")
    text, missing = build.reference()
    assert not missing
    (folder / "reference.md").write_text(text)
    build.render([folder / "reference.md", *PAGES, *OUTSIDE], folder / "html")
    return {path: Page(path) for path in (folder / "html").glob("*.html")}


def test_every_internal_link_has_its_target(built):
    dead = []
    for path, page in built.items():
        home = ROOT if path.stem in ("README", "CONTRIBUTING") else ROOT / "docs"
        for link in page.links:
            target, _, anchor = link.partition("#")
            if "://" in target:
                continue
            other = path.parent / target if target else path
            if other in built:
                found = not anchor or anchor in built[other].anchors
            else:
                found = (home / target).exists() and not anchor
            if not found:
                dead.append(f"{path.stem}: {link}")
    assert not dead


def test_links_of_anchors_are_followed(built):
    """At least those that the pages have now: the test above is not passed by finding none."""
    assert sum("#" in link for page in built.values() for link in page.links) >= 7
