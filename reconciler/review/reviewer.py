"""The reviewer: looks at pull requests and says what would happen (I/O).

`service` runs it beside the daemon. Level-based, as everything here: an event says
which pull request to look at, and each look reads all of it anew. It plans, comments
and merges when it is asked by somebody who may; it never applies. What it refuses
goes into the ledger.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from reconciler.forge import Approval, Forge, Note, PullRequest
from reconciler.review.approvals import Judgement, judge
from reconciler.review.commands import Command, read_command
from reconciler.review.document import judged_at
from reconciler.review.measured import measured
from reconciler.review.planner import Planner
from reconciler.review.trees import Merge
from reconciler.store import Review, Store
from renderers.comment import comment, marker
from renderers.markdown import safe
from schemas.errors import PermanentError, TemporaryError
from schemas.review import Review as Settings

__all__ = ["Reviewer"]

Notify = Callable[[str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    forge: Forge
    planner: Planner
    settings: Settings
    branch: str
    notify: Notify
    meters: Callable[[], Awaitable[Mapping[str, Mapping[str, float]] | None]]
    """The gateway's counters by route; None while none answers."""
    _statuses: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Commit -> what was last said of it: forges keep every status, and count them."""

    @property
    def store(self) -> Store:
        return self.planner.pipeline.store

    @property
    def context(self) -> str:
        """The name of our commit status."""
        return f"bud/{self.planner.pipeline.environment}"

    def record(self, actor: str, said: str) -> None:
        """Into the ledger, by way of the daemon."""
        self.store.decide(actor, self.planner.pipeline.mask(said))

    async def look(self, number: int) -> None:
        """Bring one pull request's comment, status and requests up to date."""
        pull = await self.forge.pull(number)
        if pull.branch != self.branch:
            return
        if pull.open:
            if (why := self._untrusted(pull)) is not None:
                await self._refuse(pull, why)
                return
            await self._plan(pull)
        elif not pull.merged:
            self.store.reviews.supersede(number)
            return
        for note in await self.forge.notes(number):
            await self._obey(pull, note)
        review = self.store.reviews.of_pull(number)
        if review is not None and review.state == "open":
            await self._show_judgement(pull, review)

    async def look_at_all(self) -> None:
        """Whatever no webhook told of; one that fails holds up no other."""
        await self._measure()
        pulls = await self.forge.open_pulls(self.branch)
        # What is merged already may still be approved, or asked for another plan.
        merged = self.store.reviews.waiting()
        for number in sorted({pull.number for pull in pulls} | merged):
            try:
                await self.look(number)
            except (PermanentError, TemporaryError) as error:
                pull = await self.forge.pull(number)
                await self._status(pull, "failure", str(error))

    async def _measure(self) -> None:
        """Put what users met beside what was predicted, once enough of them came."""
        review = self.store.reviews.in_force()
        if review is None or review.state != "applied":
            return
        document = orjson.loads(review.document)
        outcome = document["outcome"]
        if outcome["measured"] or (now := await self.meters()) is None:
            return
        outcome["measured"] = measured(document, outcome["meters"], now)
        if outcome["measured"]:
            self.store.reviews.settle(
                review.digest, review.state, orjson.dumps(document)
            )
            await self.write(review, document)

    async def judged(self, review: Review) -> Judgement:
        """What is missing for this plan to be applied, by what the forge says now."""
        number = review.pull
        approvals = [*await self.forge.approvals(number)]
        for note in await self.forge.notes(number):
            asked = read_command(note.body)
            if asked and asked.verb == "apply" and _names(review, asked.argument):
                # Who names the digest has said which plan is meant.
                approvals.append(
                    Approval(by=note.author, commit=review.head, at=note.at)
                )
        now = self.planner.pipeline.clock()
        document = judged_at(orjson.loads(review.document), now)
        teams = {name for wanted in document["approvals"] for name in wanted["owners"]}
        return judge(
            review,
            document,
            approvals,
            authors=await self.forge.authors(number),
            writers={a.by for a in approvals if await self.forge.may_write(a.by)},
            members={team: await self.forge.members(team) for team in sorted(teams)},
            now=now,
        )

    def _untrusted(self, pull: PullRequest) -> str | None:
        """A branch of ours was pushed by somebody who may; a fork by anybody."""
        known = self.store.reviews.of_pull(pull.number)
        if not pull.fork or self.settings.fork_label in pull.labels:
            return None
        if known is not None and known.head == pull.head:
            return None
        return f"it comes from a fork and has no label {self.settings.fork_label}"

    async def _refuse(self, pull: PullRequest, why: str) -> None:
        if self.store.reviews.first_seen(f"refused {pull.number} {pull.head}"):
            self.record(pull.author, f"refuse to plan #{pull.number}: {why}")
        await self._status(pull, "pending", f"not planned: {why}")

    async def _plan(self, pull: PullRequest) -> None:
        known = self.store.reviews.of_pull(pull.number)
        try:
            planned = await self.planner.plan(pull, self.forge.ref_of(pull.number))
        except PermanentError as error:
            self.store.reviews.supersede(pull.number)
            await self._say_broken(pull, str(error))
            return
        if (
            known is not None
            and known.digest == planned.plan.digest
            and known.state == "open"
            and known.expires_at > self.planner.pipeline.clock()
            and _standing(orjson.loads(known.document)) == _standing(planned.document)
        ):
            return
        if known is not None and await self._is_being_merged(known, planned.merge):
            return
        # A part of the document, so that it reads the same wherever it is printed.
        planned.document["link"] = self._link(planned.plan.digest)
        review = self.planner.review_of(planned, pull.number, self.settings.expires)
        # Kept before it is shown: an approval must never outrun its plan.
        self.store.save_plan(planned.plan.digest, planned.plan.canonical())
        self.store.reviews.save(review)
        note = await self.write(review, planned.document)
        self.store.reviews.save(replace(review, comment=note.id, posted_at=note.at))
        if pull.fork:
            # One label, one look: what is pushed after it is somebody else's word.
            await self.forge.remove_label(pull.number, self.settings.fork_label)
        await self.notify("plan", f"#{pull.number} {pull.title}: {_summary(planned.document)}")  # fmt: skip

    async def _is_being_merged(self, known: Review, merge: Merge) -> bool:
        """The base holds it already, and the forge is about to say so: what people
        approved is what was merged, and no other plan may take its place."""
        same = (known.state, known.head, known.tree) == ("open", merge.head, merge.tree)
        return same and await self.planner.trees.tree_of(merge.base) == merge.tree

    async def write(self, review: Review, document: Mapping[str, Any]) -> Note:
        """Our one comment on a pull request, found again by its first line."""
        return await self._write(review.pull, comment(document))

    async def _write(self, number: int, text: str) -> Note:
        us, first = (
            await self.forge.identity(),
            marker(self.planner.pipeline.environment),
        )
        ours = next(
            (
                note.id
                for note in await self.forge.notes(number)
                # Both: anybody can write that line, and nobody else as us.
                if note.author == us and note.body.startswith(first)
            ),
            None,
        )
        return await self.forge.write_note(number, text, replaces=ours)

    async def _say_broken(self, pull: PullRequest, why: str) -> None:
        said = self.planner.pipeline.mask(why)
        if self.store.reviews.first_seen(
            f"broken {pull.number} {pull.head} {said}"[:120]
        ):
            lines = [f"- {safe(line)}" for line in said.splitlines()[:60]]
            head = [marker(self.planner.pipeline.environment), f"### `{pull.head[:12]}` cannot be planned", ""]  # fmt: skip
            await self._write(pull.number, "\n".join([*head, *lines, ""]))
            await self.notify("failure", f"#{pull.number} cannot be planned: {said}")
        await self._status(pull, "failure", "it cannot be planned: see the comment")

    async def _obey(self, pull: PullRequest, note: Note) -> None:
        asked = read_command(note.body)
        if asked is None or not self.store.reviews.first_seen(f"note {note.id}"):
            return
        what = f"/bud {asked.verb} on #{pull.number}"
        if not await self.forge.may_write(note.author):
            self.record(note.author, f"refuse {what}: they may not write here")
            return
        self.record(note.author, f"ask {what} {asked.argument}".strip())
        if asked.verb == "unlock":
            self.store.reviews.supersede(pull.number)
        elif asked.verb == "plan":
            self.store.reviews.supersede(pull.number)
            await self._plan(pull)
        elif asked.verb == "why":
            await self._say_why(pull)
        else:
            await self._apply(pull, note, asked)

    async def _say_why(self, pull: PullRequest) -> None:
        review = self.store.reviews.of_pull(pull.number)
        reasons = (await self.judged(review)).reasons if review else ("it has no plan",)
        await self._answer(
            pull, "What it waits for:", reasons or ("nothing is missing",)
        )

    async def _answer(self, pull: PullRequest, title: str, said: Iterable[str]) -> None:
        mask = self.planner.pipeline.mask
        lines = [f"- {safe(mask(reason))}" for reason in said]
        await self.forge.write_note(pull.number, "\n".join([title, "", *lines]))

    async def _apply(self, pull: PullRequest, note: Note, asked: Command) -> None:
        """Merge exactly what was approved; the daemon applies what is merged."""
        review = self.store.reviews.of_pull(pull.number)
        why: tuple[str, ...] = ()
        if review is None or not _names(review, asked.argument):
            why = (f"{asked.argument or 'nothing'} is not the plan in force",)
        elif pull.head != review.head:
            why = ("head moved",)
        elif await self.forge.branch_head(self.branch) != review.base and pull.open:
            why = ("base moved",)
        else:
            why = (await self.judged(review)).reasons
        if why:
            said = "; ".join(why)
            self.record(note.author, f"refuse /bud apply on #{pull.number}: {said}")
            await self._answer(pull, "Not applied:", why)
        elif pull.open:
            await self.forge.merge(pull.number, pull.head)

    async def _show_judgement(self, pull: PullRequest, review: Review) -> None:
        judgement = await self.judged(review)
        if judgement.reasons:
            await self._status(pull, "pending", "; ".join(judgement.reasons), review)
            for reason in judgement.reasons:
                # What people tried and was refused; what is only missing is no news.
                if reason.startswith(
                    "the approval by"
                ) and self.store.reviews.first_seen(
                    f"approval {review.digest[:16]} {reason}"[:120]
                ):
                    self.record("forge", f"refuse approval of #{pull.number}: {reason}")
        else:
            await self._status(pull, "success", "approved as planned", review)

    async def _status(
        self, pull: PullRequest, state: Any, said: str, review: Review | None = None
    ) -> None:
        text = self.planner.pipeline.mask(said)
        link = self._link(review.digest) if review else ""
        if self._statuses.get(pull.head) != (state, text, link):
            await self.forge.set_status(pull.head, self.context, state, text, link)
            self._statuses[pull.head] = state, text, link

    def _link(self, digest: str) -> str:
        if self.settings.public_url is None:
            return ""
        return f"{self.settings.public_url}/plans/{digest}"


def _names(review: Review, digest: str) -> bool:
    """Twelve characters, as the comment shows them, are enough to mean one plan."""
    return len(digest) >= 12 and review.digest.startswith(digest)  # noqa: PLR2004


def _standing(document: Mapping[str, Any]) -> Any:
    """What the digest does not say of whom to ask: rules can move with the clock."""
    return document["approvals"]


def _summary(document: Mapping[str, Any]) -> str:
    return f"plan {document['digest'][:12]} for {document['environment']}, {len(document['steps'])} steps"
