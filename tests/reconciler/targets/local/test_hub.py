"""A hub's repository: each file whole and verified, continued where it was cut."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
from aiohttp import web

from reconciler.targets.local.hub import download_repository
from reconciler.targets.local.weights import WeightStore
from schemas.errors import PermanentError, TemporaryError
from schemas.local import Weights
from schemas.model import HfSource, ModelSource

COMMIT = "c" * 40
LARGE = bytes(range(256)) * 4096


@dataclass
class Hub:
    """Answers as a hub does, and can be told to misbehave."""

    files: dict[str, bytes] = field(
        default_factory=lambda: {
            "config.json": b"{}",
            "model.safetensors": LARGE,
            "pytorch_model.bin": b"pickled",
            "../outside": b"no",
        }
    )
    token: str = ""
    cut_at: int = 0
    status: int = 200
    asked: list[tuple[str, str]] = field(default_factory=list)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get(f"/api/models/team/base/revision/{COMMIT}", self._list)
        app.router.add_get(f"/team/base/resolve/{COMMIT}/{{name:.*}}", self._file)
        return app

    def _admit(self, request: web.Request) -> None:
        if self.status != 200:
            raise _status(self.status)
        said = request.headers.get("Authorization", "")
        if self.token and said != f"Bearer {self.token}":
            raise web.HTTPUnauthorized

    async def _list(self, request: web.Request) -> web.Response:
        self._admit(request)
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                **(
                    {"lfs": {"sha256": sha256(LARGE).hexdigest()}}
                    if name.endswith(".safetensors")
                    else {}
                ),
            }
            for name, content in self.files.items()
        ]
        return web.json_response({"siblings": siblings})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        name = request.match_info["name"]
        wanted = request.headers.get("Range", "")
        self.asked.append((name, wanted))
        content = self.files[name]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        response = web.StreamResponse(status=206 if wanted else 200)
        response.content_length = len(content) - start
        await response.prepare(request)
        if self.cut_at and name.endswith(".safetensors"):
            await response.write(content[start : self.cut_at])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(content[start:])
        return response


def _status(status: int) -> web.HTTPException:
    kinds = {404: web.HTTPNotFound, 503: web.HTTPServiceUnavailable}
    return kinds[status]()


@asynccontextmanager
async def hub_at(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    runner = web.AppRunner(hub.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield
    finally:
        await runner.cleanup()


def source(**changes: object) -> HfSource:
    return HfSource.model_validate(
        {"repo": "team/base", "revision": COMMIT, **changes}, strict=False
    )


async def fetch(target: Path, wanted: HfSource) -> list[str]:
    said: list[str] = []
    await download_repository(wanted, target, said.append, lambda _: None)
    return said


async def test_files_that_an_engine_reads_are_fetched_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    async with hub_at(hub, monkeypatch):
        await fetch(tmp_path / "files", source())
        again = len(hub.asked)
        await fetch(tmp_path / "files", source())
    found = {p.name: p.read_bytes() for p in (tmp_path / "files").iterdir()}
    assert found == {"config.json": b"{}", "model.safetensors": LARGE}
    assert len(hub.asked) == again == 2, "what is whole is not asked for again"


async def test_a_file_that_was_cut_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(cut_at=300_000)
    async with hub_at(hub, monkeypatch):
        with pytest.raises(TemporaryError, match="cannot fetch team/base"):
            await fetch(tmp_path / "files", source())
        assert not (tmp_path / "files" / "model.safetensors").exists()
        have = (tmp_path / "files" / "model.safetensors.incomplete").stat().st_size
        assert 0 < have <= 300_000
        hub.cut_at = 0
        await fetch(tmp_path / "files", source())
    assert hub.asked[-1] == ("model.safetensors", f"bytes={have}-")
    assert (tmp_path / "files" / "model.safetensors").read_bytes() == LARGE


async def test_other_bytes_than_the_hub_promised_are_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    hub.files["model.safetensors"] = LARGE[::-1]
    async with hub_at(hub, monkeypatch):
        with pytest.raises(PermanentError, match="cannot use model"):
            await fetch(tmp_path / "files", source())
    assert [p.name for p in (tmp_path / "files").iterdir()] == ["config.json"]


async def test_a_token_is_read_where_the_spec_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("HUB_TOKEN", "s3cret")
    async with hub_at(Hub(token="s3cret"), monkeypatch):
        for at in ({"env": "HUB_TOKEN"}, {"file": str(tmp_path / "token")}):
            await fetch(tmp_path / next(iter(at)), source(credentials=at))
        with pytest.raises(PermanentError, match="the hub answered 401"):
            await fetch(tmp_path / "none", source())
        with pytest.raises(PermanentError, match="NOT_SET is empty"):
            await fetch(tmp_path / "none", source(credentials={"env": "NOT_SET"}))


@pytest.mark.parametrize(
    ("status", "error"), [(404, PermanentError), (503, TemporaryError)]
)
async def test_a_refusal_says_whether_waiting_helps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    error: type[Exception],
) -> None:
    async with hub_at(Hub(status=status), monkeypatch):
        with pytest.raises(error, match=f"the hub answered {status}"):
            await fetch(tmp_path / "files", source())


async def test_pickled_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub_at(Hub(files={"pytorch_model.bin": b"x"}), monkeypatch):
        with pytest.raises(PermanentError, match="no safetensors and no GGUF"):
            await fetch(tmp_path / "files", source())


async def test_the_store_shows_a_repository_only_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(cut_at=1000)
    store = WeightStore(tmp_path / "models", tmp_path)
    wanted = Weights(
        id="ab" * 32, source=ModelSource(hf=source()), format="safetensors"
    )
    async with hub_at(hub, monkeypatch):
        with pytest.raises(TemporaryError):
            await store.fetch(wanted, lambda _: None)
        assert not store.present(wanted)
        hub.cut_at = 0
        await store.fetch(wanted, lambda _: None)
    assert (store.place(wanted, "as-is") / "model.safetensors").read_bytes() == LARGE
