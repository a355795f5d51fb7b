"""Failures of control flow and of estimators: rows of `test_errors.py`, and what makes rows."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

import ppl
from ppl import errors as e
from ppl import sample
from stdlib.estimators import Enumerate
from stdlib.inference import Exact, Importance

KEY = jax.random.key(0)
NORMAL = dist.Normal(0.0, 1.0)
PATH, SCORE = ppl.Reparameterized(), ppl.ScoreFunction()


def model():
    weight = sample("weight", NORMAL)
    sample("bias", dist.Normal(jnp.zeros(3), 1.0))
    sample("count", dist.Poisson(2.0))
    sample("data", dist.Normal(weight, 1.0), obs=1.0)
    return weight


FULL = {"weight": 0.0, "bias": jnp.zeros(3), "count": 1}


def run(program):
    return lambda: ppl.seed(program)(KEY)


def simulated(program):
    return lambda: ppl.seed(lambda: ppl.simulate(program))(KEY)


def scored(choices, program=model):
    return lambda: ppl.log_density(program, choices)


def estimated(objective, *args):
    return lambda: ppl.expectation(objective)(KEY, *args)


def differentiated(objective, *args):
    return lambda: jax.grad(ppl.expectation(objective), argnums=1)(KEY, *args)


def one():
    return sample("x", NORMAL)


# --- control flow ---------------------------------------------------------------------------------


def in_predicate():
    return lax.while_loop(lambda x: sample("x", dist.Normal(x, 1.0)) < 1.0, lambda x: x + 1, 0.0)


def in_linear_solve():
    solve = lambda matvec, b: sample("x", dist.Normal(b, 1.0))
    return lax.custom_linear_solve(lambda x: 2.0 * x, jnp.ones(()), solve, symmetric=True)


def in_reduce():
    return lax.reduce(jnp.arange(3.0), 0.0, lambda a, b: a + b + sample("x", NORMAL), (0,))


def in_while(theta=0.0):
    def body(state):
        return state[0] + 1, state[1] + sample("x", dist.Bernoulli(0.5 + theta))

    return lax.while_loop(lambda state: state[0] < 3, body, (0, 0))[1] * 1.0


def controlled():
    x = sample("x", dist.Bernoulli(0.5), SCORE)
    ppl.control_variate("y", 1.0)
    return 1.0 * x


def enumerated_while():
    return ppl.with_estimators(in_while, {"x": Enumerate()})()


ALLOWED = ["'x'", "SITE", "cannot contain sites", "scan", "move the sample out"]
PREDICATE = ["'x'", "SITE", "predicate of a while_loop", "in the body", "carry"]
LOOPED = ["'x'", "SITE", "while_loop", "lax.scan", "fixed number of steps"]
slope = lambda f: lambda: jax.grad(ppl.expectation(f), argnums=1)(KEY, 0.1)


def poissons():
    return sample("n", dist.Poisson(jnp.exp(sample("x", NORMAL))))


CONTROL = [
    (run(in_predicate), e.UnsupportedControlFlow, PREDICATE),
    (estimated(in_predicate), e.UnsupportedControlFlow, PREDICATE),
    (run(in_linear_solve), e.UnsupportedControlFlow, ["'custom_linear_solve'", *ALLOWED]),
    (simulated(in_linear_solve), e.UnsupportedControlFlow, ALLOWED),
    (estimated(in_linear_solve), e.UnsupportedControlFlow, ALLOWED),
    (scored({"x": 0.0}, in_linear_solve), e.UnsupportedControlFlow, ALLOWED),
    (run(in_reduce), e.UnsupportedControlFlow, ["'reduce'", *ALLOWED]),
    (scored({"x": 0.0}, in_reduce), e.UnsupportedControlFlow, ["'reduce'", *ALLOWED]),
    (run(ppl.counterfactual(poissons, {"x": 1.0})), e.UncoupledSite,
     ["'n'", "SITE", "Poisson", "ppl.counterfactual", "its support is not finite", '"u"', "`cdf`"]),
    (run(ppl.counterfactual(in_while, {})), e.UnsupportedControlFlow,
     ["'x'", "SITE", "while_loop", "another", "lax.scan"]),
    (scored({}, in_predicate), e.UnsupportedControlFlow, LOOPED),
    (scored({}, in_while), e.UnsupportedControlFlow, LOOPED),
    (scored({"x": 1}, in_while), e.UnsupportedControlFlow, LOOPED),
    (run(ppl.condition(in_while, {"x": 1})), e.UnsupportedControlFlow, LOOPED),
    (estimated(enumerated_while), e.UnsupportedControlFlow, [*LOOPED, "ppl.ScoreFunction()"]),
    (slope(in_while), e.ReverseModeLoop, [*LOOPED, "jax.jvp"]),
    (run(lambda: jax.grad(lambda m: sample("x", dist.Normal(m, 1.0)))(0.5)), e.DifferentiatedSite,
     ["'x'", "SITE", "jax.grad(ppl.expectation(objective), argnums=1)(key, ...)"]),
    (lambda: jax.grad(lambda m: sample("x", dist.Normal(m, 1.0)))(0.5), e.DifferentiatedSite,
     ["'x'", "SITE"]),
]  # fmt: skip


# --- marginal and normalised programs -------------------------------------------------------------


def hidden():
    u = sample("u", NORMAL)
    sample("v", dist.Normal(u, 1.0))
    return sample("x", dist.Normal(u, 1.0))


def with_data():
    sample("y", dist.Normal(hidden(), 1.0), obs=0.5)


def other_proposal(kept):
    sample("w", NORMAL)
    sample("u", NORMAL)


def of_unknown_scale(prior):
    scale = sample("scale", prior)
    sample("x", dist.Normal(0.0, scale))


exactly = lambda prior: scored(
    {"x": 0.5}, lambda: ppl.marginal(of_unknown_scale, "x", Exact())(prior)
)


class LogLaw(Importance):
    law = "log"


twice = ppl.marginal(ppl.marginal(hidden, ["v", "x"], LogLaw(1)), "x", Exact())
two_kept = ppl.marginal(hidden, ["v", "x"], Importance(1))
only_v = ppl.marginal(hidden, "v", Importance(2, other_proposal))
posterior = ppl.normalize(hidden, {"x": 0.5}, Importance(2))
MARGINALS = [
    (run(ppl.marginal(hidden, "z", Importance(1))), e.UnknownAddress,
     ["'hidden'", "keep=['z']", "Known: 'u', 'v', 'x'"]),
    (run(ppl.marginal(hidden, hide="z", algorithm=Importance(1))), e.UnknownAddress,
     ["'hidden'", "hide=['z']", "Known: 'u', 'v', 'x'"]),
    (lambda: ppl.marginal(hidden, hide="u", keep="x", algorithm=Importance(1)), e.InvalidSetting,
     ['keep=["x"]', 'hide=["u"]', "algorithm=Importance(1)"]),
    (run(ppl.marginal(with_data, "y", Importance(1))), e.UnknownAddress,
     ["'with_data'", "no unobserved site at 'y'"]),
    (simulated(ppl.marginal(with_data, "x", Importance(1))), e.ObservedMarginal,
     ["'with_data'", "'y'", "SITE", "ppl.log_density", "ppl.normalize"]),
    (run(ppl.condition(two_kept, {"v": 0.5})), e.PartialObservation,
     ["marginal", "'v', 'x'", "failures.py", "not at 'x'", "ppl.normalize"]),
    (run(ppl.intervene(two_kept, {"v": 0.5})), e.PartialObservation, ["not at 'x'"]),
    (scored({"x": 0.5}, lambda: twice()), e.EstimatedDensity,
     ["The target 'hidden' needs w = p or E[w] = p", "'v'", "failures.py", "E[log w] = log p"]),
    (lambda: ppl.expectation(lambda: ppl.log_density(only_v, {"v": 0.1}))(KEY),
     e.ProposalMismatch, ["'hidden'", "lacks 'x'", "has besides 'w'", "exactly at 'u', 'x'"]),
    (scored({"v": 0.1, "u": 0.0}, only_v), e.UnusedChoice, ["'u'", "Known: 'v'"]),
    (run(ppl.normalize(hidden, {"y": 0.5}, Importance(2))), e.UnusedChoice,
     ["'y'", "Known: 'u', 'v', 'x'"]),
    (run(ppl.normalize(with_data, {"y": 0.5}, Importance(2))), e.ObservedChoice, ["'y'", "SITE"]),
    (scored({"u": 0.5}, posterior), e.MissingChoice, ["'v'", "no choice"]),
    (scored({"u": 0.5, "v": 0.1}, ppl.scale(posterior, jnp.ones(3))), e.FactorShapeError,
     ["(3,)", "'u', 'v'", "a scalar"]),
    (exactly(dist.Uniform(1.0, 2.0)), e.UnsuitableEstimator,
     ["'scale'", "Uniform", "SITE", "the support is not finite", "Importance(n)"]),
    (exactly(dist.HalfNormal(1.0)), e.UnsuitableEstimator,
     ["'scale'", "HalfNormal", "SITE", "not affine in log u and u", "Importance(n)"]),
    (exactly(NORMAL), e.UnsuitableEstimator,
     ["'scale'", "Normal", "SITE", "not quadratic in it", "Importance(n)"]),
    (lambda: ppl.extend.state_space(hidden), e.UnsupportedControlFlow,
     ["'hidden'", "no state-space model", "lax.scan"]),
    (run(ppl.with_estimators(only_v, {"q": PATH})), e.UnmatchedPattern, ["'q'", "'u'"]),
    (lambda: two_kept(), e.SampleOutsideTransformation, ["'v'", "ppl.seed(program)"]),
]  # fmt: skip


# --- estimators -----------------------------------------------------------------------------------


class Straight(ppl.extend.Estimator):
    """Biased."""

    unbiased = False

    def particles(self, key, distribution):
        return ppl.extend.Particles(distribution.sample(key)[None], None)


class Unregistered(dist.Distribution):
    """Its array is not among the fields of the pytree that it is."""

    support = dist.constraints.real

    def __init__(self, loc):
        self.loc = loc
        super().__init__()

    def sample(self, key, sample_shape=()):
        return self.loc + jax.random.normal(key, sample_shape)

    def log_prob(self, value):
        return -0.5 * (value - self.loc) ** 2


MIXED = ["'x'", "SITE", "2**20", "ppl.ScoreFunction()"]
named = lambda name: [name, "'x'", "SITE"]
other = ["Leave the estimator out", "or choose another"]
uniform = lambda theta: sample("x", dist.Uniform(0.0, theta), SCORE)
bits = lambda: sample("x", dist.Bernoulli(jnp.full(20, 0.5)), Enumerate()).sum() * 1.0


def batched(read):
    return lambda: read(1.0 * sample("x", dist.Bernoulli(jnp.full(20, 0.5)), Enumerate()))


spun = jax.vmap(lambda b: lax.fori_loop(0, 3, lambda i, a: jnp.sin(a + b * i), 0.0))
by_twos = lambda b: jnp.sum(lax.slice(b, (1,), (20,), (2,)) * lax.slice(b, (0,), (20,), (2,)))
counted = lambda b: sample("n", dist.Poisson(1.0 + b)).sum() * 1.0


def chains():
    def step(states, _):
        states = sample("x", dist.Bernoulli(0.2 + 0.5 * states))
        sample("y", dist.Normal(jnp.prod(1.0 + states), 1.0), obs=1.0)
        return states, None

    lax.scan(step, jnp.zeros(15, int), length=2)


def mixing():
    lanes = jax.vmap(lambda i: sample("x", dist.Bernoulli(0.5), Enumerate()))(jnp.arange(20))
    return jnp.max(lanes) * 1.0


ESTIMATORS = [
    (run(lambda: sample("x", dist.Bernoulli(0.5), PATH)), e.UnsuitableEstimator,
     [*named("Reparameterized()"), "Bernoulli", "has_rsample", *other]),
    (run(lambda: sample("x", dist.Poisson(1.0), Enumerate())), e.UnsuitableEstimator,
     [*named("Enumerate()"), "Poisson", "not finite", *other]),
    (run(lambda: sample("x", NORMAL, Enumerate())), e.UnsuitableEstimator,
     [*named("Enumerate()"), "Normal", *other]),
    (differentiated(uniform, 2.0), e.UnsuitableEstimator,
     [*named("ScoreFunction()"), "Uniform", "support moves", *other]),
    (run(lambda: sample("x", NORMAL, ppl.ScoreFunction)), e.UnsuitableEstimator,
     ["'x'", "SITE", "instance", "Write, for example, ScoreFunction()"]),
    (run(lambda: sample("x", NORMAL, "score")), e.UnsuitableEstimator,
     ["'x'", "SITE", "'score'", "ppl.ScoreFunction()"]),
    (run(ppl.with_estimators(one, {"*": Enumerate()})), e.UnsuitableEstimator,
     named("Enumerate()")),
    (run(lambda: ppl.with_estimators(one, {"x": ppl.ScoreFunction})()), e.UnsuitableEstimator,
     ["'x'", "SITE", "instance"]),
    (run(ppl.with_estimators(one, {"x": lambda own: "score"})), e.UnsuitableEstimator,
     ["'x'", "SITE", "instance", "'score'"]),
    (run(ppl.with_estimators(model, {"wieght": SCORE})), e.UnmatchedPattern,
     ["'wieght'", "'model'", "Nearest: 'weight'"]),
    (run(ppl.with_estimators(model, {"layer/*": SCORE})), e.UnmatchedPattern,
     ["'layer/*'", "Known:", "'bias'"]),
    (estimated(lambda: sample("x", NORMAL, Straight())), e.BiasedEstimator,
     [*named("Straight"), "allow_biased=True"]),
    (estimated(bits), e.TooManyJointStates,
     ["'x'", "SITE", "2**20", "16384", "ppl.ScoreFunction()", "jax.vmap"]),
    (estimated(mixing), e.TooManyJointStates, ["failures.py", "ppl.ScoreFunction()", "jax.vmap"]),
    (estimated(batched(by_twos)), e.TooManyJointStates,
     [*MIXED, "'slice'", "draw each part at a site of its own"]),
    (estimated(batched(lambda b: jnp.sum(jnp.sin(b.reshape(4, 5))))), e.TooManyJointStates,
     [*MIXED, "'reshape'", "in the shape and order in which it is read"]),
    (estimated(batched(lambda b: jnp.sum(spun(b)))), e.TooManyJointStates,
     [*MIXED, "Put the site itself into the function that jax.vmap maps"]),
    (estimated(batched(counted)), e.TooManyJointStates, [*MIXED, "'while' at", "failures.py"]),
    (lambda: Exact().log_evidence(ppl.extend.Target(chains, {})), e.TooManyJointStates,
     ["The 15 elements of site 'x'", "SITE", "jnp.sum(jax.vmap(one)(sequences))"]),
    (estimated(lambda: 1j * one()), e.NonScalarObjective, ["complex64[]", "value.real"]),
    (estimated(lambda: 1.0 * sample("x", dist.Poisson(1.0), ppl.ScoreFunction(jnp.ones(3)))),
     e.SiteFailure, ["'x'", "SITE", "(3,)", "a baseline"]),
    (run(lambda: sample("x", Unregistered(jnp.zeros(())))), e.SiteFailure,
     ["'x'", "SITE", "'loc'", "pytree_data_fields", "equinox.Module"]),
    (run(lambda: sample("x", dist.Normal(jnp.zeros(2), jnp.ones(3)))), e.InvalidDistribution,
     ["'x'", "SITE", "cannot be made", "of shapes that broadcast"]),
    (estimated(controlled), e.InvalidControlVariate, ["'y'", "failures.py", "no site", "x"]),
]  # fmt: skip
