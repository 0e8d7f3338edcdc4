"""Clusters in a cloud as Terraform modules and their variables (pure).

`reconciler.render` asks for a Cluster's unit; the terraform target asks for the files
of a root. A root is generated JSON around one module of ours: values travel in
``terraform.tfvars.json``, which Terraform reads literally, so that no value from a
spec is ever parsed as an expression. It never runs anything, and reads only the
modules that this package carries.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from renderers.bundle import TEMPLATES, Bundle
from schemas.catalog import Catalog
from schemas.cluster import Cluster, NodePool
from schemas.errors import PermanentError
from schemas.local import canonical
from schemas.objects import DEFAULT_PROJECT
from schemas.terraform import ModuleManifest

__all__ = [
    "INTENT",
    "MODULE",
    "UNIT",
    "Module",
    "name_in_cloud",
    "our_module",
    "read_manifest",
    "render_cluster",
    "root",
]

UNIT = "bud_unit"
"""The resource that says which unit was applied whole: it is made last of all. An
output would not do, because Terraform writes those it knows before it begins."""
MODULE = "module.cluster."
"""Before every address of a module of ours, in a plan and in a state."""
INTENT = "bud_intent"
"""The output that says which unit was begun, so that half a cluster explains itself."""

Json = dict[str, Any]

_LOCK = ".terraform.lock.hcl"
_EFFECTS = {
    "NoSchedule": "NO_SCHEDULE",
    "PreferNoSchedule": "PREFER_NO_SCHEDULE",
    "NoExecute": "NO_EXECUTE",
}
# Room for images: an engine's is 10 to 20 GB, and a GPU node keeps several.
_DISK_GIB = {False: 100, True: 500}


class Module(Bundle):
    """The files of a module."""

    __slots__ = ()

    @property
    def variables(self) -> frozenset[str]:
        """What the module takes, read from its variables.tf."""
        text = self.files["variables.tf"].decode()
        return frozenset(re.findall(r'^variable "(\w+)" \{$', text, re.MULTILINE))

    @classmethod
    def read(cls, folder: Path) -> Module:
        files = sorted(p for p in folder.iterdir() if p.suffix in {".tf", ".hcl"})
        return cls(name=folder.name, files={p.name: p.read_bytes() for p in files})


@cache
def our_module(name: str) -> Module:
    """Read one of the modules that this package carries.

    Raises:
        PermanentError: there is none of that name.
    """
    folder = TEMPLATES / "terraform" / name
    if not folder.is_dir():
        raise PermanentError(f"cannot find Terraform module: {name!r}")
    return Module.read(folder)


def render_cluster(cluster: Cluster, catalog: Catalog) -> bytes:
    """The module and variables of one cluster in a cloud."""
    spec = cluster.spec
    module = our_module(spec.provider)
    return canonical(
        ModuleManifest(
            project=cluster.metadata.project,
            name=cluster.metadata.name,
            module=module.name,
            module_digest=module.digest,
            variables=_VARIABLES[spec.provider](cluster, catalog),
            adopt=dict(spec.adopt),
            credentials=spec.credentials,
            deletion_policy=spec.deletion_policy,
        )
    )


def read_manifest(content: bytes) -> ModuleManifest:
    """Read what ``render_cluster`` wrote.

    Raises:
        PermanentError: these bytes are no such manifest.
    """
    try:
        return ModuleManifest.model_validate_json(content)
    except ValueError as error:
        raise PermanentError(
            f"cannot read a Terraform unit: {content[:60]!r}",
            hint="render the commit again",
        ) from error


def root(
    content: bytes, module: Module, backend: Json, adopt: Collection[str] = ()
) -> Mapping[str, bytes]:
    """The files of the folder that Terraform runs in, for the unit ``content``.

    The resource ``bud_unit`` waits for the whole module, the output ``bud_intent``
    for nothing: where they differ, an apply stopped half way. ``adopt`` are the
    addresses of the unit's adoption that no state holds yet.
    """
    manifest = read_manifest(content)
    names = sorted(manifest.variables)
    main: Json = {
        "terraform": {"backend": backend},
        "variable": {name: {} for name in [*names, UNIT]},
        "module": {
            "cluster": {
                "source": "./module",
                **{name: f"${{var.{name}}}" for name in names},
            }
        },
        "output": {
            "cluster": {"value": "${module.cluster}"},
            INTENT: {"value": f"${{var.{UNIT}}}"},
        },
        "resource": {
            "terraform_data": {
                UNIT: {"input": f"${{var.{UNIT}}}", "depends_on": ["module.cluster"]}
            }
        },
    }
    if (provider := _PROVIDERS.get(module.name)) is not None:
        main["provider"] = provider
    if adopt:
        main["import"] = [
            {"to": f"{MODULE}{address}", "id": manifest.adopt[address]}
            for address in sorted(adopt)
        ]
    values = {**manifest.variables, UNIT: content.decode()}
    files = {f"module/{name}": data for name, data in module.files.items()}
    if (lock := files.pop(f"module/{_LOCK}", None)) is not None:
        files[_LOCK] = lock
    return {
        **files,
        "main.tf.json": _json(main),
        "terraform.tfvars.json": _json(values),
    }


def _json(data: Json) -> bytes:
    return orjson.dumps(
        data,
        option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def _aws(cluster: Cluster, catalog: Catalog) -> Json:
    spec, network = cluster.spec, cluster.spec.network
    variables: Json = {
        "name": name_in_cloud(cluster),
        "region": spec.region,
        "kubernetes_version": _minor(spec.version),
        "node_pools": {
            pool.name: _pool(pool, catalog)
            | {"taints": [t.model_dump() for t in pool.taints]}
            for pool in spec.node_pools
            if pool.capacity
        },
    }
    for pool in variables["node_pools"].values():
        for taint in pool["taints"]:
            taint["effect"] = _EFFECTS[taint["effect"]]
    if network is not None:
        variables |= {
            "cidr": network.cidr,
            "availability_zones": network.availability_zones,
            "subnets": {z: s.model_dump() for z, s in network.subnets.items()},
            "nat": network.nat,
            "private_api": network.private_api,
        }
    return variables


def _azure(cluster: Cluster, catalog: Catalog) -> Json:
    spec, network = cluster.spec, cluster.spec.network
    variables: Json = {
        "name": name_in_cloud(cluster),
        "location": spec.region,
        "kubernetes_version": _minor(spec.version),
        "node_pools": {
            pool.name: _pool(pool, catalog)
            | {"taints": [f"{t.key}={t.value}:{t.effect}" for t in pool.taints]}
            for pool in spec.node_pools
            if pool.capacity
        },
    }
    if network is not None:
        variables |= {
            "cidr": network.cidr,
            "availability_zones": network.availability_zones,
            "private_api": network.private_api,
        }
    return variables


def _pool(pool: NodePool, catalog: Catalog) -> Json:
    assert pool.instance_type is not None, "the schema asks for it in a cloud"
    machine = catalog.instances.find(pool.instance_type)
    return {
        "instance_type": machine.key,
        "vcpus": machine.vcpus,
        "gpu": machine.gpu is not None,
        # A fabric pays between GPUs; a CPU pool spreads over zones instead.
        "fabric": machine.gpu is not None and machine.fabric is not None,
        "min": pool.count if pool.count is not None else (pool.min or 0),
        "max": pool.capacity,
        "spot": pool.spot,
        "disk_gib": _DISK_GIB[machine.gpu is not None],
        "labels": dict(pool.labels),
    }


def name_in_cloud(cluster: Cluster) -> str:
    """One name for each project's cluster: two of one account never meet."""
    project, name = cluster.metadata.project, cluster.metadata.name
    if project == DEFAULT_PROJECT:
        return name
    return f"{name}-{hashlib.sha256(project.encode()).hexdigest()[:6]}"


def _minor(version: str | None) -> str:
    """Clouds sell minor versions, and patch them."""
    assert version is not None, "the schema asks for it in a cloud"
    return ".".join(version.split(".")[:2])


_VARIABLES = {"aws-eks": _aws, "azure-aks": _azure}
_PROVIDERS: Mapping[str, Json] = {
    "aws-eks": {
        "aws": {
            "region": "${var.region}",
            "default_tags": {
                "tags": {"foundry.bud/cluster": "${var.name}"},
            },
        }
    },
    "azure-aks": {"azurerm": {"features": {}, "storage_use_azuread": True}},
}
