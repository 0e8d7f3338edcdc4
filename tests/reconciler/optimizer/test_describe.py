from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from reconciler.optimizer.cli import optimizer
from reconciler.optimizer.describe import read_config, shaping
from schemas.architecture import architecture_from_config
from schemas.catalog import catalog
from schemas.errors import PermanentError, SpecError
from schemas.model import ModelSpec

CONFIG = catalog().models.find("Qwen/Qwen3-30B-A3B").config
COMMIT = "ab" * 20


def spec(**changes: Any) -> ModelSpec:
    said = {"precision": "bf16", "licence": {"id": "apache-2.0"}}
    said["source"] = {"hf": {"repo": "acme/own", "revision": COMMIT}}
    return ModelSpec.model_validate(said | changes, strict=False)


def test_a_folder_says_what_a_model_needs_and_no_more(tmp_path: Path) -> None:
    more = {**CONFIG, "transformers_version": "4.51.0", "use_cache": True}
    (tmp_path / "config.json").write_text(json.dumps(more))
    result = CliRunner().invoke(optimizer, ["config", str(tmp_path)])
    said = yaml.safe_load(result.stdout)
    assert "30.53B parameters, 3.0" in result.stderr
    assert not {"transformers_version", "use_cache"} & said["config"].keys()
    assert spec(**said).shape(catalog()) == architecture_from_config(CONFIG)


async def test_the_hub_is_asked_for_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: web.Request) -> web.Response:
        known = request.match_info["commit"] == COMMIT
        return web.json_response(CONFIG if known else {}, status=200 if known else 404)

    app = web.Application()
    app.router.add_get("/acme/own/resolve/{commit}/config.json", answer)
    async with TestServer(app) as hub:
        monkeypatch.setenv("HF_ENDPOINT", str(hub.make_url("/")))
        assert await _asked(f"acme/own@{COMMIT}") == CONFIG
        with pytest.raises(PermanentError, match="cannot fetch acme/own@cdcd"):
            await _asked(f"acme/own@{'cd' * 20}")


async def _asked(source: str) -> dict[str, Any]:
    return await asyncio.to_thread(read_config, source)


@pytest.mark.parametrize("source", ["acme/own", "acme/own@main", "/no/such/folder"])
def test_a_branch_is_no_pin(source: str) -> None:
    with pytest.raises(PermanentError, match="cannot find a model at"):
        read_config(source)


def test_what_is_kept_is_the_least_that_is_needed() -> None:
    kept, whole = shaping(CONFIG)
    assert architecture_from_config(kept) == whole
    for key in kept:
        fewer = {name: value for name, value in kept.items() if name != key}
        with suppress(SpecError):
            assert architecture_from_config(fewer) != whole


def test_a_shape_is_said_once() -> None:
    with pytest.raises(ValueError, match="one of architecture and config"):
        spec(config=CONFIG, architecture="Qwen/Qwen3-30B-A3B")
