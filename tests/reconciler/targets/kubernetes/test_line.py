"""The whole line on a real cluster: the real `bud` process, from a commit to pods.

Nodes and kubelets are kwok's; pods have no network, so the proxy before the API server
answers for those that are ready, and only for those.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from reconciler.foundry import open_foundry
from reconciler.source import Checkout
from reconciler.targets.kubernetes import KubernetesTarget
from tests.e2e.team import ENDPOINT, ENVIRONMENT, Team
from tests.reconciler.targets.kubernetes.addons import VERSION, helm, pack, registry
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.reconciler.targets.kubernetes.proxy import Proxy, proxy_to

STRIDE = int(os.environ.get("BUD_KILL_STRIDE", "45"))
"""1 kills at every write point, as `make test-kill` does."""
LOOPS = 100
ADDONS = ("node-feature-discovery", "gpu-operator", "kube-prometheus-stack")
"""In the order in which they must be installed."""

CLUSTER = """
    apiVersion: foundry.bud/v1
    kind: Cluster
    metadata: {name: prod}
    spec:
      provider: existing
      credentials: {file: KUBECONFIG}
      nodePools: [{name: h100, gpu: h100-sxm-80gb, gpusPerNode: 8, count: 4}]
      storageClass: kwok-volume
    """
MODEL = """
    apiVersion: foundry.bud/v1
    kind: Model
    metadata: {name: llama, project: TEAM}
    spec:
      source: {hf: {repo: meta-llama/Llama-3.1-8B, revision: "%s"}}
      architecture: meta-llama/Llama-3.1-8B
      precision: bf16
      licence: {id: llama3.1, accepted: true}
      scan: "off"
    """ % ("a" * 40)
PROJECT = """
    apiVersion: foundry.bud/v1
    kind: Project
    metadata: {name: NAME}
    spec: {}
    """


@dataclass
class Site:
    """A team whose endpoints run on the cluster behind ``proxy``."""

    team: Team
    proxy: Proxy
    plane: Plane
    project: str
    kubeconfig: Path

    @property
    def namespace(self) -> str:
        return f"bud-workloads-{self.project}"

    def endpoint(self, name: str, **changed: str) -> None:
        text = ENDPOINT.replace("cluster: here", "cluster: prod").replace(
            "{name: simulator, rehearses: vllm}", "{name: vllm}"
        )
        text = text.replace("{name: NAME}", f"{{name: NAME, project: {self.project}}}")
        for old, new in changed.items():
            key = "replicas: 1" if old == "replicas" else "tensor: 1"
            text = text.replace(key, new)
        self.team.write(f"spec/{self.project}/endpoint/{name}.yaml", text)

    def remove(self, name: str) -> None:
        (self.team.root / f"spec/{self.project}/endpoint/{name}.yaml").unlink()

    async def bud(self, *args: str, **env: str) -> str:
        return await asyncio.to_thread(self.team.bud, *args, **env)

    async def steps(self) -> Any:
        """What a plan would do, or says, about anything of this team."""
        said = json.loads(await self.bud("--json", "-q", "plan"))
        # The plane is shared: what another team's test left is not in our inventory.
        drift = [item for item in said["drift"] if f"/{self.project}/" in item["key"]]
        return [*said["steps"], *said["blocked"], *drift]

    async def commit(self, subject: str) -> None:
        await self.bud("resolve")
        await asyncio.to_thread(self.team.commit, subject)

    async def listed(self, prefix: str, plural: str) -> list[dict[str, Any]]:
        path = f"{prefix}/namespaces/{self.namespace}/{plural}"
        found = await asyncio.to_thread(self.plane.call, "GET", path)
        items: list[dict[str, Any]] = found["items"]
        return items

    async def engines(self) -> list[tuple[str, int]]:
        """Endpoint and GPUs of each engine pod that runs on a node."""
        return sorted(
            (
                pod["metadata"]["labels"]["app.kubernetes.io/name"],
                int(
                    pod["spec"]["containers"][0]["resources"]["limits"][
                        "nvidia.com/gpu"
                    ]
                ),
            )
            for pod in await self.listed("/api/v1", "pods")
            if pod["spec"]["containers"][0]["name"] == "engine"
            and pod["status"].get("phase") == "Running"
            and pod["spec"].get("nodeName", "").startswith("gpu-")
            and "deletionTimestamp" not in pod["metadata"]
        )


@pytest.fixture
async def site(
    control_plane: Plane, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Site]:
    project = f"line-{abs(hash(request.node.name)) % 10**6}"
    root = tmp_path / "team"
    root.mkdir()
    team = Team(root)
    async with proxy_to(control_plane) as proxy:
        proxy.answers = True
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(json.dumps(control_plane.kubeconfig(proxy.url)))
        kubeconfig.chmod(0o600)
        for path, text in (
            ("spec/cluster/prod.yaml", CLUSTER),
            (f"spec/{project}/model/llama.yaml", MODEL),
            (f"spec/project/{project}.yaml", PROJECT),
        ):
            named = text.replace("TEAM", project)
            team.write(path, named.replace("KUBECONFIG", str(kubeconfig)))
        taken = f'"Cluster/*", "Project/*", "Model/{project}/*", "Endpoint/{project}/*"'
        old = '"Cluster/*", "Model/*", "Endpoint/*", "Route/*"'
        assert old in ENVIRONMENT
        team.write(
            "environments/local/environment.yaml", ENVIRONMENT.replace(old, taken)
        )
        made = Site(team, proxy, control_plane, project, kubeconfig)
        yield made
        if (team.home / "gateway" / "gateway.json").exists():
            await asyncio.to_thread(team.bud, "down")
        with suppress(HTTPError):  # a test that fails early made none
            control_plane.call("DELETE", f"/api/v1/namespaces/{made.namespace}")


@asynccontextmanager
async def daemon(site: Site) -> AsyncIterator[None]:
    site.team.home.mkdir(parents=True, exist_ok=True)
    with (site.team.home / "daemon.log").open("ab") as out:
        child = await asyncio.create_subprocess_exec(
            *site.team.argv("reconcile"), stdout=out, stderr=out
        )
    try:
        yield
    finally:
        child.terminate()
        async with asyncio.timeout(60):
            await child.wait()


async def until(site: Site, what: str, true: Callable[[], Any]) -> None:
    try:
        async with asyncio.timeout(120):
            while not await true():
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"never: {what}\n{site.team.log()}") from None


async def test_a_commit_that_adds_an_endpoint_ends_with_pods_on_gpus(
    site: Site,
) -> None:
    site.endpoint("first")
    await site.commit("Serve one")
    async with daemon(site):
        site.endpoint("chat", replicas="replicas: 2", tensor="tensor: 2")
        await site.commit("Serve chat")

        async def running() -> bool:
            return await site.engines() == [("chat", 2), ("chat", 2), ("first", 1)]

        async def settled() -> bool:
            said = await asyncio.to_thread(site.team.daemon_says)
            return (
                said is not None and said["phase"] == "waiting" and not said["pending"]
            )

        await until(site, "two pods run on two GPUs each", running)
        await until(site, "the daemon has nothing left to do", settled)
        assert await site.steps() == []


async def test_an_autoscaler_that_writes_replicas_is_no_difference_in_100_looks(
    site: Site,
) -> None:
    """production-stack#891, kuberay#4149: two writers of one field."""
    site.endpoint("chat", replicas="scaling: {min: 1, max: 4, queueDepth: 5}")
    await site.commit("Serve chat under an autoscaler")
    await site.bud("apply")
    (live,) = await site.listed("/apis/apps/v1", "deployments")
    scale = f"/apis/apps/v1/namespaces/{site.namespace}/deployments/chat/scale"
    # Whether pods answer is no matter here; a hundred looks need no proxy.
    site.kubeconfig.write_text(json.dumps(site.plane.kubeconfig()))
    tree = await Checkout(site.team.root).newest()
    with open_foundry(site.team.root, "local") as foundry:
        async with foundry.session():
            for number in range(LOOPS):
                # As the controller does it: under its name, through the subresource.
                await asyncio.to_thread(
                    site.plane.call,
                    "PATCH",
                    f"{scale}?fieldManager=kube-controller-manager",
                    {"spec": {"replicas": 1 + number % 4}},
                    "application/merge-patch+json",
                )
                plan = (await foundry.pipeline.prepare(tree)).plan
                mine = [
                    item for item in plan.drift if item.key.ref.project == site.project
                ]
                assert [*plan.steps, *plan.blocked, *mine] == [], number
        target = foundry.pipeline.targets["kubernetes/default/prod"]
        assert isinstance(target, KubernetesTarget)
        assert target.writes == 0
    (after,) = await site.listed("/apis/apps/v1", "deployments")
    assert after["metadata"]["uid"] == live["metadata"]["uid"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_law_10_the_process_killed_at_write_points_converges(
    site: Site, tmp_path: Path
) -> None:
    """Each run dies one stride later than the last, until one has nothing left to do."""
    with registry(tmp_path) as place:
        for name in ADDONS:
            helm("push", str(pack(tmp_path, name)), place, "--plain-http")
        addons = ", ".join(
            f'{{name: {name}, version: {VERSION}, source: {{oci: "{place}/{name}"}}}}'
            for name in ADDONS
        )
        file = site.team.root / "spec/cluster/prod.yaml"
        file.write_text(file.read_text() + f"  addons: [{addons}]\n")
        site.endpoint("here")
        await site.commit("A cluster with add-ons, and an endpoint")
        assert await killed_until_done(site) > 0
        assert await site.engines() == [("here", 1)]
        assert await begun(site) == [f"prod-{name}" for name in ADDONS]

        site.remove("here")
        site.endpoint("there")
        await site.commit("Another takes its place")
        assert await killed_until_done(site) > 0
        assert await site.engines() == [("there", 1)]
        services = await site.listed("/api/v1", "services")
        assert [one["metadata"]["name"] for one in services] == ["there"]
        assert await site.steps() == []


async def killed_until_done(site: Site) -> int:
    """Apply until it is done, killed ever later; how often it was."""
    for kills in range(200):
        at = str(1 + (kills + 1) * STRIDE)
        argv = site.team.argv("apply")
        child = await asyncio.create_subprocess_exec(
            *argv,
            env=os.environ | {"BUD_FAULT_AT": at},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await child.communicate()
        if child.returncode == 0:
            return kills
        assert child.returncode == -signal.SIGKILL, said.decode()
    raise AssertionError("it is never done")


async def begun(site: Site) -> list[str]:
    """Add-ons, in the order in which the ledger says that each was first begun."""
    entries = json.loads(await site.bud("--json", "-q", "log", "show"))
    steps = [e["step"] for e in entries if e["outcome"] == "intended"]
    names = [s.rpartition("/")[2] for s in steps if " Addon/" in s]
    return list(dict.fromkeys(names))
