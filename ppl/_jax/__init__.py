"""What is private to JAX, and jaxprs in general: primitives, equations, running, dataflow."""
