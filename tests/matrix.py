"""Runs the core tests (tests/ppl) on several JAX releases, each in its own virtual environment.

    python tests/matrix.py --only oldest,locked,newest -n 2

oldest   the lower bounds of pyproject.toml (tests/matrix/oldest.txt), oldest Python found
locked   requirements.lock, oldest Python found
newest   the newest releases that pip can install, newest Python found

Needs nothing but the Python that runs it. Warnings are errors on the locked release alone: on the
others they are those of third parties, except where our own modules raise them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
OLDEST = ROOT / "tests" / "matrix" / "oldest.txt"
RUNTIME = ["equinox", "jax", "jaxtyping", "numpyro", "optax", "tqdm"]
TOOLS = ["beartype", "pytest", "pytest-xdist"]
# the tables of densities have families and formulas that NumPyro has got since
NEWER = [f"--ignore=tests/ppl/{name}.py" for name in ("densities", "test_families")]
LENIENT = ["-o", "filterwarnings=default\nerror:::(ppl|stdlib)(\\..*)?$"]


class Row(NamedTuple):
    """One environment: which Python, what pip installs, how pytest treats warnings."""

    newest_python: bool
    install: list[str]
    warnings: list[str]


ROWS = {
    "oldest": Row(False, ["-r", str(OLDEST)], [*LENIENT, *NEWER]),
    "locked": Row(False, ["--require-hashes", "-r", str(LOCK)], []),
    "newest": Row(True, ["--upgrade", *RUNTIME, *TOOLS], LENIENT),
}


def pythons() -> list[tuple[tuple[int, int], str]]:
    """The Pythons of this machine that run and are at least 3.11, oldest first."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    names = [f"python3.{minor}" for minor in range(11, 15)]
    names += [str(path) for path in sorted(home.glob("versions/*/bin/python3"))]
    found = {}
    for name in [sys.executable, *names]:
        probe = "import ensurepip, sys, venv; print(sys.version_info[0], sys.version_info[1])"
        try:
            run = subprocess.run([name, "-c", probe], capture_output=True, text=True)
        except OSError:
            continue
        if run.returncode == 0:
            version = tuple(map(int, run.stdout.split()))
            found.setdefault(version, name)
    return [(version, name) for version, name in sorted(found.items()) if version >= (3, 11)]


def environment(name: str, row: Row) -> Path:
    """The Python of .matrix/<name>, installed when its requirements have changed."""
    folder = ROOT / ".matrix" / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = " ".join(row.install) + "".join(
        Path(word).read_text() for word in row.install if Path(word).is_file()
    )
    if name == "newest" or not stamp.exists() or stamp.read_text() != wanted:
        _, base = pythons()[-1 if row.newest_python else 0]
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
        subprocess.run([*pip, *row.install], check=True)
        stamp.write_text(wanted)
    return python


def versions(python: Path) -> str:
    """The releases that matter in an environment, in words."""
    probe = (
        "import json, platform; from importlib.metadata import version; "
        "print(json.dumps([platform.python_version(), version('jax'), version('numpyro')]))"
    )
    answer = subprocess.run([str(python), "-c", probe], check=True, capture_output=True, text=True)
    return "Python {}, JAX {}, NumPyro {}".format(*json.loads(answer.stdout))


def quick(python: Path) -> dict[str, str]:
    """The environment of the tests, with the XLA flags of this release."""
    tell = [str(python), str(ROOT / "tests" / "xla_flags.py")]
    flags = subprocess.run(tell, check=True, capture_output=True, text=True).stdout.strip()
    return os.environ | {"XLA_FLAGS": flags}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ROWS), help="rows, comma-separated")
    parser.add_argument("-n", default="2", help="parallel test processes")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; rows: {', '.join(ROWS)}")
    table, failed = [], 0
    for name in names:
        start = time.perf_counter()
        python = environment(name, ROWS[name])
        words = versions(python)
        print(f"{name}: {words}", flush=True)
        tests = ["-m", "pytest", "-q", "-n", options.n, *ROWS[name].warnings, "tests/ppl"]
        code = subprocess.run([str(python), *tests], cwd=ROOT, env=quick(python)).returncode
        failed += code != 0
        result = "passed" if code == 0 else f"failed (pytest exit {code})"
        table.append(f"{name:8} {words:44} {result} in {time.perf_counter() - start:.0f} s")
    print("\n" + "\n".join(table))
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
