"""Where a reparameterised value jumps: derivatives along its path do not see the jump."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .._distributions.scored_draw import apart
from .._ir.call import read_call
from .._ir.estimator import drawn_at
from .._ir.site import Site
from .._ir.stage import Staged
from .._jax import equations, source
from .._jax.control_flow import Branches, departs, form
from ..errors import DiscontinuousObjective
from .dataflow import flow, merged

MOVES = "moves"
"""That derivatives could reach a value."""

SMOOTH, ORDERED, COMPARED = "smoothly", "by its place in an order", "by a comparison"
SIGNED, NOISE = "by its sign", "as the noise that it is made of"


class Reads(NamedTuple):
    """That a value reads a reparameterised site, and how: an integer or a flag may jump with it."""

    site: Site
    how: str


_STEPS = {"ceil", "floor", "rem", "round"}
_COUNTS = {"bitcast_convert_type", "convert_element_type"}
_ORDERS = {"approx_top_k", "argmax", "argmin", "sort", "top_k"}
_PIVOTS = {"geqp3", "lu"}
"""Factorisations, of which no product jumps with the order of the pivots."""
_CONTINUOUS = {"_interp", "expm", "interp", "unwrap"}
"""Functions of JAX that search and round on the way to a continuous result."""
_UNCHANGED = {"broadcast_in_dim", "convert_element_type", "copy", "neg", "reshape", "squeeze"}
_INDICES = {
    "dynamic_slice": slice(1, None),
    "dynamic_update_slice": slice(2, None),
    "gather": slice(1, 2),
}
_INDICES |= dict.fromkeys(
    ("scatter", "scatter-add", "scatter-mul", "scatter-max", "scatter-min", "scatter-sub"),
    slice(1, 2),
)
"""Which operands are indices."""


def warn_jumps(staged: Staged, restage: Callable[[list], Staged], floats: list) -> None:
    """Warns of each reparameterised site at whose value the objective may jump.

    It may where the user's own code rounds it, makes a number of a comparison of it, chooses by one
    between values that do not read it, branches on it or looks something up by it. Libraries (a
    distribution's `log_prob`) are trusted to be continuous where they should be. A value that no
    parameter moves does not jump: the arguments `floats`, by which the program is staged again, are
    parameters, and so is what is being differentiated.
    """
    jumps = _Jumps(always_moving=True).of(staged)
    if jumps:
        jumps = _restaged(restage, floats, jumps)
    for site, (eqn, line) in jumps.items():
        warnings.warn(
            f"The objective may jump where {eqn.primitive.name!r} at {source.source_line(line)} "
            f"reads site {site.address!r} ({site.where}), which is reparameterised: the gradient "
            "does not see the jump, and is biased by it. Give the site ppl.ScoreFunction(), or "
            "ignore this if the objective is continuous there.",
            DiscontinuousObjective,
            stacklevel=3,
        )


def _restaged(restage: Callable[[list], Staged], floats: list, otherwise: dict) -> dict:
    """The jumps with the arguments traced; what there is otherwise, if they cannot be traced."""
    found: list[dict] = []
    try:
        jax.eval_shape(lambda x: found.append(_Jumps(False).of(restage(x))), floats)
    except Exception:  # whatever a program does that needs the numbers themselves
        return otherwise
    return found[0]


class _Jumps:
    """The jumps of a program: for each site the equation that reads it, and one with its line."""

    def __init__(self, always_moving: bool):
        self.always = frozenset({MOVES}) if always_moving else frozenset()
        self.found: dict[Site, tuple[Any, Any]] = {}
        self.signs: dict[Site, tuple[Any, Any]] = {}

    def of(self, staged: Staged) -> dict[Site, tuple[Any, Any]]:
        """The jumps of a staged program."""
        consts = [self.always | _moving(const) for const in staged.consts]
        outs = flow(staged.jaxpr, [], self._transfer, consts=consts)
        self._note_signs(_jumping(merged(outs), SIGNED))
        return self.found

    def _transfer(self, eqn, ins, within, control) -> list[frozenset]:
        kind, reads = equations.kind(eqn), merged(ins)
        line = source.placed(eqn, within)
        if kind == "sample":
            drawn = self._drawn(eqn, reads)
            return [drawn, *(drawn | self._scored(eqn, ins) for _ in eqn.outvars[1:])]
        calls = {e.params.get("name") for e in within if source.is_call_of_jax(e)}
        if calls & _CONTINUOUS:
            return [_smooth(reads)] * len(eqn.outvars)
        if departs(eqn):
            self._note_decided(eqn, ins, line)
        if departs(eqn) or kind == "stop_gradient":
            return [frozenset()] * len(eqn.outvars)
        if kind == "sign" and source.written_by_user(line) and MOVES in reads:
            self.signs.update(dict.fromkeys(_sites(_smooth(reads)), (eqn, line)))
            return [frozenset(Reads(site, SIGNED) for site in _sites(reads))]
        if kind in _UNCHANGED and _inexact(eqn.outvars[0]) and _inexact(eqn.invars[0]):
            return [reads]
        if not any(map(_inexact, eqn.outvars)):
            return [_out(kind, False, reads)] * len(eqn.outvars)
        self._note_signs(_signs_at(kind, ins))
        if source.written_by_user(line):
            step = kind == "select_n" and "heaviside" in calls  # one of its cases is for NaN
            self._note(_jumping(ins[0]) if step else _jumps_at(eqn, kind, ins), eqn, line)
        return [_out(kind, _inexact(out), reads) for out in eqn.outvars]

    def _note_decided(self, eqn, ins, line) -> None:
        """Notes the sites that a branch is chosen by, or by which a loop of the user's ends."""
        if isinstance(form(eqn), Branches) or source.written_by_user(eqn):
            self._note(_jumping(ins[-1]), eqn, line)

    def _drawn(self, eqn, reads) -> frozenset:
        drawn = drawn_at(eqn)
        if drawn is not None:
            self._note(_jumping(reads), eqn, eqn)
            self._note_signs(_jumping(reads, SIGNED))
        if drawn is None or not (drawn[0].pathwise or drawn[1].moves):
            return frozenset()
        return frozenset({Reads(eqn.params["site"], SMOOTH), *self.always, *_smooth(reads)})

    def _scored(self, eqn, ins) -> frozenset:
        """The facts about the log density of a draw, followed through what computes the two.

        It jumps where noise that parameters have moved is rounded, compared and so on, not where
        noise is by itself.
        """
        site, key = eqn.params["site"], jax.eval_shape(lambda: jax.random.key(0))
        noise = frozenset({Reads(site, NOISE)})
        moved = frozenset({Reads(site, SMOOTH), *self.always})

        def log_probs(key, *leaves):
            return apart(read_call(site, leaves).draw(key))[1]

        def transfer(eqn, ins, within, control):
            if merged(ins) == noise:
                return [noise] * len(eqn.outvars)
            met = [moved if facts == noise else facts for facts in ins]
            return self._transfer(eqn, met, within, control)

        structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
        jaxpr = jax.make_jaxpr(log_probs)(key, *structs).jaxpr
        return _smooth(merged(flow(jaxpr, [noise, *ins], transfer)))

    def _note_signs(self, sites: Iterable[Site]) -> None:
        for site in sites:
            self._note([site], *self.signs[site])

    def _note(self, sites: Iterable[Site], eqn: Any, line: Any) -> None:
        for site in sites:
            self.found.setdefault(site, (eqn, line))


def _signs_at(kind: str, ins: Sequence[frozenset]) -> Iterable[Site]:
    """The sites whose sign is used other than as a factor of what reads the site (|x| is so)."""
    if kind != "mul":
        return _jumping(merged(ins), SIGNED)
    one, other = ins
    return (_jumping(one, SIGNED) - _sites(other)) | (_jumping(other, SIGNED) - _sites(one))


def _jumps_at(eqn: Any, kind: str, ins: Sequence[frozenset]) -> Iterable[Site]:
    """The sites with which a real result of an equation jumps."""
    if kind in _STEPS and MOVES in merged(ins):
        return _sites(merged(ins))
    if kind in _COUNTS:
        return _jumping(merged(ins))
    if kind == "select_n":
        return _jumping(ins[0]) - _sites(merged(ins[1:]))
    if kind in _INDICES:
        at = range(len(ins))[_INDICES[kind]]
        index = merged([ins[i] for i in at])
        data = merged([facts for i, facts in enumerate(ins) if i not in at])
        return _jumping(index, COMPARED) | (_jumping(index, ORDERED) - _sites(data))
    if kind == "sort" and len(ins) > 1:
        keys, rest = ins[: eqn.params["num_keys"]], ins[eqn.params["num_keys"] :]
        real = [_inexact(v) for v in eqn.invars[len(keys) :]]
        moved = _sites(merged(keys)) if MOVES in merged(keys) else set()
        carried = [facts for facts, is_real in zip(rest, real, strict=True) if is_real]
        return {site for facts in carried for site in moved - _sites(facts)}
    return ()


def _out(kind: str, real: bool, reads: frozenset) -> frozenset:
    """The facts about one result of an equation."""
    if real:
        return _smooth(reads)
    if kind in _PIVOTS:
        return frozenset()
    jumps = frozenset(r for r in reads if r != MOVES and r.how in (ORDERED, COMPARED))
    jumps |= {Reads(site, COMPARED) for site in _jumping(reads, SIGNED)}
    how = ORDERED if kind in _ORDERS else COMPARED
    new = (Reads(r.site, how) for r in reads if r != MOVES and r.how == SMOOTH)
    return jumps | frozenset(new) if MOVES in reads else jumps


def _smooth(facts: Iterable) -> frozenset:
    return frozenset(fact for fact in facts if fact == MOVES or fact.how == SMOOTH)


def _sites(facts: Iterable) -> set[Site]:
    return {fact.site for fact in facts if fact != MOVES}


def _jumping(facts: Iterable, *hows: str) -> set[Site]:
    hows = hows or (ORDERED, COMPARED)
    return {fact.site for fact in facts if fact != MOVES and fact.how in hows}


def _moving(const: Any) -> frozenset:
    traced = isinstance(const, Tracer) and jnp.issubdtype(const.dtype, jnp.inexact)
    return frozenset({MOVES}) if traced else frozenset()


def _inexact(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)
