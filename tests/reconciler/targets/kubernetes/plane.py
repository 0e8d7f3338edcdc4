"""A real Kubernetes control plane on loopback, with nodes that kwok plays.

etcd, the API server, the controllers and the scheduler are the real ones; the nodes
and what a kubelet would say about pods are kwok's. Every process is ended by its id.
"""

import base64
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ROOT = Path(__file__).parents[4]
BINARIES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kwok",
    "helm",
)
TOKEN = "t0ken"
_READY_S = 60.0


def find(name: str) -> str | None:
    """A binary of KUBEBUILDER_ASSETS, or what `make tools` found or built."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    candidates = [Path(assets, name)] if assets else []
    candidates.append(ROOT / ".tools" / "bin" / name)
    return next((str(path) for path in candidates if os.access(path, os.X_OK)), None)


def missing() -> list[str]:
    return [name for name in BINARIES if find(name) is None]


def stages() -> Path:
    return ROOT / ".tools" / "share" / "kwok"


def crds() -> Path:
    return ROOT / ".tools" / "share" / "crds"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class Plane:
    folder: Path
    server: str
    ca: bytes
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def kubeconfig(self, server: str | None = None) -> dict[str, Any]:
        cluster = {"server": server or self.server}
        if cluster["server"].startswith("https"):
            cluster["certificate-authority-data"] = base64.b64encode(self.ca).decode()
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """One request without an event loop, as a fixture or an intruder sends it."""
        context = ssl.create_default_context(cadata=self.ca.decode())
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type},
        )
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read() or b"{}")
            return found

    def start(self, name: str, *arguments: str) -> None:
        binary = find(name)
        assert binary is not None, name
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [binary, *arguments],
            stdout=log,
            stderr=log,
            cwd=self.folder,
            env={"HOME": str(self.folder), "PATH": ""},
        )
        log.close()

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def cpu_s(self) -> float:
        """What all of its processes have used so far."""
        ticks = 0
        for process in self.processes.values():
            said = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2]
            ticks += sum(int(part) for part in said.split()[11:13])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> dict[str, int]:
        return {
            name: int(Path(f"/proc/{p.pid}/statm").read_text().split()[1]) * 4 // 1024
            for name, p in self.processes.items()
        }


@contextmanager
def plane(folder: Path) -> Iterator[Plane]:
    """Start a control plane with its own ports and data; end it."""
    etcd_port, peer_port, api_port, kwok_port = free_ports(4)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,u1,"system:masters"\n')
    running = Plane(folder, f"https://127.0.0.1:{api_port}", b"")
    try:
        etcd = f"http://127.0.0.1:{etcd_port}"
        running.start(
            "etcd",
            *("--data-dir", "etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer_port}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer_port}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer_port}"),
        )
        _start_api_server(running, etcd, api_port)
        config = folder / "kubeconfig.yaml"
        config.write_text(yaml.safe_dump(running.kubeconfig()))
        common = (
            *(f"--kubeconfig={config}", "--leader-elect=false"),
            # Their own limits are for a machine of many; here they would be timed.
            *("--kube-api-qps=1000", "--kube-api-burst=2000"),
        )
        running.start(
            "kube-controller-manager",
            *common,
            *("--bind-address=127.0.0.1", "--secure-port=0"),
            "--service-account-private-key-file=sa.key",
            # Hurried, so that a test sees in seconds what a fleet sees in minutes.
            "--horizontal-pod-autoscaler-sync-period=1s",
        )
        running.start(
            "kube-scheduler", *common, "--bind-address=127.0.0.1", "--secure-port=0"
        )
        (folder / "stages.yaml").write_text(_stages())
        running.start(
            "kwok",
            f"--kubeconfig={config}",
            *("--manage-all-nodes=true", "--node-lease-duration-seconds=40"),
            *("--cidr=10.0.0.1/16", "--node-ip=10.0.0.1", "--config=stages.yaml"),
            f"--server-address=127.0.0.1:{kwok_port}",
        )
        yield running
    finally:
        for name in list(running.processes):
            running.stop(name)


def _start_api_server(running: Plane, etcd: str, port: int) -> None:
    running.start(
        "kube-apiserver",
        f"--etcd-servers={etcd}",
        *("--bind-address=127.0.0.1", f"--secure-port={port}", "--cert-dir=certs"),
        *("--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"),
        "--service-account-issuer=https://kubernetes.default",
        *(
            "--service-account-key-file=sa.key",
            "--service-account-signing-key-file=sa.key",
        ),
        *("--token-auth-file=tokens.csv", "--authorization-mode=RBAC"),
        "--service-cluster-ip-range=10.96.0.0/16",
    )
    deadline = time.monotonic() + _READY_S
    while not _is_ready(running):
        process = running.processes["kube-apiserver"]
        if process.poll() is not None or time.monotonic() > deadline:
            log = (running.folder / "kube-apiserver.log").read_text()[-3000:]
            raise RuntimeError(f"the API server does not answer:\n{log}")
        time.sleep(0.1)


def _is_ready(running: Plane) -> bool:
    certificate = running.folder / "certs" / "apiserver.crt"
    try:
        running.ca = certificate.read_bytes()
        running.call("GET", "/version")
        running.call("GET", "/api/v1/namespaces/default")
    except (OSError, ValueError):
        return False
    return True


def _stages() -> str:
    """kwok's own fast stages; a pod with the label `rehearse: never-ready` stays pending."""
    documents = []
    for file in sorted(stages().glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] != "Stage":
                continue
            if document["metadata"]["name"] == "pod-ready":
                document["spec"]["selector"]["matchExpressions"].append(
                    {
                        "key": ".metadata.labels.rehearse",
                        "operator": "NotIn",
                        "values": ["never-ready"],
                    }
                )
            documents.append(document)
    return yaml.safe_dump_all(documents)


def node(
    name: str, *, gpus: int = 8, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """A machine with GPUs, as Node Feature Discovery and a device plugin describe it."""
    capacity = {
        "cpu": "192",
        "memory": "2Ti",
        "pods": "500",
        "ephemeral-storage": "8Ti",
        "nvidia.com/gpu": str(gpus),
        "nvidia.com/gpumem-percentage": str(100 * gpus),
        "nvidia.com/gpucores": str(100 * gpus),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "feature.node.kubernetes.io/pci-10de.present": "true",
                "type": "kwok",
                **(labels or {}),
            },
        },
        "spec": {},
        "status": {"allocatable": capacity, "capacity": capacity, "phase": "Running"},
    }
