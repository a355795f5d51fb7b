"""Measuring compiled functions side by side: interleaved medians, compile time, compiled cost."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Compiled(NamedTuple):
    """A compiled function, the seconds it took to trace and compile, and XLA's cost of it."""

    run: Callable[[], Any]
    seconds: float
    flops: float
    megabytes: float
    peak_megabytes: float


class Row(NamedTuple):
    """One line of a results table."""

    name: str
    milliseconds: float
    ratio: float
    compile_seconds: float
    flops: float
    megabytes: float
    peak_megabytes: float


def compiled(fn: Callable, *args: Any) -> Compiled:
    """Traces and compiles `fn` for these arguments."""
    jax.clear_caches()
    start = time.perf_counter()
    executable = jax.jit(fn).lower(*args).compile()
    seconds = time.perf_counter() - start
    cost = executable.cost_analysis() or {}
    return Compiled(
        lambda: executable(*args),
        seconds,
        cost.get("flops", float("nan")),
        cost.get("bytes accessed", float("nan")) / 1e6,
        _peak_bytes(executable) / 1e6,
    )


def _peak_bytes(executable: jax.stages.Compiled) -> float:
    """What XLA plans to hold at once besides the arguments: temporaries and outputs."""
    memory = executable.memory_analysis()
    if memory is None:
        return float("nan")
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def interleaved(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call: one of each in turn, after a warm-up of each."""
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compare_gradients(
    functions: Mapping[str, Callable], args: Sequence[Any], baseline: str, repeats: int = 50
) -> list[Row]:
    """A row for each function of a key and parameters, with its gradient in the latter.

    It is timed against `baseline` by the median of paired ratios.
    """
    gradients = {name: jax.value_and_grad(fn, argnums=1) for name, fn in functions.items()}
    made = {name: compiled(fn, *args) for name, fn in gradients.items()}
    seconds = interleaved({name: c.run for name, c in made.items()}, repeats)
    base = np.array(seconds[baseline])
    return [
        Row(
            name,
            1e3 * float(np.median(seconds[name])),
            float(np.median(np.array(seconds[name]) / base)),
            c.seconds,
            c.flops,
            c.megabytes,
            c.peak_megabytes,
        )
        for name, c in made.items()
    ]


def table(title: str, rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"### {title}",
        "",
        "| | median ms | ratio | trace + compile s | MFLOP | MB accessed | MB held |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.name} | {r.milliseconds:.3f} | {r.ratio:.3f} | {r.compile_seconds:.2f} "
        f"| {r.flops / 1e6:.3f} | {r.megabytes:.2f} | {r.peak_megabytes:.3f} |"
        for r in rows
    ]
    return "\n".join(lines)
