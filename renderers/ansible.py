"""Clusters of one's own machines as Ansible projects (pure).

`reconciler.render` asks for a Cluster's unit, the ansible target for the files of a
project. Ansible templates whatever it reads from an inventory or a variable, and a
template runs on the machine that runs Ansible. So no value of a spec is ever there but
names, addresses, ports and users, whose alphabet has no braces; all else travels as a
JSON file that plays read as data, which Ansible does not template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import orjson

from renderers.bundle import TEMPLATES, Bundle, read_folder
from schemas.ansible import Machine, MachinesManifest
from schemas.catalog import Catalog
from schemas.cluster import Cluster, Host, NodePool
from schemas.errors import PermanentError
from schemas.local import canonical

__all__ = [
    "difference",
    "project",
    "read_manifest",
    "render_cluster",
    "roles",
    "roles_digest",
]

_SUFFIX = {"k3s": "k3s1", "rke2": "rke2r1"}
"""The first build of a version; a later one only repairs its packaging."""


@cache
def roles() -> Bundle:
    """The plays and roles that this package carries."""
    return Bundle(name="ansible", files=read_folder(TEMPLATES / "ansible"))


@cache
def roles_digest() -> str:
    """One SHA-256 over all of them, which every unit names."""
    return roles().digest


def render_cluster(cluster: Cluster, catalog: Catalog) -> bytes:
    """The machines of one cluster, and what they shall run."""
    spec = cluster.spec
    distribution = spec.distribution or "k3s"
    pools = {pool.name: pool for pool in spec.node_pools}
    hosts = sorted(spec.hosts, key=lambda host: host.role)  # control-plane, worker
    return canonical(
        MachinesManifest(
            project=cluster.metadata.project,
            name=cluster.metadata.name,
            distribution=distribution,
            release=f"v{spec.version}+{_SUFFIX[distribution]}",
            roles=roles_digest(),
            machines=tuple(
                _machine(host, pools.get(host.node_pool or ""), catalog)
                for host in hosts
            ),
            credentials=spec.credentials,
            deletion_policy=spec.deletion_policy,
        )
    )


def _machine(host: Host, pool: NodePool | None, catalog: Catalog) -> Machine:
    name = host.address.lower().replace(".", "-")
    nvidia = pool is not None and pool.gpu is not None
    if nvidia and pool is not None and pool.gpu is not None:
        nvidia = catalog.gpus.find(pool.gpu).vendor == "nvidia"
    labels = {"foundry.bud/pool": pool.name, **pool.labels} if pool else {}
    return Machine(
        name=name if host.port == _SSH else f"{name}-{host.port}",
        address=host.address,
        port=host.port,
        user=host.user,
        host_key=host.host_key,
        server=host.role == "control-plane",
        gpus=(pool.gpus_per_node or 1) if nvidia and pool is not None else 0,
        labels=tuple(f"{key}={value}" for key, value in sorted(labels.items())),
        taints=tuple(
            f"{taint.key}={taint.value}:{taint.effect}"
            for taint in (pool.taints if pool else ())
        ),
    )


_SSH = 22


def difference(
    old: MachinesManifest | None, new: MachinesManifest | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What becomes of which machine, and what its users notice."""
    was = {m.name: m for m in old.machines} if old else {}
    wanted = {m.name: m for m in new.machines} if new else {}
    upgrades = old is not None and new is not None and old.release != new.release
    changes, notes = [], []
    for name in sorted(was.keys() | wanted.keys()):
        if name not in wanted:
            changes.append(f"remove {name}")
            notes.append(
                f"{name}: drained and gone; what runs there needs room elsewhere"
            )
        elif name not in was:
            role = "server" if wanted[name].server else "agent"
            changes.append(f"add {name} ({role}, {new.release if new else ''})")
        elif upgrades and old and new:
            changes.append(f"upgrade {name} ({old.release} -> {new.release})")
            notes.append(f"{name}: drained and restarted; one machine at a time")
        elif was[name] != wanted[name]:
            changes.append(f"change {name}")
            notes.append(f"{name}: its node agent restarts; pods keep running")
    if new is None:
        notes = ["the cluster and all that runs on it are gone"]
    return tuple(changes), tuple(notes)


def read_manifest(content: bytes) -> MachinesManifest:
    """Read what ``render_cluster`` wrote.

    Raises:
        PermanentError: these bytes are no such manifest.
    """
    try:
        return MachinesManifest.model_validate_json(content)
    except ValueError as error:
        raise PermanentError(
            f"cannot read an Ansible unit: {content[:60]!r}",
            hint="render the commit again",
        ) from error


def project(
    content: bytes,
    *,
    uid: str,
    gone: tuple[Machine, ...],
    releases: str,
    trust: Callable[[Machine], tuple[str, ...]],
) -> Mapping[str, bytes]:
    """The files of the folder that Ansible runs in, for the unit ``content``.

    ``gone`` are machines that the unit before had and this one has not; ``releases``
    is where the distribution's files are, ``trust`` says by which options of ssh a
    machine is known to be itself.
    """
    manifest = read_manifest(content)
    first, *others = manifest.servers
    groups = {
        "first": [first],
        "others": others,
        "agents": [m for m in manifest.machines if not m.server],
        "gone": list(gone),
    }
    # What a play reads as data: no value in it is ever taken for a template.
    data = {
        "uid": uid,
        "digest": hashlib.sha256(content).hexdigest(),
        "unit": content.decode(),
        "distribution": manifest.distribution,
        "release": manifest.release,
        "releases": releases,
        "first": first.address,
        "addresses": [m.address for m in manifest.servers],
        "machines": {
            m.name: m.model_dump(include={"name", "server", "gpus", "labels", "taints"})
            for m in (*manifest.machines, *gone)
        },
    }
    inventory = {
        group: {"hosts": {m.name: _connection(m, trust(m)) for m in members}}
        for group, members in groups.items()
    }
    return {
        **{f"project/{path}": found for path, found in roles().files.items()},
        "project/cluster.json": orjson.dumps(data),
        "inventory/hosts.json": orjson.dumps({"all": {"children": inventory}}),
    }


def _connection(machine: Machine, trust: tuple[str, ...]) -> dict[str, Any]:
    return {
        "ansible_host": machine.address,
        "ansible_port": machine.port,
        "ansible_user": machine.user,
        "ansible_ssh_common_args": " ".join(trust),
    }
