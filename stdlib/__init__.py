"""The standard library, written in the public names of `ppl`."""
