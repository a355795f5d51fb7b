"""The inference-algorithm protocol: what `marginal` and `normalize` ask of an algorithm."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax

from .._ir.address import Path, flatten, nest, render
from .._ir.site import Site
from .._ir.stage import program_name, stage
from .._meanings.rewrite import conditioned
from .._meanings.trace import log_density, within_support
from .._walk.choices import checked_choices
from .._walk.walker import placed_sites
from ..errors import ChoiceTypeError, ProposalMismatch
from .laws import WEIGHTS, Law, check_deterministic, check_laws


class Target(NamedTuple):
    """An unnormalised density: a program whose choices are observed in part.

    Over the hidden choices u it is p(u, x), where x are those `observed`.

    - `program`: the program with its arguments bound.
    - `observed`: nested dict from address to value.
    - `known`: whether its density must be known, and not estimated (see `exactly`).

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("u", dist.Normal(0.0, 1.0)), 1.0))
    >>> target = ppl.extend.Target(model, {"x": 2.0})
    >>> list(target.hidden)
    ['u']
    >>> round(float(target.log_density({"u": 1.0})), 4)
    -2.8379

    ```
    """

    program: Callable
    observed: Mapping[str, Any]
    known: bool = False

    @property
    def exactly(self) -> "Target":
        """The same target, for what reads a density twice, or a power of it.

        Its methods raise `EstimatedDensity` where the program's density is an estimate, or random:
        where it has an inexact `marginal` in it, or draws from `ppl.fresh_key()`.
        """
        return self._replace(known=True)

    @property
    def prior(self) -> Callable:
        """The program with its observations: a proposal whose likelihood is its weight."""
        observed = flatten(self.observed)

        def check(sites):
            seen = (p for p in sites if p.path in observed or p.site.observed)
            check_laws((placed.site for placed in seen), self._named, self._laws)

        return conditioned(self.program, self.observed, check)

    @property
    def _laws(self) -> tuple[Law, ...]:
        return ("exact",) if self.known else WEIGHTS

    @property
    def _named(self) -> str:
        return f"The target {program_name(self.program)!r}"

    @property
    def hidden(self) -> dict[str, Any]:
        """The shapes and dtypes of the hidden choices, by address."""
        return nest(self._hidden())

    def log_density(self, choices: Mapping[str, Any]) -> jax.Array:
        """log p(u, x), at hidden choices u. Raises `ProposalMismatch` where these are not they."""
        self.check(choices)
        return log_density(self.prior, choices)

    def supports(self, choices: Mapping[str, Any]) -> jax.Array:
        """Whether each hidden choice lies in the support of its distribution: one boolean."""
        return within_support(self.prior, choices)

    def as_arrays(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        """The hidden choices as arrays of their sites' dtypes.

        **Raises** `ProposalMismatch`, `ChoiceShapeError`, and `ChoiceTypeError` also where numbers
        of another dtype at a site of integers are traced, so that it is not known which they are.

        ```python
        >>> import ppl, numpyro.distributions as dist
        >>> target = ppl.extend.Target(lambda: ppl.sample("n", dist.Poisson(2.0)), {})
        >>> target.as_arrays({"n": 3.0})["n"].dtype
        dtype('int32')

        ```
        """
        self.check(choices)
        sites = list(placed_sites(stage(self.prior).jaxpr))
        values = checked_choices(choices, sites, program_name(self.program), complete=True)
        for placed in sites:
            if placed.path in values:
                _check_dtype(placed.site, values[placed.path])
        return nest(values)

    def check(self, choices: Mapping[str, Any]) -> None:
        """Raises `ProposalMismatch` where choices are not at the hidden addresses."""
        given, hidden = flatten(choices).keys(), self._hidden().keys()
        if given == hidden:
            return
        faults = [
            f"{what} {', '.join(repr(render(path)) for path in sorted(paths))}"
            for what, paths in (("lacks", hidden - given), ("has besides", given - hidden))
            if paths
        ]
        raise ProposalMismatch(
            f"The proposal for the hidden choices of {program_name(self.program)!r} "
            f"{' and '.join(faults)}. It must sample exactly at "
            f"{', '.join(repr(render(path)) for path in sorted(hidden)) or 'no address'}."
        )

    def _hidden(self) -> dict[Path, jax.ShapeDtypeStruct]:
        jaxpr = stage(self.program).jaxpr
        observed, places = flatten(self.observed), list(placed_sites(jaxpr))
        check_laws((placed.site for placed in places), self._named, self._laws)
        if self.known:
            check_deterministic(jaxpr, self._named)
        return {
            placed.path: jax.ShapeDtypeStruct(placed.shape, placed.site.out.dtype)
            for placed in places
            if placed.path not in observed and not placed.site.observed
        }


def _check_dtype(site: Site, value: jax.Array) -> None:
    if value.dtype != site.out.dtype:
        raise ChoiceTypeError(
            f"The choice for {site.address!r} has dtype {value.dtype} and is traced or missing, "
            f"but the site at {site.where} has dtype {site.out.dtype}, and what moves it needs an "
            f"integer. Convert it first: .astype({site.out.dtype.name!r})."
        )


class Algorithm(eqx.Module):
    """A way to draw the hidden choices of a target and to estimate densities of what it draws.

    With q the distribution of the choices u that `simulate` returns, the laws (Lew et al. 2023):

    - `simulate(target)` returns `(u, log w)` with E[1/w | u] = 1/q(u);
    - `log_density(target, u)` returns `log w` with E[w] = q(u).

    These are the law `"weight"`; where w is p or q itself, an algorithm says `law = "exact"`. One
    whose estimates have E[log w] = log p instead says `law = "log"` (its densities are right in an
    ELBO, and in no weight), one that keeps neither `law = None`. What reads a density that does not
    keep the law it needs raises `EstimatedDensity`: weights, bounds of several particles and
    algorithms need E[w] = p; Markov kernels, powers of densities, and a `marginal` that is
    simulated need p itself.

    Both are programs: what they draw is drawn by `ppl.sample`, and gradients pass it by each site's
    estimator. The two further methods follow from them and are there to be made cheaper.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> class Prior(ppl.extend.Algorithm):
    ...     def simulate(self, target):
    ...         trace = ppl.simulate(target.prior)
    ...         return trace.choices, trace.log_density
    ...     def log_density(self, target, choices):
    ...         return ppl.replay(target.prior, choices).log_density
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("u", dist.Normal(0.0, 1.0)), 1.0))
    >>> only_x = ppl.marginal(model, ["x"], Prior())
    >>> estimate = ppl.expectation(lambda: ppl.log_density(only_x, {"x": 2.0}))
    >>> bool(estimate(jax.random.key(0)) < 0.0)
    True

    ```
    """

    law: ClassVar[Law] = "weight"

    @abc.abstractmethod
    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """Hidden choices u, and log w with E[1/w | u] = 1/q(u)."""

    @abc.abstractmethod
    def log_density(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """log w with E[w] = q(u), at hidden choices u."""

    def log_evidence(self, target: Target) -> jax.Array:
        """log w with E[w] = p(x), the mass of the target."""
        choices, log_q = self.simulate(target)
        return target.log_density(choices) - log_q

    def log_evidence_given(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """log w with E[1/w] = 1/p(x), where the choices u are drawn from the posterior p(u | x)."""
        return target.log_density(choices) - self.log_density(target, choices)
