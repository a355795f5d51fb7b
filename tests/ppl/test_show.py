"""`show` prints the sites and the IR, and draws the graph; `simulate` returns a `Trace`."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import ppl
from ppl import sample


def chain():
    scale = sample("scale", dist.HalfNormal(1.0))

    def step(state, y):
        state = sample("state", dist.Normal(state, scale))
        jump = jax.lax.cond(state > 0, lambda: sample("jump", dist.Normal(0.0, 1.0)), lambda: 0.0)
        sample("y", dist.Normal(state + jump, 1.0), obs=y)
        return state, None

    return jax.lax.scan(step, 0.0, jnp.arange(3.0))[0]


def test_sites_and_what_they_read():
    listing = ppl.show(chain)
    read = {site.address: (site.distribution, site.around, site.reads) for site in listing.sites}
    assert read == {
        "scale": ("HalfNormal", (), ()),
        "state": ("Normal", ("scan 3",), ("scale", "state")),
        "jump": ("Normal", ("scan 3", "cond"), ("state",)),
        "y": ("Normal", ("scan 3",), ("jump", "state")),
    }


def test_text_has_a_line_a_site_and_the_ir():
    lines = repr(ppl.show(chain)).splitlines()
    assert lines[0] == "program chain"
    assert [line.split()[0] for line in lines[3:7]] == ["scale", "state", "jump", "y"]
    assert "(observed)" in lines[6]
    assert any("sample[site=state]" in line for line in lines[7:])


def test_graph_has_an_ellipse_a_site_and_an_arrow_a_dependency():
    root = ElementTree.fromstring(ppl.show(chain)._repr_svg_())
    name = "{http://www.w3.org/2000/svg}"
    labels = [text.text for text in root.iter(name + "text") if text.get("font-weight")]
    assert labels == ["scale", "state", "jump", "y"]
    arrows = [path for path in root.iter(name + "path") if path.get("marker-end")]
    assert len(arrows) == 4
    shaded = [e.get("fill") for e in root.iter(name + "ellipse")]
    assert shaded == ["#ffffff", "#ffffff", "#ffffff", "#d0d7de"]


def test_lanes_and_estimators_are_listed():
    def lanes():
        draw = lambda mean: sample("x", dist.Normal(mean, 1.0), ppl.ScoreFunction())
        return jax.vmap(draw)(jnp.arange(4.0))

    (node,) = ppl.show(lanes).sites
    assert (node.around, node.estimator) == (("vmap 4",), "ScoreFunction")


def test_a_trace_is_a_pytree_that_jit_and_vmap_return():
    run = ppl.seed(lambda: ppl.simulate(chain))
    keys = jax.random.split(jax.random.key(0), 5)
    traces = jax.jit(jax.vmap(run))(keys)
    assert isinstance(traces, ppl.Trace)
    one = jax.tree.map(lambda x: x[2], traces)
    expected = jax.jit(run)(keys[2])
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(expected), strict=True)
    assert all(jnp.allclose(a, b, rtol=1e-6) for a, b in pairs)
    joint = ppl.log_density(chain, one.choices)
    assert jnp.allclose(joint, one.log_density + one.log_likelihood, rtol=1e-5)
