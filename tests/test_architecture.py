"""The layout holds: layers, who imports whom, file sizes, public names, and a light import."""

import ast
import builtins
import dis
import functools
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
import types
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import ppl

ROOT = Path(__file__).parent.parent
MAX_LINES = 400

# Modules of ppl, lowest layer first. A module imports only from layers below its own.
LAYERS = [
    ["errors"],
    # folders, of which the __init__ is a page of prose
    ["_jax", "_analysis", "_distributions", "_ir", "_walk", "_meanings", "_algorithms"],
    ["_jax.leaves"],
    ["_jax.identities", "_jax.primitives"],
    ["_jax.equations"],
    ["_jax.control_flow", "_jax.run"],
    ["_jax.batching", "_jax.source"],
    ["_jax.failure"],
    ["_analysis.propagate"],
    ["_analysis.dataflow"],
    ["_analysis.sampler"],
    ["_distributions.integers", "_distributions.law", "_distributions.log_sum_exp"],
    [
        "_distributions.bounded",
        "_distributions.cut",
        "_distributions.elements",
        "_distributions.scored_draw",
    ],
    ["_distributions.coupling", "_distributions.gaussian", "_distributions.protocol"],
    ["_distributions.partly", "_distributions.score", "_distributions.support"],
    ["_distributions.families.deviance"],
    ["_distributions.families.probabilities"],
    [
        "_distributions.families.continuous",
        "_distributions.families.counts",
        "_distributions.families.mixtures",
        "_distributions.families.truncated",
    ],
    ["_distributions.families.canonical"],
    ["_distributions.families"],
    ["_distributions.finite"],
    ["_ir.address", "_ir.state"],
    ["_ir.site"],
    ["_ir.call"],
    ["_ir.compound", "_ir.control_variate", "_ir.estimator", "_ir.foreign", "_ir.obs_mask"],
    ["_ir.fresh_key"],
    ["_ir.sample", "_ir.stage"],
    ["_analysis.continuity", "_analysis.graph", "_analysis.influence"],
    ["_walk.feed"],
    ["_walk.site_record"],
    ["_walk.choices", "_walk.record"],
    ["_walk.walker"],
    ["_walk.restaged", "_walk.vmap"],
    ["_meanings.rewrite", "_meanings.seed", "_meanings.sites"],
    ["_meanings.counterfactual", "_meanings.show"],
    ["_meanings.state_space", "_meanings.trace"],
    ["_vectorize"],
    ["_vectorize.nodes"],
    ["_vectorize.alike", "_vectorize.schedule", "_vectorize.stacks"],
    ["_vectorize.vectorize"],
    ["_algorithms.laws"],
    ["_algorithms.algorithm"],
    ["_algorithms.marginal"],
    [f"_expectation.{part}" for part in ("values", "sites", "terms", "interpret", "elimination")],
    ["_expectation.values.value"],
    ["_expectation.values.dimensions", "_expectation.values.limits", "_expectation.values.zeros"],
    ["_expectation.values.lanes"],
    ["_expectation.values.worlds"],
    ["_expectation.values.expansion"],
    ["_expectation.values.slices"],
    ["_expectation.values.constants", "_expectation.values.vanishing"],
    ["_expectation.values.apply"],
    ["_expectation.sites.element_reads", "_expectation.sites.measure"],
    ["_expectation.sites.linear_reads", "_expectation.sites.weighted_site"],
    ["_expectation.sites.follow_reads", "_expectation.sites.ledger"],
    ["_expectation.sites.own_lane"],
    ["_expectation.interpret.scope"],
    ["_expectation.interpret.evaluation"],
    ["_expectation.sites.gating", "_expectation.sites.coupled", "_expectation.terms.terms"],
    ["_expectation.sites.baseline", "_expectation.sites.control_variate"],
    ["_expectation.sites.sample", "_expectation.terms.linear"],
    ["_expectation.interpret.body", "_expectation.interpret.stacking"],
    ["_expectation.interpret.carry", "_expectation.interpret.control_flow"],
    ["_expectation.interpret.steps"],
    ["_expectation.interpret.scan"],
    ["_expectation.interpret.evaluate"],
    ["_expectation.elimination.semiring"],
    ["_expectation.elimination.plugin", "_expectation.elimination.weigh"],
    ["_expectation.elimination.factors", "_expectation.elimination.perturbation"],
    ["_expectation.elimination.layout"],
    ["_expectation.elimination.forward"],
    ["_expectation.elimination.fold"],
    ["_expectation.elimination.eliminate"],
    ["_expectation.estimands"],
    ["_expectation.expectation"],
    ["_expectation.inspect"],
    ["_expectation"],
    [
        "_fit.gradient",
        "_fit.minibatches",
        "_fit.origin",
        "_fit.parameters",
        "_fit.progress",
        "_fit.result",
        "_fit.sameness",
    ],
    ["_fit.ahead", "_fit.arguments", "_fit.carried"],
    ["_fit.step"],
    ["_fit.loop"],
    ["_fit.driver", "_fit.integers", "_fit.nonfinite"],
    ["_fit.fit"],
    ["_fit"],
    ["extend"],  # for writers
    ["_language"],
    [""],  # ppl itself, the public door
]

ANYWHERE = {"equinox", "jax", "jaxtyping", "numpy"}
IN_FIT = ANYWHERE | {"optax"}
IN_FUNCTIONS_OF_FIT = IN_FIT | {"matplotlib", "orbax", "tqdm"}
INTERNALS_OF_JAX = re.compile(r"jax\.(_src|interpreters|extend)\b")


class Import(NamedTuple):
    """One imported module or name, in absolute dotted form."""

    target: str
    lazy: bool
    line: int


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[Import]:
    """All imports of a file, relative ones resolved, with whether they are inside a function."""
    package = path.relative_to(ROOT).parent.parts

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(f"{source}.{a.name}", lazy, node.lineno) for a in node.names)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(tree(path), False)


def attributes(path: Path) -> Iterator[tuple[str, int]]:
    """All dotted names of a file, with their lines."""
    nodes = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute))
    return ((ast.unparse(node), node.lineno) for node in nodes)


def is_fit(path: Path) -> bool:
    return path.relative_to(ROOT / "ppl").parts[0].lstrip("_").startswith("fit")


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def holds(offenders: Iterable[str]) -> None:
    """Fails with the list of all offenders."""
    listed = sorted(set(offenders))
    assert not listed, "\n" + "\n".join(listed)


def test_ppl_imports_few_third_parties():
    def offenders():
        for path in sources("ppl"):
            for target, lazy, line in imports(path):
                allowed = ANYWHERE if not is_fit(path) else IN_FUNCTIONS_OF_FIT if lazy else IN_FIT
                top = target.split(".")[0]
                if top != "ppl" and top not in sys.stdlib_module_names and top not in allowed:
                    yield f"{where(path, line)} imports {target}"

    holds(offenders())


def test_jax_internals_are_touched_in_one_folder():
    holds(
        f"{where(path, line)} uses {target}"
        for path in sources("ppl", "stdlib")
        if not module_name(path).startswith("ppl._jax.")
        for target, line in [*((i.target, i.line) for i in imports(path)), *attributes(path)]
        if INTERNALS_OF_JAX.match(target)
    )


CONTROL_FLOW = set(
    [
        "scan",
        "while",
        "cond",
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "checkpoint",
        "remat",
        "remat2",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "custom_vmap_call",
        "branches",
        "body_jaxpr",
        "cond_jaxpr",
        "call_jaxpr",
        "fun_jaxpr",
        "num_consts",
        "num_carry",
    ]
)
"""Names of JAX's primitives of control flow, and of their parameters."""


def test_control_flow_is_named_in_one_folder():
    """Everything else goes by the forms of `ppl._jax.control_flow`."""
    holds(
        f"{where(path, node.lineno)} names {node.value!r}"
        for path in sources("ppl", "stdlib")
        if not module_name(path).startswith("ppl._jax.")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.split() and CONTROL_FLOW.issuperset(node.value.split())
    )


def modules_of_ppl() -> dict[str, Path]:
    return {module_name(path).removeprefix("ppl").lstrip("."): path for path in sources("ppl")}


def test_layers_list_every_module_once():
    listed = [module for layer in LAYERS for module in layer]
    assert sorted(listed) == sorted(modules_of_ppl())


def test_ppl_imports_only_lower_layers():
    level = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    modules = modules_of_ppl()

    def offenders():
        for module, path in modules.items():
            for target, _, line in imports(path):
                if target.split(".")[0] != "ppl":
                    continue
                name = target.removeprefix("ppl").lstrip(".")
                imported = name if name in modules else name.rpartition(".")[0]
                if level.get(imported, len(LAYERS)) >= level.get(module, -1):
                    yield f"{where(path, line)} imports {target}"

    holds(offenders())


def test_stdlib_uses_the_public_door_of_ppl():
    public = {f"ppl.{name}" for name in ppl.__all__}
    public |= {f"ppl.errors.{name}" for name in ppl.errors.__all__}
    public |= {f"ppl.extend.{name}" for name in ppl.extend.__all__}

    def uses(path):
        yield from ((i.target, i.line) for i in imports(path) if i.target.startswith("ppl."))
        yield from (
            (name, line) for name, line in attributes(path) if re.fullmatch(r"ppl\.\w+", name)
        )

    holds(
        f"{where(path, line)} uses {target}, which is not public"
        for path in sources("stdlib")
        for target, line in uses(path)
        if target not in public
    )


def test_files_are_short():
    lines = {path: len(path.read_text().splitlines()) for path in sources("ppl", "stdlib")}
    holds(where(path, count) for path, count in lines.items() if count >= MAX_LINES)


def exports(path: Path) -> list[str]:
    """The `__all__` of a file, a literal list; empty where there is none."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def documented(thing: object) -> bool:
    """Whether it has a docstring of its own: one that a class inherits, or that a dataclass makes
    up, says nothing."""
    own = not inspect.isclass(thing) or (
        vars(thing).get("__doc__") and not thing.__doc__.startswith(f"{thing.__name__}(")
    )
    return bool(inspect.getdoc(thing) and own)


def test_public_names_exist_and_are_documented():
    def offenders():
        for path in filter(exports, sources("ppl", "stdlib")):
            module = importlib.import_module(module_name(path))
            for name, count in Counter(module.__all__).items():
                if count > 1:
                    yield f"{module.__name__} lists {name} twice"
                if not hasattr(module, name):
                    yield f"{module.__name__} lists {name}, which it lacks"
                elif not documented(getattr(module, name)):
                    yield f"{module.__name__}.{name} has no docstring"

    holds(offenders())


def words_of(*globs: str) -> set[str]:
    paths = {path for glob in globs for path in ROOT.glob(glob)} - {Path(__file__)}
    return {word for path in paths for word in re.findall(r"\w+", path.read_text())}


def test_every_public_name_of_ppl_is_tested():
    assert {*ppl.__all__, *ppl.extend.__all__} <= words_of("tests/**/*.py")


def names_read(code: types.CodeType) -> Iterator[tuple[str, int]]:
    """The global names that a compiled module or function reads, with their lines."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.positions:
            yield step.argval, step.positions.lineno or 0
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from names_read(inner)


def test_every_name_is_defined():
    """The linters leave it out: shapes in annotations are names that nothing defines."""

    def offenders():
        for path in sources("ppl", "stdlib"):
            if path.name == "__main__.py":
                continue
            module = importlib.import_module(module_name(path))
            code = compile(path.read_text(), str(path), "exec")
            annotated = set(re.findall(r"\w+", " ".join(re.findall(r'"[^"]*"', path.read_text()))))
            for name, line in names_read(code):
                known = hasattr(module, name) or hasattr(builtins, name) or name in annotated
                if not known:
                    yield f"{where(path, line)} reads {name}, which is not defined"

    holds(offenders())


def test_no_dead_definitions():
    """A function or class without underscore is exported, or used somewhere in the code."""
    paths = sources("ppl", "stdlib", "benchmarks")
    used = {name for path in paths for name in exports(path)}
    for node in (node for path in paths for node in ast.walk(tree(path))):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
    holds(
        f"{where(path, node.lineno)} {node.name}"
        for path in paths
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and node.name not in used
    )


def calls_to_import(module: str) -> int:
    """How many functions are entered and left while a module is imported: work, not time."""
    code = f"""
import sys
events = 0
def count(*_):
    global events
    events += 1
sys.setprofile(count)
import {module}
sys.setprofile(None)
print(events)
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_importing_ppl_costs_little_more_than_jax():
    """Calls made, which do not depend on the machine; `python -m benchmarks imports` has times."""
    jax_alone = calls_to_import("jax")
    assert calls_to_import("ppl") < 0.1 * jax_alone
    assert calls_to_import("ppl._language") < 1.3 * jax_alone


def test_importing_ppl_does_not_import_numpyro():
    code = "import sys, ppl; sys.exit('numpyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_oldest_environment_is_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {bound.replace(">=", "==") for bound in project["dependencies"]}
    assert bounds <= set((ROOT / "tests" / "matrix" / "oldest.txt").read_text().splitlines())
