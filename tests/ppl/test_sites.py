"""`sites`: what is known of each site while a program is traced."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions import constraints

import ppl
from ppl import sample
from stdlib.estimators import Enumerate
from stdlib.inference import Importance


def inner():
    u = sample("u", dist.Normal(0.0, 1.0))
    sample("kept", dist.Normal(u, jnp.ones(2)).to_event(1))


def program(flag, low):
    jax.vmap(lambda m: sample("lanes", dist.Normal(m, jnp.ones(3))))(jnp.ones(4))
    ppl.mask(lambda: sample("masked", dist.Uniform(low, 1.0)), flag)()
    branch = lambda: sample("branch", dist.Bernoulli(0.5), Enumerate())
    lax.cond(flag, branch, lambda: 0)
    ppl.marginal(inner, "kept", Importance(1))()
    ppl.condition(ppl.scope(ppl.marginal(inner, "kept", Importance(1)), "seen"),
                  {"seen/kept": jnp.zeros(2)})()  # fmt: skip
    sample("data", dist.Gamma(2.0, 1.0), obs=1.0)


def test_what_is_known_of_each_site():
    found = ppl.sites(program, True, jnp.array(0.0))
    assert all(isinstance(site, ppl.SiteInfo) for site in found)
    listed = [
        (s.address, s.distribution, s.shape, s.certain, s.observed, s.compound) for s in found
    ]
    assert listed == [
        ("lanes", "Normal", (4, 3), True, False, False),
        ("masked", "Uniform", (), False, False, False),
        ("branch", "BernoulliProbs", (), False, False, False),
        ("kept", "marginal", (2,), False, False, True),
        ("seen/kept", "marginal", (2,), False, True, True),
        ("data", "Gamma", (), True, True, False),
    ]
    lanes, masked, branch, kept, _, data = found
    assert (branch.estimator, branch.around) == ("Enumerate", ("cond",))
    assert [site.weighted for site in found] == [False, True, False, False, False, False]
    assert branch.dtype == jnp.int32 and data.support is constraints.positive
    assert masked.support.lower_bound.shape == () and masked.support.upper_bound == 1.0
    assert lanes.around == ("vmap 4",) and "SiteInfo('lanes', Normal" in repr(lanes)
    assert "test_sites.py" in kept.where and kept.law == "weight"


def test_looks_are_of_a_lane_and_within_compound_sites():
    found = ppl.sites(program, True, jnp.array(0.0))
    looks = {s.address: s.look(lambda d: (d.batch_shape, d.event_shape)) for s in found}
    assert looks["lanes"] == [((3,), ())] and looks["kept"] == [((), (2,))]
    assert looks["seen/kept"] == []
    (kept,) = next(site for site in found if site.address == "kept").plain
    assert (kept.address, kept.distribution, kept.reads) == ("kept", "Independent", ("u",))


def test_loops_and_what_is_read_in_them():
    """Earlier steps are told from the same step, and one loop from another."""

    def model():
        start = sample("start", dist.Normal(0.0, 1.0))

        def step(carry, _):
            c = sample("c", dist.Normal(carry, 1.0))
            d = sample("d", dist.Normal(c + carry, 1.0))
            return c + d, None

        end, _ = lax.scan(step, start, None, length=3)
        lax.scan(
            lambda x, _: (sample("back", dist.Normal(x, 1.0)), None), end, None, 2, reverse=True
        )

    sites = {site.address: site for site in ppl.sites(model)}
    assert sites["c"].reads == ("c", "d", "start") and sites["c"].reads_now == ()
    assert sites["d"].reads == ("c", "d", "start") and sites["d"].reads_now == ("c",)
    assert sites["c"].shape == (3,) and sites["start"].loops == ()
    assert sites["c"].loops == sites["d"].loops != sites["back"].loops
    ((_, length, reverse),) = sites["back"].loops
    assert (length, reverse, sites["c"].around) == (2, True, ("scan 3",))
