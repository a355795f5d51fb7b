"""Tables, as plain text and as HTML."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Table(NamedTuple):
    """A heading and rows of cells, of which the first column is aligned to the left."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Columns separated by two spaces."""
        cells = [self.heading, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.heading))]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0])]
                + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in cells
        )

    def html(self) -> str:
        """A `<table>`."""

        def row(cells: Sequence[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(c)}</{tag}>' for c in cells)}</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        return f"<table>{row(self.heading, 'th')}{body}</table>"


def number(value: float, digits: int = 3) -> str:
    """A number in a cell: a dash where there is none."""
    return "-" if value != value else f"{value:,.{digits}g}"
