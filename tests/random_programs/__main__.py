"""`make fuzz N=1000 SEED=1`: random programs against their exact expectations."""

import argparse
import collections
import sys

import jax

from .generate import program
from .judge import INTERNAL, WRONG, Verdict, judge
from .shrink import shrunk
from .syntax import Program
from .text import text

BAD = (WRONG, INTERNAL)


def main() -> int:
    """Judges programs, prints those that fail, and the counts."""
    options = argparse.ArgumentParser(prog="python -m tests.random_programs")
    options.add_argument("-n", type=int, default=1000, help="how many programs")
    options.add_argument("--seed", type=int, default=0, help="programs of another sequence")
    options.add_argument("--first", type=int, default=0, help="where in the sequence to begin")
    options.add_argument("--shrink", action="store_true", help="make programs that fail smaller")
    chosen = options.parse_args()
    counts: collections.Counter = collections.Counter()
    for number in range(chosen.first, chosen.first + chosen.n):
        seed = chosen.seed * 1_000_000 + number
        found = program(seed)
        verdict = judge(found, forward=bool(seed % 2))
        counts[verdict.name] += 1
        if verdict.outcome in BAD:
            if chosen.shrink:
                found, verdict = smaller(found, verdict, bool(seed % 2))
            print(f"--- seed {seed}: {verdict.outcome}\n{text(found)}")
            print(verdict.detail, flush=True)
        if number % 50 == 49:
            jax.clear_caches()
            print(f"{number + 1}: {dict(counts)}", flush=True)
    print(f"{chosen.n} programs of seed {chosen.seed}:")
    for outcome, count in sorted(counts.items()):
        print(f"  {count:6} {outcome}")
    return int(any(name.startswith(BAD) for name in counts))


def smaller(found: Program, verdict: Verdict, forward: bool) -> tuple[Program, Verdict]:
    """The smallest program that fails in the same way."""
    found = shrunk(found, lambda tried: judge(tried, forward).name == verdict.name)
    return found, judge(found, forward)


if __name__ == "__main__":
    sys.exit(main())
