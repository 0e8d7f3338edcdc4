"""Files and batches: by the official client, over a kill, in one's own project."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway import batch
from gateway.documents import Document
from gateway.store import Store, open_store
from schemas.gateway import GatewayConfig, Key, Route, Target, hash_key
from schemas.gateway import Store as StoreTable
from schemas.units import Bytes
from tests.gateway.wire import (
    Asked,
    Gateway,
    MockUpstream,
    Start,
    chat_document,
    config_for,
    respond,
)
from tests.reconciler.store.conftest import postgresql  # noqa: F401  one way to start it

CHAT = "/v1/chat/completions"


def config_of(upstream: MockUpstream, **store: Any) -> GatewayConfig:
    """Two projects, the other with one key and one route."""
    table = StoreTable(**store)
    config = config_for(upstream, listener={"store": table})
    other = Route(models=("smol",), targets=(Target(upstream="team/u0"),))
    return config.model_copy(
        update={
            "keys": {
                **config.keys,
                **{f"{p}/ci": Key(hash=hash_key(p)) for p in ("other", "small", "big")},
            },
            "routes": {**config.routes, "other/chat": other},
        }
    )


def line(number: int, **more: Any) -> dict[str, Any]:
    body = {"model": "smol", "messages": [{"role": "user", "content": str(number)}]}
    return {
        "custom_id": f"r{number}",
        "method": "POST",
        "url": CHAT,
        "body": body,
        **more,
    }


def text_of(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


async def begin(gateway: Gateway, *lines: dict[str, Any]) -> Any:
    client = gateway.client()
    given = await client.files.create(
        file=("in.jsonl", text_of(*lines)), purpose="batch"
    )
    return await client.batches.create(
        input_file_id=given.id,
        endpoint=CHAT,
        completion_window="24h",
        metadata={"who": "test"},
    )


async def until(
    gateway: Gateway, name: str, holds: Callable[[Any], bool], seconds: float = 60
) -> Any:
    client = gateway.client()
    async with asyncio.timeout(seconds):
        while not holds(found := await client.batches.retrieve(name)):
            await asyncio.sleep(0.05)
    return found


async def results(gateway: Gateway, name: str | None) -> dict[str, Any]:
    assert name is not None
    content = await gateway.client().files.content(name)
    lines = [json.loads(one) for one in content.text.splitlines()]
    found = {one["custom_id"]: one for one in lines}
    assert len(found) == len(lines)
    return found


async def echo(writer: asyncio.StreamWriter, asked: Asked) -> None:
    text = asked.body["messages"][0]["content"]
    await respond(200, chat_document(text))(writer, asked)


async def test_files_are_kept_listed_read_and_deleted(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream), fresh=True)
    client = gateway.client()
    first = await client.files.create(file=("a.txt", b"one"), purpose="user_data")
    second = await client.files.create(
        file=("b.jsonl", b"two"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (first.bytes, first.filename, first.purpose) == (3, "a.txt", "user_data")
    assert second.expires_at == second.created_at + 3600
    assert {f.id async for f in client.files.list()} == {first.id, second.id}
    listed = [f.id async for f in client.files.list(limit=1, order="asc")]
    assert sorted(listed) == sorted([first.id, second.id])
    assert [f.id async for f in client.files.list(purpose="batch")] == [second.id]
    assert (await client.files.content(first.id)).content == b"one"
    assert (await client.files.delete(first.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(first.id)
    assert not [*(gateway.folder / "store" / "files").glob(first.id)]


async def test_no_other_project_finds_anything(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    made = await begin(gateway, line(0))
    stranger = gateway.client("other")
    assert [f async for f in stranger.files.list()] == []
    assert [b async for b in stranger.batches.list()] == []
    for asking in (
        stranger.files.retrieve(made.input_file_id),
        stranger.files.content(made.input_file_id),
        stranger.files.delete(made.input_file_id),
        stranger.batches.retrieve(made.id),
        stranger.batches.cancel(made.id),
        stranger.batches.create(
            input_file_id=made.input_file_id, endpoint=CHAT, completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            await asking
    done = await until(gateway, made.id, lambda b: b.status == "completed")
    with pytest.raises(openai.NotFoundError):
        await stranger.files.content(done.output_file_id)


async def test_a_batch_runs_to_its_end(start: Start, upstream: MockUpstream) -> None:
    upstream.always = echo
    gateway = await start(config_of(upstream))
    lines = [line(number) for number in range(40)]
    lines.append(line(40, body={"model": "not-mine", "messages": []}))
    made = await begin(gateway, *lines)
    assert made.status == "validating"
    done = await until(gateway, made.id, lambda b: b.status == "completed")
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (41, 40, 1)
    assert done.metadata == {"who": "test"}
    found = await results(gateway, done.output_file_id)
    for number in range(40):
        response = found[f"r{number}"]["response"]
        assert response["status_code"] == 200
        said = response["body"]["choices"][0]["message"]["content"]
        assert said == str(number)
    failed = await results(gateway, done.error_file_id)
    assert failed["r40"]["error"]["code"] == "model_not_found"
    assert not [*(gateway.folder / "store" / "parts").glob(f"{made.id}*")]


async def test_a_kill_loses_no_line_and_repeats_none_that_was_answered(
    start: Start, upstream: MockUpstream
) -> None:
    upstream.always = echo
    gateway = await start(config_of(upstream, batch_width=4), fresh=True)
    answered = 0
    stuck = asyncio.Event()

    async def some(writer: asyncio.StreamWriter, asked: Asked) -> None:
        nonlocal answered
        if answered == 20:
            stuck.set()
            await asyncio.Event().wait()
        answered += 1
        await echo(writer, asked)

    upstream.always = some
    made = await begin(gateway, *(line(number) for number in range(60)))
    async with asyncio.timeout(60):
        await stuck.wait()
    # Every answer is in the kernel's hands once its connection is used again.
    parts = gateway.folder / "store" / "parts"
    async with asyncio.timeout(30):
        while sum(p.read_bytes().count(b"\n") for p in parts.iterdir()) < 20:
            await asyncio.sleep(0.02)
    [worker] = (await gateway.status())["workers"]
    upstream.always = echo
    os.kill(worker["pid"], signal.SIGKILL)
    await gateway.until(
        lambda s: s["workers"][0]["pid"] != worker["pid"] and s["ready"]
    )
    done = await until(gateway, made.id, lambda b: b.status == "completed", 90)
    assert done.request_counts.completed == 60
    found = await results(gateway, done.output_file_id)
    assert set(found) == {f"r{number}" for number in range(60)}
    times: dict[str, int] = {}
    for asked in upstream.asked:
        text = asked.body["messages"][0]["content"]
        times[text] = times.get(text, 0) + 1
    # What was in flight at the kill is asked again, and nothing else.
    assert sum(count - 1 for count in times.values()) <= 4


async def test_a_cancelled_batch_stops_and_keeps_what_it_has(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream, batch_width=1))

    async def once(writer: asyncio.StreamWriter, asked: Asked) -> None:
        if len(upstream.asked) > 3:
            await asyncio.Event().wait()
        await echo(writer, asked)

    upstream.always = once
    made = await begin(gateway, *(line(number) for number in range(10)))
    await until(gateway, made.id, lambda b: b.request_counts.completed == 3)
    assert (await gateway.client().batches.cancel(made.id)).status == "cancelling"
    done = await until(gateway, made.id, lambda b: b.status == "cancelled")
    assert len(await results(gateway, done.output_file_id)) == 3
    left = await results(gateway, done.error_file_id)
    assert {one["error"]["code"] for one in left.values()} == {"batch_cancelled"}
    assert len(left) == 7
    await upstream.until_open(0)


async def test_a_stopped_gateway_hands_its_batch_on(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream), fresh=True)
    stuck = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter, asked: Asked) -> None:
        stuck.set()
        await asyncio.Event().wait()

    upstream.always = wait
    made = await begin(gateway, line(0))
    async with asyncio.timeout(60):
        await stuck.wait()
    assert await gateway.stop() == 0
    store = open_store(str(gateway.folder / "store"), None)
    found = await asyncio.to_thread(store.get, "team", "batch", made.id)
    store.close()
    assert found is not None
    assert found.lease_until == 0


BROKEN = {
    "twice": (text_of(line(1), line(1)), "there twice"),
    "no JSON": (b"{\n", "unexpected"),
    "another path": (text_of(line(1, url="/v1/embeddings")), "is not the batch's"),
    "a stream": (
        text_of(line(1, body={"model": "smol", "stream": True})),
        "stream cannot",
    ),
    "nothing": (b"\n", "no request"),
    "too many": (
        b"".join(text_of(line(number)) for number in range(batch.MAX_LINES + 1)),
        "more than 50000",
    ),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_run_says_which_line(text: bytes, said: str) -> None:
    _, [error] = batch.scan(text.splitlines(keepends=True), CHAT)
    assert said in error["message"]


async def test_a_broken_file_fails_its_batch(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    made = await begin(gateway, line(1), line(1))
    done = await until(gateway, made.id, lambda b: b.status == "failed")
    assert done.errors.data[0].line == 2
    assert upstream.asked == []


async def test_a_projects_files_have_a_quota(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream, quota=Bytes("1KiB")))
    client = gateway.client("small")
    await client.files.create(file=("a", bytes(1000)), purpose="batch")
    with pytest.raises(openai.APIStatusError) as caught:
        await client.files.create(file=("a", bytes(100)), purpose="batch")
    assert caught.value.status_code == 413
    await gateway.client("big").files.create(file=("a", bytes(100)), purpose="batch")


async def test_without_a_store_nothing_is_promised(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream), fresh=True)
    with pytest.raises(openai.APIStatusError) as caught:
        await gateway.client().files.list()
    assert caught.value.status_code == 501
    assert caught.value.code == "no_store"


# The store alone, on both databases.


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql")
    opened = open_store(str(tmp_path), url)
    opened.create()
    opened.create()  # another gateway on the same database
    yield opened
    opened.close()


def document(name: str, project: str = "team", **more: Any) -> Document:
    return Document(
        project=project, kind="batch", id=name, body={"id": name}, created_at=1, **more
    )


def test_of_two_writers_one_finds_out(store: Store) -> None:
    store.add(document("w"))
    first, second = (store.get("team", "batch", "w") for _ in range(2))
    assert first is not None
    assert second is not None
    assert store.change(first, {"by": 1}) is not None
    assert store.change(second, {"by": 2}) is None
    found = store.get("team", "batch", "w")
    assert found is not None
    assert found.body == {"by": 1}


def test_work_is_taken_up_once_and_again_when_its_lease_is_over(store: Store) -> None:
    store.add(document("c", lease_until=0))
    taken = store.claim("batch", "a", now=10, until=20)
    assert taken is not None
    assert store.claim("batch", "b", now=19, until=29) is None
    again = store.claim("batch", "b", now=20, until=30)
    assert again is not None
    assert (again.owner, again.version) == ("b", taken.version + 1)
    assert store.change(taken, {"late": True}) is None
    assert store.change(again, {}, lease_until=None) is not None
    assert store.claim("batch", "a", now=99, until=100) is None


def test_pages_follow_one_another_in_one_project(store: Store) -> None:
    for name in "abcde":
        store.add(document(f"p-{name}", project="pages"))
    store.add(document("p-x", project="another"))

    def names(**how: Any) -> list[str]:
        page = store.page("pages", "batch", **how)
        return [found.id for found in page]

    assert names(limit=2, after=None, newest=True) == ["p-e", "p-d"]
    assert names(limit=9, after="p-d", newest=True) == ["p-c", "p-b", "p-a"]
    assert names(limit=2, after="p-b", newest=False) == ["p-c", "p-d"]
    assert names(limit=2, after="p-x", newest=False) == []


def test_what_has_expired_is_given_once(store: Store) -> None:
    store.add(document("e", expires_at=50, bytes=7))
    assert store.used("team") >= 7
    assert [*store.expire(now=49)] == []
    assert [old.id for old in store.expire(now=50)] == ["e"]
    assert [*store.expire(now=50)] == []
