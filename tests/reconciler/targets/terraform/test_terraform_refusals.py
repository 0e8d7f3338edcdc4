"""What never runs, and what half a cluster can still be asked for: real binaries."""

import json
from pathlib import Path

import pytest

from reconciler.values import Health, Presence
from renderers.terraform import UNIT, Module
from schemas.errors import FoundryError, PermanentError
from tests.reconciler.targets.contract import change, create, delete, look, silent
from tests.reconciler.targets.terraform.conftest import SMALL, SmallWorld

pytestmark = pytest.mark.slow


def holding(code: str) -> Module:
    return Module(name="small", files={**SMALL.files, "more.tf": code.encode()})


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (
            (
                'resource "terraform_data" "x" {\n  provisioner "local-exec" {\n'
                '    command = "touch %s"\n  }\n}\n'
            ),
            "provisioner of module/more.tf is not allowed",
        ),
        (
            'data "external" "x" {\n  program = ["touch", "%s"]\n}\n',
            "hashicorp/external",
        ),
        (
            'module "x" {\n  source = "git::file://%s"\n}\n',
            "module of module/more.tf is not allowed",
        ),
    ],
)
async def test_a_module_that_runs_programs_never_runs(
    world: SmallWorld, tmp_path: Path, code: str, found: str
) -> None:
    touched = tmp_path / "touched"
    module = holding(code % touched)
    world.module, world.target.modules = module, lambda _: module
    unit = world.unit("a")
    for attempt in (world.target.dry_run(create(unit)),
                    world.target.apply(create(unit), silent)):  # fmt: skip
        with pytest.raises(FoundryError, match="cannot") as caught:
            await attempt
        assert found in str(caught.value)
    assert not touched.exists()


async def test_a_file_that_somebody_put_beside_ours_is_never_read(
    world: SmallWorld, tmp_path: Path
) -> None:
    unit, touched = world.unit("a"), tmp_path / "touched"
    made = await world.target.apply(create(unit), silent)
    folder = world.target.backend.folder.parent / "default.a"
    code = (
        'resource "terraform_data" "x" {\n  provisioner "local-exec" {\n'
        f'    command = "touch {touched}"\n  }}\n}}\n'
    )
    for place in ("change", "change/module", "look"):
        if (folder / place).exists():
            (folder / place / "evil.tf").write_text(code)
    other = world.unit("a", 1)
    after = await world.target.apply(change(other, made), silent)
    assert after.digest == other.digest
    assert not touched.exists()


async def test_a_unit_of_another_version_of_the_module_is_refused(
    world: SmallWorld,
) -> None:
    unit = world.unit("a")
    other = holding("# moved\n")
    world.target.modules = lambda _: other
    with pytest.raises(PermanentError, match="was rendered with") as caught:
        await world.target.dry_run(create(unit))
    assert "version of bud" in caught.value.hint


@pytest.mark.parametrize("forgotten", ["the mark", "everything it says of itself"])
async def test_half_a_cluster_can_be_deleted(world: SmallWorld, forgotten: str) -> None:
    made = await world.target.apply(create(world.unit("a")), silent)
    file = world.state(made.key)
    state = json.loads(file.read_text())
    state["resources"] = [r for r in state["resources"] if r["name"] != UNIT]
    if forgotten != "the mark":
        state["outputs"] = {}
    state["serial"] += 1
    file.write_text(json.dumps(state))

    half = await look(world.target, made.key)
    assert (half.presence, half.health) == (Presence.PRESENT, Health.DEGRADED)
    assert "half made: 1 resources" in half.detail
    assert half.digest != made.digest
    await world.target.delete(delete(half), silent)
    assert (await look(world.target, made.key)).presence is Presence.ABSENT
