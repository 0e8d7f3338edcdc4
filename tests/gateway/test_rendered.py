"""What the renderers write for the real environments is what the gateway serves."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gateway.compilation import compile_snapshot, credentials
from schemas.gateway import Addresses, GatewayConfig, Key, Store, Upstream, hash_key
from schemas.gateway_toml import load as load_toml
from tests.gateway.wire import KEY, LISTENER, TREE, MockUpstream, Start
from tests.shipped import rendered


def tables(environment: str) -> str:
    """All tables of an environment, as the target joins them into the file."""
    units = rendered(environment).units
    return "".join(
        units[key].content.decode() for key in sorted(units) if key.target == "gateway"
    )


def said(config: GatewayConfig) -> dict[str, str]:
    """Something for each variable that holds a secret."""
    wanted = [credential.env for _, credential in credentials(config)]
    return {name: "a-secret" for name in wanted if name is not None}


@pytest.mark.parametrize("environment", ["production", "evaluation"])
async def test_a_rendered_environment_is_checked_and_served(
    start: Start, upstream: MockUpstream, tmp_path: Path, environment: str
) -> None:
    text = tables(environment)
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    config = load_toml(text, file=str(file))
    secrets = said(config)
    checked = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway", "check", "--config", file],
        cwd=TREE,
        env={**os.environ, **secrets},
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, b"")
    # Nothing that was written is lost on its way to the gateway.
    assert {name: {*table} for name, table in tomllib.loads(text).items()} == {
        "gateway": {*tomllib.loads(text)["gateway"]},
        **{
            name: {*getattr(config, name)}
            for name in ("projects", "keys", "upstreams", "routes")
            if getattr(config, name)
        },
    }
    assert config.gateway.store == Store()
    assert config.gateway.usage is not None
    listener = config.gateway.model_copy(
        update={"listen": LISTENER.listen, "admin": LISTENER.admin, "workers": 1}
    )
    here = {
        name: Upstream(urls=(upstream.url,), capabilities=table.capabilities)
        for name, table in config.upstreams.items()
    }
    key = Key(hash=hash_key(KEY), routes=tuple(config.routes))
    served = config.model_copy(
        update={
            "gateway": listener,
            "upstreams": here,
            "keys": {**config.keys, "probe/key": key},
        }
    )
    given = GatewayConfig.model_validate(served.model_dump())
    gateway = await start(given, fresh=True, **secrets)
    client = gateway.client()
    models = {model for route in config.routes.values() for model in route.models}
    assert {model.id async for model in client.models.list()} == models
    await client.files.create(file=b"{}", purpose="batch")
    asked = 0
    for route in config.routes.values():
        able = {o for t in route.targets for o in here[t.upstream].capabilities}
        if "chat" in able:
            answer = await client.chat.completions.create(
                model=route.models[0], messages=[{"role": "user", "content": "hi"}]
            )
            assert answer.choices[0].message.content == "hello"
            asked += 1
    assert await gateway.stop() == 0
    usage = gateway.folder / config.gateway.usage
    records = [
        json.loads(line)
        for path in usage.glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    # Routes may ask others as well, for themselves.
    chats = [r for r in records if (r["key"], r["operation"]) == ("probe/key", "chat")]
    assert len(chats) == asked


def test_what_a_routes_yaml_says_decides_what_the_data_path_does() -> None:
    """`spec/route/assistant.yaml` and `spec/provider/openai.yaml`, down the line."""
    config = load_toml(tables("production"))
    secrets = dict.fromkeys((field for field, _ in credentials(config)), "a-secret")
    snapshot = compile_snapshot(config, Addresses(), secrets)
    route = snapshot.routes["default/assistant"]
    assert route.queue is not None
    assert (route.queue.wait_s, route.queue.length) == (5.0, 1000)
    assert route.hedge == (1.5, 95)
    price = snapshot.upstreams["default/provider.openai"].price
    assert price == (2_000_000_000, 8_000_000_000, 500_000_000)
