"""How far one live object got, from its own status. Pure.

``rolled`` means that every pod is of the new revision and answers its probe: pods of
an older one that satisfy the count do not (dynamo#3567). Whether a request is
answered is asked elsewhere. A kind that has no status of its own is rolled as soon
as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reconciler.targets.kubernetes.manifests import Json, ObjectId
from reconciler.values import Health

__all__ = ["Finding", "assess", "takes_time"]

Finding = tuple[Health, str]
"""A word, and why it is not a better one."""

_ROLLED: Finding = (Health.ROLLED, "")


def takes_time(which: ObjectId) -> bool:
    """Whether objects of this kind have a status to wait for."""
    return (which.api_version.rpartition("/")[0], which.kind) in _RULES


def assess(live: Json) -> Finding:
    """Say how far ``live`` got: applied, rolled or degraded."""
    if live["metadata"].get("deletionTimestamp"):
        held = ", ".join(live["metadata"].get("finalizers") or ()) or "its dependents"
        return Health.DEGRADED, f"being deleted, held by {held}"
    group = live["apiVersion"].rpartition("/")[0]
    seen = live.get("status", {}).get("observedGeneration")
    generation = live["metadata"].get("generation", 0)
    if (rule := _RULES.get((group, live["kind"]))) is None:
        return _ROLLED
    if seen is not None and seen < generation:
        return Health.APPLIED, "its controller has not seen the change"
    return rule(live)


def _deployment(live: Json) -> Finding:
    status, spec = live.get("status", {}), live["spec"]
    if "observedGeneration" not in status:
        return Health.APPLIED, "its controller has not seen it"
    for reason in ("ReplicaFailure", "Progressing"):
        condition = _condition(live, reason)
        failed = "True" if reason == "ReplicaFailure" else "False"
        if condition.get("status") == failed:
            return Health.DEGRADED, condition.get("message", reason)
    return _pods(
        wanted=spec.get("replicas", 1),
        updated=status.get("updatedReplicas", 0),
        there=status.get("replicas", 0),
        available=status.get("availableReplicas", 0),
    )


def _stateful_set(live: Json) -> Finding:
    status = live.get("status", {})
    if status.get("currentRevision") != status.get("updateRevision"):
        updated = status.get("updatedReplicas", 0)
    else:
        updated = status.get("replicas", 0)
    return _pods(
        wanted=live["spec"].get("replicas", 1),
        updated=updated,
        there=status.get("replicas", 0),
        available=status.get("availableReplicas", status.get("readyReplicas", 0)),
    )


def _daemon_set(live: Json) -> Finding:
    status = live.get("status", {})
    return _pods(
        wanted=status.get("desiredNumberScheduled", 0),
        updated=status.get("updatedNumberScheduled", 0),
        there=status.get("currentNumberScheduled", 0),
        available=status.get("numberAvailable", 0),
    )


def _leader_worker_set(live: Json) -> Finding:
    status = live.get("status", {})
    wanted = live["spec"].get("replicas", 1)
    if wanted and not status.get("conditions"):
        return Health.APPLIED, "its controller has not seen it"
    return _pods(
        wanted=wanted,
        updated=status.get("updatedReplicas", 0),
        there=status.get("replicas", 0),
        available=status.get("readyReplicas", 0),
        noun="groups",
    )


def _job(live: Json) -> Finding:
    if (failed := _condition(live, "Failed")).get("status") == "True":
        return Health.DEGRADED, f"failed: {failed.get('message', '')}"
    if _condition(live, "Complete").get("status") == "True":
        return _ROLLED
    return Health.APPLIED, "running"


def _claim(live: Json) -> Finding:
    phase = live.get("status", {}).get("phase", "Pending")
    if phase == "Lost":
        return Health.DEGRADED, "its volume is lost"
    # A claim that waits for its first consumer is bound when the pod is placed.
    return _ROLLED if phase == "Bound" else (Health.APPLIED, f"volume {phase.lower()}")


def _autoscaler(live: Json) -> Finding:
    condition = _condition(live, "ScalingActive")
    if condition.get("status") == "False":
        # Nothing is wrong with what serves, and yet nothing will be scaled: said
        # here, because an autoscaler without metrics says it nowhere else.
        return Health.ROLLED, f"does not scale: {condition.get('message', '')}"
    return _ROLLED


def _http_route(live: Json) -> Finding:
    parents = live.get("status", {}).get("parents") or ()
    for parent in parents:
        for condition in parent.get("conditions") or ():
            if condition["type"] == "Accepted" and condition["status"] == "False":
                return Health.DEGRADED, condition.get("message", "not accepted")
    return _ROLLED


def _ready(live: Json) -> Finding:
    """Kinds that say so themselves; without the condition they say nothing yet."""
    ready = _condition(live, "Ready")
    if ready.get("status") == "True":
        return _ROLLED
    # Unknown is not False: what served before goes on serving (kserve#5443).
    found = ready.get("message") or ready.get("reason") or "no Ready condition yet"
    if ready.get("status") == "False" and ready.get("reason") in _FINAL:
        return Health.DEGRADED, found
    return Health.APPLIED, found


def _external_secret(live: Json) -> Finding:
    status, ready = live.get("status", {}), _condition(live, "Ready")
    if ready.get("status") == "True":
        return _ROLLED
    found = (
        f"secret not fetched: {ready.get('message') or 'its operator says nothing yet'}"
    )
    # The operator asks again by itself. While a store does not answer, the Secret stays
    # as it was, and what reads it goes on; `generation-hash` says of which spec it is.
    of = str(status.get("syncedResourceVersion", "")).partition("-")[0]
    fetched = of == str(live["metadata"].get("generation", 0))
    return (Health.ROLLED if fetched else Health.APPLIED), found


def _dynamo(live: Json) -> Finding:
    status = live.get("status", {})
    state = status.get("state", "pending")
    if state == "failed":
        return Health.DEGRADED, "state failed"
    # "successful" may be said of pods of the old revision (dynamo#3567): only a
    # status of this generation counts.
    if status.get("observedGeneration", -1) < live["metadata"].get("generation", 0):
        return Health.APPLIED, f"state {state}, of an older generation"
    return _ROLLED if state == "successful" else (Health.APPLIED, f"state {state}")


_FINAL = frozenset({"Failed", "InvalidSpec", "ReconcileError", "Error"})

_RULES: Mapping[tuple[str, str], Callable[[Json], Finding]] = {
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"): _leader_worker_set,
    ("batch", "Job"): _job,
    ("", "PersistentVolumeClaim"): _claim,
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    ("keda.sh", "ScaledObject"): _autoscaler,
    ("external-secrets.io", "ExternalSecret"): _external_secret,
    ("gateway.networking.k8s.io", "HTTPRoute"): _http_route,
    ("serving.kserve.io", "InferenceService"): _ready,
    ("serving.kserve.io", "LLMInferenceService"): _ready,
    ("nvidia.com", "DynamoGraphDeployment"): _dynamo,
}


def _pods(
    *, wanted: int, updated: int, there: int, available: int, noun: str = "pods"
) -> Finding:
    if updated < wanted:
        return Health.APPLIED, f"{updated} of {wanted} {noun} are of the new revision"
    if there > updated:
        return Health.APPLIED, f"{there - updated} {noun} of an older revision remain"
    if available < wanted:
        return Health.APPLIED, f"{available} of {wanted} {noun} are ready"
    return _ROLLED


def _condition(live: Json, kind: str) -> Mapping[str, Any]:
    for condition in live.get("status", {}).get("conditions") or ():
        if condition.get("type") == kind:
            found: Mapping[str, Any] = condition
            return found
    return {}
