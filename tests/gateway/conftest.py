"""Fixtures: a real gateway process, and upstreams on the wire."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from schemas.gateway import Addresses, GatewayConfig, Store
from schemas.gateway_toml import dump, dump_addresses
from tests.gateway.wire import (
    LISTENER,
    Gateway,
    MockUpstream,
    Start,
    Valkey,
    launch,
    write,
)


@pytest.fixture
async def upstream() -> AsyncIterator[MockUpstream]:
    mock = MockUpstream()
    await mock.start()
    yield mock
    await mock.stop()


@pytest.fixture
async def spare() -> AsyncIterator[MockUpstream]:
    mock = MockUpstream()
    await mock.start()
    yield mock
    await mock.stop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for all tests that do not look at a whole process' life."""
    listener = LISTENER.model_copy(update={"store": Store()})
    empty = GatewayConfig(gateway=listener)
    gateway = launch(tmp_path_factory.mktemp("shared") / "gateway", empty)
    yield gateway
    gateway.process.terminate()
    assert gateway.process.wait(40) == 0


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def start(tmp_path: Path, shared: Gateway) -> AsyncIterator[Start]:
    """Give a gateway that works by a config: the shared one, or a fresh one."""
    started: list[Gateway] = []

    async def run(
        config: GatewayConfig,
        addresses: Addresses | None = None,
        *,
        fresh: bool = False,
        **environment: str,
    ) -> Gateway:
        if fresh or environment:
            folder = tmp_path / f"gateway-{len(started)}"
            gateway = launch(folder, config, addresses, **environment)
        else:
            gateway = shared
            given = addresses or Addresses()
            write(shared.folder / "addresses.json", dump_addresses(given))
            write(shared.folder / "gateway.toml", dump(config))
        started.append(gateway)
        digest = "sha256:" + hashlib.sha256(dump(config).encode()).hexdigest()
        await gateway.until(lambda s: s["ready"] and s["config"] == digest)
        return gateway

    yield run
    for gateway in started:
        await (gateway.close() if gateway is shared else gateway.stop())
