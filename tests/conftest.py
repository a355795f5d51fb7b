"""Types and shapes are checked, under test only: the hook stands before any import of the code."""

from jaxtyping import install_import_hook

install_import_hook(["ppl", "stdlib"], "beartype.beartype")
