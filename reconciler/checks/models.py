"""Models: known to the catalog, under terms that somebody accepted.

Pure; ``check`` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from reconciler.checks.whole import Whole
from reconciler.written import did_you_mean
from schemas.errors import Problem, SpecError
from schemas.model import Model

__all__ = ["check_models"]

# Terms that whoever serves the model accepts first, with what they ask for:
# https://ai.google.dev/gemma/terms, https://www.llama.com/llama3_1/license/ and the
# other releases of Llama. Open-source licences ask for no acceptance.
_ASK = re.compile(r"(?i)^(gemma|llama)")


def check_models(whole: Whole) -> Iterator[Problem]:
    for model in whole.each(Model):
        yield from _is_known(whole, model)
        yield from _does_its_task(whole, model)
        yield from _terms_are_accepted(whole, model)


def _is_known(whole: Whole, model: Model) -> Iterator[Problem]:
    if model.spec.config is not None:
        try:
            model.spec.shape(whole.catalog)
        except SpecError as error:
            for found in error.problems:
                yield whole.problem(model, "spec.config", found.message, found.hint)
        return
    name = model.spec.architecture_id
    if name not in whole.catalog.models:
        known = (entry.id for entry in whole.catalog.models)
        given = model.spec.architecture is not None
        yield whole.problem(
            model,
            "spec.architecture" if given else "spec.source.hf.repo",
            f"cannot find model {name!r} in the catalog",
            did_you_mean(name, known, otherwise="")
            if given
            else "name the model of the catalog that it is built like: architecture",
        )


def _does_its_task(whole: Whole, model: Model) -> Iterator[Problem]:
    known = whole.catalog.models.get(model.spec.architecture_id)
    if known is None:
        return
    for task, other in (("embedding", "chat"), ("chat", "embedding")):
        if known.task == task and model.spec.task == other:
            yield whole.problem(
                model,
                "spec.task",
                f"cannot use it for {other}: {known.id} is made for {task}",
                f"write task: {task}",
            )


def _terms_are_accepted(whole: Whole, model: Model) -> Iterator[Problem]:
    licence = model.spec.licence
    known = whole.catalog.models.get(model.spec.architecture_id)
    # A fine-tune stays under the terms of the model it was made from.
    terms = [licence.id] if known is None else [licence.id, known.licence]
    asked = next(filter(_ASK.match, terms), None)
    if asked is not None and not licence.accepted:
        yield whole.problem(
            model,
            "spec.licence.accepted",
            f"cannot serve it under {asked}: nobody accepted the terms",
            "read them, then write accepted: true",
        )
