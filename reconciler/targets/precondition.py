"""What must still be true of the live object when a write reaches its target.

Every target calls this from ``dry_run`` and once more right before it writes: a
plan was decided on what lived then, and a write to anything else is refused, not
adapted. Pure; it never reads or writes a target itself.
"""

from __future__ import annotations

from reconciler.values import Action, Change, Live, Presence
from schemas.errors import PermanentError, TemporaryError

__all__ = ["check_precondition"]

_LOOK_AGAIN = "look again: the next plan starts from what lives now"


def check_precondition(change: Change, live: Live) -> None:
    """Refuse ``change`` unless ``live`` is what it was decided on.

    A live object that already is what the change wants is no conflict: a run that
    was killed after its write must be able to say so again.

    Raises:
        TemporaryError: the object moved, or nobody can tell whether it did.
        PermanentError: the change says nothing that could be written.
    """
    verb, key = change.action.value, change.key
    if live.presence is Presence.UNKNOWN:
        raise TemporaryError(
            f"cannot {verb} {key}: what lives there is unknown ({live.detail})",
            hint=_LOOK_AGAIN,
        )
    found = live.presence is Presence.PRESENT
    if change.action is Action.DELETE:
        if found and live.uid != change.uid:
            raise _moved(change, f"uid {live.uid}, not {change.uid or 'none'}")
        return
    if change.unit is None:
        raise PermanentError(f"cannot {verb} {key}: the change carries no unit")
    if found and change.uid and live.uid != change.uid:
        raise _moved(change, f"uid {live.uid}, not {change.uid}")
    if found and live.digest == change.unit.digest:
        return
    if change.action is Action.CREATE and found:
        raise _moved(change, f"one already lives there, uid {live.uid}")
    if change.action is Action.CHANGE and not found:
        raise _moved(change, "it is gone")
    if change.version and live.version != change.version:
        raise _moved(change, f"version {live.version}, not {change.version}")


def _moved(change: Change, found: str) -> TemporaryError:
    return TemporaryError(
        f"cannot {change.action.value} {change.key}: {found}", hint=_LOOK_AGAIN
    )
