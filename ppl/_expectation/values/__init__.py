"""Values: arrays over the particles that they read.

In a run of a program a variable is an array. Where sites have several particles, weighted, a
variable is different for each combination of particles of the sites it depends on. A `Value` is
the array of all these, and its leading dimensions are named: an `Axis` says whose particles run
along it. All folders here look at one program, of two coins and a batch of three:

```python
>>> import jax.numpy as jnp, ppl, numpyro.distributions as dist
>>> from ppl._expectation.inspect import look_into
>>> from stdlib.estimators import Enumerate
>>> def program():
...     a = ppl.sample("a", dist.Bernoulli(0.25), Enumerate())
...     b = ppl.sample("b", dist.Bernoulli(0.25 + 0.5 * a), Enumerate())
...     x = ppl.sample("x", dist.Bernoulli(jnp.full(3, 0.5)), Enumerate())
...     cost = 1.0 * a * b + jnp.sum(0.5 * x)
...     return cost, a, a + b, x, a * x, jnp.sum(x)
>>> (_, a, both, x, scaled, count), _ = look_into(program)

```

**Axes** (`value`). Coin `a` is site 0 and has two particles, 0 and 1. In the program it is a
scalar; its value has one axis, and no dimension after it:

```python
>>> a.axes, a.array.tolist()
((Axis(site=0, step=0, form=(), steps=None),), [0, 1])

```

An equation is mapped over the union of its inputs' axes, and not over more: `a + b` has an entry
for each of 2 · 2 combinations, `(a, b)`, and does not know of `x`.

```python
>>> [axis.site for axis in both.axes], both.array.tolist()
([0, 1], [[0, 1], [1, 2]])

```

**Provenance.** `sites` is the set of sites that a value depends on, as bits. It is closed under
ancestors: `b` was drawn given `a`, so what reads `b` depends on both.

```python
>>> bin(a.sites), bin(both.sites), bin(scaled.sites)
('0b1', '0b11', '0b101')

```

**Lanes** (`lanes`, `dimensions`). A batch of n elements with K particles each has K^n joint states.
As long as elements are kept apart there is no need of these: the particles of `x` are those of each
of its three lanes, `(2, 3)`, and a relation says which of the value's dimensions the lanes are.
Multiplied by `a` it stays so, `(a, x, lane)`:

```python
>>> x.array.tolist(), x.relations
([[0, 0, 0], [1, 1, 1]], {2: (Along(dim=0, how=0, start=None),)})
>>> scaled.array.shape, scaled.relations
((2, 2, 3), {2: (Along(dim=0, how=0, start=None),)})

```

A rule for each primitive says where dimensions go. One that moves them moves the relation; one that
mixes the lanes loses it.

**Expansion** (`expansion`, `limits`). Where lanes are mixed and have several particles, the value
is first expanded to joint states along the dimensions that mix, and its axis says so by its `form`.
The number of ones in three coins has an entry for each of 2³ = 8 states:

```python
>>> count.axes, count.array.tolist(), count.relations
((Axis(site=2, step=0, form=(0,), steps=None),), [0, 1, 1, 2, 1, 2, 2, 3], {})

```

`apply` is the door to all this: given a function of arrays and what it does to provenance, it
expands what mixes, checks the number of joint states, and maps.

**Worlds** (`worlds`). A perturbed site has no axis: beside a value's array there is one more for
each way in which the site could have been drawn otherwise, `(worlds, *event)`. Of three coins
perturbed one by one, what sums them has three worlds, not eight states:

```python
>>> from stdlib.estimators import MeasureValued
>>> def perturbed():
...     y = ppl.sample("y", dist.Bernoulli(jnp.full(3, 0.5)), MeasureValued())
...     return jnp.sum(1.0 * y), y, jnp.sum(y)
>>> (_, y, total), _ = look_into(perturbed)
>>> y.array.shape, y.worlds.array.shape, total.array.shape, total.worlds.array.shape
((3,), (1, 3), (), (3,))
>>> total.worlds.segments
(Segment(site=0, form=(0,), size=3),)

```

**What is known** (`constants`) while tracing saves work: a table indexed by an enumerated state is
the table. What may be infinite (`vanishing`) passes back nothing for a weight of zero.
"""
