"""Charts of these tests' own, a registry and a repository for them, and a target."""

import asyncio
import hashlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rfc8785

from reconciler.targets.helm import Charts, HelmTarget
from reconciler.targets.helm.command import HelmCommand
from reconciler.targets.kubernetes.client import Access
from reconciler.targets.kubernetes.sandbox import find_helm
from reconciler.values import Action, Change, Key, Live, Unit
from schemas.objects import Ref
from tests.reconciler.targets.kubernetes.foundry import Hands, client_of
from tests.reconciler.targets.kubernetes.plane import Plane, find, free_ports

TARGET = "helm/default/prod"
VERSION = "1.2.3"

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: "{{ .Release.Name }}"}}
  template:
    metadata:
      labels:
        app: "{{ .Release.Name }}"
        rehearse: {{ .Values.rehearse | quote }}
    spec:
      containers: [{name: main, image: "{{ .Values.image }}"}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-config"}
data: {variant: {{ .Values.variant | quote }}}
"""
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: GROUPs.GROUP.test}
spec:
  group: GROUP.test
  scope: Namespaced
  names: {plural: GROUPs, singular: GROUP, kind: Kind}
  versions:
"""
SERVED = """\
    - name: VERSION
      served: true
      storage: STORED
      schema:
        openAPIV3Schema:
          {type: object, x-kubernetes-preserve-unknown-fields: true}
"""
CUSTOM = """
apiVersion: GROUP.test/VERSION
kind: Kind
metadata: {name: one}
"""
# A hook that nobody ends holds Helm between its two writes.
HOOK = """
{{ if .Values.hook }}
apiVersion: batch/v1
kind: Job
metadata: {name: wait, annotations: {helm.sh/hook: pre-install}}
spec:
  suspend: true
  template:
    spec:
      restartPolicy: Never
      containers: [{name: wait, image: "wait:1"}]
{{ end }}
"""
VALUES = 'hook: false\nimage: "main:1"\nreplicas: 1\nvariant: "0"\nrehearse: ""\n'
SCHEMA = '{"properties": {"replicas": {"type": "integer"}}}'


def pack(
    folder: Path,
    name: str,
    *,
    brings: str = "",
    serves: tuple[str, ...] = ("v1",),
    version: str = VERSION,
) -> Path:
    """A chart as its author packs it; ``brings`` names a kind that comes with it, in the
    versions that it ``serves``, of which the chart uses the last."""
    chart = folder / f"{name}-{version}-source" / name
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(
        f"apiVersion: v2\nname: {name}\nversion: {version}\n"
    )
    (chart / "values.yaml").write_text(VALUES)
    (chart / "values.schema.json").write_text(SCHEMA)
    (chart / "templates" / "all.yaml").write_text(DEPLOYMENT)
    (chart / "templates" / "hook.yaml").write_text(HOOK)
    if brings:
        (chart / "crds").mkdir()
        text = CRD.replace("GROUP", brings) + "".join(
            SERVED.replace("VERSION", each).replace("STORED", str(each == "v1").lower())
            for each in serves
        )
        (chart / "crds" / "kind.yaml").write_text(text)
        text = CUSTOM.replace("GROUP", brings).replace("VERSION", serves[-1])
        (chart / "templates" / "one.yaml").write_text(text)
    helm("package", str(chart), "--destination", str(folder))
    return folder / f"{name}-{version}.tgz"


def helm(*arguments: str) -> str:
    done = subprocess.run(
        [find_helm(), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A real OCI registry on loopback; yields where charts are pushed."""
    (port,) = free_ports(1)
    binary = find("oci-registry")
    assert binary is not None, "run `make tools`"
    with (folder / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            [binary, "--port", str(port)], stdout=log, stderr=log
        )
    try:
        yield f"oci://127.0.0.1:{port}/charts"
    finally:
        process.kill()
        process.wait()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def repository(folder: Path) -> Iterator[str]:
    """A repository of the charts that lie in ``folder``, with its index."""
    helm("repo", "index", str(folder))
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class AddonWorld(Hands):
    """The Helm target on a real API server; each add-on has a namespace of its own."""

    place: str
    source: dict[str, str]
    folder: Path

    def name(self, name: str) -> str:
        return f"{self.place}-{name}"

    def unit(self, name: str, variant: int = 0, **said: Any) -> Unit:
        values = {"variant": str(variant), **said.pop("values", {})}
        content = rfc8785.dumps(
            {
                "name": "app",
                "namespace": self.name(name),
                "version": VERSION,
                "digest": "",
                "source": self.source,
                "device": "",
                "values": values,
                **said,
            }
        )
        return Unit(
            key=Key(TARGET, Ref("Addon", "default", self.name(name))),
            content=content,
            digest=hashlib.sha256(content).hexdigest(),
        )

    def impossible(self, name: str) -> Unit:
        """The chart's own schema wants a number."""
        return self.unit(name, values={"replicas": "many"})

    async def stray(self, key: Key) -> None:
        spec = {"containers": [{"name": "main", "image": "other:1"}]}
        patch = {"spec": {"template": {"spec": spec}}}
        await self.edit(self.path(key.ref.name), patch)

    def path(self, place: str) -> str:
        return f"/apis/apps/v1/namespaces/{place}/deployments/app"

    async def create(self, unit: Unit) -> Live:
        asked = Change(key=unit.key, action=Action.CREATE, unit=unit)
        await self.target.dry_run(asked)
        return await super().create(unit)

    def kubeconfig(self) -> str:
        """For a person's own Helm."""
        config = self.folder / "kubeconfig"
        if not config.exists():
            config.write_bytes(rfc8785.dumps(self.plane.kubeconfig()))
            config.chmod(0o600)
        return str(config)

    async def forget_archives(self) -> None:
        """Every archive has to be fetched again; what was trusted stays."""
        for archive in (self.folder / "charts").glob("*.tgz"):
            archive.unlink()

    async def close(self) -> None:
        await self.client.__aexit__(None, None, None)

    async def releases(self) -> dict[str, str]:
        """What Helm itself lists of this test: namespace -> status."""
        said = await asyncio.to_thread(
            helm,
            *("list", "--all", "--all-namespaces", "--output", "json"),
            *("--kubeconfig", self.kubeconfig()),
        )
        return {
            item["namespace"]: item["status"]
            for item in json.loads(said)
            if item["namespace"].startswith(f"{self.place}-")
        }


async def world_with(
    plane: Plane, place: str, source: dict[str, str], folder: Path, **limits: float
) -> AddonWorld:
    client = await client_of(plane)

    async def kubeconfig() -> dict[str, Any]:
        return plane.kubeconfig()

    command = HelmCommand(binary=find_helm())
    charts = Charts(command, folder=folder / "charts", checkout=folder)
    target = HelmTarget(
        TARGET,
        client,
        command,
        charts,
        access=Access(kubeconfig=kubeconfig),
        owner=place,
        **limits,
    )
    return AddonWorld(target, plane, client, place, source, folder)
