"""Summing out particles: one driver over a semiring.

Evaluated over its particles, an objective is a list of *terms*, and each weighted site has left its
*weights*; both are arrays over named particle axes. The estimate is the sum over all joint states
of the terms times the weights. As it stands, n sites of K particles have K^n of these. Elimination
gets the same sum site by site, from the last to the first: what depends on a site meets its weights
and is summed over its particles, what does not is left alone (why it may be, docs/design.md says).

The examples read an evaluation's terms and sites.

```python
>>> import jax, jax.numpy as jnp, numpyro.distributions as dist
>>> from ppl import sample
>>> from ppl._expectation.elimination.eliminate import eliminate
>>> from ppl._expectation.elimination.semiring import LOGS, MAX, NUMBERS
>>> from ppl._expectation.expectation import evaluated
>>> from ppl._expectation.interpret.scope import Scope
>>> from ppl._ir.stage import stage
>>> from stdlib.estimators import Enumerate
>>> def evaluation_of(objective, all_exact=False):
...     jaxpr, consts, *_ = stage(objective)
...     scope, key = Scope(all_exact=all_exact), jax.random.key(0)
...     (terms,), _, evaluation = evaluated(jaxpr, consts, key, scope)
...     return terms, evaluation
>>> def shape(value):  # particle axes, then dimensions of the program
...     rank = len(value.axes)
...     return value.array.shape[:rank], value.array.shape[rank:]

```

**A coin.** It has two particles, so that there is one axis of two, in the weights as in the term.

```python
>>> def coin():
...     return 3.0 * sample("z", dist.Bernoulli(0.25), Enumerate())
>>> (term,), evaluation = evaluation_of(coin)
>>> shape(term.val), shape(evaluation[0].weight)
(((2,), ()), ((2,), ()))
>>> total = NUMBERS.total(NUMBERS.times(evaluation[0].weight.array, term.val.array), axis=0)
>>> bool(total == eliminate([term], evaluation, NUMBERS) == 0.75)
True

```

**A batch of lanes.** Five coins of one site are its lanes. They have 2^5 joint states, but each has
its own particles: weights are `(2, 5)`, and so is a term that keeps the lanes apart, whose sum over
them is still to be taken (`lanes_to_sum`). Lane by lane it meets the weights, and is summed over
particles to `(5,)`. What mixes the lanes is a term over their joint states, and meets the products
of their weights, `(2^5,)`.

```python
>>> def coins():
...     return sample("z", dist.Bernoulli(jnp.full(5, 0.25)), Enumerate())
>>> (term,), evaluation = evaluation_of(lambda: jnp.sum(3.0 * coins()))
>>> shape(term.val), term.lanes_to_sum, shape(evaluation[0].weight)
(((2,), (5,)), 1, ((2,), (5,)))
>>> bool(abs(eliminate([term], evaluation, NUMBERS) - 5 * 0.75) < 1e-6)
True
>>> (term,), evaluation = evaluation_of(lambda: jnp.cos(jnp.sum(coins())))
>>> shape(term.val), term.lanes_to_sum
(((32,), ()), 0)

```

**A chain.** In a `scan` of T = 4 steps, K = 3 states meet those of the step before. Its steps are
lanes, and there are two axes of the one site: the particles of the element's own step (`NOW`) and
of the step before (`BEFORE`). Weights are M, `(K, K, T)`; a cost of each step is of that shape as
well; and what reads the state that the loop ends with is over the particles of the last step
(`LAST`), `(K,)`.

```python
>>> table = jnp.full((3, 3), 0.25) + 0.25 * jnp.eye(3)
>>> def chain():
...     def step(z, _):
...         new = sample("z", dist.Categorical(table[z]), Enumerate())
...         return new, 3.0 * (new != z)
...     last, costs = jax.lax.scan(step, jnp.asarray(0), length=4)
...     return jnp.sum(costs) + last
>>> (cost, last), evaluation = evaluation_of(chain)
>>> shape(cost.val), shape(last.val), shape(evaluation[0].weight)
(((3, 3), (4,)), ((3,), ()), ((3, 3), (4,)))

```

The states' probabilities are rows α_t = α_{t-1} M_t, `(K,)` each: the forward recursion, one
`scan`. A step's costs are weighed and summed over their own particles, all steps at once, to
`(K, T)`, and then meet the rows before each; what reads the last state meets the last row.

```python
>>> matrices = jnp.moveaxis(evaluation[0].weight.array, 2, 0)
>>> rows = [jnp.array([1.0, 0.0, 0.0])]
>>> for matrix in matrices:
...     rows.append(NUMBERS.after(rows[-1], matrix))
>>> own = jnp.sum(evaluation[0].weight.array * cost.val.array, axis=1)
>>> by_hand = jnp.sum(jnp.stack(rows[:-1], axis=1) * own) + jnp.sum(rows[-1] * last.val.array)
>>> bool(abs(eliminate([cost, last], evaluation, NUMBERS) - by_hand) < 1e-5)
True

```

**Other semirings.** The argument uses that ⊗ distributes over ⊕, and nothing else of numbers
(`Semiring`). In logarithms, sites leave log weights and the sum is the log of a mean of
exponentials; with ⊕ the maximum it is the largest of all joint states.

```python
>>> (term,), evaluation = evaluation_of(coin, all_exact=True)
>>> logs = jnp.log(jnp.array([0.75, 0.25])) + jnp.array([0.0, 3.0])
>>> total, largest = (eliminate([term], evaluation, ring) for ring in (LOGS, MAX))
>>> bool(abs(total - jnp.log(0.75 + 0.25 * jnp.exp(3.0))) < 1e-5), bool(largest == jnp.max(logs))
(True, True)

```

There terms are factors: they are one before a site is summed out (`factors`), where costs go their
own ways.

`eliminate` is the driver; `weigh` multiplies a term by weights of its lanes; `fold` sums out
chains, by the rows of `forward`, laid out as arrays by `layout`; `plugin` says what sites may do
besides, as `perturbation` does.
"""
