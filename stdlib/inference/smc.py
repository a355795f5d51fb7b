"""Sequential Monte Carlo, over the steps of a state-space model or over tempered targets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpyro.distributions as dist

from ppl import sample
from ppl.errors import InvalidSetting
from ppl.extend import Algorithm, Target

from ._annealed import annealed_filter
from ._choices import merged
from ._filter import Run, Settings, particle_filter
from .exact import Exact
from .kernels import HMC, Kernel
from .resampling import scheme
from .tempering import powers


def _listed(addresses: str | Sequence[str]) -> tuple[str, ...]:
    return (addresses,) if isinstance(addresses, str) else tuple(addresses)


class SMC(Algorithm):
    """Sequential Monte Carlo: particles moved, weighed and resampled step by step.

    Over the steps of a target whose hidden choices stand in one `lax.scan` (a particle filter); or,
    with a `schedule`, over the targets p(u) p(x | u)^β at rising temperatures β, whatever the
    program (an SMC sampler).

    Evidence: the product over the steps of the mean weights, of mean p(x) (Del Moral 2004). A draw
    is one whole path, by its weight; densities are by conditional SMC, in which the given path is
    one of the particles (Andrieu, Doucet & Holenstein 2010). `elbo` of `marginal(..., SMC(n, q))`
    and a guide without choices is the bound of FIVO, or variational SMC, below log p(x) (Maddison
    et al. 2017; Naesseth et al. 2018; Le et al. 2018).

    **Arguments**

    - `num_particles`: n, at least 2.
    - `proposal`: `proposal(t, previous, observed)`, a program over one step's hidden choices, from
      the number of the step, the choices of the step before (zeros at the first) and the target's
      observed choices at this step. By default the model's own step.
    - `schedule`: how many equal steps of temperature, or the temperatures, rising to 1. By default
      none: the steps are those of the program's loop.
    - `rejuvenation`: a Markov kernel that moves the particles after resampling: `HMC()` (the
      default with a schedule), `RandomWalk()`, `MALA()`, ... Over a loop (by default none), it
      moves the last step's choices, given the state before them and the step's observations, and
      the next step follows from where they are (resample-move: Gilks & Berzuini 2001). Choices
      before the loop, and those of earlier steps, stay. Evidence and densities keep their laws,
      as the kernel is reversible.
    - `resampling`: `"multinomial"`, `"stratified"`, `"systematic"` or `"residual"`. Densities need
      the first.
    - `ess_threshold`: resample where the effective sample size falls below this share of n. At 1
      (the default) after every step; below it, gradients of the log evidence miss that the decision
      jumps: use it where none are taken, or accept their bias.
    - `exact`: an address or several, of hidden choices that are not drawn but summed out, given
      those that are drawn: by default none. Each particle then has the exact evidence of what it
      has seen (Rao-Blackwellised particles: Doucet et al. 2000), and weights vary less. Gaussian
      choices may be carried from step to step, if each step is linear in them given the drawn ones
      (switching linear systems): a Kalman filter for each particle. What a step chooses for itself
      alone may be anything that `Exact()` takes (mixtures of observations). The drawn choices must
      not be drawn from what reads those summed out; `previous` of a proposal has the drawn ones. A
      draw has both: a path of the drawn choices, then the others given it, as `Exact()` draws them.

    Ancestors are sites, `"ancestors"` in each step and `"resampled"` at the end: with scores unless
    `with_estimators` says otherwise, so that gradients are unbiased. `Enumerate()` sums over the
    n ends of `"resampled"`; and over the nⁿ joint ancestors of a step (not of `"residual"`), as all
    particles meet in its evidence. Steps multiply, up to 16,384 joint states: for tests.

    **Raises** `UnsupportedControlFlow` where the target is no state-space model, `InvalidSetting`,
    `UnsuitableEstimator` where `exact` choices cannot be summed out.

    ```python
    >>> import jax, jax.numpy as jnp, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import SMC
    >>> def walk():
    ...     def step(x, _):
    ...         x = ppl.sample("x", dist.Normal(0.9 * x, 1.0))
    ...         ppl.sample("y", dist.Normal(x, 0.5))
    ...         return x, None
    ...     jax.lax.scan(step, 0.0, length=4)
    >>> observed = {"y": jnp.array([0.3, 1.2, 0.9, -0.1])}
    >>> evidence = ppl.marginal(walk, "y", SMC(1000))
    >>> estimate = ppl.expectation(lambda: ppl.log_density(evidence, observed))
    >>> bool(abs(estimate(jax.random.key(0)) - -4.98) < 0.3)
    True

    ```
    """

    num_particles: int = eqx.field(static=True)
    proposal: Callable | None = None
    schedule: Any = None
    rejuvenation: Kernel | None = None
    resampling: str = eqx.field(static=True, default="multinomial")
    ess_threshold: float = eqx.field(static=True, default=1.0)
    exact: Any = eqx.field(static=True, default=(), converter=_listed)

    def __check_init__(self):
        scheme(self.resampling)
        if self.num_particles < 2:
            raise InvalidSetting(f"SMC needs two particles or more, got {self.num_particles}.")
        if self.schedule is not None:
            powers(self.schedule)
            if self.exact:
                raise InvalidSetting(
                    "With a `schedule` of temperatures, SMC moves all choices at once: `exact` is "
                    "for the steps of a program's loop. Leave out one of the two; what is to be "
                    "summed out for all temperatures is hidden by ppl.marginal(..., Exact())."
                )
            if self.proposal is not None:
                raise InvalidSetting(
                    "With a `schedule` of temperatures, SMC draws its particles from the prior and "
                    "moves them by its `rejuvenation` kernel: a `proposal` is for the steps of a "
                    "program's loop. Leave out one of the two."
                )

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """One path in proportion to its weight, and its density p(u, x) / (evidence)."""
        run = self._run(target)
        path = self.path(target, run)
        return path, target.log_density(path) - run.log_evidence

    def log_density(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """By conditional SMC: p(u, x) over the evidence of a run that has the path u."""
        return target.log_density(choices) - self.log_evidence_given(target, choices)

    def log_evidence(self, target: Target) -> jax.Array:
        """The log of the product of the mean weights."""
        return self._run(target).log_evidence

    def log_evidence_given(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """The same, of a run in which the given choices are a path."""
        return self.conditional(target, choices).log_evidence

    def conditional(self, target: Target, choices: Mapping[str, Any]) -> Run:
        """A run in which the given choices are the path of the first particle."""
        if self.resampling != "multinomial" or self.ess_threshold < 1.0:
            raise InvalidSetting(
                "Conditional SMC, and with it the density of what SMC draws, is for "
                "SMC(n, resampling='multinomial', ess_threshold=1.0); this one has "
                f"resampling={self.resampling!r}, ess_threshold={self.ess_threshold}."
            )
        return self._run(target, choices)

    def path(self, target: Target, run: Run) -> Mapping[str, Any]:
        """One path of a run, by its weight, with a draw of what was summed out given that."""
        drawn = run.path(sample("resampled", dist.Categorical(logits=run.log_weights)))
        if not self.exact:
            return drawn
        rest = Target(target.program, merged(target.observed, drawn))
        return merged(drawn, Exact().simulate(rest)[0])

    def _run(self, target: Target, given: Mapping[str, Any] | None = None) -> Run:
        settings = Settings(
            self.num_particles,
            self.proposal,
            scheme(self.resampling),
            self.ess_threshold,
            self.rejuvenation,
            self.exact,
        )
        if self.schedule is None:
            return particle_filter(settings, target, given)
        kernel = HMC() if self.rejuvenation is None else self.rejuvenation
        return annealed_filter(settings, target, self.schedule, kernel, given)
