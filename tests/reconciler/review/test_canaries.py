"""A secret that turns up in a pull request, or in what a target says, is told to nobody."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from reconciler.cli.context import Context
from reconciler.cli.main import main
from reconciler.daemon import Daemon
from reconciler.daemon_http import serve
from reconciler.forge import Note
from reconciler.metrics import Metrics
from reconciler.notify import Notifier
from reconciler.reconciler import Options, Reconciler
from reconciler.review.describer import Describer
from reconciler.review.receiver import Receiver, Wanted
from reconciler.secrecy import Mask
from reconciler.targets.base import Progress
from reconciler.targets.memory import MemoryTarget
from reconciler.values import Change, Health, Key, Live
from schemas.errors import TemporaryError
from schemas.notification import Notification
from schemas.objects import Ref
from tests.e2e.team import ENDPOINT
from tests.reconciler.review.test_pinning import ONE, Bench, bench

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = 'c4n4ry/Secret+"Val>ue?=='
RAW = CANARY.encode()
FORMS = {
    "plain": CANARY,
    "base64": base64.b64encode(RAW).decode(),
    "base64url": base64.urlsafe_b64encode(RAW).decode(),
    "hex": RAW.hex(),
    "url": quote(CANARY, safe=""),
    "json": json.dumps(CANARY)[1:-1],
    "split": f"{CANARY[:9]}\n{CANARY[9:]}",
}
ALL = " and ".join(FORMS.values())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def describer() -> AsyncIterator[Describer]:
    made = Describer(Mask([CANARY]))
    yield made
    await made.close()


class Leaky(MemoryTarget):
    """Quotes what it was given, wherever it says anything."""

    async def apply(self, change: Change, progress: Progress) -> Live:
        if change.key != ONE or b"PLAIN" not in ((change.unit and change.unit.content) or b""):  # fmt: skip
            return await super().apply(change, progress)
        progress(change.key, f"sending {ALL}")
        raise TemporaryError(f"cannot reach {ALL}", hint=ALL)


async def propose(b: Bench) -> None:
    """A pull request with the secret wherever its author can write."""
    b.work.git("switch", "-q", "change")
    env = ", ".join(f"{n.upper()}: {json.dumps(v)}" for n, v in FORMS.items())
    b.work.write("spec/endpoint/one.yaml", ENDPOINT.replace(
        "rehearses: vllm}", f"rehearses: vllm, env: {{{env}}}}}"
    ))  # fmt: skip
    head = b.commit(f"Say {ALL}", "refs/pull/1/head")
    b.forge.pulls[1] = replace(b.forge.pulls[1], head=head, title=f"Say {ALL}")
    for number, line in enumerate((f"/bud apply {FORMS['hex']}", "/bud why")):
        asked = Note(id=f"9{number}", author="carol", body=line, at=b.forge.now)
        b.forge.written.append(asked)
    await b.gate.reviewer.look(1)


async def until(true: Callable[[], Any], what: str) -> None:
    end = asyncio.get_running_loop().time() + 60
    while not true():
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.02)


async def chat(told: list[str]) -> web.Application:
    async def take(request: web.Request) -> web.Response:
        told.append(await request.text())
        return web.Response()

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    return app


async def test_no_output_holds_a_secret_in_any_form(
    tmp_path: Path, describer: Describer, capfd: pytest.CaptureFixture[str]
) -> None:
    mask, told = Mask([CANARY]), list[str]()
    context = Context(
        repo=tmp_path, environment="local", state=None, as_json=False, level="info"
    )
    context.start_log(mask)
    async with (
        TestServer(await chat(told)) as server,
        bench(tmp_path, describer, mask=mask, target=Leaky("local")) as b,
    ):
        notifier = Notifier(
            environment="local", read=lambda _: f"json://127.0.0.1:{server.port}/", mask=mask
        )  # fmt: skip
        notifier.follow([CHANNEL])
        object.__setattr__(b.gate.reviewer, "notify", notifier)
        await propose(b)
        review = b.pipeline.store.reviews.of_pull(1)
        assert review is not None
        at = b.forge.now.replace(minute=59)
        b.forge.approved = [replace(b.forge.approved[0], commit=review.head, at=at)]
        b.merge()
        outputs = await run(b, notifier, review.digest, tmp_path)
    outputs["notifications"] = "\n".join(told)
    outputs["stderr"] = capfd.readouterr().err

    for name, text in outputs.items():
        assert text, f"{name} was looked at"
        for form, value in FORMS.items():
            assert value not in text, f"{form} in {name}"
    for name in ("comments", "ledger", "status", "notifications", "stderr", "plan"):
        assert "[secret]" in outputs[name], f"nothing got as far as {name}"


CHANNEL = Notification.model_validate_json(json.dumps({
    "apiVersion": "foundry.bud/v1", "kind": "Notification", "metadata": {"name": "chat"},
    "spec": {"to": {"env": "CHAT"},
             "events": ["plan", "apply", "drift", "failure", "rollback"]},
}))  # fmt: skip


async def run(b: Bench, tell: Notifier, digest: str, home: Path) -> dict[str, str]:
    """The daemon until it has failed and seen drift; then all that can be read."""
    store, stop, metrics = b.pipeline.store, asyncio.Event(), Metrics()
    receiver = Receiver(
        kind="gitea", repository="t/r", secret=CANARY, store=store, wanted=Wanted(),
        clock=b.pipeline.clock,
    )  # fmt: skip
    with store.lead("daemon") as journal:
        daemon = Daemon(Reconciler(
            b.pipeline, b.source, journal, actor="daemon", metrics=metrics,
            options=Options(gate=b.gate, tell=tell, interval_s=0.1)))  # fmt: skip
        running = asyncio.ensure_future(daemon.run(stop))
        await until(lambda: "failed" in review_state(b, digest), "it fails")
        other = Key("local", Ref("Model", "default", "llama"))
        for key in (ONE, other):
            if key in b.target.objects:
                b.target.set_health(key, Health.DEGRADED, ALL)
        b.target.drift(ONE, b"x")
        daemon.look()
        where = home / "daemon.json"
        async with (
            serve(daemon, metrics, port=0, where=where) as url,
            receiver.serve("127.0.0.1", 0) as port,
            aiohttp.ClientSession() as session,
        ):

            async def get(path: str, **headers: str) -> str:
                async with session.get(path, headers=headers) as answer:
                    return await answer.text()

            plan = f"http://127.0.0.1:{port}/plans/{digest}"
            async with session.post(f"http://127.0.0.1:{port}/webhook", data=ALL) as no:
                refused = f"{no.status} {await no.text()}"
            found = {
                "status": await status_with(daemon, f"{url}/status", get),
                "metrics": await get(f"{url}/metrics"),
                "plan": await get(plan),
                "plan as JSON": await get(plan, Accept="application/json"),
                "webhook": refused,
            }
        stop.set()
        await running
    return found | {
        "comments": "\n".join(n.body for n in b.forge.written if n.author == "bud"),
        "statuses": "\n".join(said for _, _, said in b.forge.statuses),
        "ledger": b"".join(store.log.lines()).decode(),
        "runs": "\n".join(run.error for run in store.runs()) or "none",
        "decisions": "\n".join(d.said for d in store.decisions()) or "none",
    }


def review_state(b: Bench, digest: str) -> str:
    found = b.pipeline.store.reviews.find(digest)
    return "" if found is None else found.state


async def status_with(daemon: Daemon, url: str, get: Callable[[str], Any]) -> str:
    """The daemon's answer while it has something to say of what a target said."""
    await until(lambda: daemon.progress.plan and daemon.progress.plan.blocked, "a hold")
    said: str = await get(url)
    return said


async def test_what_the_planning_process_says_is_masked_too(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A traceback quotes what it was doing."""
    Context(
        repo=Path(), environment="local", state=None, as_json=False, level="info"
    ).start_log(str)
    describer = Describer(Mask(["KeyError: 'trusted'"]))
    with pytest.raises(asyncio.IncompleteReadError):
        await describer._exchange(b"{}\n")
    await describer.close()

    said = capfd.readouterr().err
    assert "Traceback" in said
    assert "[secret]" in said
    assert "trusted'" not in said.replace('request[\\"trusted', "")


async def test_what_a_command_prints_is_what_the_comment_says_byte_for_byte(
    tmp_path: Path,
    describer: Describer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with bench(tmp_path, describer) as b:
        reviewer = b.gate.reviewer
        linked = reviewer.settings.model_copy(
            update={"public_url": "https://x.example"}
        )
        object.__setattr__(reviewer, "settings", linked)
        b.pipeline.store.reviews.supersede(1)
        await reviewer.look(1)
        review = b.pipeline.store.reviews.of_pull(1)
        assert review is not None
        argv = ["bud", "--repo", str(b.work.root), "--state", f"sqlite:///{tmp_path}/state.db",
                "plan", "--digest", review.digest[:12], "--format", "markdown"]  # fmt: skip
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit):
            await asyncio.to_thread(main)

        assert capfd.readouterr().out == b.forge.written[-1].body
        assert f"https://x.example/plans/{review.digest}" in b.forge.written[-1].body
