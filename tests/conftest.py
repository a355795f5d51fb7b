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
    import numpy as np
    from beartype import BeartypeConf, BeartypeDecorPlace, FrozenDict
    from beartype.claw import beartype_packages
    from jax import export
    from jaxtyping import install_import_hook

    # sizes and dimensions, as JAX has them: an exported size is a symbol
    whole = int | np.integer | type(export.symbolic_shape("n")[0])
    innermost = BeartypeDecorPlace.FIRST  # JAX's decorators make objects of functions
    beartype_packages(
        ("ppl", "stdlib"),
        conf=BeartypeConf(
            violation_type=WrongType,
            is_pep484_tower=True,
            hint_overrides=FrozenDict({int: whole}),
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
