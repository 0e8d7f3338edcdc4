"""Objects of ours, and a target on a real control plane, for these tests."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError

import yaml

from reconciler.targets.base import Target
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.manifests import Json, ObjectId
from reconciler.targets.kubernetes.record import record_id
from reconciler.targets.kubernetes.sandbox import find_helm
from reconciler.targets.kubernetes.target import KubernetesTarget
from reconciler.values import Action, Change, Key, Live, Unit
from renderers.kubernetes import namespace_of, render_endpoint
from renderers.transfer import claim_of
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Credential, FoundryObject, Ref
from tests.reconciler.targets.kubernetes.plane import Plane, crds, node
from tests.renderers.kubernetes_cases import cluster, endpoint, model, resolution

TARGET = "kubernetes/prod"
CANARY = "hf_c4n4ry"
NODES = 16


def unit_of(item: FoundryObject, content: bytes) -> Unit:
    digest = hashlib.sha256(content).hexdigest()
    return Unit(key=Key(TARGET, item.ref), content=content, digest=digest)


@dataclass
class Probe:
    """Stands in for pods that answer: kwok's have no network. ``deaf`` do not."""

    deaf: set[str] = field(default_factory=set)
    asked: int = 0

    async def __call__(self, service: ObjectId, model: str) -> None:
        self.asked += 1
        if model in self.deaf:
            raise TemporaryError(f"cannot reach {service}: no answer")


@dataclass
class Hands:
    """What a test does to a target, and behind its back."""

    target: Target
    plane: Plane
    client: Client

    async def create(self, unit: Unit) -> Live:
        made = Change(key=unit.key, action=Action.CREATE, unit=unit)
        return await self.target.apply(made, silent)

    async def change(self, unit: Unit, live: Live) -> Live:
        asked = Change(
            key=unit.key,
            action=Action.CHANGE,
            unit=unit,
            uid=live.uid,
            version=live.version,
        )
        return await self.target.apply(asked, silent)

    async def look(self, key: Key) -> Live:
        return (await self.target.observe([key]))[key]

    def break_reads(self, key: Key) -> None:
        """Somebody writes into the record; from then on nobody knows its objects."""
        where = record_id(key.ref)
        self.plane.call(
            "PATCH",
            f"/api/v1/namespaces/{where.namespace}/configmaps/{where.name}",
            {"data": {"members": "?"}},
            "application/merge-patch+json",
        )

    async def edit(self, path: str, patch: Json, manager: str = "kubectl-edit") -> Json:
        """Write as somebody else would."""
        return await self.client.request(
            "PATCH",
            path,
            query={"fieldManager": manager},
            body=patch,
            content_type="application/strategic-merge-patch+json",
        )


@dataclass
class World(Hands):
    kubernetes: KubernetesTarget
    project: str
    probe: Probe
    sent: Client
    """Through which the target writes."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def writes(self) -> int:
        return self.sent.writes

    @property
    def namespace(self) -> str:
        return namespace_of(self.project)

    def key(self, name: str) -> Key:
        return Key(TARGET, Ref("Endpoint", self.project, name))

    def unit(self, name: str, variant: int = 0, **spec: Any) -> Unit:
        return self.render(name, spec, max_batch=64 + variant)

    def render(self, name: str, spec: Mapping[str, Any], **resolved: Any) -> Unit:
        said = {"rollout": {"readyTimeout": "20s"}, **spec}
        item = endpoint(name, self.project, **said)
        return unit_of(
            item,
            render_endpoint(
                item, model(self.project), cluster(), resolution(**resolved)
            ),
        )

    def impossible(self, name: str) -> Unit:
        """No API server takes a variable of this name."""
        return self.unit(name, engine={"name": "vllm", "env": {"A=B": "x"}})

    async def stray(self, key: Key) -> None:
        patch = {
            "spec": {
                "template": {
                    "spec": {"containers": [{"name": "engine", "image": "other:1"}]}
                }
            }
        }
        await self.edit(
            f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{key.ref.name}",
            patch,
        )

    async def delete(self, live: Live) -> None:
        asked = Change(
            key=live.key,
            action=Action.DELETE,
            unit=None,
            uid=live.uid,
            version=live.version,
        )
        await self.target.delete(asked, silent)

    async def deployment(self, name: str) -> Json:
        found = await self.client.get(
            f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}"
        )
        assert found is not None
        return found


def silent(key: Key, message: str) -> None:
    """Take progress and say nothing."""


async def credentials(credential: Credential) -> str:
    if credential.env == "HF_TOKEN":
        return CANARY
    raise PermanentError(f"cannot read a credential: {credential.env} is not set")


async def client_of(
    running: Plane, server: str | None = None, *, in_flight: int = 32
) -> Client:
    async def kubeconfig() -> dict[str, Any]:
        return running.kubeconfig(server)

    return Client(kubeconfig, in_flight=in_flight)


async def target_of(
    running: Plane,
    owner: str,
    *,
    client: Client | None = None,
    probe: Probe | None = None,
) -> KubernetesTarget:
    return KubernetesTarget(
        TARGET,
        client or await client_of(running),
        Renderer(find_helm()),
        owner=owner,
        credentials=credentials,
        probe=probe or Probe(),
        gone_s=3.0,
    )


@asynccontextmanager
async def world_of(
    running: Plane, name: str, server: str | None = None
) -> AsyncIterator[World]:
    probe, sent = Probe(), await client_of(running, server)
    target = await target_of(running, name, client=sent, probe=probe)
    made = World(
        target=target,
        plane=running,
        client=await client_of(running),
        kubernetes=target,
        project=name,
        probe=probe,
        sent=sent,
    )
    claim(running, made.namespace)
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(target.watch(made.moved.set, stop))
            yield made
            stop.set()
    finally:
        with suppress(HTTPError):  # a test may have deleted it
            running.call("DELETE", f"/api/v1/namespaces/{made.namespace}")
        await target.close()
        await made.client.__aexit__(None, None, None)


def claim(running: Plane, namespace: str) -> None:
    """The namespace, and the weights that a Model's own unit would bring."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    running.call(
        "POST",
        "/api/v1/namespaces",
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": labels},
        },
    )
    running.call(
        "POST",
        f"/api/v1/namespaces/{namespace}/persistentvolumeclaims",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim_of(model())},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "kwok-volume",
                "resources": {"requests": {"storage": "20Gi"}},
            },
        },
    )


def furnish(running: Plane) -> None:
    """Nodes with GPUs, storage, and the kinds that add-ons would bring."""
    for file in sorted(crds().glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            running.call(
                "POST",
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                document,
            )
    for number in range(NODES):
        running.call("POST", "/api/v1/nodes", node(f"gpu-{number}"))
    running.call(
        "POST",
        "/apis/storage.k8s.io/v1/storageclasses",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "kwok-volume"},
            "provisioner": "kwok.x-k8s.io/volume",
        },
    )
