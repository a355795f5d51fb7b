"""The walker: a program evaluated site by site, and what goes down to sites and comes up."""
