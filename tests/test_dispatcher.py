"""Finding stages and methods, what their help may import, and where options come from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entropyctl import commands, registry
from entropyctl.methods import interface, of_function
from entropyctl.table import read
from entropyctl.version import __version__

from .conftest import ROOT, Cli, scored_rows

HEAVY = {
    *("typer", "click", "rich", "numpy", "pyarrow", "torch", "transformers", "vllm", "datasets", "sympy", "scipy"),
    *("pandas", "safetensors", "math_verify", "reasoning_gym", "pydantic", "hypothesis", "plotly", "tokenizers"),
    *("wandb", "tensorboard", "trackio", "mlflow"),
}
STAGES = registry.names("stages")
METHODS = {"mask": "masks", "advantage": "advantages", "import": "imports"}


def imported_by(*args: str, cwd: Path = ROOT, code: int = 0) -> set[str]:
    """Top-level modules in memory after a command has run, and ended with `code`."""
    script = (
        "import sys, json, contextlib, io\n"
        "from entropyctl.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    try: ended = main(sys.argv[2:])\n"
        "    except SystemExit as ending: ended = ending.code\n"
        "assert (ended or 0) == int(sys.argv[1]), ended\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(code), *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("args", [("--help",), ("--version",)])
def test_the_root_imports_the_standard_library_alone(args: tuple[str, ...]) -> None:
    found = imported_by(*args) - set(sys.stdlib_module_names)
    assert not found & HEAVY
    # A system's own Python may customise every start.
    found -= {"sitecustomize", "usercustomize"}
    assert {name for name in found if not name.startswith("_")} == {"entropyctl"}


@pytest.mark.parametrize("stage", STAGES)
def test_the_help_of_a_stage_imports_typer_alone(stage: str) -> None:
    assert not imported_by(stage, "--help") & (HEAVY - {"typer", "click"})


BUILT_IN = [(stage, name) for stage, kind in METHODS.items() for name in registry.names(kind)]


@pytest.mark.parametrize(("stage", "name"), BUILT_IN)
def test_the_help_of_a_method_imports_typer_alone(stage: str, name: str) -> None:
    heavy = HEAVY - {"typer", "click"}
    assert not imported_by(stage, name, "--help") & heavy
    assert not imported_by(stage, name, "--nosuch", code=2) & heavy


def test_a_wrong_value_imports_typer_alone() -> None:
    assert not imported_by("mask", "clip-v", "--mu", "x", code=2) & (HEAVY - {"typer", "click"})


@pytest.mark.parametrize(("stage", "name"), BUILT_IN)
def test_flags_read_from_the_source_are_those_of_the_function(stage: str, name: str) -> None:
    kind = METHODS[stage]
    assert interface(kind, name) == of_function(registry.load_function(kind, name))


@pytest.mark.parametrize(
    "script",
    [
        "from entropyctl.masks import clip_v; clip_v.__code__",
        "import entropyctl.masks.clip_v; from entropyctl.masks import clip_v; clip_v.__code__",
        "from entropyctl.masks import clip_v; import entropyctl.masks.clip_v; entropyctl.masks.clip_v.__code__",
        "from entropyctl.masks import apply_mask, clip_v; import entropyctl.masks.clip_v as again; again.__code__",
        "from entropyctl.registry import load_function as load; load('masks', 'clip-v').__code__",
        "from entropyctl.advantages import *; grpo.__code__, apply_advantage.__code__",
        "from entropyctl.masks import *; clip_v.__code__, Compiled._fields, MaskSummary.add",
        "import entropyctl.advantages.grpo; from entropyctl.advantages import grpo, AdvantageSummary; grpo.__code__",
    ],
)
def test_a_method_is_its_function_in_every_order_of_imports(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("args", [("mask", "none"), ("advantage", "grpo")])
def test_the_core_runs_without_the_heavy_packages(args: tuple[str, ...], scored: Path, tmp_path: Path) -> None:
    heavy = HEAVY - {"typer", "click", "numpy", "pyarrow"}
    assert not imported_by(*args, str(scored), "-q", "-o", "out.parquet", cwd=tmp_path) & heavy
    base, over = str(scored), str(tmp_path / "out.parquet")
    assert not imported_by(*args, base, over, "-q", "-o", "two.parquet", cwd=tmp_path) & heavy


@pytest.mark.parametrize(
    ("args", "more"),
    [
        (("check", "--full"), set()),
        (("inspect",), {"rich"}),
        (("inspect", "--row", "0"), {"rich"}),
        (("inspect", "--provenance"), {"rich"}),
        (("eval",), {"rich", "scipy"}),
        (("report", "--quiet", "-o", os.devnull), {"scipy"}),
    ],
)
def test_looking_at_files_needs_no_heavy_packages(args: tuple[str, ...], more: set[str], scored: Path) -> None:
    heavy = HEAVY - {"typer", "click", "numpy", "pyarrow"} - more
    assert not imported_by(*args, str(scored)) & heavy


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_loads_and_has_help(cli: Cli, stage: str) -> None:
    ran = cli(stage, "--help")
    assert ran.code == 0, ran
    assert f"entropyctl {stage}" in ran.text
    assert ran.err == ""
    summary = registry.summary("stages", stage)
    assert summary and summary[0].isupper() and summary.endswith("."), summary
    assert summary in cli("--help").text


@pytest.mark.parametrize("stage", METHODS)
def test_a_stage_of_methods_lists_and_explains_them(cli: Cli, stage: str) -> None:
    listed = cli(stage, "--help").text
    for name in registry.names(METHODS[stage]):
        assert f"  {name} " in listed
        ran = cli(stage, name, "--help")
        assert ran.code == 0, ran
        assert registry.summary(METHODS[stage], name).split(":")[0].split(" ")[0] in ran.text


def test_the_flags_of_a_method_are_its_parameters(cli: Cli) -> None:
    text = cli("mask", "clip-v", "--help").text
    for flag in ("--mu ", "--mu-high", "--sides ", "--apply-to", "--max-frac", "--variant", "--only-new", "--tee"):
        assert flag in text
    assert "S*_t - E[S]_t" in text and "2602.03392" in text and "8.5" in text
    assert "[N]" not in text  # array arguments are no flags


@pytest.mark.parametrize(("args", "code"), [((), 2), (("--help",), 0), (("-h",), 0), (("help",), 0)])
def test_the_root_help(cli: Cli, args: tuple[str, ...], code: int) -> None:
    ran = cli(*args)
    assert ran.code == code
    assert "Usage: entropyctl STAGE" in ran.text
    assert all(f"  {name} " in ran.text for name in STAGES)


def test_the_version(cli: Cli) -> None:
    ran = cli("--version")
    assert (ran.code, ran.text) == (0, f"entropyctl {__version__}\n")


# Stages and methods of other packages.


@pytest.fixture
def other_package(tmp_path: Path) -> dict[str, str]:
    """An installed distribution with a stage, a mask, a name that is taken already, and a stage that does not load."""
    site = tmp_path / "site"
    info = site / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[entropyctl.stages]\nshuffle = other:shuffle\nmask = other:shuffle\nbroken = other.nothing:run\n"
        "[entropyctl.masks]\nhalf = other:half\nclip-v = other:half\nquarter = other\n"
    )
    (site / "other.py").write_text(
        "from entropyctl.masks import Compiled\n"
        "def shuffle(argv):\n"
        "    print('shuffle got', *argv)\n"
        "    return 10\n"
        "def half(loss_mask, *, factor: float = 0.5):\n"
        '    """Half: every weight is the same.\n\n    w_t = factor\n\n    Paper: none.\n\n'
        '    Args:\n        loss_mask: `[N]`.\n        factor: the weight.\n    """\n'
        "    return Compiled(weights=loss_mask * factor)\n"
    )
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}


def test_a_stage_of_another_package(cli: Cli, other_package: dict[str, str]) -> None:
    ran = cli("shuffle", "a", "--b", env=other_package)
    assert (ran.code, ran.text) == (10, "shuffle got a --b\n"), ran
    text = cli("--help", env=other_package).text
    assert "Other:\n" in text and "shuffle     (from other)" in text


def test_a_method_of_another_package_has_flags_like_our_own(
    cli: Cli, other_package: dict[str, str], scored: Path, tmp_path: Path
) -> None:
    listed = cli("mask", "--help", env=other_package).text
    assert re.search(r"^  half +Half: every weight is the same\. \(from other\)$", listed, re.M), listed
    assert "the weight." in cli("mask", "half", "--help", env=other_package).text
    lacking = cli("mask", "quarter", "scored.parquet", "-o", "out.parquet", env=other_package)
    assert (lacking.code, "its module other has no function quarter; add it" in lacking.line) == (1, True), lacking
    ran = cli("mask", "half", "scored.parquet", "--factor", "0.25", "-o", "out.parquet", env=other_package)
    assert ran.code == 0, ran
    with read([str(tmp_path / "out.parquet")]) as source:
        assert next(iter(source)).rows["weights"][0].as_py()[0] == 0.25
        assert source.chain[-1]["stage"] == "mask half"


def test_a_built_in_name_is_never_replaced(cli: Cli, other_package: dict[str, str], tmp_path: Path) -> None:
    assert "Methods:" in cli("mask", "--help", env=other_package).text
    assert "--max-frac" in cli("mask", "clip-v", "--help", env=other_package).text
    program(tmp_path / "bin" / "entropyctl-mask", "echo replaced")
    path = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    assert "replaced" not in cli("mask", "--help", env=path).text


def test_a_stage_that_does_not_load_is_one_line(cli: Cli, other_package: dict[str, str]) -> None:
    ran = cli("broken", env=other_package)
    assert ran.code == 1
    assert ran.line.startswith(
        "entropyctl broken: cannot be loaded (ModuleNotFoundError: No module named 'other.nothing'"
    )
    assert "Traceback" in cli("broken", "--debug", env=other_package).err


def program(path: Path, body: str, head: str = "#!/bin/sh") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{head}\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_program_on_path_is_a_stage(cli: Cli, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "entropyctl-count", 'echo "count: $*"; wc -c; exit 9')
    path = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    ran = cli("count", "a b", "--c", stdin=b"12345", env=path)
    assert (ran.code, ran.text.split()) == (9, ["count:", "a", "b", "--c", "5"]), ran
    program(tmp_path / "bin" / "entropyctl-odd", "", head="#!/no/such/shell")
    ran = cli("odd", env=path)
    assert (ran.code, "entropyctl-odd: cannot be run" in ran.line) == (2, True), ran


def test_a_name_with_a_slash_is_no_program(cli: Cli, tmp_path: Path) -> None:
    program(tmp_path / "entropyctl-x" / "run", "echo ran")
    ran = cli("x/run")
    assert (ran.code, "there is no stage 'x/run'" in ran.line) == (2, True), ran


# Where options come from.


def used(cli: Cli, *args: str, env: dict[str, str] | None = None) -> dict:
    """The parameters that a run of `mask clip-b` recorded."""
    ran = cli("mask", "clip-b", "adv.parquet", "-o", "out.parquet", *args, env=env)
    assert ran.code == 0, ran
    with read(["out.parquet"]) as source:
        return source.chain[-1]["params"]


def test_a_flag_beats_a_variable_beats_a_file_beats_a_default(
    cli: Cli, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("advantage", "grpo", "scored.parquet", "-o", "adv.parquet").code == 0
    (tmp_path / "c.toml").write_text('[mask]\nquiet = true\n[mask.clip-b]\nmu = 4\nmu-high = 5.5\nsides = "both"\n')
    variable = {"ENTROPYCTL_MASK_CLIP_B_MU": "3"}
    in_file = {"ENTROPYCTL_CONFIG": "c.toml"}
    assert used(cli)["mu"] == 2.5
    assert used(cli, "--config", "c.toml") == {
        "mu": 4.0, "mu_high": 5.5, "sides": "both", "apply_to": None, "max_frac": None, "variant": "trinity",
    }  # fmt: skip
    assert used(cli, env=in_file)["mu"] == 4.0
    assert used(cli, "--config=c.toml", env=variable)["mu"] == 3.0
    assert used(cli, "--mu", "1.5", env=variable | in_file)["mu"] == 1.5
    ran = cli("mask", "clip-b", "adv.parquet", "-o", "out.parquet", env=in_file)
    assert ran.err == ""  # [mask] quiet


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("[mask.none]\nmuu = 4\n", 2, "c.toml: [mask.none] has no option 'muu'; known: allow_mismatch, inputs, "),
        ("[mask]\nnone = 3\n", 2, "c.toml: 'none' must be a table"),
        ("[mask\n", 3, "c.toml: is not TOML"),
        ('[mask.none]\nquiet = "maybe"\n', 2, "'maybe' is not a valid boolean"),
    ],
)
def test_a_configuration_with_a_mistake(
    cli: Cli, scored: Path, tmp_path: Path, text: str, code: int, words: str
) -> None:
    (tmp_path / "c.toml").write_text(text)
    ran = cli("mask", "none", "scored.parquet", "--config", "c.toml", "-o", "out.parquet")
    assert (ran.code, words in ran.line) == (code, True), ran


def test_a_configuration_that_is_not_there(cli: Cli) -> None:
    ran = cli("mask", "none", "--config", "nothing.toml")
    assert (ran.code, "nothing.toml: cannot be read" in ran.line) == (3, True), ran


# Errors.


def test_an_error_is_one_line_and_debug_shows_more(cli: Cli) -> None:
    ran = cli("mask", "none", "nothing.parquet", "-o", "out.parquet")
    assert (ran.code, ran.line) == (3, "entropyctl mask none: nothing.parquet: no such file; check the path")
    ran = cli("mask", "none", "nothing.parquet", "-o", "out.parquet", "--debug")
    assert (ran.code, "Traceback" in ran.err) == (3, True)


def test_a_bug_is_one_line_too(cli: Cli, other_package: dict[str, str], scored: Path, tmp_path: Path) -> None:
    module = tmp_path / "site" / "other.py"
    module.write_text(module.read_text().replace("loss_mask * factor", "1 / 0"))
    ran = cli("mask", "half", "scored.parquet", "-o", "out.parquet", env=other_package)
    assert ran.code == 1
    assert ran.line == (
        "entropyctl mask half: internal error: ZeroDivisionError: division by zero; "
        "run again with --debug and report it"
    )
    module.write_text(module.read_text().replace("1 / 0", "loss_mask[1:]"))
    ran = cli("mask", "half", "scored.parquet", "-o", "out.parquet", env=other_package)
    assert (ran.code, "mask half: returned weights of shape" in ran.line) == (1, True), ran
    assert not (tmp_path / "out.parquet").exists()


def test_a_missing_extra_is_named(cli: Cli, other_package: dict[str, str], scored: Path, tmp_path: Path) -> None:
    module = tmp_path / "site" / "other.py"
    body = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    module.write_text(module.read_text().replace("return Compiled(weights=loss_mask * factor)", body))
    ran = cli("mask", "half", "scored.parquet", "-o", "out.parquet", env=other_package)
    assert ran.code == 2
    assert "needs torch, which is not installed; run pip install 'entropyctl[model]'" in ran.line


def test_control_characters_of_data_do_not_reach_the_terminal(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows(1)
    hostile = pa.array([f"\x1b[2J\x07p{i}\u202e" for i in range(rows.num_rows)])
    rows = rows.set_column(1, "prompt_id", hostile).append_column("weights", pa.array([[1.0, 2.0] * 9] * 12))
    pq.write_table(rows, tmp_path / "\x1b[31mf.parquet")
    ran = cli("mask", "none", "\x1b[31mf.parquet", "-o", "x.parquet")
    notice, error = ran.err.splitlines()
    assert ran.code == 3
    assert "written by another program" in notice and notice.isprintable()
    assert "has 18 entries where" in error and error.isprintable()


def test_the_summary_as_one_object(cli: Cli, scored: Path) -> None:
    ran = cli("advantage", "grpo", "scored.parquet", "-o", "adv.parquet", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert set(json.loads(ran.text)) == {"rows", "groups", "informative_groups", "reward"}
    ran = cli("advantage", "grpo", "scored.parquet", "--json")
    assert json.loads(ran.err)["rows"] == 24  # stdout is data
    assert cli("advantage", "grpo", "scored.parquet", "-q", "-o", "adv.parquet").err == ""


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize("fault", [MemoryError(), OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_out_of_memory_is_a_limit_and_no_bug(fault: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands._report("score", fault, debug=False) == 7
    assert capsys.readouterr().err.startswith("entropyctl score: out of memory; lower --token-budget")


def test_a_misspelt_stage_in_the_configuration_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[rolout]\nn = 2\n")
    ran = cli("mask", "none", "--config", "c.toml", "x.parquet")
    assert ran.code == 2 and "[rolout] is no stage; known: advantage" in ran.line, ran


def test_the_help_names_its_environment_variables(cli: Cli) -> None:
    assert "ENTROPYCTL_MASK_CLIP_V_OPTION" in cli("mask", "clip-v", "--help").text
    assert "ENTROPYCTL_ROLLOUT_OPTION" in cli("rollout", "--help").text


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "scored.parquet"], "entropyctl eval: standard output: the disk is full; free some space\n"),
        (["completion", "bash"], "entropyctl: standard output: the disk is full; free some space\n"),
        (["--help"], "entropyctl: standard output: the disk is full; free some space\n"),
    ],
)
def test_printing_to_a_full_disk_ends_with_6(scored: Path, words: list[str], message: str, unbuffered: str) -> None:
    """Whether Python holds back what is printed or not."""
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "entropyctl", *words]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=scored.parent, text=True, env=env)
    assert (ran.returncode, ran.stderr) == (6, message)


def test_garbage_is_collected_as_ever_once_a_model_is_loaded() -> None:
    """And what was imported before is never looked through again."""
    code = """
        import gc
        usual = gc.get_threshold()
        from entropyctl import collector
        collector.collect_rarely()
        assert gc.get_threshold() > usual and gc.get_freeze_count() == 0
        collector.collect_as_usual()
        frozen = gc.get_freeze_count()
        assert gc.get_threshold() == usual and frozen > 1000
        garbage = [[]]
        garbage.append(garbage)
        collector.collect_as_usual()
        assert gc.get_freeze_count() == frozen  # a model that has gone may hang together in circles
        del garbage
        assert gc.collect() > 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=True)
