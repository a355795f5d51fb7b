"""Terms: the addends of an objective, kept apart by what they depend on.

The weights of a site need to meet only those addends of the objective that depend on it: with the
others they sum to one. So an objective is not one value but a list of `Term`s, merged where they
depend on the same sites in the same way. With the program of `values`, two coins and a batch of
three:

```python
>>> import jax.numpy as jnp, ppl, numpyro.distributions as dist
>>> from ppl._expectation.inspect import look_into
>>> from stdlib.estimators import Enumerate
>>> def program():
...     a = ppl.sample("a", dist.Bernoulli(0.25), Enumerate())
...     b = ppl.sample("b", dist.Bernoulli(0.25 + 0.5 * a), Enumerate())
...     x = ppl.sample("x", dist.Bernoulli(jnp.full(3, 0.5)), Enumerate())
...     return (1.0 * a * b + jnp.sum(0.5 * x)) / 2.0
>>> (terms,), evaluation = look_into(program)

```

As one value, the cost of 2 · 2 · 2³ combinations would have 32 entries. As terms it has `(a, b)`
and `(x, lane)`, 4 + 6:

```python
>>> first, second = terms
>>> [axis.site for axis in first.val.axes], first.val.array.tolist(), first.lanes_to_sum
([0, 1], [[0.0, 0.0], [0.0, 0.5]], 0)
>>> [axis.site for axis in second.val.axes], second.val.array.tolist(), second.lanes_to_sum
([2], [[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]], 1)

```

**Lanes to sum.** The sum over the batch would mix its lanes, so it is not taken: the second term
keeps the dimension in front, and says that it is still to be summed over. Each lane then meets its
own weight: Σ_lane Σ_j w[j, lane] · term[j, lane].

**The linear tail** (`linear`). Which equations keep terms apart is found by going back from the
result: sums and differences, products with something that is not random, casts, reshapes. A
`scan` hands out the terms of its steps, each stacked. Here these are the division, the sum of the
two costs and the sum over the batch. What else reads a sum of terms reads it as one value:
`collapse` takes the sums that are still to take, over the axes of all the terms.

```python
>>> from ppl._expectation.terms.terms import collapse
>>> whole = collapse(terms, evaluation)
>>> [(axis.site, axis.form) for axis in whole.axes], whole.array.shape
([(0, ()), (1, ()), (2, (0,))], (2, 2, 8))

```
"""
