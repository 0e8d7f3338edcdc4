"""What served in one environment is proposed for another, and nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from reconciler.forge import PullRequest
from reconciler.foundry import now
from reconciler.overlay import merge
from reconciler.pipeline import Pipeline
from reconciler.promote import Promotion, promote
from reconciler.promotion import compose, difference
from reconciler.proposal import Grounds, publish
from reconciler.secrecy import Mask
from reconciler.source import Checkout as Source
from reconciler.targets.memory import MemoryTarget
from reconciler.values import Health, Key
from schemas.errors import PermanentError, SpecError
from schemas.objects import Ref
from tests.reconciler.review.conftest import House
from tests.reconciler.review.memory_forge import MemoryForge
from tests.reconciler.review.repository import (
    ENVIRONMENT,
    Checkout,
    pipeline_of,
    store_of,
)

ONE = Ref("Endpoint", "default", "one")
KEY = Key("local", ONE)
PULL = PullRequest(
    number=1, title="x", author="bud", head="f" * 40, branch="main", fork=False,
    open=True, merged=False, url="http://forge.example/1",
)  # fmt: skip
ELSEWHERE = {
    "environments/evaluation/environment.yaml": ENVIRONMENT.replace(
        "name: local", "name: evaluation"
    ),
}
TRIED = """
    apiVersion: foundry.bud/v1
    kind: Endpoint
    metadata: {name: one}
    spec:
      maxBatch: 4
      engine: {env: {ATTENTION: faster}}
    """


@dataclass(slots=True)
class Evaluation:
    """An environment in which endpoint `one` was tried with another setting."""

    work: Checkout
    pipeline: Pipeline
    target: MemoryTarget
    records: Path

    async def apply(self) -> None:
        prepared = await self.pipeline.prepare(await Source(self.work.root).newest())
        with self.pipeline.store.lead("bud@evaluation") as journal:
            await self.pipeline.execute(
                prepared.plan, journal, actor="bud", progress=lambda *_: None
            )

    async def promote(self, to: str = "local", ref: Ref = ONE) -> Promotion:
        return await promote(
            Grounds(repo=self.work.root), self.pipeline,
            await Source(self.work.root).newest(), ref, to=to, records=self.records,
        )  # fmt: skip


@asynccontextmanager
async def evaluation(work: Checkout, folder: Path) -> AsyncIterator[Evaluation]:
    """Beside whatever else the checkout declares; nothing is committed here."""
    target = MemoryTarget("local")
    with store_of(folder / "evaluation", now, "evaluation") as store:
        targets = {"local": target, "gateway": MemoryTarget("gateway")}
        pipeline = pipeline_of(store, now, Mask(), targets, "evaluation")
        yield Evaluation(work, pipeline, target, folder / "usage")


@pytest.fixture
async def tried(tmp_path: Path) -> AsyncIterator[Evaluation]:
    work = Checkout(tmp_path / "checkout")
    work.begin(ELSEWHERE | {"environments/evaluation/endpoint/one.yaml": TRIED})
    work.commit("Try a setting")
    async with evaluation(work, tmp_path) as made:
        await made.apply()
        yield made


def overlay_of(made: Promotion) -> Any:
    return yaml.safe_load(made.proposal.files["environments/local/endpoint/one.yaml"] or b"")  # fmt: skip


async def test_what_travels_is_what_was_proved_and_not_how_large_it_is(
    tried: Evaluation,
) -> None:
    made = await tried.promote()

    assert [*made.proposal.files] == ["environments/local/endpoint/one.yaml"]
    said = overlay_of(made)
    assert said["spec"] == {"engine": {"env": {"ATTENTION": "faster"}}}
    marks = said["metadata"]["annotations"]
    assert marks["promoted.foundry.bud/digest"] == made.digest
    assert marks["promoted.foundry.bud/entry"] == str(made.proof.seq)
    assert made.proof.outcome == "created"
    assert {"ttft_ms", "tpot_ms"} <= made.predicted.keys()


async def test_how_it_measured_there_goes_with_it_from_the_proof_on(
    tried: Evaluation,
) -> None:
    record = {
        "upstream": "default/one", "status": 200, "at": now().timestamp() + 5,
        "seconds": 1.1, "first_seconds": 0.1, "input": 64, "output": 11,
    }  # fmt: skip
    old = record | {"at": 1.0, "first_seconds": 0.9}
    tried.records.mkdir()
    lines = [orjson.dumps(r) for r in [old] * 30 + [record] * 30]
    (tried.records / "1.jsonl").write_bytes(b"\n".join(lines) + b"\n")

    made = await tried.promote()

    assert made.measured is not None
    assert float(made.measured["ttft_ms"]) == pytest.approx(100)
    assert float(made.measured["tpot_ms"]) == pytest.approx(100)
    said = overlay_of(made)["metadata"]["annotations"]["promoted.foundry.bud/measured"]
    assert said.startswith("TTFT 100 ms, TPOT 100 ms")


def _drifts(e: Evaluation) -> None:
    e.target.drift(KEY, b"touched")


def _degrades(e: Evaluation) -> None:
    e.target.set_health(KEY, Health.ROLLED, "it does not answer")


def _vanishes(e: Evaluation) -> None:
    e.target.vanish(KEY)


def _unreadable(e: Evaluation) -> None:
    e.target.fail_reads([KEY])


def _moves_on(e: Evaluation) -> None:
    e.work.write("environments/evaluation/endpoint/one.yaml", TRIED.replace("faster", "another"))  # fmt: skip
    e.work.commit("Try another")


def _uncommitted(e: Evaluation) -> None:
    e.work.write("environments/evaluation/endpoint/one.yaml", TRIED.replace("faster", "another"))  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_drifts, "moved since it was applied"),
        (_degrades, "is rolled, not servable: it does not answer"),
        (_vanishes, "is absent"),
        (_unreadable, "is unknown"),
        (_moves_on, "is declared as .* and applied as"),
        (_uncommitted, "the work tree differs from its commit"),
    ],
)
async def test_what_moved_since_it_was_proved_is_not_promoted(
    tried: Evaluation, spoil: Callable[[Evaluation], None], reason: str
) -> None:
    spoil(tried)

    with pytest.raises(PermanentError, match=reason):
        await tried.promote()


async def test_what_never_became_servable_is_not_promoted(tmp_path: Path) -> None:
    work = Checkout(tmp_path / "checkout")
    work.begin(ELSEWHERE)
    work.commit("Begin")
    async with evaluation(work, tmp_path) as made:
        made.target.refuse(KEY, PermanentError("cannot pull the image: 404"))
        await made.apply()

        with pytest.raises(PermanentError, match="never applied"):
            await made.promote()


async def test_an_environment_gets_only_what_it_declares_and_has_not(
    tried: Evaluation,
) -> None:
    made = await tried.promote()
    await publish(Grounds(repo=tried.work.root), made.proposal, None, str)
    tried.work.git("merge", "-q", made.proposal.branch)
    with pytest.raises(PermanentError, match="local declares the same already"):
        await tried.promote()

    tried.work.write("environments/local/environment.yaml", ENVIRONMENT.replace('"Endpoint/*", "Route/*", ', ""))  # fmt: skip
    tried.work.git("rm", "-q", "environments/local/endpoint/one.yaml")
    tried.work.commit("Serve nothing here")
    with pytest.raises(PermanentError, match="local declares no such endpoint"):
        await tried.promote()
    with pytest.raises(PermanentError, match="evaluation declares no such endpoint"):
        await tried.promote(ref=Ref("Endpoint", "default", "two"))


async def test_a_model_that_the_other_environment_does_not_take_is_named(
    tried: Evaluation,
) -> None:
    model = (tried.work.root / "spec/model/llama.yaml").read_text()
    tried.work.write("spec/model/tuned.yaml", model.replace("name: llama", "name: tuned").replace("/nowhere", "/elsewhere"))  # fmt: skip
    tried.work.write("environments/evaluation/endpoint/one.yaml", TRIED.replace("spec:", "spec:\n      model: tuned"))  # fmt: skip
    tried.work.write("environments/local/environment.yaml", ENVIRONMENT.replace("deletions:", "leave: [Model/tuned]\n      deletions:"))  # fmt: skip
    tried.work.commit("Try a tuned model")
    await tried.apply()

    with pytest.raises(SpecError, match="Model/default/tuned"):
        await tried.promote()


async def test_the_same_proposal_is_one_pull_request_and_an_old_base_none(
    tried: Evaluation,
) -> None:
    made = (await tried.promote()).proposal
    again = (await tried.promote()).proposal
    assert made.branch == again.branch

    class Forge(MemoryForge):
        async def propose(self, proposal: Any) -> Any:
            self.pulls[1] = replace(PULL, source=proposal.branch)
            return self.pulls[1]

    forge, grounds = Forge(now(), head=made.base), Grounds(repo=tried.work.root)
    assert (await publish(grounds, made, forge, str)).url == PULL.url
    forge.propose = None  # type: ignore[assignment, method-assign]
    assert (await publish(grounds, again, forge, str)).url == PULL.url

    forge.head = "e" * 40
    moved = await publish(grounds, made, forge, str)
    assert moved.url == ""
    assert "main is at eeeeeeeeeeee on the forge" in moved.why
    assert tried.work.git("rev-parse", moved.branch) == made.commit


@pytest.mark.parametrize(
    ("now_", "wanted"),
    [
        ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}),
        ({"a": {"b": 1, "c": None}}, {"a": {"b": None, "c": {"d": 1, "e": None}}}),
        ({"a": [1]}, {"a": [1, 2], "n": {"m": {}}}),
    ],
)
def test_a_difference_makes_of_one_the_other(now_: Any, wanted: Any) -> None:
    def bare(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: bare(v) for k, v in value.items() if v is not None}

    patch = difference(now_, wanted)
    assert bare(merge(now_, patch)) == bare(wanted)
    first = {"a": None, "z": {"y": 1}}
    assert bare(merge(now_, compose(first, patch))) == bare(
        merge(merge(now_, first), patch)
    )


async def test_the_pull_request_says_what_is_promoted_until_it_is_something_else(
    team: House, tmp_path: Path
) -> None:
    """On a real forge: proposed by us, planned by the daemon as anybody's."""
    for path, text in (ELSEWHERE | {"environments/evaluation/endpoint/one.yaml": TRIED}).items():  # fmt: skip
        team.work.write(path, text)
    team.push("main", "Try a setting", who="bud")
    forge = team.reviewer.forge
    async with evaluation(team.work, tmp_path) as tried:
        await tried.apply()
        made = (await tried.promote()).proposal
    grounds = Grounds(repo=team.work.root)
    published = await publish(grounds, made, forge, str)
    again = await publish(grounds, made, forge, str)

    assert (published.why, published.url) == ("", again.url)
    number = int(published.url.rpartition("/")[2])
    comment = await team.until("a comment", lambda: team.comment_of(number))
    assert "**Promoted**" in comment
    assert "`evaluation` says it served" in comment
    assert "fewer than 20 streams" in comment

    team.work.git("switch", "-q", "-c", "edited", made.commit)
    file = "environments/local/endpoint/one.yaml"
    text = (team.work.root / file).read_text()
    (team.work.root / file).write_text(text.replace("faster", "other"))
    team.push("edited", "Change it after all")
    other = team.propose("edited")
    said = await team.until("a comment", lambda: team.comment_of(other))
    assert "no longer what was proved in `evaluation`" in said
