"""Writes docs/reference.md from docstrings, and every page of docs/ as HTML to docs/_build/.

Headings get the anchors that links in Markdown name. Fails if a public name has no docstring.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).parent
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
DOCTEST = re.compile(r"^>>> .*?(?=^\s*$|\Z)", re.MULTILINE | re.DOTALL)
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui }}
pre {{ overflow-x: auto; padding: .8rem; background: #8881 }}
code {{ font-size: .9em }}
table {{ border-collapse: collapse }} td, th {{ border: 1px solid #8886; padding: .2rem .6rem }}
</style>
<nav>{links}</nav>
{body}
</html>
"""


def documented_modules() -> Iterator[ModuleType]:
    """`ppl` and `stdlib`, and their public parts that have an `__all__`."""
    for package in map(importlib.import_module, ["ppl", "stdlib"]):
        parts = sorted(part.name for part in pkgutil.iter_modules(package.__path__))
        names = [f"{package.__name__}.{name}" for name in parts if not name.startswith("_")]
        for module in [package, *map(importlib.import_module, names)]:
            if hasattr(module, "__all__"):
                yield module


def fenced(docstring: str) -> str:
    """The docstring with all its doctests in fences."""
    parts = FENCED.split(docstring)  # text and fences in turn
    parts[::2] = [DOCTEST.sub(lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", p) for p in parts[::2]]
    return "".join(parts)


def signature(thing: Any) -> str:
    """The call of a function or class, without annotations: the text explains the arguments."""
    if not callable(thing):
        return ""
    try:
        call = inspect.signature(thing)
    except ValueError:
        return ""
    empty = inspect.Parameter.empty
    plain = [p.replace(annotation=empty) for p in call.parameters.values()]
    return str(call.replace(parameters=plain, return_annotation=empty))


def methods(thing: Any) -> Iterator[tuple[str, Any]]:
    """The documented public methods and properties that a class defines itself."""
    for name, member in vars(thing).items() if inspect.isclass(thing) else ():
        if not name.startswith("_") and inspect.isroutine(member) | isinstance(member, property):
            yield name, member


def entry(module: ModuleType, name: str, missing: list[str]) -> str:
    """One public name: heading, signature, docstring, methods."""
    thing = getattr(module, name)
    documentation = inspect.getdoc(thing)
    if not documentation:
        missing.append(f"{module.__name__}.{name}")
        return ""
    call = signature(thing)
    text = f"### `{name}`\n\n" + (f"```text\n{name}{call}\n```\n\n" if call else "")
    text += fenced(documentation) + "\n\n"
    for method, member in methods(thing):
        if documentation := inspect.getdoc(member):
            text += f"**`.{method}{signature(member)}`**: {fenced(documentation)}\n\n"
    return text


def reference() -> tuple[str, list[str]]:
    """The page, and the public names without a docstring."""
    missing: list[str] = []
    text = "# Reference\n\n"
    for module in documented_modules():
        text += f"## `{module.__name__}`\n\n{fenced(inspect.getdoc(module) or '')}\n\n"
        names = [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
        text += "".join(entry(module, name, missing) for name in names)
    return text, missing


def render(pages: list[Path], folder: Path) -> None:
    """The pages as HTML, each linking to all, with an anchor at each heading."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.anchors import anchors_plugin

    markdown = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=4)
    folder.mkdir(exist_ok=True)
    links = " · ".join(f'<a href="{page.stem}.html">{page.stem}</a>' for page in pages)
    for page in pages:
        body = re.sub(r'href="([\w-]+)\.md', r'href="\1.html', markdown.render(page.read_text()))
        html = PAGE.format(title=page.stem, links=links, body=body)
        (folder / f"{page.stem}.html").write_text(html)


def main() -> int:
    text, missing = reference()
    (DOCS / "reference.md").write_text(text)
    pages = sorted(DOCS.glob("*.md"))
    render(pages, DOCS / "_build")
    print(f"{len(pages)} pages in docs/_build/, reference in docs/reference.md")
    for name in missing:
        print(f"no docstring: {name}", file=sys.stderr)
    return int(bool(missing))


if __name__ == "__main__":
    raise SystemExit(main())
