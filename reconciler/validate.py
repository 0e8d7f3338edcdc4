"""Every error of a checkout at once, over all its environments. (I/O: via load)

``bud validate`` and CI call it. The line itself stops at the first step that
fails; whoever mends files wants the whole list.
"""

from __future__ import annotations

from pathlib import Path

from reconciler.load import Cache, read_tree
from reconciler.overlay import look_over
from reconciler.values import Commit, Documents
from schemas.errors import SpecError

__all__ = ["validate"]


def validate(root: Path, commit: Commit, *, cache: Cache | None = None) -> Documents:
    """Read a checkout and look over each of its environments.

    Raises:
        SpecError: every problem of every file and every environment. An object
            that did not validate is not missed a second time by what names it.
    """
    reading = read_tree(root, commit, cache=cache)
    problems = list(reading.problems)
    for name in reading.documents.environments:
        problems += look_over(reading.documents, name, broken=reading.broken)[1]
    if problems:
        raise SpecError(problems)
    return reading.documents
