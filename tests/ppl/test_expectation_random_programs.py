"""Random programs, against the sum over all values of their sites (`make fuzz` judges more)."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from stdlib.estimators import Enumerate
from tests.random_programs import oracle
from tests.random_programs.generate import program
from tests.random_programs.judge import REFUSED, RIGHT, WRONG, judge
from tests.random_programs.shrink import shrunk
from tests.random_programs.syntax import Block, Body, Draw, Let, Program, Type, every
from tests.random_programs.text import text

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs_are_right_or_refused(seed):
    found = program(seed)
    verdict = judge(found, forward=bool(seed % 2))
    assert verdict.outcome in (RIGHT, REFUSED), f"{text(found)}\n{verdict}"


def test_programs_are_those_of_their_seed_and_have_every_form():
    assert text(program(5)) == text(program(5))
    statements = [s for seed in range(200) for s in every(program(seed).body)]
    kinds = {s.kind for s in statements if isinstance(s, Block)}
    assert kinds >= {"scan", "fori", "map", "vmap", "cond", "switch", "while", "simulate", "bound"}
    assert {s.estimator for s in statements if isinstance(s, Draw)} >= {
        *("Enumerate()", "Split()", "Signed()", "ScoreFunction()", "LeaveOneOut(2)", "DisArm()"),
        *("Arm()", "MeasureValued()", "StochasticTriple()", "WithoutReplacement(2)"),
        *("Rebar(0.6, 0.8)", "Relax(guess, 0.4)", ""),
    }


def coin_program(*after, estimator="Enumerate()"):
    """Draws b with the probability θ[0]; returns what the last of `after` gives, or 2 b."""
    number = Let("p", Type(), "element", ("theta",), (0,))
    draw = Draw("b", Type((), 2), "b", "coin", ("p",), estimator)
    double = Let("x", Type(), "real", ("b",), (2.0,))
    statements = (number, draw, double, *after)
    return Program(Body(("theta",), statements, (statements[-1].out,)), (0.3,))


def test_oracle_agrees_with_sums_by_hand():
    answer = oracle.exact(coin_program(Let("y", Type(), "square", ("x",))))
    np.testing.assert_allclose([answer.value, *answer.gradient], [1.2, 4.0])
    body = Body(("c", "i"), coin_program().body.statements[1:], ("x",))
    loop = Block("fori", ("l",), (Type(),), (body,), ("x",), (3,))
    read = coin_program(loop, Let("y", Type(), "multiply", ("l", "x")))
    answer = oracle.exact(read)
    np.testing.assert_allclose([answer.value, *answer.gradient], [4 * 0.09, 8 * 0.3])


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("estimator", ["Enumerate()", "ScoreFunction()"])
def test_judge_sees_a_wrong_gradient(monkeypatch, estimator, forward):
    found = coin_program(estimator=estimator)
    assert judge(found, forward).outcome == RIGHT
    right = oracle.exact(found)
    wrong = right._replace(gradient=right.gradient + 0.3)
    monkeypatch.setattr(oracle, "exact", lambda program: wrong)
    assert judge(found, forward).outcome == WRONG


def test_judge_tells_errors_by_name():
    unsuited = coin_program(Draw("c", Type(), "c", "normal", ("p",), "Enumerate()"))
    assert judge(unsuited).name == "refused UnsuitableEstimator"
    broken = coin_program(Let("y", Type(), "element", ("p",), (0,)))
    assert judge(broken).name == "internal error IndexError"


def test_shrinking_keeps_what_matters():
    found = next(p for p in map(program, range(100)) if has_switch(p.body))
    small = shrunk(found, lambda tried: has_switch(tried.body))
    assert has_switch(small.body)
    assert len(list(every(small.body))) < len(list(every(found.body))) / 2
    oracle.exact(small)


def has_switch(body):
    return any(isinstance(s, Block) and s.kind == "switch" for s in every(body))


def test_equations_without_outputs_are_run():
    seen = []

    def objective(p):
        x = sample("x", dist.Bernoulli(p), Enumerate())
        jax.debug.callback(lambda value: seen.append(float(value)), x)
        return 2.0 * x

    value = ppl.expectation(objective)(jax.random.key(0), 0.3)
    jax.effects_barrier()
    np.testing.assert_allclose(value, 0.6, rtol=1e-6)
    assert sorted(seen) == [0.0, 1.0]
