"""The progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Bar:
    """Shows nothing."""

    def start(self) -> None:
        """The program is compiled; steps begin."""

    def update(self, objective: np.ndarray) -> None:
        """Some more steps are done, at which `objective` was measured."""


class TqdmBar(Bar):
    """Shows the objective and the steps a second."""

    def __init__(self, bar: Any):
        self.bar = bar

    def start(self) -> None:
        """Has the clock leave compiling out."""
        self.bar.set_description_str("", refresh=False)
        self.bar.unpause()

    def update(self, objective: np.ndarray) -> None:
        """Draws at most ten times a second, whatever the number of calls."""
        finite = objective[np.isfinite(objective)]
        if finite.size:
            self.bar.set_postfix_str(f"objective {finite.mean():.5g}", refresh=False)
        self.bar.update(len(objective))


@contextmanager
def progress_bar(total: int, show: bool) -> Iterator[Bar]:
    """A bar by `tqdm.auto`; none where it is not to be shown or tqdm is not installed."""
    tqdm = _tqdm() if show else None
    if tqdm is None:
        yield Bar()
    else:
        look = {"unit": " steps", "dynamic_ncols": True, "desc": "compiling"}
        with tqdm(total=total, **look) as bar:
            yield TqdmBar(bar)


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
