"""What a user gets: a wheel with every file and nothing else, a source archive, an editable and a bare checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from entropyctl.version import __version__

from .conftest import ROOT, write_scored

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALLED = {"entropyctl": "entropyctl", "stages": "entropyctl/stages", "schemas": "entropyctl/schemas"}


def sources() -> set[str]:
    """Every file that must be installed, under its name in the wheel."""
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in INSTALLED.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".toml", ".md", ".c", ".html", ".css", ".js", ".typed")
    }


def python(*args: str, path: Path | None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python with `path` and nothing of this checkout in sight."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONSAFEPATH": "" if path is None else "1"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def copy_of_the_checkout(target: Path) -> Path:
    skipped = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "run", "golden")
    return Path(shutil.copytree(ROOT, target, ignore=skipped))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, and the wheel that is built from it."""
    directory = tmp_path_factory.mktemp("build")
    checkout = copy_of_the_checkout(directory / "checkout")
    done = python("-m", "build", "--no-isolation", "--outdir", str(directory), str(checkout), path=None, cwd=directory)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(built.glob("*.whl")))


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """The wheel, installed where nothing else is."""
    target = built / "site"
    args = ("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(next(built.glob("*.whl"))))
    done = python(*args, path=None, cwd=built)
    assert done.returncode == 0, done.stderr
    return target


def test_the_list_of_packages_is_complete() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "entropyctl").rglob("*.py")
    }
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert set(listed) == folders | {"entropyctl.stages", "entropyctl.schemas"}
    assert len(listed) == len(set(listed))


def test_the_wheel_holds_every_file_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources()
    assert {name.partition("/")[0] for name in wheel.namelist()} == {
        "entropyctl",
        f"entropyctl-{__version__}.dist-info",
    }


def test_the_source_archive_holds_what_it_takes_to_build(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "stages/mask.py", "schemas/scored.toml"} <= names
    inside = {folder for folder, target in INSTALLED.items() for name in sources() if name.startswith(target)}
    assert inside == set(INSTALLED)


def test_what_the_wheel_says_of_itself(wheel: zipfile.ZipFile) -> None:
    info = f"entropyctl-{__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == (
        "entropyctl",
        __version__,
        "Apache-2.0",
    )
    core = {line.partition(";")[0] for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert {name.partition(">")[0].partition("<")[0].strip() for name in core} == {
        *("typer", "rich", "numpy", "pyarrow", "scipy", "xxhash"),
    }
    assert {"model", "vllm", "demo", "test", "dev"} <= set(metadata.get_all("Provides-Extra"))
    assert "entropyctl = entropyctl.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_an_installed_wheel_works_from_anywhere(installed: Path, tmp_path: Path) -> None:
    write_scored(tmp_path / "in.parquet")
    where = python(
        "-c", "import entropyctl; print(entropyctl.__file__, len(entropyctl.__path__))", path=installed, cwd=tmp_path
    )
    assert where.stdout.split() == [str(installed / "entropyctl" / "__init__.py"), "1"]
    shown = python("-m", "entropyctl", "--help", path=installed, cwd=tmp_path)
    assert (shown.returncode, "  mask " in shown.stdout) == (0, True), shown
    ran = python("-m", "entropyctl", "mask", "none", "in.parquet", "-o", "out.parquet", path=installed, cwd=tmp_path)
    assert (ran.returncode, (tmp_path / "out.parquet").exists()) == (0, True), ran
    script = installed / "bin" / "entropyctl"
    assert python(str(script), "--version", path=installed, cwd=tmp_path).stdout == f"entropyctl {__version__}\n"


def test_no_generic_name_becomes_importable(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()} == {"entropyctl", f"entropyctl-{__version__}.dist-info", "bin"}


def test_a_bare_checkout_works(tmp_path: Path) -> None:
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    write_scored(checkout / "in.parquet")
    ran = python("-m", "entropyctl", "mask", "none", "in.parquet", "-o", "out.parquet", path=None, cwd=checkout)
    assert (ran.returncode, (checkout / "out.parquet").exists()) == (0, True), ran


def test_an_editable_install_sees_new_stages(tmp_path: Path) -> None:
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    script = "import sys; from setuptools import build_meta; print(build_meta.build_editable(sys.argv[1]))"
    done = python("-c", script, str(tmp_path), path=None, cwd=checkout)
    assert done.returncode == 0, done.stderr[-3000:]
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(site)
    (checkout / "stages" / "fresh.py").write_text(
        '"""A new stage."""\ndef run(argv):\n    print("fresh", *argv)\n    return 0\n'
    )
    # -S: another editable install in this environment, as tests/run.sh makes, would be found first.
    start = f"import site; site.addsitedir({str(site)!r}); "
    ran = python(
        "-S", "-c", start + "from entropyctl.cli import main; main(['fresh', 'a'])", path=tmp_path, cwd=tmp_path
    )
    assert ran.stdout == "fresh a\n", ran
    for name in ("stages", "schemas"):
        ran = python("-S", "-c", f"{start}import {name}", path=tmp_path / "nothing", cwd=tmp_path)
        assert f"No module named '{name}'" in ran.stderr


def test_the_hooks_need_no_network() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert text.count("- repo: local") == text.count("- repo:") == 1
    assert text.count("language: system") == text.count("- id:") == 3
    assert all(f"entry: {tool}" in text for tool in ("ruff check", "ruff format", "mypy"))
