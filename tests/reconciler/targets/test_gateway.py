"""The gateway's file as a target: one table an object, whole or not at all."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from reconciler.targets.gateway import GatewayTarget, InForce
from reconciler.values import Action, Change, Health, Key, Presence, Unit
from schemas import gateway_toml
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref
from tests.reconciler.targets.contract import TargetContract

TABLES = {
    "Endpoint/chat": '[upstreams."default/chat"]\ndiscovered = true\n',
    "Route/chat": '[routes."default/chat"]\nmodels = ["m"]\n'
    'targets = [{ upstream = "default/chat" }]\n',
}


def key_of(name: str) -> Key:
    return Key("gateway", Ref.parse(name))


def create(name: str, text: str = "") -> Change:
    content = (text or TABLES[name]).encode()
    key = key_of(name)
    unit = Unit(key=key, content=content, digest=sha256(content).hexdigest())
    return Change(key=key, action=Action.CREATE, unit=unit)


def quiet(*_: object) -> None:
    pass


class Gateway:
    """Answers as the running gateway does."""

    def __init__(self, file: Path) -> None:
        self.file, self.running, self.error, self.stuck = file, True, "", False

    async def ask(self) -> InForce | None:
        if not self.running:
            return None
        content = (
            b"" if self.stuck or not self.file.exists() else self.file.read_bytes()
        )
        return InForce(digest=sha256(content).hexdigest(), error=self.error)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "gateway.toml")


@pytest.fixture
def target(gateway: Gateway) -> GatewayTarget:
    return GatewayTarget(gateway.file, ask=gateway.ask)


class GatewayWorld:
    def __init__(self, gateway: Gateway, target: GatewayTarget) -> None:
        self.gateway, self.target = gateway, target

    def unit(self, name: str, variant: int = 0) -> Unit:
        text = f'[upstreams."default/{name}"]\nurls = ["http://127.0.0.1:{8000 + variant}"]\n'
        unit = create(f"Endpoint/{name}", text).unit
        assert unit is not None
        return unit

    def impossible(self, name: str) -> Unit:
        unit = create(f"Endpoint/{name}", "no TOML").unit
        assert unit is not None
        return unit

    def break_reads(self, key: Key) -> None:
        self.gateway.file.unlink(missing_ok=True)
        self.gateway.file.mkdir()

    async def stray(self, key: Key) -> None:
        text = self.gateway.file.read_text()
        self.gateway.file.write_text(text.replace("127.0.0.1", "127.0.0.2"))


@pytest.fixture
def world(gateway: Gateway, target: GatewayTarget) -> GatewayWorld:
    return GatewayWorld(gateway, target)


class TestGateway(TargetContract):
    async def test_a_failed_read_is_unknown_and_stops_every_write(
        self, world: GatewayWorld
    ) -> None:
        """One file holds every object here, so a failed read is of all of them."""
        live = await world.target.apply(create("Endpoint/chat"), quiet)
        world.break_reads(live.key)
        seen = (await world.target.observe([live.key]))[live.key]

        assert seen.presence is Presence.UNKNOWN
        assert seen.detail
        with pytest.raises(TemporaryError):
            await world.target.apply(create("Route/chat"), quiet)


async def test_a_table_cannot_smuggle_in_another(target: GatewayTarget) -> None:
    text = TABLES["Endpoint/chat"] + "#: Route/default/evil uid=0123456789abcdef\n"

    with pytest.raises(PermanentError, match="a mark of ours"):
        await target.dry_run(create("Endpoint/chat", text))


async def test_what_was_applied_is_a_config_and_is_observed(
    target: GatewayTarget, gateway: Gateway
) -> None:
    for name in TABLES:
        live = await target.apply(create(name), quiet)
        assert live.health is Health.SERVABLE

    config = gateway_toml.load(gateway.file.read_text())
    found = await target.observe([])

    assert set(config.routes) == {"default/chat"}
    assert {k: v.digest for k, v in found.items()} == {
        key_of(n): sha256(t.encode()).hexdigest() for n, t in TABLES.items()
    }


async def test_a_table_edited_by_hand_is_drift_of_that_object_alone(
    target: GatewayTarget, gateway: Gateway
) -> None:
    for name in TABLES:
        await target.apply(create(name), quiet)
    before = await target.observe([])
    gateway.file.write_text(gateway.file.read_text().replace('["m"]', '["n"]'))
    after = await target.observe([])

    route, endpoint = key_of("Route/chat"), key_of("Endpoint/chat")
    assert after[route].digest != before[route].digest
    assert after[route].uid == before[route].uid
    assert after[endpoint].digest == before[endpoint].digest


async def test_a_file_that_is_gone_is_absent_and_one_that_cannot_be_read_is_unknown(
    target: GatewayTarget, gateway: Gateway
) -> None:
    key = key_of("Route/chat")
    absent = (await target.observe([key]))[key]
    gateway.file.mkdir()
    unknown = (await target.observe([key]))[key]

    assert absent.presence is Presence.ABSENT
    assert unknown.presence is Presence.UNKNOWN
    with pytest.raises(TemporaryError, match="cannot read"):
        await target.dry_run(create("Route/chat"))


async def test_deleting_leaves_the_others_byte_for_byte(
    target: GatewayTarget, gateway: Gateway
) -> None:
    await target.apply(create("Endpoint/chat"), quiet)
    alone = gateway.file.read_bytes()
    live = await target.apply(create("Route/chat"), quiet)
    await target.delete(
        Change(key=key_of("Route/chat"), action=Action.DELETE, unit=None, uid=live.uid),
        quiet,
    )

    assert gateway.file.read_bytes() == alone


async def test_without_a_gateway_it_is_applied_and_not_servable(
    target: GatewayTarget, gateway: Gateway
) -> None:
    gateway.running = False
    live = await target.apply(create("Endpoint/chat"), quiet)

    assert (live.health, live.detail) == (Health.APPLIED, "the gateway does not run")


@pytest.mark.parametrize(
    ("error", "kind"), [("it is wrong", PermanentError), ("", TemporaryError)]
)
async def test_a_gateway_that_does_not_take_it_is_an_error(
    target: GatewayTarget,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    kind: type[Exception],
) -> None:
    monkeypatch.setattr("reconciler.targets.gateway._LOAD_TIMEOUT_S", 0.01)
    gateway.stuck, gateway.error = True, error

    with pytest.raises(kind, match=error or "the gateway did not"):
        await target.apply(create("Endpoint/chat"), quiet)
