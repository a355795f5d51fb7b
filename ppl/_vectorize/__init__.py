"""Equations that are alike, computed together: n scalar ones as one over n numbers.

A program with a Python loop over n scalar sites is staged to the same few equations n times. XLA
compiles each by itself, in a time that grows like the cube of n, and runs them one after another.
So a long jaxpr is rewritten before anything differentiates or compiles it. The program

    a = exp(s[0]); b = exp(s[1]); c = exp(s[2]); total = (a + b) + c

is taken apart (`nodes`): calls are inlined, and a chain of additions is one `Sum`. Its equations
get classes (`alike`): of one class are those that do the same to operands of the same shape which
came about in the same way. They are put in order (`schedule`): in each step what is ready of one
class, so that the steps of a recursion come first, and then all that reads them, at once. Last they
are run (`stacks`), an equation of several through its batching rule, by `jax.vmap`:

    e = exp(s[0:3]); total = reduce_sum(e)                 # e: (3,), each number an `Element` of it

Values stay stacked from one class to the next; one that is read alone is taken out. Each equation
is given what it was given before, and random bits are those of its own key: numbers are the same,
but for the rounding of sums, whose order is another.

Source: Neubig, Goldberg and Dyer 2017, 'On-the-fly operation batching in dynamic computation
graphs', for the order by mean depths.
"""
