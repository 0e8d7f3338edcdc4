"""Two real daemons share one environment: leases, shards, a kill, a pause.

Each has a proxy of its own before the one API server, which counts what it wrote. Six
clusters are six names for that server, each with a project of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest

from reconciler.foundry import now
from reconciler.sharding import HOME, assign
from reconciler.store import Holder, Store, open_store
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.lease import Lease, within
from schemas.errors import PermanentError, TemporaryError
from tests.e2e.team import ENDPOINT, ENVIRONMENT, Team
from tests.reconciler.targets.kubernetes.plane import TOKEN, Plane
from tests.reconciler.targets.kubernetes.proxy import Proxy, proxy_to
from tests.reconciler.targets.kubernetes.test_line import CLUSTER, MODEL, PROJECT

LEASE_S = 6
CLUSTERS = 6
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@dataclass
class Pod:
    """One replica: a process, and its way to the clusters."""

    name: str
    proxy: Proxy
    process: asyncio.subprocess.Process | None = None
    log: Path = field(default_factory=Path)

    def written(self) -> Counter[str]:
        """Objects of clusters that went through its proxy, with how often."""
        return Counter(w for w in self.proxy.writes if "/leases" not in w)


@dataclass
class Fleet:
    team: Team
    plane: Plane
    pods: dict[str, Pod]
    store: Store
    folder: Path
    run: str

    def project(self, number: int) -> str:
        return f"{self.run}-{number}"

    def namespaces(self) -> list[str]:
        return [f"bud-workloads-{self.project(n)}" for n in range(CLUSTERS)]

    def declare(self, batch: int) -> None:
        """An endpoint for each cluster; another ``batch`` changes every one."""
        for number in range(CLUSTERS):
            project = self.project(number)
            text = ENDPOINT.replace(
                "{name: simulator, rehearses: vllm}", "{name: vllm}"
            )
            text = text.replace("cluster: here", f"cluster: c{number}")
            text = text.replace("maxBatch: 8", f"maxBatch: {batch}")
            text = text.replace("{name: NAME}", f"{{name: NAME, project: {project}}}")
            self.team.write(f"spec/{project}/endpoint/e.yaml", text)

    async def commit(self, subject: str) -> None:
        await asyncio.to_thread(self.team.bud, "resolve")
        await asyncio.to_thread(self.team.commit, subject)

    async def start(self, name: str) -> None:
        pod = self.pods[name]
        config = self.folder / f"{name}.kubeconfig"
        config.write_text(json.dumps(self.plane.kubeconfig(pod.proxy.url)))
        config.chmod(0o600)
        pod.log = self.folder / f"{name}.log"
        with pod.log.open("ab") as out:
            pod.process = await asyncio.create_subprocess_exec(
                *self.team.argv(
                    "reconcile", "--replica", name, "--leases", str(config)
                ),
                *("--lease-namespace", "default", "--lease-seconds", str(LEASE_S)),
                env=os.environ | {"CLUSTERS_KUBECONFIG": config.read_text()},
                stdout=out,
                stderr=out,
            )

    def signal(self, name: str, number: int) -> None:
        process = self.pods[name].process
        assert process is not None
        process.send_signal(number)

    def holders(self) -> dict[str, Holder]:
        return self.store.shards.holders()

    def held(self) -> dict[str, str]:
        """Shard -> replica that holds it now."""
        return {s: h.name.rpartition("-")[0] for s, h in self.holders().items()}

    def share(self, *names: str) -> dict[str, str]:
        """What the hash makes of it while these live."""
        return dict(assign([HOME, *(f"default/c{n}" for n in range(CLUSTERS))], names))

    def batches(self) -> set[str]:
        """--max-num-seqs of every engine, as the API server has it."""
        found = set[str]()
        for namespace in self.namespaces():
            path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
            for item in self.plane.call("GET", path)["items"]:
                command = item["spec"]["template"]["spec"]["containers"][0]["command"]
                (batch,) = (c for c in command if c.startswith("--max-num-seqs="))
                found.add(f"{namespace} {batch.partition('=')[2]}")
        return found

    def serves(self, batch: int) -> Callable[[], bool]:
        return lambda: self.batches() == {f"{n} {batch}" for n in self.namespaces()}

    def settled(self) -> bool:
        """Whether every outcome is in: nothing pending in the inventory."""
        owned = self.store.inventory().values()
        return len(owned) > 2 * CLUSTERS and {o.state for o in owned} == {"live"}

    async def until(
        self, what: str, true: Callable[[], bool], limit_s: float = 90
    ) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while not await asyncio.to_thread(true):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            logs = "\n".join(p.log.read_text()[-3000:] for p in self.pods.values())
            raise AssertionError(f"never: {what}\n{self.held()}\n{logs}") from None


@asynccontextmanager
async def fleet_of(plane: Plane, folder: Path, run: str) -> AsyncIterator[Fleet]:
    root = folder / "team"
    root.mkdir()
    team = Team(root)
    taken = ["Cluster/*", "Project/*", f"Model/{run}-*/*", f"Endpoint/{run}-*/*"]
    old = '["Cluster/*", "Model/*", "Endpoint/*", "Route/*"]'
    assert old in ENVIRONMENT
    environment = ENVIRONMENT.replace(old, json.dumps(taken))
    team.write("environments/local/environment.yaml", environment)
    for number in range(CLUSTERS):
        project = f"{run}-{number}"
        named = CLUSTER.replace("name: prod", f"name: c{number}")
        named = named.replace("{file: KUBECONFIG}", "{env: CLUSTERS_KUBECONFIG}")
        team.write(f"spec/cluster/c{number}.yaml", named)
        team.write(f"spec/project/{project}.yaml", PROJECT)
        team.write(f"spec/{project}/model/llama.yaml", MODEL.replace("TEAM", project))
    async with AsyncExitStack() as stack:
        pods = {}
        for name in ("bud-0", "bud-1"):
            proxy = await stack.enter_async_context(proxy_to(plane))
            proxy.answers = True
            pods[name] = Pod(name, proxy)
        team.home.mkdir(parents=True)
        store = stack.enter_context(
            open_store(
                f"sqlite:///{team.home / 'state.db'}",
                key=team.home / "ledger.key",
                origin="bud/local",
                clock=None,  # type: ignore[arg-type]  # it is only read
            )
        )
        made = Fleet(team, plane, pods, store, folder, run)
        try:
            yield made
        finally:
            for pod in pods.values():
                if pod.process is not None and pod.process.returncode is None:
                    with suppress(ProcessLookupError):
                        pod.process.send_signal(signal.SIGCONT)
                        pod.process.kill()
                    await pod.process.wait()
            for path in (
                *(f"/api/v1/namespaces/{name}" for name in made.namespaces()),
                *(f"{LEASES}/bud-local-{name}" for name in pods),
            ):
                with suppress(HTTPError):  # a test that fails early made none
                    plane.call("DELETE", path)


@pytest.fixture
async def fleet(control_plane: Plane, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet_of(control_plane, tmp_path, f"r{os.getpid() % 10**5}") as made:
        yield made


async def test_a_lease_is_one_processs_until_it_stops_moving(
    control_plane: Plane, tmp_path: Path
) -> None:
    """Reached as a pod reaches its own cluster."""
    url = urlsplit(control_plane.server)
    (tmp_path / "ca.crt").write_bytes(control_plane.ca)
    (tmp_path / "token").write_text(TOKEN)
    environ = {
        "KUBERNETES_SERVICE_HOST": str(url.hostname),
        "KUBERNETES_SERVICE_PORT": str(url.port),
    }
    access = within(tmp_path, environ)
    first, second = (
        Lease(
            Client(access.kubeconfig, token=access.token),
            namespace="default",
            environment="lone",
            replica="bud-0",
            identity=identity,
            seconds=LEASE_S,
            clock=now,
        )
        for identity in ("bud-0-first", "bud-0-second")
    )
    try:
        async with asyncio.timeout(60):
            while not first.held:  # the first request opens the connection, too
                await first.renew()
        assert first.alive == {"bud-0": "bud-0-first"}
        with pytest.raises(TemporaryError, match="bud-0-first is"):
            await second.renew()
        async with asyncio.timeout(60):
            while not second.held:
                with suppress(TemporaryError):
                    await second.renew()
                assert not (second.held and first.held)
                await asyncio.sleep(0.05)
        with pytest.raises(PermanentError, match="ran out"):
            first.check()
        await second.release()
        assert not second.held
        await first.renew()
        assert first.alive == {"bud-0": "bud-0-first"}
    finally:
        for lease in (first, second):
            await lease.close()
        control_plane.call("DELETE", f"{LEASES}/bud-lone-bud-0")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_two_daemons_share_six_clusters_and_one_takes_over_for_the_other(
    fleet: Fleet,
) -> None:
    """Killed, and then paused and woken: no object by both, one chain that verifies."""
    one, two = fleet.pods.values()
    fleet.declare(8)
    await fleet.commit("Serve on six clusters")
    await asyncio.gather(fleet.start("bud-0"), fleet.start("bud-1"))
    shared = fleet.share("bud-0", "bud-1")
    await fleet.until("both have their share", lambda: fleet.held() == shared)
    await fleet.until("all serve", fleet.serves(8))
    await fleet.until("all is recorded", fleet.settled)
    both = one.written().keys() & two.written().keys()
    assert {w for w in both if "/namespaces/" in w and "deployments" in w} == set()

    # Killed: the other takes over within the lease, and writes nothing again.
    before = two.written()
    fleet.signal("bud-0", signal.SIGKILL)
    alone = fleet.share("bud-1")
    await fleet.until(
        "the other takes over", lambda: fleet.held() == alone, 4 * LEASE_S
    )
    fleet.declare(9)
    await fleet.commit("Change them all")
    await fleet.until("the change is everywhere", fleet.serves(9))
    await fleet.until("all is recorded", fleet.settled)
    deployed = [w for w in two.written() - before if w.endswith("/deployments/e")]
    assert len(deployed) == CLUSTERS
    assert max((two.written() - before)[w] for w in deployed) == 1

    # Back, and each has its share again; then paused for longer than its lease.
    await fleet.start("bud-0")
    await fleet.until("each has its share", lambda: fleet.held() == shared)
    tokens = {s: h.token for s, h in fleet.holders().items()}
    fleet.signal("bud-0", signal.SIGSTOP)
    await fleet.until(
        "the other takes over", lambda: fleet.held() == alone, 4 * LEASE_S
    )
    was = one.written()
    fleet.declare(10)
    await fleet.commit("Change them while one is paused")
    await fleet.until("the change is everywhere", fleet.serves(10))
    assert all(
        fleet.holders()[s].token > tokens[s] for s in shared if shared[s] == "bud-0"
    )
    fleet.signal("bud-0", signal.SIGCONT)
    await fleet.until("it gets its share back", lambda: fleet.held() == shared)
    await fleet.until("all is recorded", fleet.settled)
    assert one.written() == was, "it woke, and wrote with what it held before"
    assert fleet.batches() == {f"{n} 10" for n in fleet.namespaces()}
    for name in fleet.pods:
        fleet.signal(name, signal.SIGTERM)
    for pod in fleet.pods.values():
        assert pod.process is not None
        assert await pod.process.wait() == 0
    assert {h.name for h in fleet.holders().values()} == {""}
    entries = fleet.store.log.entries(limit=1000)
    assert fleet.store.log.verify().size == len(entries)
    await asyncio.to_thread(fleet.team.bud, "log", "verify")
