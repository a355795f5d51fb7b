"""What is known of a program from its jaxpr: facts that flow, jumps, the graph of its sites."""
