"""What machines said, decided without any machine."""

import pytest

from reconciler.targets.ansible.machines import Answer
from reconciler.targets.ansible.view import live_of, of_cluster, records_of
from reconciler.values import Health, Key, Live, Presence
from schemas.errors import TemporaryError
from schemas.objects import Ref

KEY = Key("ansible", Ref("Cluster", "default", "rack"))
SILENT = Answer(reached=False, why="no route to host")
EMPTY = Answer(reached=True, code=1)


def record(unit: str = "a", *, whole: str = "true", uid: str = "u") -> Answer:
    content = f'{{"uid": "{uid}", "unit": "{unit}", "whole": {whole}}}'
    return Answer(reached=True, out=content)


def live(*drift: str, **answers: Answer) -> Live:
    return live_of(KEY, records_of(answers), drift)


@pytest.mark.parametrize(
    ("answers", "presence", "health", "detail"),
    [
        ({"a": EMPTY, "b": EMPTY}, Presence.ABSENT, Health.UNKNOWN, ""),
        ({"a": EMPTY, "b": SILENT}, Presence.UNKNOWN, Health.UNKNOWN, "no route"),
        ({"a": SILENT}, Presence.UNKNOWN, Health.UNKNOWN, "no route"),
        ({"a": record(), "b": record()}, Presence.PRESENT, Health.SERVABLE, ""),
        ({"a": record(), "b": EMPTY}, Presence.PRESENT, Health.DEGRADED, "half made"),
        ({"a": record(whole="false")}, Presence.PRESENT, Health.DEGRADED, "half made"),
        (
            {"a": record(), "b": record("b")},
            Presence.PRESENT,
            Health.DEGRADED,
            "half made",
        ),
        (
            {"a": record(), "b": SILENT},
            Presence.PRESENT,
            Health.DEGRADED,
            "unreachable: b",
        ),
    ],
)
def test_states_are_told_apart(
    answers: dict[str, Answer], presence: Presence, health: Health, detail: str
) -> None:
    found = live(**answers)
    assert (found.presence, found.health) == (presence, health)
    assert detail in found.detail


def test_a_silent_machine_changes_nothing_of_what_is_there() -> None:
    """It cannot be changed anyway: a plan must not try every five seconds."""
    assert live(a=record(), b=SILENT).digest == live(a=record(), b=record()).digest


def test_a_machine_that_is_only_wanted_does_not_make_a_cluster_half() -> None:
    """Else a plan that adds one would always find that the cluster moved."""
    wanted = {"a": record(), "new": EMPTY, "gone": SILENT}
    found = live_of(KEY, records_of(of_cluster(wanted, {"a"})), ())
    assert found == live(a=record())
    # One that holds something is part of it, wanted or not.
    half = of_cluster({"a": record(), "old": record("b")}, {"a"})
    assert live_of(KEY, records_of(half), ()).health is Health.DEGRADED


def test_drift_and_halves_never_look_like_the_unit() -> None:
    whole = live(a=record(), b=record())
    strayed = live("a: Settings", a=record(), b=record())
    half = live(a=record(), b=EMPTY)
    assert len({whole.digest, strayed.digest, half.digest}) == 3
    assert len({whole.version, strayed.version, half.version}) == 3


def test_a_record_that_is_none_of_ours_is_never_taken_for_nothing() -> None:
    with pytest.raises(TemporaryError, match="none of ours"):
        records_of({"a": Answer(reached=True, out="{}")})
