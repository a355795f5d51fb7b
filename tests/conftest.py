"""With `RUNTIME_TYPES=1`, types and shapes are checked as programs run: slower, so once a CI.

The hooks stand before any import of the code. A wrong type is a warning, which is an error in the
tests unless one turns it off.
"""

import gc
import os
import warnings

import pytest

RUNTIME_TYPES = os.environ.get("RUNTIME_TYPES") == "1"

gc.set_threshold(50_000, 20, 50)  # traces are large and die young: collect seldom


class WrongType(UserWarning):
    """A value is not of the annotated type."""


if RUNTIME_TYPES:
    from beartype import BeartypeConf, BeartypeDecorPlace
    from beartype.claw import beartype_packages
    from jaxtyping import install_import_hook

    innermost = BeartypeDecorPlace.FIRST  # JAX's decorators make objects of functions
    beartype_packages(
        ("ppl", "stdlib"),
        conf=BeartypeConf(
            violation_type=WrongType,
            claw_is_pep526=False,
            claw_decor_place_func=innermost,
        ),
    )
    # these annotate shapes, which several arguments share
    install_import_hook(["stdlib.models", "stdlib.demo"], "beartype.beartype")


@pytest.fixture
def unchecked_types():
    """As for a user: the type checker, which runs under test only, would speak first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WrongType)
        yield
