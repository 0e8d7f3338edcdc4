"""A Lease of the management cluster: who of the replicas is alive. (I/O)

``Replica`` renews one, named after itself, and reads the others'. As client-go's leader
election does, a holder is taken for dead once nobody saw its Lease move for as long as
the Lease says, by the clock of whoever looks: no two clocks are compared. The holder
itself stops sooner, after two thirds of that, by the moment at which it *asked*: so it
has stopped before anybody may follow it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from reconciler.targets.kubernetes.client import Access, Client
from reconciler.targets.kubernetes.manifests import Json
from reconciler.targets.kubernetes.transport import ApiRefusal
from schemas.errors import PermanentError, TemporaryError

__all__ = ["Lease", "open_lease", "within"]

_LABEL = "foundry.bud/replica-of"
_KEPT = 2 / 3
"""Of the Lease's length: what client-go's renewDeadline of 10 s is of its 15 s."""


@dataclass(frozen=True, slots=True)
class _Sight:
    version: str
    at: float
    """When this version was first seen, by our own clock."""


def _now() -> float:
    """Seconds, also those that the machine slept; never set by anybody."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        environment: str,
        replica: str,
        identity: str,
        seconds: int,
        clock: Callable[[], datetime],
    ) -> None:
        """``replica`` names the Lease, ``identity`` the process that holds it."""
        self.replica, self.identity, self.seconds = replica, identity, seconds
        self._client, self._clock, self._environment = client, clock, environment
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = f"bud-{environment}-{replica}"
        self._sights: dict[str, _Sight] = {}
        self._until = 0.0
        self.alive: dict[str, str] = {}
        """Replica -> identity, of those that hold their Lease, as last read."""

    @property
    def held(self) -> bool:
        """Whether nobody can have followed us yet."""
        return _now() < self._until

    def check(self) -> None:
        """Before each write.

        Raises:
            PermanentError: our Lease ran out, and others may drive what we drove.
        """
        if not self.held:
            raise PermanentError(
                f"cannot write: the lease of replica {self.replica} ran out",
                hint="another replica drives it by now",
            )

    async def look(self) -> Json | None:
        """Read who is alive; our own Lease, if there is one.

        Raises:
            FoundryError: nobody can say now.
        """
        asked = _now()
        found, _ = await self._client.list(
            self._path, selector=f"{_LABEL}={self._environment}"
        )
        leases = {item["metadata"]["name"]: item for item in found}
        self.alive = self._living(leases, asked)
        return leases.get(self._name)

    async def renew(self) -> None:
        """Read all Leases of the environment, and take or renew our own.

        Raises:
            TemporaryError, PermanentError: it is not ours now; ``held`` says until when
                it still is.
        """
        asked = _now()
        mine = await self.look()
        holder = self.alive.get(self.replica, self.identity)
        if holder != self.identity:
            raise TemporaryError(
                f"cannot be replica {self.replica}: {holder} is",
                hint="give each replica a name of its own (--replica)",
            )
        await self._write(mine, self.identity)
        self._until = asked + self.seconds * _KEPT
        self.alive = {**self.alive, self.replica: self.identity}

    async def release(self) -> None:
        """Let the others know that we end, so that they need not wait."""
        if not self.held:
            return
        self._until = 0.0
        mine = await self._client.get(f"{self._path}/{self._name}")
        if mine is not None and mine["spec"].get("holderIdentity") == self.identity:
            await self._write(mine, "")

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)

    def _living(self, leases: dict[str, Json], now: float) -> dict[str, str]:
        """Who holds a Lease that moved lately."""
        self._sights = {
            name: self._sight(name, lease["metadata"]["resourceVersion"], now)
            for name, lease in leases.items()
        }
        return {
            name.removeprefix(f"bud-{self._environment}-"): holder
            for name, lease in leases.items()
            if (holder := lease["spec"].get("holderIdentity"))
            and now < self._sights[name].at + lease["spec"]["leaseDurationSeconds"]
        }

    def _sight(self, name: str, version: str, now: float) -> _Sight:
        known = self._sights.get(name)
        return known if known and known.version == version else _Sight(version, now)

    async def _write(self, lease: Json | None, holder: str) -> None:
        now = f"{self._clock():%Y-%m-%dT%H:%M:%S.%f}Z"
        spec = dict(lease["spec"]) if lease else {"leaseTransitions": 0}
        if spec.get("holderIdentity") != holder:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = spec.get("leaseTransitions", 0) + 1
        spec |= {
            "holderIdentity": holder,
            "renewTime": now,
            "leaseDurationSeconds": self.seconds,
        }
        labels = {_LABEL: self._environment}
        metadata = {"name": self._name, "labels": labels}
        if lease is not None:
            # Refused with 409 when anybody wrote since it was read.
            metadata = lease["metadata"]
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
        try:
            if lease is None:
                await self._client.request("POST", self._path, body=body)
            else:
                path = f"{self._path}/{self._name}"
                await self._client.request("PUT", path, body=body)
        except ApiRefusal as refusal:
            if refusal.status != HTTPStatus.CONFLICT:
                raise
            raise TemporaryError(f"cannot renew {self._name}: {refusal}") from refusal


def open_lease(
    kubeconfig: str,
    *,
    namespace: str,
    environment: str,
    replica: str,
    seconds: int,
    clock: Callable[[], datetime],
) -> Lease:
    """``kubeconfig`` is a file, or ``in-cluster`` for the service account of a pod."""

    async def read() -> Mapping[str, Any]:
        text = await asyncio.to_thread(Path(kubeconfig).read_text, "utf-8")
        found: Mapping[str, Any] = yaml.safe_load(text)
        return found

    access = within() if kubeconfig == "in-cluster" else Access(kubeconfig=read)
    return Lease(
        Client(access.kubeconfig, token=access.token),
        namespace=namespace,
        environment=environment,
        replica=replica,
        identity=f"{replica}-{uuid4().hex[:8]}",
        seconds=seconds,
        clock=clock,
    )


def within(
    account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount"),
    environ: Mapping[str, str] = os.environ,
) -> Access:
    """How a pod reaches its own cluster, as Kubernetes documents it; its token is
    replaced while it runs, and read for each request."""

    async def kubeconfig() -> Mapping[str, Any]:
        host = environ["KUBERNETES_SERVICE_HOST"]
        host = f"[{host}]" if ":" in host else host
        cluster = {
            "server": f"https://{host}:{environ['KUBERNETES_SERVICE_PORT']}",
            "certificate-authority": str(account / "ca.crt"),
        }
        return {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {}}],
        }

    async def token() -> str:
        return await asyncio.to_thread((account / "token").read_text, "utf-8")

    return Access(kubeconfig=kubeconfig, token=token)
