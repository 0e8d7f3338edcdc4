"""A write reaches only the object it was decided on."""

from dataclasses import replace

import pytest

from reconciler.targets.precondition import check_precondition
from reconciler.values import Action, Change, Key, Live, Presence, Unit
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref

KEY = Key("memory", Ref("Endpoint", "default", "chat"))
UNIT = Unit(key=KEY, content=b"new", digest="new")
ABSENT = Live(key=KEY, presence=Presence.ABSENT)
LIVE = Live(key=KEY, presence=Presence.PRESENT, digest="old", uid="u1", version="7")
CREATE = Change(key=KEY, action=Action.CREATE, unit=UNIT)
CHANGE = Change(key=KEY, action=Action.CHANGE, unit=UNIT, uid="u1", version="7")
DELETE = Change(key=KEY, action=Action.DELETE, unit=None, uid="u1")
UNKNOWN = Live(key=KEY, presence=Presence.UNKNOWN, detail="timed out")


@pytest.mark.parametrize(
    ("change", "live", "reason"),
    [
        (CREATE, ABSENT, "nothing is there"),
        (CREATE, replace(LIVE, digest="new"), "it was written before the crash"),
        (CHANGE, LIVE, "nothing moved"),
        (CHANGE, replace(LIVE, digest="new", version="8"), "our own write moved it"),
        (replace(CHANGE, version=""), replace(LIVE, version="8"), "no version asked"),
        (DELETE, LIVE, "the same object"),
        (DELETE, replace(LIVE, version="8"), "deleting does not ask for a version"),
        (DELETE, ABSENT, "absent is success"),
    ],
)
def test_a_write_to_what_was_seen_goes_through(
    change: Change, live: Live, reason: str
) -> None:
    check_precondition(change, live)


@pytest.mark.parametrize(
    ("change", "live", "said"),
    [
        (CREATE, LIVE, "one already lives there, uid u1"),
        (CHANGE, ABSENT, "it is gone"),
        (CHANGE, replace(LIVE, version="8"), "version 8, not 7"),
        (CHANGE, replace(LIVE, uid="u2"), "uid u2, not u1"),
        (CHANGE, replace(LIVE, uid="u2", digest="new"), "uid u2, not u1"),
        (DELETE, replace(LIVE, uid="u2"), "uid u2, not u1"),
        (replace(DELETE, uid=""), LIVE, "uid u1, not none"),
        *((change, UNKNOWN, "timed out") for change in (CREATE, CHANGE, DELETE)),
    ],
)
def test_a_write_to_anything_else_is_refused(
    change: Change, live: Live, said: str
) -> None:
    with pytest.raises(TemporaryError, match=said) as refused:
        check_precondition(change, live)
    assert "look again" in refused.value.hint


def test_a_write_of_nothing_is_refused_for_good() -> None:
    with pytest.raises(PermanentError, match="carries no unit"):
        check_precondition(replace(CREATE, unit=None), ABSENT)
