"""The house keeps its own rules: names, exports, docs, packaging."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import click
import pytest
from hatchling.builders.wheel import WheelBuilder

import bud_foundry
from reconciler import lockfile
from reconciler.cli.main import bud
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.values import Commit
from schemas.catalog import catalog
from schemas.kinds import KINDS
from tests.shipped import rendered

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "renderers", "reconciler", "gateway")
MODULES = sorted(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "migrations/versions" not in str(path)
)
README = (ROOT / "README.md").read_text()
ENVIRONMENTS = ("local", "evaluation", "production")


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_says_what_it_is_and_exports_what_it_says(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text())
    has_code = any(not isinstance(node, ast.Expr) for node in tree.body)
    if not has_code:
        return

    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == "__all__"
        ):
            exported = ast.literal_eval(node.value)
            defined = set(dir(importlib.import_module(name_of(path))))
            # ruff sorts them; that they exist, only a look can tell.
            assert set(exported) <= defined


def test_no_package_lies_below_tests() -> None:
    """One `__init__.py` there hides a package of ours behind its test's."""
    assert [*(ROOT / "tests").rglob("__init__.py")] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_win_over_whatever_is_installed(package: str) -> None:
    """PyPI has a `renderers` that ships `renderers/`; it must not be ours."""
    found = importlib.import_module(package).__file__

    assert found is not None
    assert Path(found).is_relative_to(bud_foundry.ROOT)
    owners = set(importlib.metadata.packages_distributions().get(package, []))
    assert owners <= {"bud-foundry"}


def commands(group: click.Group, prefix: str = "") -> list[tuple[str, click.Command]]:
    found = []
    for name, command in sorted(group.commands.items()):
        found.append((f"{prefix}{name}", command))
        if isinstance(command, click.Group):
            found += commands(command, f"{prefix}{name} ")
    return found


@pytest.mark.parametrize(("name", "command"), commands(bud), ids=str)
def test_every_command_has_help_and_stands_in_the_docs(
    name: str, command: click.Command
) -> None:
    docs = README + "".join(p.read_text() for p in (ROOT / "docs").glob("*.md"))

    assert command.get_short_help_str(), f"bud {name} has no help"
    assert re.search(rf"\b{name.split(maxsplit=1)[0]}\b", README), (
        f"bud {name} is not in the README"
    )
    assert name.rsplit(maxsplit=1)[-1] in docs


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stands_in_the_readme(kind: str) -> None:
    assert f"`{kind}`" in README


def test_the_line_fits_on_a_page_and_names_every_step() -> None:
    text = (ROOT / "reconciler" / "pipeline.py").read_text()

    assert len(text.splitlines()) <= 230
    for step in [
        "load",
        "overlay",
        "resolve",
        "render",
        "observe",
        "plan",
        "apply",
        "record",
    ]:
        assert re.search(rf"\b{step}\b", text)


def test_what_is_pinned_is_what_is_asked_for() -> None:
    """Every direct dependency has its exact version in constraints.txt."""
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [
        name for extra in project["optional-dependencies"].values() for name in extra
    ]
    names = {
        re.split(r"[\[~=<>;! ]", line)[0].lower()
        for line in asked
        if "platform_machine != 'x86_64'" not in line
    }
    assert names <= pinned


@pytest.mark.slow
def test_a_wheel_carries_the_tree_under_a_name_of_its_own(tmp_path: Path) -> None:
    [wheel] = WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path), versions=["standard"]
    )
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}

    assert top == {"bud_foundry.py", "bud_foundry_tree"}
    for needed in (
        "schemas/catalog/data/gpus.yaml",
        "reconciler/migrations/env.py",
        "templates/",
    ):
        assert any(name.startswith(f"bud_foundry_tree/{needed}") for name in names), (
            needed
        )


def test_no_file_names_a_machine_or_a_secret() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    bad = re.compile(
        r"/work/(main|shared)|/root/|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY"
    )
    found = []
    for name in filter(None, tracked.split("\0")):
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".yaml", ".sh", ".toml", ".tf"}
            and path.is_file()
        ):
            text = path.read_text(errors="replace")
            if bad.search(text) and name != "tests/test_house.py":
                found.append(name)
    allowed = {
        name for name in found if name.startswith(("tests/", "reconciler/pasted.py"))
    }
    assert set(found) == allowed


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_lock_of_every_environment_is_current(environment: str) -> None:
    """`bud resolve` was run and its result reviewed with what it follows from."""
    documents = load(ROOT, Commit(sha="0" * 40))
    _, moved = lockfile.refresh(overlay(documents, environment), catalog())

    assert moved == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_environment_renders(environment: str) -> None:
    assert rendered(environment).units
