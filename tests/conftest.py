"""With `RUNTIME_TYPES=1`, types and shapes are checked as programs run: slow, so once a CI.

The hook stands before any import of the code.
"""

import os

import jaxtyping
import pytest

if os.environ.get("RUNTIME_TYPES") == "1":
    from jaxtyping import install_import_hook

    install_import_hook(["ppl", "stdlib"], "beartype.beartype")


@pytest.fixture
def unchecked_types():
    """As for a user: the type checker, which runs under test only, would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
