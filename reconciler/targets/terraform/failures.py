"""What Terraform and its providers say when they fail, by what to do next (pure).

The command module calls it with text that it has masked. What nobody classified is
a PermanentError: calling someone once too often beats retrying for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from schemas.errors import FoundryError, PermanentError, TemporaryError

__all__ = ["Lock", "diagnostics", "failure", "lock_of"]

_LONGEST = 600
"""Characters of a message: enough for a reason, too few for a dump."""

# The cloud's own error codes and Terraform's words. The first that fits decides.
_PERMANENT = re.compile(
    r"AccessDenied|UnauthorizedOperation|AuthFailure|InvalidClientTokenId"
    r"|ExpiredToken|SignatureDoesNotMatch|OptInRequired|NoCredentialProviders"
    r"|No valid credential sources|AuthorizationFailed|InvalidAuthenticationToken"
    r"|QuotaExceeded|LimitExceeded|VcpuLimit|Invalid value for variable"
    r"|Resource postcondition failed|Resource precondition failed",
)
_TEMPORARY = {
    # pattern -> the least that is worth waiting, in seconds
    r"Saved plan is stale": 0.0,
    r"Error acquiring the state lock": 30.0,
    r"Throttl|RequestLimitExceeded|TooManyRequests|SlowDown|429": 30.0,
    r"InsufficientInstanceCapacity|InsufficientCapacity|SkuNotAvailable"
    r"|AllocationFailed|OverconstrainedAllocationRequest|ZonalAllocationFailed": 300.0,
    r"DependencyViolation|ResourceInUse|OperationInProgress|OperationNotAllowed"
    r"|ConflictException|AnotherOperationInProgress": 60.0,
    r"connection refused|connection reset|no such host|i/o timeout|TLS handshake"
    r"|timeout while waiting|deadline exceeded|InternalError|InternalFailure"
    r"|ServiceUnavailable|StatusCode: 5\d\d": 30.0,
    # The first SIGINT: it stopped where it could go on from.
    r"Execution halted|operation canceled|Plan interrupted|interrupted": 0.0,
}
_HINTS = {
    r"AccessDenied|Unauthorized|Authorization": "give the cluster's credentials the "
    "permissions that docs/clusters.md lists",
    r"Expired|InvalidClientToken|Signature|AuthFailure|credential": "renew the "
    "credentials that the cluster's spec.credentials refers to",
    r"[Qq]uota|LimitExceeded|VcpuLimit": "ask the cloud for a higher quota, or make the "
    "node pools smaller",
    r"already exists|AlreadyExists|EntityAlreadyExists": "something of this name is "
    "there and not in the state: remove it, or import it, then try again",
    r"state lock": "somebody else is at work on this cluster",
}


class Lock:
    """Who holds a state, as the error about it says."""

    def __init__(self, text: str) -> None:
        fields = dict(
            re.findall(r"^\W*(ID|Who|Created):\s+(.+?)\s*$", text, re.MULTILINE)
        )
        self.id = fields.get("ID", "")
        self.who = fields.get("Who", "")
        self.created = fields.get("Created", "")


def lock_of(text: str) -> Lock | None:
    """The lock that stopped a command, None when something else did."""
    return Lock(text) if "Error acquiring the state lock" in text else None


def diagnostics(log: bytes) -> str:
    """The errors of a ``-json`` run, one after the other; plain text as it is."""
    found = [*_errors(log)]
    return "\n".join(found) if found else log.decode(errors="replace")


def _errors(log: bytes) -> Iterator[str]:
    for line in log.splitlines():
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        said = entry.get("diagnostic") if isinstance(entry, dict) else None
        if said and said.get("severity") == "error":
            where = f"{said['address']}: " if said.get("address") else ""
            yield f"{where}{said['summary']}\n{said.get('detail', '')}".strip()


def failure(verb: str, noun: str, text: str) -> FoundryError:
    """Make the error that ``text`` stands for; ``verb`` and ``noun`` begin it."""
    said = " ".join(re.sub(r"[│╷╵\x1b]|\[\d+m", " ", text).split())
    message = f"cannot {verb} {noun}: {said[:_LONGEST]}"
    hint = next((h for p, h in _HINTS.items() if re.search(p, said)), "")
    if _PERMANENT.search(said) is None:
        for pattern, wait in _TEMPORARY.items():
            if re.search(pattern, said):
                return TemporaryError(message, hint=hint, retry_after_s=wait)
    return PermanentError(message, hint=hint or "see the log of this run")
