"""The intermediate representation: sites, and how a program is staged to a jaxpr that has them."""
