"""Documents + environment -> ``Desired``: what this environment wants, as a whole.

The rule it guards: a valid base plus a valid difference can be an invalid whole,
so what is merged validates again, every reference is looked up and every rule
across objects is checked before anything is decided on it. ``pipeline`` calls
``overlay`` after ``load``. Pure: the catalog is a constant of the release.

A difference is a JSON merge patch (RFC 7396): a field replaces a field, ``null``
removes one, and a list replaces the whole list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import Any

from pydantic import ValidationError

from reconciler.checks import Whole, check
from reconciler.values import Desired, Document, Documents
from reconciler.wording import problems_of
from reconciler.written import Written, did_you_mean
from schemas.catalog import catalog
from schemas.errors import PermanentError, Problem, SpecError
from schemas.kinds import KINDS, parse, references
from schemas.objects import DEFAULT_PROJECT, FoundryObject, Ref

__all__ = ["look_over", "merge", "overlay"]


def overlay(documents: Documents, environment_name: str) -> Desired:
    """What an environment takes of the spec, with its differences merged in.

    Raises:
        SpecError: every problem of this environment.
        PermanentError: there is no such environment.
    """
    known = documents.environments
    if environment_name not in known:
        there = f"there are: {', '.join(known)}"
        raise PermanentError(
            f"cannot find environment {environment_name!r}",
            hint=did_you_mean(environment_name, known, otherwise=there),
        )
    desired, problems = look_over(documents, environment_name)
    if problems:
        raise SpecError(problems)
    return desired


def look_over(
    documents: Documents, environment_name: str, *, broken: frozenset[Ref] = frozenset()
) -> tuple[Desired, list[Problem]]:
    """Merge one environment as far as it goes, with everything wrong about it.

    ``broken`` are objects that are written but did not validate. They are there,
    so nobody misses them; what they say is unknown, so nothing else is said of it.
    """
    work = _Environment(documents=documents, name=environment_name, broken={*broken})
    work.merge_all()
    work.check_references()
    whole = Whole(
        objects=work.objects,
        written=work.written,
        catalog=catalog(),
        environments=frozenset(documents.environment_documents),
    )
    work.problems.extend(check(whole))
    desired = Desired(
        commit=documents.commit,
        environment=documents.environments[environment_name],
        objects=work.objects,
        files={ref: written.file for ref, written in work.written.items()},
        lock=documents.locks.get(environment_name, {}),
    )
    return desired, work.problems


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a JSON merge patch (RFC 7396) to a copy of ``base``."""
    merged = dict(base)
    for key, value in difference.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


@dataclass(slots=True, kw_only=True)
class _Environment:
    documents: Documents
    name: str
    broken: set[Ref]
    problems: list[Problem] = field(default_factory=list)
    objects: dict[Ref, FoundryObject] = field(default_factory=dict)
    written: dict[Ref, Written] = field(default_factory=dict)

    def merge_all(self) -> None:
        """Merge each object that the environment takes with its difference."""
        differences = self.documents.overlays.get(self.name, {})
        taken = self._taken()
        for ref, document in sorted(self.documents.spec.items(), key=itemgetter(0)):
            if ref in taken and ref not in self.broken:
                self._merge(ref, document, differences.get(ref))
        for ref, difference in differences.items():
            if ref in taken:
                continue
            where = Written(base=difference)
            if ref in self.documents.spec:
                message = f"cannot change {ref}: this environment does not take it"
                hint = f"add {ref} to take in environments/{self.name}/environment.yaml"
            else:
                message = f"cannot change {ref}: spec/ has no such object"
                hint = self._nearest(ref, self.documents.spec)
            self.problems.append(where.problem("metadata.name", message, hint))

    def check_references(self) -> None:
        """Every name in an object is one of its project, or one of ``default``."""
        projects = {
            r.name for r in (*self.objects, *self.broken) if r.kind == "Project"
        }
        projects.add(DEFAULT_PROJECT)
        for ref, item in self.objects.items():
            for path, named in references(item):
                shared = Ref(named.kind, DEFAULT_PROJECT, named.name)
                if not any(
                    r in self.objects or r in self.broken for r in (named, shared)
                ):
                    self._miss(ref, path, named, shared)
            owner = Ref("Project", DEFAULT_PROJECT, ref.project)
            if ref.project not in projects:
                self._miss(ref, "metadata.project", owner, owner)

    def _merge(self, ref: Ref, document: Document, difference: Document | None) -> None:
        written = Written(base=document, overlay=difference)
        item = document.item
        if difference is not None:
            content = merge(document.content, difference.content)
            try:
                item = parse(content)
            except ValidationError as error:
                self.problems.extend(problems_of(error, written, content))
                self.broken.add(ref)
                return
        assert item is not None, "load validates whatever lies below spec/"
        self.objects[ref], self.written[ref] = item, written

    def _taken(self) -> set[Ref]:
        environment = self.documents.environments[self.name]
        refs = [*self.documents.spec, *self.broken]
        taken = self._matching(refs, "take", environment.spec.take)
        return taken - self._matching(taken, "leave", environment.spec.leave)

    def _matching(
        self, refs: Iterable[Ref], field_name: str, patterns: tuple[str, ...]
    ) -> set[Ref]:
        """The objects that any pattern names; each has to name one at least."""
        by_kind: dict[str, list[Ref]] = {}
        for ref in refs:
            by_kind.setdefault(ref.kind, []).append(ref)
        found = set[Ref]()
        for i, pattern in enumerate(patterns):
            kind, *_ = pattern.split("/")
            matched = set(_matched(pattern, by_kind.get(kind, [])))
            if not matched:
                self._report_pattern(f"spec.{field_name}[{i}]", pattern)
            found |= matched
        return found

    def _report_pattern(self, path: str, pattern: str) -> None:
        kind, *project, name = pattern.split("/")
        names = [r.name for r in self.documents.spec if r.kind == kind]
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS)
        elif not project and any(_matched(f"{kind}/*/{name}", self.documents.spec)):
            hint = f"Kind/name means the project default: write {kind}/<project>/{name}"
        else:
            hint = did_you_mean(name, names)
        where = Written(base=self.documents.environment_documents[self.name])
        self.problems.append(
            where.problem(path, f"cannot find {pattern}: no object matches", hint)
        )

    def _miss(self, ref: Ref, path: str, named: Ref, shared: Ref) -> None:
        lacking = next((r for r in (named, shared) if r in self.documents.spec), None)
        if lacking is not None:
            message = f"cannot use {lacking}: environment {self.name} does not take it"
            hint = f"add it to take in environments/{self.name}/environment.yaml"
        else:
            message = f"cannot find {named.kind} {named.name!r}"
            hint = self._nearest(named, self.objects)
        self.problems.append(self.written[ref].problem(path, message, hint))

    def _nearest(self, ref: Ref, known: Iterable[Ref]) -> str:
        projects = {ref.project, DEFAULT_PROJECT}
        names = [r.name for r in known if r.kind == ref.kind and r.project in projects]
        some = ", ".join(sorted(names)[:5]) or f"none: write spec/{ref.kind.lower()}/"
        return did_you_mean(ref.name, names, otherwise=f"there are: {some}")


def _matched(pattern: str, refs: Iterable[Ref]) -> Iterator[Ref]:
    kind, *project, name = pattern.split("/")
    wanted = project[0] if project else DEFAULT_PROJECT
    for ref in refs:
        if (
            ref.kind == kind
            and fnmatchcase(ref.project, wanted)
            and fnmatchcase(ref.name, name)
        ):
            yield ref
