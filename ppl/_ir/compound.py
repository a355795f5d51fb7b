"""Compound sites: several addresses drawn and scored together, by programs of their own.

In the IR, one equation with three bodies: `draw` (a plain run), `simulate` (values and the log of
an estimate of their density) and `density` (of given values); and with a fourth, of sites, where
the density is that of another program divided by its mass (`Joint`). Its operands are what these
close over.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._distributions.cut import gated
from .._distributions.integers import of_elements, representable
from .._jax import equations, primitives
from .._jax.control_flow import bodies
from .._jax.run import run
from ..errors import FactorShapeError, PartialObservation, ProgramError
from .address import Path, render
from .site import Site


class Joint(NamedTuple):
    """A program of which a compound site is the posterior, exactly.

    - `program()`: a run of it, which gives the values of the site's addresses; all others are
      observed.
    - `normalized(program)`: the same, with one more factor: one over the mass of what is observed.
    """

    program: Callable[[], list]
    normalized: Callable[[Callable[[], list]], Callable[[], list]]

    def sites(self) -> Callable[[], list]:
        """The program of the posterior's density, site by site."""
        return self.normalized(self.program)


class Compound(NamedTuple):
    """A compound site: its addresses, its programs, and what is known of its values.

    `draw()` gives a list of values, one for each of `sites`; `simulate()` the same and then a log
    density, of the shape of the lanes; `density(*values)` a log density. Without a `draw` of its
    own, a plain run is that of `simulate`. `observed` has the data of
    each address, or None; `active` flags say whether the control flow reaches each lane, `masks`
    whether its density counts there. `joint` is the program that the site is the posterior of, if
    there is one, and nothing has been made of its density.
    """

    name: str
    sites: tuple[Site, ...]
    draw: Callable[..., list] | None
    simulate: Callable[..., list]
    density: Callable[..., list]
    observed: tuple
    active: tuple = ()
    masks: tuple = ()
    joint: Joint | None = None

    @property
    def forward(self) -> Callable[..., list]:
        """A plain run."""
        return self.draw or (lambda *args: self.simulate(*args)[:-1])

    @property
    def paths(self) -> list[Path]:
        return [site.path for site in self.sites]

    @property
    def structs(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes of the values, with their lanes."""
        return [jax.ShapeDtypeStruct(s.lane_shape + s.out.shape, s.out.dtype) for s in self.sites]

    @property
    def described(self) -> str:
        """What messages call it."""
        listed = ", ".join(repr(render(path)) for path in self.paths)
        return f"The {self.name} program over {listed} at {self.sites[0].where}"

    @property
    def is_partly_observed(self) -> bool:
        """Whether it has data at some of its addresses and not at others."""
        return 0 < sum(data is None for data in self.observed) < len(self.observed)

    @property
    def is_observed(self) -> bool:
        """Whether it has data; data at some of its addresses alone say nothing of the others."""
        missing = [p for p, data in zip(self.paths, self.observed, strict=True) if data is None]
        if self.is_partly_observed:
            listed = ", ".join(repr(render(path)) for path in missing)
            raise PartialObservation(
                f"{self.described} is observed at some of its addresses and not at {listed}, so "
                "those cannot be drawn. Observe all of them or none, score it with "
                "ppl.log_density, or draw the rest from their posterior with ppl.normalize. (A "
                "posterior by an exact algorithm, neither scaled nor masked, may be known in part.)"
            )
        return not missing

    def data(self) -> list:
        """What it returns where it is observed."""
        return self.returned(self.observed)

    def returned(self, given: Sequence[Any]) -> list:
        """Given values as it returns them, integers where its addresses have integers."""
        return [site.returned(value) for site, value in zip(self.sites, given, strict=True)]

    def log_prob(self, given: Sequence[Any]) -> jax.Array:
        """Its log density at given values, of all lanes."""
        return jnp.sum(self.log_probs(given))

    def log_probs(self, given: Sequence[Any]) -> jax.Array:
        """Its log densities at given values, of a lane each."""
        log = self.density(*self.returned(given))[0]
        left_out = jnp.logical_not(_all(self.active + self.masks))
        for site, value in zip(self.sites, given, strict=True):
            if value.dtype != site.out.dtype:
                whole = of_elements(representable(value, site.out.dtype), jnp.shape(log))
                log = jnp.where(whole | left_out, log, -jnp.inf)
        return log

    def with_data(self, values: Mapping[Path, Any]) -> "Compound":
        """The same site with data at some of its addresses."""
        pairs = zip(self.paths, self.observed, strict=True)
        return self._replace(observed=tuple(values.get(path, old) for path, old in pairs))

    def without_data(self, paths: Iterable[Path]) -> "Compound":
        """The same site without the data at some of its addresses."""
        hidden = set(paths)
        pairs = zip(self.paths, self.observed, strict=True)
        return self._replace(observed=tuple(None if path in hidden else x for path, x in pairs))

    def bind(self) -> list:
        """Emits the equation into whatever is being traced."""
        simulated = _staged(self.simulate)
        again = self._replace(simulate=_program(*simulated))
        staged = [_staged(again.forward), simulated, _staged(self.density, *self.structs)]
        if self.joint is not None:
            staged.append(_staged(self.joint.program))
        operands = [const for _, consts in staged for const in consts]
        operands += [data for data in self.observed if data is not None]
        sites = [
            dataclasses.replace(site, observed=data is not None)
            for site, data in zip(self.sites, self.observed, strict=True)
        ]
        return primitives.compound_p.bind(
            *operands,
            *self.active,
            *self.masks,
            name=self.name,
            sites=tuple(sites),
            bodies=tuple(body for body, _ in staged[:3]),
            joint=self.joint and self.joint._replace(program=staged[3][0]),
            masks=len(self.masks),
        )

    def through(self, transform: Callable[[Callable], Callable]) -> "Compound":
        """The same site with its programs put through a transformation of programs."""
        return self._replace(
            draw=self.draw and transform(self.draw),
            simulate=transform(self.simulate),
            density=transform(self.density),
            joint=self.joint and self.joint._replace(program=transform(self.joint.program)),
        )

    def with_sites(self, change: Callable[[Site], Site]) -> "Compound":
        return self._replace(sites=tuple(map(change, self.sites)))

    def weighted(self, change: Callable[[Any], Any]) -> "Compound":
        """The same site with another log density, which is no posterior's."""

        def simulate():
            *values, log = self.simulate()
            return [*values, change(log)]

        return self._replace(
            simulate=simulate,
            density=lambda *values: [change(self.density(*values)[0])],
            joint=None,
        )

    def appended(self, name: str, value: Any) -> "Compound":
        """Adds one factor to its density (`scales`), or a flag (`masks`, `active`)."""
        if jnp.ndim(value):
            raise FactorShapeError(
                f"A factor of ppl.scale or flag of ppl.mask has shape {jnp.shape(value)}. "
                f"{self.described} has one density for all of its addresses: give a scalar, or put "
                "the program in jax.vmap to have one for each lane."
            )
        if name == "scales":
            return self.weighted(lambda log: value * log)
        value = jnp.asarray(value)
        entered = self._replace(density=_entered(self.density, value))
        masked = entered.weighted(lambda log: jnp.where(value, log, 0.0))
        flag = jnp.broadcast_to(value, self.sites[0].lane_shape)
        return masked._replace(**{name: (*getattr(self, name), flag)})

    def reached(self) -> jax.Array | None:
        """Whether each lane is reached, or None where that is certain."""
        if not self.active:
            return None
        return _all(self.active)


def _all(flags: Sequence[Any]) -> Any:
    return reduce(and_, flags, jnp.asarray(True))


def _entered(program: Callable, flag: Any) -> Callable:
    """A program whose inputs have a derivative only where a flag is true."""

    def entered(*values):
        body, consts = _staged(program, *values)
        return _program(body, gated(consts, [flag]))(*gated(values, [flag]))

    return entered


def read_compound(eqn: Any, operands: Sequence[Any]) -> Compound:
    """The compound site of an equation."""
    sites, bodies = eqn.params["sites"], eqn.params["bodies"]
    rest = iter(operands)
    draw, simulate, density = (
        _program(body, [next(rest) for _ in body.constvars]) for body in bodies
    )
    joint = _joint(eqn.params, lambda body: _program(body, [next(rest) for _ in body.constvars]))
    observed = tuple(next(rest) if site.observed else None for site in sites)
    flags = _parted(list(rest), eqn.params["masks"])
    return Compound(
        eqn.params["name"], sites, draw, simulate, density, observed, *flags, joint=joint
    )


def _joint(params: Mapping[str, Any], program: Callable[[Any], Callable]) -> Joint | None:
    """The joint program of an equation, of which the equation has the body."""
    joint = params["joint"]
    return joint and joint._replace(program=program(joint.program))


def _parted(flags: Sequence[Any], masks: int) -> tuple[tuple, tuple]:
    """The flags of an equation: those of control flow, and its masks."""
    first = len(flags) - masks
    return tuple(flags[:first]), tuple(flags[first:])


class Failed(NamedTuple):
    """In place of a body that cannot be: what to raise where it is asked for."""

    error: ProgramError
    constvars: tuple = ()
    eqns: tuple = ()


def _staged(program: Callable, *structs: Any) -> tuple[Any, list]:
    try:
        closed = jax.make_jaxpr(program)(*structs)
    except ProgramError as error:
        return Failed(error), []
    return closed.jaxpr, closed.consts


def _program(body: Any, consts: list) -> Callable:
    def program(*values):
        if isinstance(body, Failed):
            raise body.error
        return run(body, consts, values)

    return program


def compounds(jaxpr: Any) -> Iterator[Any]:
    """The compound sites of a jaxpr, those within its control flow and in one another included."""
    for eqn in jaxpr.eqns:
        if not equations.has_sites(eqn):
            continue
        inside = bodies(eqn)
        if equations.kind(eqn) == "compound":
            yield eqn
            inside = eqn.params["bodies"]
        for body in inside:
            yield from compounds(body)


def _batched(axis_data: Any, operands: Sequence[Any], dims: Sequence[Any], params: Any) -> Any:
    """A compound site under one more, outermost vmap."""
    rest = iter(zip(operands, dims, strict=True))
    options = {
        "axis_size": axis_data.size,
        "axis_name": axis_data.name,
        "spmd_axis_name": axis_data.spmd_name,
    }

    def mapped(body):
        pairs = [next(rest) for _ in body.constvars]
        consts, axes = [x for x, _ in pairs], [d for _, d in pairs]

        def lane(consts, values):
            return _program(body, consts)(*values)

        return lambda *values: jax.vmap(lane, in_axes=(axes, 0), **options)(consts, values)

    def leading(operand, dim):
        if dim is None:
            return jnp.broadcast_to(operand, (axis_data.size, *jnp.shape(operand)))
        return jnp.moveaxis(operand, dim, 0)

    draw, simulate, density = map(mapped, params["bodies"])
    joint = _joint(params, mapped)
    sites = tuple(site.batched(axis_data.size, ()) for site in params["sites"])
    observed = tuple(leading(*next(rest)) if site.observed else None for site in sites)
    flags = _parted([leading(*pair) for pair in rest], params["masks"])
    name = params["name"]
    return Compound(name, sites, draw, simulate, density, observed, *flags, joint=joint).bind()


primitives.batch_compound_sites(_batched)
