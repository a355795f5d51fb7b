"""Sites: what a `sample` becomes, and what it leaves for the sum over its particles.

An estimator stands a finite weighted measure Σ_j w_j δ(v_j) in for a site's distribution. The rule
of `sample` asks it for one (`measure`), gives the values to the program, and notes the weights.
With the program of `values`, two coins and a batch of three:

```python
>>> import jax.numpy as jnp, ppl, numpyro.distributions as dist
>>> from ppl._expectation.inspect import look_into
>>> from stdlib.estimators import Enumerate
>>> def program():
...     a = ppl.sample("a", dist.Bernoulli(0.25), Enumerate())
...     b = ppl.sample("b", dist.Bernoulli(0.25 + 0.5 * a), Enumerate())
...     x = ppl.sample("x", dist.Bernoulli(jnp.full(3, 0.5)), Enumerate())
...     return 1.0 * a * b + jnp.sum(0.5 * x), b, x
>>> (_, b, x), evaluation = look_into(program)

```

**The measure** (`measure`) of a site with vmaps and a batch is that of each lane: values
`(particles, *lanes, *event)` and weights `(particles, *lanes)`. Its code is others' (an estimator,
a distribution), so it is traced, and evaluated like the program's own equations (`sample`): each
output spans just the axes that it reads. The particles of `b` are 0 and 1 whatever `a` is, `(b,)`;
their weights are one row for each particle of `a`, `(a, b)`:

```python
>>> b.array.tolist(), evaluation[1].weight.array.tolist()
([0, 1], [[0.75, 0.25], [0.25, 0.75]])

```

**The weighted site** (`weighted_site`) is what stays of it when the program goes on: the weight
`(*axes, *lanes)`, the sizes of the lanes, and what kind of particles they are.

```python
>>> site = evaluation[2]
>>> site.site.address, site.lane_sizes, site.weight.array.shape, site.axis, site.normalized
('x', (3,), (2, 3), True, True)

```

**The ledger** (`ledger`) numbers them as they are opened. A site's number is its name in axes,
relations and bits of provenance.

```python
>>> [site.site.address for site in evaluation.opened]
['a', 'b', 'x']

```

How particles of different sites meet is the estimator's choice. By default they multiply: the site
opens an axis. One particle needs none: a score has a weight, and its site a number. Perturbed
particles open worlds. Particles that are runs of the whole program are `coupled`: one axis, which
the lanes of a site share, and the sites of one name.

```python
>>> def scored():
...     y = ppl.sample("y", dist.Bernoulli(jnp.full(3, 0.5)), ppl.ScoreFunction(baseline=0.5))
...     return jnp.sum(1.0 * y), y
>>> (_, y), evaluation = look_into(scored)
>>> y.axes, y.array.shape, bin(y.sites), y.relations
((), (3,), '0b1', {0: (Along(dim=0, how=0, start=None),)})

```

A site may also leave costs of its own. A `baseline` is taken off the cost that meets the weight: of
each lane three numbers are noted, `(*lanes, 3)`, from which it is learnt; `control_variate` is one
that the objective gives, which must not read its own lane (`own_lane`; elements are followed one by
one through equations: `follow_reads`, `linear_reads`, `element_reads`).

```python
>>> evaluation[0].weight.array.tolist(), evaluation[0].baseline.array.shape
([1.0, 1.0, 1.0], (3, 3))

```

`gating` cuts off derivatives of what a branch reads where the branch is not reached.
"""
