"""Every way to break a spec that we know of, each with the exact words it gets.

A folder of ``broken/`` holds the files that are laid over a good checkout (the
fixture ``checkout``) and what is said about them. ``--update-golden`` rewrites
the words; read the diff as the person would who has to mend the file.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reconciler.validate import validate
from reconciler.values import Commit
from schemas.errors import SpecError

BROKEN = Path(__file__).parent / "broken"
CASES = sorted(case.name for case in BROKEN.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_a_broken_spec_is_told_exactly_how(case, checkout, update_golden):
    for file in (BROKEN / case).iterdir():
        if file.is_dir():
            shutil.copytree(file, checkout.root / file.name, dirs_exist_ok=True)
    with pytest.raises(SpecError) as caught:
        validate(checkout.root, Commit(sha="0" * 40))
    expected = BROKEN / case / "expected.txt"
    if update_golden:
        expected.write_text(f"{caught.value}\n")
    assert expected.read_text() == f"{caught.value}\n"


def test_the_corpus_is_as_large_as_it_was_meant_to_be():
    assert len(CASES) >= 60


def test_no_words_repeat_a_secret():
    secrets = ("hunter2", "abcdefghijklmnop", "IOSFODNN7EXAMPLE", "MIIEow")
    found = [
        (case, secret)
        for case in CASES
        for secret in secrets
        if secret in (BROKEN / case / "expected.txt").read_text()
    ]
    assert not found
