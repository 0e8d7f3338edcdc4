"""resolve: what an Endpoint leaves open, filled from the lock. Pure.

``resolve`` is the step of the line: it only reads the lock, so that a plan changes
when somebody resolved and committed, and never because a model of performance was
retrained. ``solve`` is `bud resolve`: it decides what is missing or stale and keeps
every other entry as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from reconciler.lock import Entry, Lock, entry, parse, stale
from reconciler.optimizer import optimizer_for
from reconciler.optimizer.calibration import Calibration
from reconciler.optimizer.keeping import keep, only_replicas
from reconciler.optimizer.posing import clusters_of, inputs_of, model_of, task_of
from reconciler.optimizer.task import Infeasible, Optimizer, Task
from reconciler.values import Desired, Resolved
from schemas.catalog import Catalog
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError, Problem, SpecError
from schemas.objects import Ref
from schemas.resolution import Resolution

__all__ = ["Memo", "Question", "questions", "resolve", "solve"]


Values = tuple[object, ...]


@dataclass(slots=True)
class Memo:
    """What `resolve` found last time; it belongs to one environment."""

    data: Mapping[str, object] | None = None
    lock: Lock = field(default_factory=lambda: Lock(entries={}))
    answers: dict[Ref, tuple[Values, Resolution]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One endpoint, posed, with what would answer it."""

    endpoint: Endpoint
    task: Task
    optimizer: Optimizer
    inputs: Mapping[str, object]


def resolve(
    desired: Desired, catalog: Catalog, *, memo: Memo | None = None
) -> Resolved:
    """Fill every endpoint from the environment's lock.

    With a ``memo``, an endpoint whose file, model, clusters and entry are the same
    values as last time is not posed again.

    Raises:
        SpecError: entries that are missing or stale, each with what moved.
    """
    memo = Memo() if memo is None else memo
    if memo.data is not desired.lock:
        memo.data, memo.lock = desired.lock, _read(desired)
    lock = memo.lock
    problems: list[Problem] = []
    resolutions: dict[Ref, Resolution] = {}
    seen = dict(_seen(desired, lock))
    for ref, values in seen.items():
        before = memo.answers.get(ref)
        if before is not None and _identical(before[0], values):
            resolutions[ref] = before[1]
    new = seen.keys() - resolutions.keys()
    for ref, question in _questions(desired, catalog, problems, lock, only=new):
        found = lock.entries.get(ref)
        moved = stale(found, question.inputs) if found else ()
        if found is None or moved:
            problems.append(_unresolved(desired, ref, moved))
        else:
            resolutions[ref] = found.resolution
    if problems:
        raise SpecError(problems)
    memo.answers = {ref: (seen[ref], resolutions[ref]) for ref in seen}
    return Resolved(desired=desired, resolutions=resolutions)


def _seen(desired: Desired, lock: Lock) -> Iterator[tuple[Ref, Values]]:
    """Everything a resolution is made from, as the very values that were read."""
    for ref, item in desired.objects.items():
        if isinstance(item, Endpoint):
            model = model_of(desired, item)
            clusters = clusters_of(desired, item)
            yield ref, (item, model, lock.entries.get(ref), lock.calibration, *clusters)


def _identical(one: Values, other: Values) -> bool:
    return len(one) == len(other) and all(
        a is b for a, b in zip(one, other, strict=True)
    )


def solve(desired: Desired, catalog: Catalog) -> Lock:
    """Decide every endpoint whose inputs moved; keep the others byte for byte.

    Where only the number of replicas moved, each stays as it was if that still holds.

    Raises:
        SpecError: endpoints that nothing can serve as they are written, each with
            the constraint that binds and the nearest alternatives.
    """
    lock = _read(desired)
    problems: list[Problem] = []
    entries: dict[Ref, Entry] = {}
    for ref, question in _questions(desired, catalog, problems, lock):
        found = lock.entries.get(ref)
        moved = stale(found, question.inputs) if found else ()
        if found is not None and not moved:
            entries[ref] = found
            continue
        kept = None
        if found is not None and only_replicas(moved, found.resolution):
            kept = keep(question.task, question.optimizer, found.resolution)
        try:
            decision = kept or question.optimizer.decide(question.task)
        except Infeasible as error:
            problems.append(_infeasible(desired, ref, error))
            continue
        entries[ref] = entry(
            decision,
            question.inputs,
            autoscaled=question.task.autoscaled is not None,
            rehearsal=found.resolution.rehearsal if kept and found else None,
        )
    if problems:
        raise SpecError(problems)
    return replace(lock, entries=entries)


def questions(desired: Desired, catalog: Catalog) -> dict[Ref, Question]:
    """Every endpoint of the environment, posed.

    Raises:
        SpecError: the catalog does not know what an endpoint names.
    """
    problems: list[Problem] = []
    found = dict(_questions(desired, catalog, problems, _read(desired)))
    if problems:
        raise SpecError(problems)
    return found


def _questions(
    desired: Desired,
    catalog: Catalog,
    problems: list[Problem],
    lock: Lock,
    *,
    only: Collection[Ref] | None = None,
) -> Iterator[tuple[Ref, Question]]:
    calibration = Calibration.of(lock.calibration)
    for ref, item in sorted(desired.objects.items()):
        if not isinstance(item, Endpoint) or (only is not None and ref not in only):
            continue
        try:
            task = task_of(desired, item, catalog)
            optimizer = optimizer_for(item.spec.optimizer.method, calibration)
        except PermanentError as error:
            problems.append(
                Problem(file=desired.files[ref], message=error.args[0], hint=error.hint)
            )
            continue
        inputs = inputs_of(
            task,
            item,
            identity=optimizer.identity,
            measured=calibration.about(task)
            if item.spec.optimizer.method == "regressor"
            else {},
        )
        yield (
            ref,
            Question(endpoint=item, task=task, optimizer=optimizer, inputs=inputs),
        )


def _read(desired: Desired) -> Lock:
    try:
        return parse(desired.lock)
    except ValueError as error:
        name = desired.environment.metadata.name
        raise SpecError(
            [
                Problem(
                    file=f"environments/{name}/resolved.lock.yaml",
                    message=str(error),
                    hint="delete the file and run `bud resolve`",
                )
            ]
        ) from error


def _unresolved(desired: Desired, ref: Ref, moved: tuple[str, ...]) -> Problem:
    why = (
        f"{', '.join(moved)} changed since it was resolved"
        if moved
        else "it has no entry in the lock"
    )
    return Problem(
        file=desired.files[ref],
        message=f"cannot resolve {ref}: {why}",
        hint="run `bud resolve` and commit the lock",
    )


def _infeasible(desired: Desired, ref: Ref, error: Infeasible) -> Problem:
    hint = error.alternatives or "widen the node pools or what is fixed"
    return Problem(
        file=desired.files[ref],
        message=f"cannot place {ref}: nothing meets {error.binding}",
        hint=hint,
    )
