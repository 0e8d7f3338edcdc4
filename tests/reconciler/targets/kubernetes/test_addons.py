"""Add-ons as real Helm releases: charts of these tests' own, a real registry, real Helm."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reconciler.targets.helm.command import HelmCommand
from reconciler.values import Action, Change, Health, Presence
from schemas.errors import PermanentError, TemporaryError
from tests.reconciler.targets.contract import TargetContract
from tests.reconciler.targets.kubernetes.addons import (
    AddonWorld,
    helm,
    pack,
    registry,
    repository,
    world_with,
)
from tests.reconciler.targets.kubernetes.foundry import silent
from tests.reconciler.targets.kubernetes.plane import Plane

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Packed charts, and the registry that they were pushed to."""
    folder = tmp_path_factory.mktemp("charts")
    with registry(folder) as place:
        for archive in (pack(folder, "app"), pack(folder, "driver", brings="driver")):
            helm("push", str(archive), place, "--plain-http")
        yield folder, place


@pytest.fixture
async def world(
    control_plane: Plane, charts: tuple[Path, str], tmp_path: Path
) -> AsyncIterator[AddonWorld]:
    place = f"addons-{next(_numbers)}"
    made = await world_with(control_plane, place, {"oci": f"{charts[1]}/app"}, tmp_path)
    try:
        yield made
    finally:
        await made.close()


class TestHelm(TargetContract):
    """The Helm target is held to the suite of all targets."""


async def test_a_chart_comes_from_a_registry_a_repository_or_the_checkout(
    world: AddonWorld, charts: tuple[Path, str]
) -> None:
    folder = charts[0]
    (world.folder / "vendored").mkdir()
    archive = (folder / "app-1.2.3.tgz").read_bytes()
    (world.folder / "vendored" / "app.tgz").write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    with repository(folder) as url:
        for name, source in {
            "registry": world.source,
            "repository": {"repository": url},
            "checkout": {"archive": "vendored/app.tgz"},
        }.items():
            live = await world.create(world.unit(name, source=source, digest=digest))
            assert live.health is Health.SERVABLE, name
            await world.forget_archives()

    assert await world.releases() == dict.fromkeys(
        map(world.name, ("registry", "repository", "checkout")), "deployed"
    )


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "first pull trusted"])
async def test_another_archive_under_a_published_version_is_refused(
    world: AddonWorld, charts: tuple[Path, str], tmp_path: Path, *, pinned: bool
) -> None:
    digest = hashlib.sha256((charts[0] / "app-1.2.3.tgz").read_bytes()).hexdigest()
    said = {"digest": digest if pinned else ""}
    await world.create(world.unit("before", **said))
    with registry(tmp_path) as place:
        world.source = {"oci": f"{place}/app"}
        other = pack(tmp_path, "app", brings="other")
        if not pinned:
            mine = charts[0] / "app-1.2.3.tgz"
            helm("push", str(mine), place, "--plain-http")
            await world.create(world.unit("first", **said))
        helm("push", str(other), place, "--plain-http")
        await world.forget_archives()
        with pytest.raises(PermanentError, match="is pinned"):
            await world.create(world.unit("second", **said))

    assert world.name("second") not in await world.releases()


async def test_a_link_out_of_the_checkout_is_no_chart(
    world: AddonWorld, tmp_path: Path, charts: tuple[Path, str]
) -> None:
    (world.folder / "app.tgz").symlink_to(charts[0] / "app-1.2.3.tgz")
    with pytest.raises(PermanentError, match="leads out of the checkout"):
        await world.create(world.unit("a", source={"archive": "app.tgz"}))


async def test_an_addon_for_a_device_waits_for_a_node_that_has_one(
    world: AddonWorld,
) -> None:
    """GPU Operator only where Node Feature Discovery labels NVIDIA."""
    unit = world.unit("operator", device="abcd")
    live = await world.create(unit)
    assert (live.digest, live.health) == (unit.digest, Health.SERVABLE)
    assert "no node has a device of PCI vendor abcd" in live.detail
    assert await world.releases() == {}

    path, label = (
        "/api/v1/nodes/gpu-0",
        "feature.node.kubernetes.io/pci-0302_abcd.present",
    )
    kind = "application/merge-patch+json"
    world.plane.call("PATCH", path, {"metadata": {"labels": {label: "true"}}}, kind)
    try:
        live = await world.look(unit.key)
        assert live.digest != unit.digest
        live = await world.change(unit, live)
    finally:
        world.plane.call("PATCH", path, {"metadata": {"labels": {label: None}}}, kind)
    assert (live.digest, live.health) == (unit.digest, Health.SERVABLE)
    assert await world.releases() == {world.name("operator"): "deployed"}
    # The last such node may leave: what is installed stays.
    assert await world.look(unit.key) == live


async def test_a_chart_may_use_the_kind_that_it_brings(
    world: AddonWorld, charts: tuple[Path, str]
) -> None:
    source = {"oci": f"{charts[1]}/driver"}
    live = await world.create(world.unit("a", source=source))
    assert live.health is Health.SERVABLE


async def test_an_upgrade_brings_the_definitions_that_helm_would_leave(
    world: AddonWorld, charts: tuple[Path, str], tmp_path: Path
) -> None:
    """Helm installs what is in `crds/` and never upgrades it: the new chart's own
    object is of a version that only its newer definition serves."""
    folder, place = charts
    both = ("v1", "v2")
    newer = pack(tmp_path, "lasting", brings="lasting", serves=both, version="2.0.0")
    for archive in (pack(folder, "lasting", brings="lasting"), newer):
        await asyncio.to_thread(helm, "push", str(archive), place, "--plain-http")
    source = {"oci": f"{place}/lasting"}
    before = await world.create(world.unit("a", source=source))
    upgrade = world.unit("a", source=source, version="2.0.0")
    live = await world.change(upgrade, before)
    assert live.health is Health.SERVABLE
    path = (
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lastings.lasting.test"
    )
    found = await world.client.get(path)
    assert found is not None
    assert [v["name"] for v in found["spec"]["versions"]] == [*both]


async def test_what_strays_of_an_addon_is_told_without_a_look(
    world: AddonWorld,
) -> None:
    await world.create(world.unit("a"))
    path = f"/api/v1/namespaces/{world.name('a')}/configmaps"
    config = await world.client.get(f"{path}/app-config")
    assert config is not None
    config["metadata"] = {k: config["metadata"][k] for k in ("name", "labels")}
    moved, stop = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(world.target.watch(moved.set, stop))
        async with asyncio.timeout(30):
            while not moved.is_set():  # the first may go before anybody watches
                await world.client.request("DELETE", f"{path}/app-config")
                await world.client.request("POST", path, body=config)
                await asyncio.sleep(0.1)
        stop.set()


async def test_an_addon_that_is_not_healthy_is_not_done(
    world: AddonWorld, charts: tuple[Path, str], tmp_path: Path
) -> None:
    hurried = await world_with(
        world.plane, world.place, world.source, tmp_path, ready_s=0.5
    )
    unit = world.unit("a", values={"rehearse": "never-ready"})
    with pytest.raises(TemporaryError, match="pods are ready"):
        await hurried.create(unit)
    live = await hurried.look(unit.key)
    assert live.digest != unit.digest
    assert "did not end" in live.detail
    await hurried.close()


async def test_a_release_of_somebody_else_is_not_taken_over(
    world: AddonWorld, charts: tuple[Path, str]
) -> None:
    theirs = str(charts[0] / "app-1.2.3.tgz")
    await asyncio.to_thread(
        helm,
        *("install", "app", theirs, "--namespace", world.name("a")),
        *("--create-namespace", "--kubeconfig", world.kubeconfig()),
    )
    with pytest.raises(TemporaryError, match="installed by somebody else"):
        await world.create(world.unit("a"))


async def test_helm_controller_149_a_release_that_was_cut_off_is_taken_over(
    world: AddonWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while Helm writes, with its Helm: the next run goes on."""
    run = HelmCommand.run

    async def cut(self: HelmCommand, *arguments: str, **how: object) -> bytes:
        if arguments[0] != "upgrade":
            return await run(self, *arguments, **how)  # type: ignore[arg-type]
        task = asyncio.ensure_future(run(self, *arguments, **how))  # type: ignore[arg-type]
        async with asyncio.timeout(60):
            while world.name("a") not in await world.releases():
                await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise TemporaryError("cannot go on: killed")

    unit = world.unit("a", values={"hook": True})
    with monkeypatch.context() as patched:
        patched.setattr(HelmCommand, "run", cut)
        with pytest.raises(TemporaryError, match="killed"):
            await world.create(unit)
    assert await world.releases() == {world.name("a"): "pending-install"}

    whole = world.unit("a", 1)
    live = await world.change(whole, await world.look(whole.key))
    assert live.health is Health.SERVABLE
    assert await world.releases() == {world.name("a"): "deployed"}


async def test_what_somebody_deletes_of_an_addon_comes_back(world: AddonWorld) -> None:
    unit = world.unit("a")
    await world.create(unit)
    await world.client.request("DELETE", world.path(world.name("a")))
    strayed = await world.look(unit.key)
    assert "Deployment" in strayed.detail
    assert "is gone" in strayed.detail
    live = await world.change(unit, strayed)
    assert await world.client.get(world.path(world.name("a"))) is not None
    assert (await world.look(unit.key)) == live


async def test_what_is_deleted_is_uninstalled_by_helm(world: AddonWorld) -> None:
    live = await world.create(world.unit("a"))
    gone = Change(key=live.key, action=Action.DELETE, unit=None, uid=live.uid)
    await world.target.delete(gone, silent)
    assert await world.releases() == {}
    assert await world.client.get(world.path(world.name("a"))) is None
    assert (await world.target.health(live.key)).presence is Presence.ABSENT
