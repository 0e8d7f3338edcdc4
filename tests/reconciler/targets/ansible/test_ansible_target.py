"""Machines by the real ssh and the real Ansible; `hosts` says what stands in for what."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from reconciler.targets.ansible.play import play
from reconciler.values import Health, Presence
from renderers.ansible import project, read_manifest
from schemas.errors import PermanentError, TemporaryError
from tests.reconciler.targets.ansible.conftest import (
    HARMFUL,
    World,
    cluster_of,
    unit_of,
)
from tests.reconciler.targets.canary import hits
from tests.reconciler.targets.contract import change, create, delete, look, silent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

GPU = {"name": "gpu", "gpu": "l40s-48gb", "gpusPerNode": 8, "count": 1}
# About a minute of two cores, most of it Python that Ansible starts on machines.
long = pytest.mark.skipif(
    not os.environ.get("BUD_MACHINES"),
    reason="NOT RUN: takes minutes; `make test-machines`",
)


async def test_machines_that_lack_what_their_pool_says_are_refused_untouched(
    world: World,
) -> None:
    unit = unit_of(world.cluster(nodePools=[GPU]))
    assert (await look(world.target, unit.key)).presence is Presence.ABSENT
    with pytest.raises(PermanentError, match=r"found 0 NVIDIA devices, .* says 8"):
        await world.target.dry_run(create(unit))
    assert not world.site.hosts[0].file("/var/lib/bud").exists()


async def test_a_value_with_a_template_in_it_stays_a_value(world: World) -> None:
    """It would run on the machine that runs Ansible, with what bud holds there."""
    owned = world.folder / "owned"
    taint = {"key": "k", "value": HARMFUL % owned, "effect": "NoSchedule"}
    pool = {"name": "cpu", "cpus": 2, "memory": "4GiB", "count": 1, "taints": [taint]}
    unit = unit_of(world.cluster(nodePools=[pool]))
    manifest = read_manifest(unit.content)
    async with world.target._way(unit.key, manifest) as way:
        files = project(
            unit.content, uid="u", gone=(), releases="http://x", trust=way.trust
        )
        played = await play("site.yml", files, way, lambda _: None, "--tags=record")
        played.check("record", "machine")
        record = ("cat", "/var/lib/bud/cluster.json")
        written = (await way.run(manifest.machines[0], record)).out
        await way.run(manifest.machines[0], ("rm", "-r", "/var/lib/bud"))
    assert "lookup('pipe', 'touch" in written
    assert not owned.exists()


async def test_a_machine_that_does_not_answer_is_unknown_never_absent(
    world: World,
) -> None:
    nobody = world.site.hosts[0].address.rsplit(".", 1)[0] + ".3"
    unit = unit_of(cluster_of({"address": nobody, "role": "control-plane"}))
    with pytest.raises(TemporaryError, match="is unknown"):
        await world.target.dry_run(create(unit))
    live = await look(world.target, unit.key)
    assert live.presence is Presence.UNKNOWN
    assert nobody.replace(".", "-") in live.detail


async def test_a_wrong_key_and_a_wrong_machine_are_told_apart(world: World) -> None:
    good = world.site.key
    world.target.credentials = lambda _: "no key at all"
    unit = unit_of(world.cluster())
    with pytest.raises(PermanentError, match="is no private key"):
        await world.target.dry_run(create(unit))

    # A key that opens nothing there: the other machine's host key will do.
    other = (world.site.hosts[1].folder / "host_key").read_text()
    world.target.credentials = lambda _: other
    assert "Permission denied" in (await look(world.target, unit.key)).detail

    # A machine whose host key is not the one that the spec names.
    world.target.credentials = lambda _: good
    here, there, _ = world.site.hosts
    wrong = {
        "address": here.address,
        "role": "control-plane",
        "hostKey": there.host_key,
    }
    unit = unit_of(cluster_of(wrong))
    with pytest.raises(TemporaryError, match=r"is unknown.*verification failed"):
        await world.target.dry_run(create(unit))


def leaks(world: World, said: list[str]) -> list[str]:
    """Files and lines that hold a secret of this site, in any form."""
    token = world.target.vault.get("join-token.default.rack").decode()
    canaries = (token, world.site.key[40:80])
    return [hit for canary in canaries for hit in hits(world.folder, canary, said)]


async def new_certificates(world: World) -> None:
    """Each machine stops, takes them, and is back before the next one stops."""
    told: list[str] = []
    await world.target.rotate(world.cluster(agent=True), told.append)
    turn = ["systemctl stop", "k3s certificate rotate", "systemctl start"]
    machines = world.site.hosts[:2]
    for machine in machines:
        done = [
            next((t for t in turn if line.startswith(t)), "") for line in machine.log
        ]
        assert [step for step in done if step][-3:] == turn
    order = [line.partition(":")[0] for line in told if "made anew" in line]
    assert order == [machine.name for machine in machines]
    assert leaks(world, told) == []


@long
async def test_a_cluster_is_made_killed_resumed_strays_is_upgraded_and_deleted(
    world: World,
) -> None:
    target, (server, agent, _) = world.target, world.site.hosts
    unit, said = unit_of(world.cluster(agent=True)), []
    preview = await target.preview(create(unit))
    assert preview.changes == (
        f"add {server.name} (server, v1.33.5+k3s1)",
        f"add {agent.name} (agent, v1.33.5+k3s1)",
    )

    # Stopped in the middle: it says so, and the next run goes on from there.
    begun = asyncio.Event()

    def note(_: object, message: str) -> None:
        said.append(message)
        if "Its service" in message:
            begun.set()

    running = asyncio.ensure_future(target.apply(create(unit), note))
    async with asyncio.timeout(600):
        await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    half = await look(target, unit.key)
    assert (half.presence, half.health) == (Presence.PRESENT, Health.DEGRADED)
    assert "half made" in half.detail
    made = await target.apply(change(unit, half), note)
    assert (made.digest, made.health) == (unit.digest, Health.SERVABLE)

    # Looking again changes nothing: the comparison is a whole run in check mode.
    target.looks.forget()
    assert await look(target, unit.key) == made

    # The secret to join is the machines' and the vault's, and nobody else's.
    token = target.vault.get("join-token.default.rack").decode()
    assert server.file("/etc/rancher/k3s/token").read_text() == token
    assert leaks(world, said) == []

    # Changed by hand: named, and healed.
    manifest = read_manifest(unit.content)
    async with target._way(unit.key, manifest) as way:
        by_hand = ("tee", "/etc/sysctl.d/90-bud.conf")
        await way.run(manifest.machines[0], by_hand, given=b"vm.swappiness = 1\n")
    target.looks.forget()
    strayed = await look(target, unit.key)
    assert strayed.detail == f"changed by hand: {server.name}: Settings of the kernel"
    healed = await target.apply(change(unit, strayed), silent)
    assert (healed.digest, healed.health) == (unit.digest, Health.SERVABLE)

    await new_certificates(world)
    assert await look(target, unit.key) == healed

    # One version up and one machine less: drained before anything is replaced.
    smaller = unit_of(world.cluster(version="1.33.6"))
    preview = await target.preview(change(smaller, healed))
    assert preview.changes == (
        f"upgrade {server.name} (v1.33.5+k3s1 -> v1.33.6+k3s1)",
        f"remove {agent.name}",
    )
    after = await target.apply(change(smaller, healed), silent)
    assert after.digest == smaller.digest
    drained = server.log.index(
        f"kubectl drain {server.name} --ignore-daemonsets --delete-emptydir-data --timeout=15m"
    )
    assert "systemctl restart k3s" in server.log[drained:]
    assert f"kubectl uncordon {server.name}" in server.log[drained:]
    assert any(
        line.startswith(f"kubectl delete node {agent.name}") for line in server.log
    )
    assert not agent.file("/var/lib/bud/cluster.json").exists()

    await target.delete(delete(after), silent)
    assert (await look(target, unit.key)).presence is Presence.ABSENT
    assert not Path(server.file("/etc/rancher/k3s/config.yaml")).exists()
    assert target.vault.names() == ()


@long
async def test_three_servers_of_rke2_join_the_first_one_after_the_other(
    world: World,
) -> None:
    target, servers = world.target, world.site.hosts
    declared = [{"address": s.address, "role": "control-plane"} for s in servers]
    unit = unit_of(cluster_of(*declared, distribution="rke2"))
    before = len(servers[0].log)
    made = await target.apply(create(unit), silent)
    assert (made.digest, made.health) == (unit.digest, Health.SERVABLE)

    said = [
        json.loads(s.file("/etc/rancher/rke2/config.yaml").read_text()) for s in servers
    ]
    join = f"https://{servers[0].address}:9345"
    assert [config.get("server") for config in said] == [None, join, join]
    tokens = {s.file("/etc/rancher/rke2/token").read_text() for s in servers}
    assert tokens == {target.vault.get("join-token.default.rack").decode()}
    # Each is ready before the next is begun, as the first server sees it.
    waited = [line for line in servers[0].log[before:] if "condition=Ready" in line]
    assert [s.name in line for s, line in zip(servers, waited, strict=True)] == [
        True
    ] * 3
    target.looks.forget()
    assert await look(target, unit.key) == made

    await target.delete(delete(made), silent)
    for server in servers:
        for path in ("bin/rke2", "lib/systemd/system/rke2-server.service"):
            assert not server.file(f"/usr/local/{path}").is_file()
