"""Who may import whom, and what no file may call; read from the source, never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

FILES = sorted(
    [*(ROOT / "entropyctl").rglob("*.py"), *(ROOT / "stages").glob("*.py"), *(ROOT / "schemas").glob("*.py")]
)

# Rooms that hold methods, graders and the rest, and rooms that all of those may use.
MIDDLE = {"advantages", "masks", "objectives", "rewards", "engines", "policy", "training", "laws", "prompts", "steps"}
MIDDLE |= {"imports", "loggers"}
BELOW = {"tokenstats", "dynamics"}
BASE = {"ahead", "table", "registry", "errors", "version", "inputs", "memory", "metrics", "web", "cluster"}
# What one room may use of its neighbours. The update is where loss, checkpoint and optimiser meet, so training
# composes the others; an engine generates from prompts with a policy; a process reward model is a checkpoint; a dump
# names its problems as prompts are named.
NEIGHBOURS = {"training": {"objectives", "policy", "masks"}, "engines": {"policy", "prompts"}, "steps": {"policy"}}
NEIGHBOURS |= {"imports": {"prompts"}}
CORE = {"table", "dynamics", "advantages", "masks", "laws", "rewards", "prompts", "report", "imports"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_NAMES = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "cloudpickle", "sympify", "parse_expr"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("np", "load"), ("numpy", "load")}


def room(path: Path) -> str:
    """`masks` for entropyctl/masks/clip_v.py, `cli` for entropyctl/cli.py, `stages` for stages/mask.py."""
    parts = path.relative_to(ROOT).parts
    if parts[0] != "entropyctl":
        return parts[0]
    return parts[1] if len(parts) > 2 else path.stem


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in FILES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names of every import, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run on import; blocks for the type checker alone do not."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node


def ours(name: str) -> str | None:
    """The room that an imported name lies in, or None when it is another package's."""
    parts = name.split(".")
    if parts[0] in ("stages", "schemas"):
        return parts[0]
    if parts[0] != "entropyctl":
        return None
    return parts[1] if len(parts) > 1 else "entropyctl"


def found_in(check: object) -> list[str]:
    assert callable(check)
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, tree in trees()
        for name, line in imports(tree)
        if check(room(path), ours(name), name)
    ]


def test_nothing_imports_a_stage_and_stages_never_import_each_other() -> None:
    assert found_in(lambda _, to, __: to in ("stages", "schemas")) == []


def test_arrows_between_the_rooms_point_one_way() -> None:
    def wrong(here: str, to: str | None, _: str) -> bool:
        if to is None or to == here or to in BASE:
            return False
        if here in MIDDLE:
            return to not in BELOW | NEIGHBOURS.get(here, set()) and to in MIDDLE
        if here in BELOW:
            return to != "dynamics"
        return False

    assert found_in(wrong) == []


def test_the_base_knows_nobody_above_it() -> None:
    everything_above = MIDDLE | BELOW | {"stages", "cli", "commands", "methods", "show", "reporting"}
    everything_above |= {"query", "compare", "report", "evaluation"}
    assert found_in(lambda here, to, _: here in BASE and to in everything_above) == []


def test_rooms_do_not_know_the_command_line() -> None:
    command_line = {"cli", "commands", "methods"}
    assert found_in(lambda here, to, _: here in MIDDLE | BELOW | BASE and to in command_line) == []


def test_the_report_composes_what_can_be_read_from_tables_and_only_its_stage_knows_it() -> None:
    composed = {"laws", "dynamics", "forecast", "masks", "show", "report"}
    assert found_in(lambda here, to, _: here == "report" and to is not None and to not in composed | BASE) == []
    assert found_in(lambda here, to, _: to == "report" and here not in ("report", "stages")) == []


def test_dynamics_imports_numpy_and_nothing_else() -> None:
    allowed = ("numpy", "typing", "__future__", "entropyctl.dynamics", "collections.abc")
    assert found_in(lambda here, _, name: here == "dynamics" and not name.startswith(allowed)) == []


def test_the_dispatcher_imports_the_standard_library_alone() -> None:
    import sys

    def wrong(here: str, to: str | None, name: str) -> bool:
        light = {"registry", "errors", "version", "cli", "collector", "entropyctl", "__version__"}
        if here in ("cli", "collector", "registry", "errors", "version", "__main__", "__init__"):
            return to not in light if to else name.partition(".")[0] not in sys.stdlib_module_names
        return False

    assert found_in(wrong) == []


@pytest.mark.parametrize(
    "package", ["torch", "transformers", "pandas", "sympy", "math_verify", "reasoning_gym", "datasets"]
)
def test_the_core_imports_no_heavy_package_when_it_is_imported(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, tree in trees()
        if room(path) in CORE
        for node in module_level(tree)
        for name, line in (imports(node) if not isinstance(node, ast.FunctionDef | ast.ClassDef) else [])
        if name.partition(".")[0] == package
    ]
    assert found == []


def test_stages_import_typer_and_the_command_line_alone() -> None:
    light = ("typer", "typing", "__future__", "collections", "re", "sys", "entropyctl")
    heavy_here = {"table", "masks", "advantages", "policy", "engines", "training", "rewards", "tokenstats", "prompts"}
    heavy_here |= {"steps", "report", "imports", "loggers"}
    found = [
        f"{path.name}:{line} imports {name}"
        for path, tree in trees()
        if room(path) == "stages"
        for node in module_level(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name, line in imports(node)
        if not name.startswith(light) or ours(name) in heavy_here
    ]
    assert found == []


def test_pandas_is_imported_nowhere() -> None:
    assert found_in(lambda _, __, name: name.partition(".")[0] == "pandas") == []


def test_sympy_is_imported_to_derive_the_formulas_and_nowhere_else() -> None:
    found = found_in(lambda _, __, name: name.partition(".")[0] == "sympy")
    assert {line.partition(":")[0] for line in found} == {"entropyctl/laws/derivation.py"}


def faults(node: ast.AST) -> Iterator[str]:
    """What a node does that nothing here may do."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
        yield f"calls {node.func.id}"
    if isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
        yield f"names {node.id}"
    if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_NAMES:
        yield f"uses {node.attr}"
    if isinstance(node, ast.Attribute) and (ast.unparse(node.value), node.attr) in FORBIDDEN_ATTRIBUTES:
        yield f"uses {ast.unparse(node)}"
    if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and ast.unparse(node.value) != "False":
        yield "trusts remote code"
    if isinstance(node, ast.keyword) and node.arg == "shell":
        yield "hands text to a shell"
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (f"imports {name}" for name, _ in imports(node) if FORBIDDEN_NAMES & set(name.split(".")))


def test_nothing_evaluates_text_or_loads_pickles() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')} {fault}"
        for path, tree in trees()
        for node in ast.walk(tree)
        for fault in faults(node)
    ]
    assert found == []


def test_the_search_for_faults_finds_them() -> None:
    text = "import pickle\neval(x)\ntorch.load(f)\nsympy.sympify(t)\nrun(c, shell=True)\nload(trust_remote_code=True)"
    assert sorted(fault for node in ast.walk(ast.parse(text)) for fault in faults(node)) == [
        *("calls eval", "hands text to a shell", "imports pickle", "trusts remote code"),
        *("uses sympify", "uses torch.load"),
    ]


def test_only_the_table_room_opens_tables() -> None:
    openers = tuple(f"pyarrow.{part}" for part in ("parquet", "ipc", "fs", "dataset", "csv", "feather", "orc"))
    assert found_in(lambda here, _, name: here != "table" and name.startswith(openers)) == []


def test_every_file_says_what_it_is_for() -> None:
    assert [str(path) for path, tree in trees() if tree.body and not ast.get_docstring(tree)] == []
