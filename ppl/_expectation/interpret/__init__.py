"""Interpreting: evaluating a jaxpr over values, equation by equation, and body by body.

`evaluate` runs a jaxpr whose variables are `Value`s (or, in the linear tail, `Terms`). It hands
each rule the equation, its values, the random key of its sites, and the `evaluation`: the
**scope**, what holds where one is, which is immutable; and the **ledger** of the sites opened so
far, the one thing that changes. With the program of `values`, two coins and a batch of three:

```python
>>> import jax, jax.numpy as jnp, ppl, numpyro.distributions as dist
>>> from ppl._expectation.inspect import look_into
>>> from stdlib.estimators import Enumerate
>>> def program():
...     a = ppl.sample("a", dist.Bernoulli(0.25), Enumerate())
...     b = ppl.sample("b", dist.Bernoulli(0.25 + 0.5 * a), Enumerate())
...     x = ppl.sample("x", dist.Bernoulli(jnp.full(3, 0.5)), Enumerate())
...     return 1.0 * a * b + jnp.sum(0.5 * x), a, b
>>> (_, a, b), evaluation = look_into(program)
>>> evaluation.scope.loops, evaluation.scope.active, evaluation.ledger.next
((), (), 3)

```

An equation without sites is applied to values (`values.apply`); one that reads nothing random runs
as it is. The body of a call is evaluated in place.

**Branches** (`control_flow`). A `cond` whose sites have one particle each, read without axes, stays
a branch, and is one weighted site. Else all branches are evaluated, in scopes in which a flag says
whether they are reached, and their results selected. By coin `a`, the flag is `(a,)`:

```python
>>> def chosen():
...     a = ppl.sample("a", dist.Bernoulli(0.25), Enumerate())
...     coin = lambda: ppl.sample("b", dist.Bernoulli(0.75), Enumerate())
...     b = jax.lax.cond(a == 1, coin, lambda: 7)
...     return 1.0 * b, b
>>> (_, b), evaluation = look_into(chosen)
>>> b.array.tolist(), evaluation[1].weight.array.tolist()
([[7, 7], [0, 1]], [[1.0, 0.0], [0.25, 0.75]])

```

Where the site is not reached (`a` = 0), it has one particle of weight one.

**Bodies that JAX traces apart** (`checkpoint`, `scan`, `while_loop`, a branch) get a nested
evaluation: a scope of their own and a ledger of their own, whose numbers go on. Their values and
sites are pytrees, whose structure is all that is known of them, and are returned by the trace.

**Loops** (`scan`, `steps`, `body`, `carry`, `stacking`). The coin tossed anew, given the toss
before:

```python
>>> def chain():
...     def step(b, _):
...         b = ppl.sample("b", dist.Bernoulli(0.25 + 0.5 * b), Enumerate())
...         return b, b
...     last, tosses = jax.lax.scan(step, 0, None, length=5)
...     return 1.0 * last, last, tosses
>>> (_, last, tosses), evaluation = look_into(chain)

```

The body is evaluated once for all the steps, at one that stands for each. The steps are the
site's first lanes, and within the body dimension `-level` of its relations. What is carried has
the particles of the step that made it; handed on, the axis is renamed (`BEFORE`), so the body is
evaluated over `(before, now)`, 2 · 2 entries, however many steps there are. Outside, the tosses are
`(b, step)`, each depending on those up to its own (`how=1`), and the weights `(before, now, step)`:

```python
>>> tosses.axes, tosses.array.shape, tosses.relations
((Axis(site=0, step=0, form=(), steps=None),), (2, 5), {0: (Along(dim=0, how=1, start=None),)})
>>> [axis.step for axis in evaluation[0].weight.axes], evaluation[0].weight.array.shape
([-1, 0], (2, 2, 5))

```

The last toss has the particles of the last step (`LAST`), and depends on all the steps. As
particles of a step meet those of another, the site is a chain: `elimination` sums it out by
recursion along its lanes, which are the loop's steps from the first to the last. So it does with
the lanes of a batch, where a later loop goes along them and carries a lane's particles to the next.

```python
>>> (axis,) = last.axes
>>> axis.step, axis.steps, last.array.tolist(), last.relations
(1, Steps(dim=0, reverse=False), [0, 1], {})

```

The steps of a perturbed site are lanes as well. What is carried depends on all those before, so
that it is in worlds of each of the steps, of which one alone is perturbed: here five, `(step,)`.
What the last toss leaves is of them all.

```python
>>> from stdlib.estimators import MeasureValued
>>> def perturbed():
...     def step(b, _):
...         b = ppl.sample("b", dist.Bernoulli(0.25 + 0.5 * b), MeasureValued())
...         return b, b
...     last, tosses = jax.lax.scan(step, 0, None, length=5)
...     return 1.0 * last, last, tosses
>>> (_, last, tosses), evaluation = look_into(perturbed)
>>> last.worlds.array.shape, tosses.worlds.array.shape, tosses.worlds.segments
((5,), (5, 5), (Segment(site=0, form=(0,), size=5),))

```

Which particles the carry has is a fixed point (`carry.settle`), found on shapes: that of what it
starts from, and of what a step makes of it. Where a step would have to hand on particles of two
steps, or where a value made of a whole path mixes its steps, the loop is written out (`scan`), step
after step, each site of each step a site of its own.
"""
