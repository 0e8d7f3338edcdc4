"""What is said of an endpoint: a digest only where one unit describes all of it."""

from hashlib import sha256

import pytest

from reconciler.targets.local.records import Instance, Phase, Record
from reconciler.targets.local.view import seen
from reconciler.values import Health, Key, Live, Presence
from schemas.local import EndpointManifest, Probe, Program, Replacement, canonical
from schemas.objects import Ref

KEY = Key("local", Ref("Endpoint", "default", "chat"))
MANIFEST = EndpointManifest(
    project="default",
    name="chat",
    replicas=2,
    program=Program(
        engine="simulator", argv=("x",), probe=Probe(task="chat", model="chat")
    ),
    replacement=Replacement(ready_timeout_s=60, drain_timeout_s=30),
)
UNIT = canonical(MANIFEST).decode()
REACHED = Record(uid="uid", version=4, unit=UNIT)
DIGEST = sha256(UNIT.encode()).hexdigest()


def replica(slot: int, phase: Phase = Phase.SERVING, **changes: object) -> Instance:
    instance = Instance(
        id=f"default.chat.uid.{slot}.aa",
        uid="uid",
        slot=slot,
        port=40000 + slot,
        revision=MANIFEST.revision,
        phase=phase,
        since=0,
        argv=(),
        env={},
        probe=MANIFEST.program.probe,
        ready_timeout_s=60,
        drain_timeout_s=30,
    )
    return instance.model_copy(update=changes)


BOTH = (replica(0), replica(1))


def look(
    record: Record | None,
    *instances: Instance,
    dead: tuple[int, ...] = (),
    orphans: tuple[str, ...] = (),
) -> Live:
    living = {i.id for i in instances if i.slot not in dead}
    return seen(KEY, record, instances, living=living, orphans=orphans, now=100.0)


def test_as_wanted_and_answering_is_servable() -> None:
    live = look(REACHED, *BOTH)
    assert (live.digest, live.health, live.detail) == (DIGEST, Health.SERVABLE, "")
    assert (live.uid, live.version) == ("uid", "4")


@pytest.mark.parametrize(
    ("record", "instances", "said"),
    [
        (REACHED, BOTH[:1], "1 of 2 replicas answer"),
        (REACHED, (*BOTH, replica(2)), "3 of 2 replicas answer"),
        (REACHED, (BOTH[0], replica(1, revision="other")), "1 replicas of another"),
        (REACHED, (*BOTH, replica(2, Phase.DRAINING)), "1 replicas of another"),
        (
            REACHED.model_copy(update={"pending": UNIT}),
            BOTH,
            "a change of it is not finished",
        ),
        (REACHED.model_copy(update={"deleting": True}), BOTH, "it is being deleted"),
    ],
)
def test_what_no_unit_describes_has_no_digest(
    record: Record, instances: tuple[Instance, ...], said: str
) -> None:
    live = look(record, *instances)
    assert (live.digest, live.health) == ("", Health.DEGRADED)
    assert said in live.detail


@pytest.mark.parametrize(
    ("instance", "dead", "said"),
    [
        (replica(1), True, "1 of 2 replicas answer; replica 1 has ended"),
        (
            replica(1, Phase.STARTING),
            False,
            "1 of 2 replicas answer; replica 1 is starting",
        ),
        (
            replica(1, Phase.STARTING),
            True,
            "1 of 2 replicas answer; replica 1 has ended while starting",
        ),
        (
            replica(1, Phase.WAITING, retry_at=104.2, failures=3, reason="exit code 1"),
            True,
            (
                "1 of 2 replicas answer; replica 1 restarts in 4 s after 3 failures "
                "(exit code 1)"
            ),
        ),
    ],
)
def test_what_does_not_answer_is_health_and_not_drift(
    instance: Instance, dead: bool, said: str
) -> None:
    live = look(REACHED, replica(0), instance, dead=(1,) if dead else ())
    assert (live.digest, live.health) == (DIGEST, Health.DEGRADED)
    assert live.detail == said


def test_the_first_time_on_the_way_is_pending() -> None:
    first = Record(uid="uid", version=1, pending=UNIT)
    live = look(first, replica(0, Phase.STARTING))
    assert (live.presence, live.health) == (Presence.PRESENT, Health.PENDING)


def test_nothing_at_all_is_absent() -> None:
    assert look(None).presence is Presence.ABSENT


def test_what_is_left_without_a_record_is_there_under_its_old_uid() -> None:
    live = look(None, orphans=("default.chat.old-uid.0.aa",))
    assert (live.presence, live.uid) == (Presence.PRESENT, "old-uid")
    assert live.detail == "1 processes of it run without a record"
    assert look(None, replica(0)).uid == "uid"
