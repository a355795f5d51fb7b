"""What mypy and pyright reveal in a user's file, against the wheel as it is built.

`user.py` says in comments what each `reveal_type` must give, and which lines must be errors.
"""

import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
USER = HERE / "user.py"
MYPY = re.compile(r':(\d+): note: Revealed type is "(.*)"'), re.compile(r":(\d+): error: ")
PYRIGHT = (
    re.compile(r':(\d+):\d+ - information: Type of ".*" is "(.*)"'),
    re.compile(r":(\d+):\d+ - error: "),
)


def wanted() -> tuple[dict[int, str], set[int]]:
    """The revealed types and the errors that `user.py` asks for, by line."""
    lines = list(enumerate(USER.read_text().splitlines(), 1))
    shown = {n: line.rpartition("# ")[2] for n, line in lines if "reveal_type(" in line}
    return shown, {n for n, line in lines if line.endswith("# error")}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python that has our wheel installed, and beside it the packages of this environment."""
    root = tmp_path_factory.mktemp("installed")
    project = HERE.parent.parent
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(root)]
    subprocess.run(build, cwd=project, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "env")], check=True)
    (site,) = (root / "env").glob("lib/python3*/site-packages")
    (wheel,) = root.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "beside.pth").write_text(sysconfig.get_paths()["purelib"])
    return root / "env" / "bin" / "python"


def reported(command: list[str], patterns) -> tuple[dict[int, str], set[int]]:
    """The revealed types and the lines with errors in what a checker prints."""
    # not from the project's root, where a checker would find our sources before the wheel
    printed = subprocess.run(
        [sys.executable, "-m", *command, str(USER)], capture_output=True, text=True, cwd=HERE
    ).stdout
    revealed, error = patterns
    types = {int(line): re.sub(r"(\w+\.)+", "", type_) for line, type_ in revealed.findall(printed)}
    return types, {int(line) for line in error.findall(printed)}


def test_pyright_sees_the_types(python):
    assert reported(["pyright", "--pythonpath", str(python)], PYRIGHT) == wanted()


def test_mypy_sees_the_types(python):
    command = ["mypy", "--ignore-missing-imports", "--python-executable", str(python)]
    assert reported(command, MYPY) == wanted()
