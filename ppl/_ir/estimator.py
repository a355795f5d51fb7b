"""The estimator protocol and the two built-in gradient estimators."""

import abc
from collections.abc import Hashable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from .._analysis.sampler import chooses_by_noise
from .._distributions.law import Law, law, why_no_law
from .._distributions.scored_draw import is_scorable, unscorable
from .._distributions.support import guarded
from ..errors import UnsuitableEstimator
from .call import Call, call_of
from .site import Site


class Particles(NamedTuple):
    """A finite, differentiable, signed measure that stands in for a distribution.

    - `values`: `(J, *batch, *event)`, the J particles.
    - `weights`: `(J, *batch)`, their weights, one for each element of the distribution's batch;
      None where every weight is the constant one.
    - `normalized`: whether the weights sum to one over J identically, derivatives included. Box
      weights (`J = 1`) sum to one in expectation only.
    - `perturbed`: whether the particles after the first are perturbations of it: their weights are
      zero in value and alive in derivative, and the first's is one minus their sum. What follows
      them is evaluated without derivatives, and perturbations of different elements and sites never
      multiply: n such sites cost O(n) runs of what follows, not J^n.
    - `chances`: with `perturbed`, where the particles are a whole finite support, each value once:
      their probabilities, `(J, *batch)`. A cost that reads no other site or element is then summed
      over them exactly.
    - `shared_weights`: `(J,)` constants c, where the particles of all elements are coupled: that of
      index j meets only those of index j of the others, with weight `c_j Π (w_j / c_j)`. The
      weights must equal c_j in value, whatever the element. None where particles multiply.
    - `shared`: with `shared_weights`, a name: sites of one name share their particles, as elements
      do. They must have the same constants: what these differ in goes into the name. Those that are
      traced are taken for the same where the estimators are; other sites go by themselves.
    - `baseline`: `(*batch)` or a scalar, with `J = 1` only: what is subtracted from the cost that
      multiplies the weight's derivative. It must not depend on the draw. A derivative in the
      baseline's own parameters is that of -(cost - baseline)²/2, so that they can be learnt
      (`ppl.fit` turns its sign where it minimises); what is not to be learnt so, as the parameters
      of the site itself, goes under `stop_gradient`.
    - `control`: `(*batch)` or a scalar: a cost term of the site's own, summed and added to the
      objective. Given all that the distribution depends on, its mean is zero, and so is the mean of
      its derivative: it changes the variance alone. It does not meet the site's own weights.

    Fields that mean nothing together (a baseline without a weight, ...) are `UnsuitableEstimator`.
    """

    values: Any
    weights: Any
    normalized: bool = False
    perturbed: bool = False
    shared_weights: Any = None
    shared: Hashable | None = None
    baseline: Any = None
    control: Any = None
    chances: Any = None


class Estimator(eqx.Module):
    """How gradients pass one site: a stand-in for its distribution (the estimator law).

    For the distribution p_θ of a site, `particles(key, p_θ)` returns values v_j and weights w_j
    such that for every function f

        E[Σ_j w_j f(v_j)] = E_{p_θ}[f]   and   E[∂θ Σ_j w_j f(v_j)] = ∂θ E_{p_θ}[f]

    under ordinary JAX differentiation through v_j and w_j. `stdlib.testing.assert_unbiased` checks
    it. An estimator for which the second equation fails says `unbiased = False` and runs only
    under `ppl.expectation(..., allow_biased=True)`. One whose particles move with the parameters,
    so that it needs an objective without jumps, says `pathwise = True`; one whose particles are the
    distribution itself, nothing drawn, `exact = True`. `second_order = True` is a promise: the law
    holds for second derivatives too. Without it, a second derivative of an estimate in what the
    site's distribution depends on is `BiasedEstimator`, unless `allow_biased=True`.
    """

    unbiased: ClassVar[bool] = True
    pathwise: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    second_order: ClassVar[bool] = False

    @abc.abstractmethod
    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The measure: a function of a PRNG key and of the distribution of one lane.

        It is the law of the draw, without masks; its `log_prob` refuses (`UnsuitableEstimator`) to
        be differentiated in parameters with which the support moves.
        """

    def unsuitable(self, distribution: Any) -> str | None:
        """Why this estimator is wrong for a distribution, or None where it suits."""
        return None


def box(log_prob: jax.Array) -> jax.Array:
    """One in value, the score in derivative: exp(l - stop_gradient(l)).

    The 'magic box' of Foerster et al. (2018), DiCE: derivatives of every order are right.
    """
    return jnp.exp(log_prob - stop_gradient(log_prob))


class Reparameterized(Estimator):
    """The pathwise estimator: one draw, differentiable in the parameters, of weight one.

    Unbiased where the sampler is a differentiable function of the parameters and the objective is
    continuous in the value (Kingma & Welling 2014; implicit derivatives, as of Gamma and Beta:
    Figurnov et al. 2018). Low variance; one run of what follows. Second derivatives are unbiased
    too where the objective's first derivative is continuous. Where the objective jumps at a value
    that depends on the parameters (a comparison, `round`, an integer), use `ScoreFunction`.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def square(mean):
    ...     return ppl.sample("x", dist.Normal(mean, 1.0), ppl.Reparameterized()) ** 2
    >>> estimate = ppl.expectation(square)
    >>> bool(abs(jax.grad(estimate, argnums=1)(jax.random.key(0), 3.0)) > 0)
    True

    ```
    """

    pathwise: ClassVar[bool] = True
    second_order: ClassVar[bool] = True

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """One differentiable draw."""
        return Particles(jnp.asarray(distribution.sample(key))[None], None)

    def unsuitable(self, distribution: Any) -> str | None:
        """Neither where it says `has_rsample = False`, nor where its sampler chooses by noise."""
        if not getattr(distribution, "has_rsample", True):
            return "its draws are not differentiable in its parameters (has_rsample is False)"
        if chooses_by_noise(distribution):
            return "its sampler makes a discrete choice that depends on its parameters"
        return None


class ScoreFunction(Estimator):
    """The score-function estimator (REINFORCE): one draw v, weight box(log p(v)).

    Unbiased for any distribution whose `log_prob` is differentiable in its parameters and whose
    support does not move with them (Williams 1992; Foerster et al. 2018): where its edge does, and
    the density does not vanish there, the derivative is `UnsuitableEstimator`. High variance; one
    run of what follows. Derivatives of every order are unbiased. A value of probability exactly
    zero is never drawn, so what it gains as that probability grows is not seen: a derivative there
    is for `Enumerate`, `MeasureValued` and `StochasticTriple` of `stdlib.estimators`.

    **Arguments**

    - `baseline`: what to subtract from the cost that multiplies the score: a number, or an array
      computed from what comes before the site (a scalar, or one entry for each element of the
      distribution's batch), such as the output of a network (NVIL, Mnih & Gregor 2014). It lowers
      the variance and changes no mean. The derivative with respect to the baseline itself is that
      of -(cost - baseline)²/2, with the sign turned where `ppl.fit` minimises: parameters behind
      it are learnt along with the others. Choices or parameters of the model that it is computed
      from go under `stop_gradient`, or they get that derivative too. It may also be a
      `ppl.State`'s, such as `stdlib.estimators.MovingAverage`.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def heads(p):
    ...     return 3.0 * ppl.sample("x", dist.Bernoulli(p), ppl.ScoreFunction())
    >>> grad = jax.grad(ppl.expectation(heads), argnums=1)
    >>> keys = jax.random.split(jax.random.key(0), 2000)
    >>> bool(abs(jax.vmap(grad, (0, None))(keys, 0.3).mean() - 3.0) < 0.7)
    True

    ```
    """

    second_order: ClassVar[bool] = True

    baseline: Any = None

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """One draw, cut off from the parameters, and its score weight."""
        value = stop_gradient(jnp.asarray(distribution.sample(key)))
        weights = box(jnp.asarray(distribution.log_prob(value)))[None]
        return Particles(value[None], weights, baseline=self.baseline)


def default_estimator(distribution: Any) -> Estimator:
    """`Reparameterized` where the distribution says it can be (and can), else `ScoreFunction`."""
    base = law(distribution).base
    moves = getattr(base, "has_rsample", False) or not is_scorable(base)
    suits = moves and Reparameterized().unsuitable(base) is None
    return Reparameterized() if suits else ScoreFunction()


def drawn_at(eqn: Any) -> tuple[Estimator, Law] | None:
    """The estimator and the law of a `sample` equation, or None where it is observed."""
    call = call_of(eqn)
    if call.operands.obs is not None:
        return None
    return estimator_at(call), law(call.of_a_lane().distribution)


def estimator_at(call: Call) -> Estimator:
    """The estimator of a site, its own or the default one."""
    return call.operands.estimator or default_estimator(call.of_a_lane().distribution)


def scores_as_it_draws(estimator: Estimator) -> bool:
    """Whether an estimator's one particle is a plain draw: its density is that of the draw."""
    return type(estimator) is Reparameterized


def scorable(base: Any, estimator: Estimator, distribution: Any, site: Site) -> Any:
    """The base of a law, for an estimator to see: the score of an edge that moves is refused."""

    def refuse():
        raise _unsuited(estimator, distribution, site.address, site.where, _MOVING)

    if isinstance(estimator, Reparameterized):
        return base
    if not is_scorable(base):
        return unscorable(base, site.unscorable(distribution, f" by {type(estimator).__name__}()"))
    return guarded(base, refuse)


_MOVING = "its support moves with its parameters, so the score misses the boundary"


def check_estimator(estimator: Any, distribution: Any, address: str, where: str) -> None:
    """Raises where an estimator is not one, or does not suit its distribution."""
    if not isinstance(estimator, Estimator):
        hint = f"{estimator.__name__}()" if isinstance(estimator, type) else "ppl.ScoreFunction()"
        raise UnsuitableEstimator(
            f"The estimator of {address!r} at {where} must be a ppl.extend.Estimator instance, "
            f"got {estimator!r}. Write, for example, {hint}."
        )
    base = law(distribution).base
    reason = why_no_law(base) or estimator.unsuitable(base)
    if reason is not None:
        raise _unsuited(estimator, distribution, address, where, reason)


def _unsuited(
    estimator: Estimator, distribution: Any, address: str, where: str, reason: str
) -> UnsuitableEstimator:
    return UnsuitableEstimator(
        f"{type(estimator).__name__}() does not suit {type(distribution).__name__} at site "
        f"{address!r}, {where}: {reason}. Leave the estimator out for the default, or choose "
        "another."
    )
