"""The laws of the engine (DESIGN.md, section 4) that a target in memory can show.

Each is an outage that somebody had; the name of a test is the law.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.ordering import Waits
from reconciler.plan import deletion_token
from reconciler.store import Ownership, Suspension
from reconciler.values import Action, Change, OutcomeKind
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref
from tests.reconciler.engine.world import Crash, World, key_of, settings_of, unit_of

CHAT = {
    "Model/llama": ("weights", ()),
    "Endpoint/chat": ("one", ("Model/llama",)),
    "Route/chat": ("to chat", ("Endpoint/chat",)),
}


def test_law_1_a_failed_read_never_becomes_a_delete(world: World) -> None:
    """argo-cd#18780: a second of API trouble deleted applications."""
    world.desired = dict(CHAT)
    world.settle()
    world.desired = {}
    world.target.fail_reads([key_of("Endpoint/chat"), key_of("Route/chat")])

    made = world.plan()

    assert {s.key for s in made.steps if s.change.action is Action.DELETE} == set()
    assert {b.waits for b in made.blocked} >= {Waits.UNREADABLE}
    world.run()
    assert world.live() == {n: c for n, (c, _) in CHAT.items()}


def test_law_1_a_target_that_raises_is_unknown_not_empty(world: World) -> None:
    world.desired = dict(CHAT)
    world.settle()
    world.desired = {}

    async def refuse(_: object) -> dict[object, object]:
        raise TemporaryError("cannot list")

    world.target.observe = refuse  # type: ignore[assignment,method-assign]

    assert {b.waits for b in world.plan().blocked} == {Waits.UNREADABLE}
    assert world.plan().empty


def test_law_2_inventory_is_written_before_the_object(world: World) -> None:
    """kustomize-controller#1664, kro#1355: a crash between the two left orphans."""
    owned_at_write: list[Ownership] = []

    def look(change: Change) -> None:
        owned_at_write.append(world.store.inventory()[change.key].state)

    world.target.before_write = look
    world.desired = dict(CHAT)
    world.settle()
    world.desired = {}
    world.settle()

    assert owned_at_write == [Ownership.PENDING] * 3 + [Ownership.DELETING] * 3


def test_law_2_an_entry_leaves_only_when_the_object_is_gone(world: World) -> None:
    world.desired = dict(CHAT)
    world.settle()
    world.desired = {}

    def refuse(_: Change) -> None:
        raise TemporaryError("a webhook denied it")

    world.target.before_write = refuse
    world.run()

    assert set(world.store.inventory()) == {key_of(name) for name in CHAT}


def test_law_3_deleting_needs_no_desired_state_and_runs_in_reverse(
    world: World,
) -> None:
    """kro#1318."""
    world.desired = dict(CHAT)
    world.settle()
    world.desired = {}

    world.run()

    deleted = [str(change.key.ref.kind) for change in world.writes]
    assert deleted == ["Route", "Endpoint", "Model"]
    assert world.live() == {}


def test_law_3_an_object_that_took_the_name_is_not_ours_to_delete(world: World) -> None:
    world.desired = dict(CHAT)
    world.settle()
    world.target.impostor(key_of("Route/chat"), b"somebody's")
    world.desired = {}

    world.settle()

    assert world.live() == {"Route/chat": "somebody's"}
    assert key_of("Route/chat") not in world.store.inventory()


def test_law_4_everything_is_dry_run_before_anything_is_written(world: World) -> None:
    world.desired = dict(CHAT)
    world.target.refuse(key_of("Route/chat"), PermanentError("cannot create: no"))
    asked: list[str] = []
    dry_run = world.target.dry_run

    async def ask(change: Change) -> None:
        asked.append(f"{change.key.ref.kind} after {len(world.target.log)} writes")
        await dry_run(change)

    world.target.dry_run = ask  # type: ignore[method-assign]
    outcomes = world.run()

    assert sorted(asked) == [
        f"{kind} after 0 writes" for kind in ("Endpoint", "Model", "Route")
    ]
    assert [o.kind for o in outcomes if o.error] == [OutcomeKind.FAILED]


Mutation = Callable[[World], None]


def _commit(world: World) -> None:
    world.desired["Model/other"] = ("more", ())


def _content(world: World) -> None:
    world.desired["Endpoint/chat"] = ("another", ("Model/llama",))


def _live(world: World) -> None:
    world.target.drift(key_of("Model/llama"), b"touched")


def _suspension(world: World) -> None:
    world.store.suspend(
        Suspension(
            ref=Ref.parse("Endpoint/chat"),
            reason="hands off",
            actor="op",
            expires_at=world.clock.now + timedelta(hours=1),
        )
    )


@pytest.mark.parametrize(
    ("mutate", "moved"),
    [
        (_commit, "commit"),
        (_content, "commit"),
        (_live, "live"),
        (_suspension, "what holds"),
    ],
)
def test_law_5_what_was_approved_is_what_runs(
    world: World, mutate: Mutation, moved: str
) -> None:
    """terraform#24078; each single input that moves is refused by its name."""
    world.desired = dict(CHAT)
    world.settle()
    world.desired["Endpoint/chat"] = ("two", ("Model/llama",))
    approved = world.plan()
    world.store.save_plan(approved.digest, approved.canonical())
    world.pipeline.check_pinned(world.plan(), approved.digest)

    mutate(world)

    with pytest.raises(PermanentError, match=f"{moved}.* moved"):
        world.pipeline.check_pinned(world.plan(), approved.digest)


def test_law_5_a_plan_is_used_once(world: World) -> None:
    world.desired = dict(CHAT)
    made = world.plan()
    world.store.save_plan(made.digest, made.canonical())
    world.store.use_plan(made.digest, "one")

    with pytest.raises(PermanentError, match="was used by one"):
        world.store.use_plan(made.digest, "two")


@pytest.mark.parametrize("percent", [0, 20, 50])
def test_law_8_mass_delete_is_refused_without_its_token(
    tmp_path: Path, percent: int
) -> None:
    """Config Sync's KNV2006: a bad read once deleted all namespaces at once."""
    world = World(tmp_path, settings_of(deletions={"percent": percent}))
    world.desired = {f"Endpoint/e{i}": ("x", ()) for i in range(10)}
    world.settle()
    world.desired = {}
    names = [Ref.parse(f"Endpoint/e{i}") for i in range(10)]

    held = world.plan()
    world.run()

    assert held.empty
    assert {b.waits for b in held.blocked} == {Waits.MASS_DELETE}
    assert deletion_token(names) in held.blocked[0].detail
    assert len(world.live()) == 10

    world.settings = settings_of(
        deletions={"percent": percent, "confirm": [deletion_token(names)]}
    )
    world.settle()

    assert world.live() == {}
    world.close()


def test_law_8_a_token_allows_exactly_its_objects(tmp_path: Path) -> None:
    token = deletion_token(Ref.parse(f"Endpoint/e{i}") for i in range(9))
    world = World(tmp_path, settings_of(deletions={"percent": 20, "confirm": [token]}))
    world.desired = {f"Endpoint/e{i}": ("x", ()) for i in range(10)}
    world.settle()
    world.desired = {}

    assert world.plan().empty
    world.close()


def test_law_8_one_delete_of_a_kind_is_always_allowed(tmp_path: Path) -> None:
    world = World(tmp_path, settings_of(deletions={"percent": 0}))
    world.desired = dict(CHAT)
    world.settle()
    world.desired = {}
    world.settle()

    assert world.live() == {}
    world.close()


def test_law_9_fighting_another_writer_is_detected_and_backed_off(world: World) -> None:
    world.desired = {"Endpoint/chat": ("ours", ())}
    world.settle()
    waits: set[Waits] = set()
    for _ in range(30):
        world.target.drift(key_of("Endpoint/chat"), b"theirs")
        world.clock.advance(2)
        waits |= {b.waits for b in world.plan().blocked}
        world.run()

    assert waits == {Waits.FIGHT}
    assert 5 <= len(world.target.log) < 15

    world.clock.advance(600)
    world.run()

    assert world.live() == {"Endpoint/chat": "ours"}


@pytest.mark.parametrize("side", ["before_write", "after_write"])
@pytest.mark.parametrize("kill_at", range(1, 7))
def test_law_10_killed_at_any_write_the_next_run_converges(
    world: World, side: str, kill_at: int
) -> None:
    passed = 0

    def die(_: Change) -> None:
        nonlocal passed
        passed += 1
        if passed == kill_at:
            raise Crash

    setattr(world.target, side, die)
    for desired in (dict(CHAT), {}):
        world.desired = desired
        for _ in range(10):
            with contextlib.suppress(BaseExceptionGroup):
                world.run()
            world.clock.advance(3600)
        assert world.live() == world.wanted()

    creates = [c for c in world.target.log if c.action is Action.CREATE]
    deletes = [c for c in world.target.log if c.action is Action.DELETE]
    assert len(creates) == 3, "nothing was created twice"
    assert len(deletes) == 3
    assert world.store.inventory() == {}
    world.store.log.verify()


def test_law_11_apply_then_plan_is_empty(world: World) -> None:
    world.desired = dict(CHAT)
    world.run()

    assert world.plan().empty
    assert world.plan().unchanged == 3


def test_law_11_planning_what_already_lives_writes_nothing(world: World) -> None:
    world.desired = dict(CHAT)
    for name, (content, _) in CHAT.items():
        world.target.impostor(key_of(name), content.encode())

    outcomes = world.run()

    assert world.writes == []
    assert {o.kind for o in outcomes} == {OutcomeKind.UNCHANGED}
    assert world.plan().empty


def test_law_11_the_order_of_files_changes_nothing(world: World) -> None:
    world.desired = dict(CHAT)
    forward = world.plan()
    world.desired = dict(reversed(CHAT.items()))

    assert world.plan().steps == forward.steps


def test_law_12_a_cancelled_run_records_the_step_in_hand(world: World) -> None:
    world.desired = {"Endpoint/chat": ("x", ())}
    started = asyncio.Event()

    async def hang(_: Change) -> None:
        started.set()
        await asyncio.Event().wait()

    world.target.before_write = hang

    async def cancel() -> None:
        made, _ = await world.look()
        with world.store.lead("test") as journal:
            run = asyncio.ensure_future(
                world.pipeline.execute(
                    made, journal, actor="test", progress=lambda *_: None
                )
            )
            await started.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    asyncio.run(cancel())

    newest = world.store.log.entries(limit=1)[0]
    assert (newest.outcome, newest.error) == ("failed", "interrupted")
    world.target.before_write = None
    world.run()  # at once: an interruption is not held against the object
    assert world.live() == {"Endpoint/chat": "x"}


def test_law_14_a_secret_in_an_error_reaches_no_entry(world: World) -> None:
    canary = "s3cr3t-canary-value"
    from reconciler.secrecy import Mask  # noqa: PLC0415

    object.__setattr__(world.pipeline, "mask", Mask([canary]))
    world.desired = {"Endpoint/chat": ("x", ())}

    def fail(_: Change) -> None:
        raise PermanentError(f"cannot create: the server said {canary}")

    world.target.before_write = fail
    outcomes = world.run()

    text = (
        repr(outcomes) + repr(world.store.log.entries()) + repr(world.plan().document())
    )
    assert canary not in text
    assert "[secret]" in text


def test_a_failure_stops_what_waits_for_it_and_nothing_else(world: World) -> None:
    world.desired = CHAT | {"Endpoint/other": ("x", ())}
    world.target.refuse(key_of("Endpoint/chat"), PermanentError("cannot create: no"))

    kinds = {str(o.key.ref): o.kind for o in world.run()}

    assert kinds == {
        "Model/default/llama": OutcomeKind.CREATED,
        "Endpoint/default/chat": OutcomeKind.FAILED,
        "Route/default/chat": OutcomeKind.SKIPPED,
        "Endpoint/default/other": OutcomeKind.CREATED,
    }


def test_an_endpoint_stays_while_a_route_that_cannot_change_leans_on_it(
    world: World,
) -> None:
    world.desired = CHAT | {"Endpoint/new": ("x", ())}
    world.settle()
    world.target.refuse(key_of("Route/chat"), PermanentError("cannot change: no"))
    world.desired = {
        "Model/llama": ("weights", ()),
        "Endpoint/new": ("x", ()),
        "Route/chat": ("to new", ("Endpoint/new",)),
    }
    for _ in range(3):
        world.run()
        world.clock.advance(3600)

    assert "Endpoint/chat" in world.live()

    world.target.refuse(key_of("Route/chat"), None)
    world.settle()

    assert world.live() == world.wanted()


def test_failures_back_off_and_a_new_digest_ends_the_wait(world: World) -> None:
    world.desired = {"Endpoint/chat": ("bad", ())}
    world.target.refuse(key_of("Endpoint/chat"), PermanentError("cannot create: no"))
    world.run()

    held = world.plan()

    assert [b.waits for b in held.blocked] == [Waits.BACKOFF]
    assert "cannot create: no" in held.blocked[0].detail
    world.desired = {"Endpoint/chat": ("good", ())}
    assert not world.plan().empty


def test_a_suspended_object_is_left_alone_until_it_expires(world: World) -> None:
    world.desired = dict(CHAT)
    world.settle()
    _suspension(world)
    world.desired["Endpoint/chat"] = ("two", ("Model/llama",))

    assert [b.waits for b in world.plan().blocked] == [Waits.SUSPENDED]
    world.clock.advance(3601)
    world.run()
    assert world.live()["Endpoint/chat"] == "two"


@pytest.mark.parametrize("heal", ["off", "warn"])
def test_drift_is_reported_and_not_healed_where_heal_is_off(
    tmp_path: Path, heal: str
) -> None:
    world = World(tmp_path, settings_of(reconcile={"heal": heal}))
    world.desired = dict(CHAT)
    world.settle()
    world.target.drift(key_of("Endpoint/chat"), b"theirs")

    made = world.plan()

    assert made.empty
    assert [d.key for d in made.drift] == [key_of("Endpoint/chat")]
    world.close()


def test_a_stranger_marked_as_ours_is_reported_and_kept(world: World) -> None:
    world.desired = dict(CHAT)
    world.settle()
    stray = unit_of("Endpoint/stray", "x")
    world.target.impostor(stray.key, stray.content)

    assert [d.key for d in world.plan().drift] == [stray.key]
    world.settle()
    assert "Endpoint/stray" in world.live()


def test_law_17_a_rollback_brings_back_what_lived_and_freezes_the_rest(
    world: World,
) -> None:
    world.desired = dict(CHAT)
    world.settle()
    world.desired["Endpoint/chat"] = ("two", ("Model/llama",))
    world.settle()

    world.roll_back("Endpoint/chat", "too slow")
    world.run()

    assert world.live()["Endpoint/chat"] == "one"
    made = world.plan()
    assert made.empty
    assert [(str(b.key.ref), b.waits, b.detail) for b in made.blocked] == [
        (
            "Endpoint/default/chat",
            Waits.FROZEN,
            "this revision is frozen: too slow",
        )
    ]


def test_law_17_what_stands_in_is_healed_until_git_declares_another(
    world: World,
) -> None:
    world.desired = dict(CHAT)
    world.settle()
    world.desired["Endpoint/chat"] = ("two", ("Model/llama",))
    world.settle()
    world.roll_back("Endpoint/chat", "too slow")
    world.run()

    world.target.drift(key_of("Endpoint/chat"), b"by hand")
    world.clock.advance(3600)
    world.run()
    assert world.live()["Endpoint/chat"] == "one"

    world.desired["Endpoint/chat"] = ("three", ("Model/llama",))
    world.settle()
    assert world.live()["Endpoint/chat"] == "three"


def test_law_17_a_revision_that_never_came_up_is_not_what_one_goes_back_to(
    world: World,
) -> None:
    world.desired = dict(CHAT)
    world.settle()

    def die(_: Change) -> None:
        raise TemporaryError("cannot start: it is full")

    world.target.before_write = die
    for content in ("two", "three"):
        world.desired["Endpoint/chat"] = (content, ("Model/llama",))
        world.run()

    world.roll_back("Endpoint/chat", "neither starts")
    world.target.before_write = None
    world.clock.advance(3600)
    world.run()

    assert world.live()["Endpoint/chat"] == "one"


@pytest.mark.parametrize("side", ["before_write", "after_write"])
def test_law_17_a_rollback_survives_a_kill(world: World, side: str) -> None:
    world.desired = dict(CHAT)
    world.settle()
    world.desired["Endpoint/chat"] = ("two", ("Model/llama",))
    world.settle()
    world.roll_back("Endpoint/chat", "too slow")

    def die(_: Change) -> None:
        raise Crash

    setattr(world.target, side, die)
    with contextlib.suppress(BaseExceptionGroup):
        world.run()
    setattr(world.target, side, None)
    world.clock.advance(3600)
    world.run()

    assert world.live()["Endpoint/chat"] == "one"
    assert world.plan().empty


def test_law_17_there_must_be_something_to_go_back_to(world: World) -> None:
    world.desired = dict(CHAT)
    world.settle()
    with pytest.raises(PermanentError, match="no earlier revision"):
        world.roll_back("Endpoint/chat", "too slow")

    world.desired["Endpoint/chat"] = ("two", ("Model/llama",))
    world.settle()
    world.roll_back("Endpoint/chat", "too slow")
    world.run()
    with pytest.raises(PermanentError, match="was frozen: too slow"):
        world.roll_back("Endpoint/chat", "this one too")
