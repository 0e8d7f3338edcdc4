"""``bud init`` makes a repository that needs nothing but people."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.scaffold import SCHEMAS, TEMPLATE, scaffold
from reconciler.validate import validate
from reconciler.values import Commit
from schemas.errors import PermanentError
from schemas.kinds import KINDS

COMMIT = Commit(sha="0" * 40)
ROOT = Path(__file__).parents[2]


def test_a_new_repository_validates(tmp_path):
    made = scaffold(tmp_path / "ours")
    validate(tmp_path / "ours", COMMIT)
    assert tmp_path / "ours/.gitignore" in made
    assert overlay(load(tmp_path / "ours", COMMIT), "local").objects


def test_a_new_repository_declares_what_ours_does():
    ours = [f for f in TEMPLATE.rglob("*.yaml") if f.name != "environment.yaml"]
    assert ours
    for file in ours:
        assert (ROOT / file.relative_to(TEMPLATE)).read_text() == file.read_text()


def test_an_empty_folder_may_be_there_already(tmp_path):
    assert scaffold(tmp_path)


def test_what_is_there_is_never_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PermanentError, match="it is not empty") as caught:
        scaffold(tmp_path)
    assert "name a new folder" in caught.value.hint
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_the_way_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "ours").write_text("")
    with pytest.raises(PermanentError, match="not a directory") as caught:
        scaffold(tmp_path / "ours")
    assert caught.value.hint


def test_editors_find_the_schema_of_every_object(tmp_path):
    scaffold(tmp_path)
    settings = json.loads((tmp_path / ".vscode/settings.json").read_text())
    found = {}
    for schema, globs in settings["yaml.schemas"].items():
        kind = json.loads((tmp_path / schema).read_text())["properties"]["kind"][
            "const"
        ]
        for pattern in [globs] if isinstance(globs, str) else globs:
            found.update(dict.fromkeys(tmp_path.glob(pattern), kind))
    files = [*tmp_path.rglob("spec/**/*.yaml"), *tmp_path.rglob("environment.yaml")]
    assert {file: yaml.safe_load(file.read_text())["kind"] for file in files} == found
    assert {f.stem for f in (tmp_path / SCHEMAS).iterdir()} == {
        k.lower() for k in KINDS
    }


def test_the_readme_names_only_what_is_there(tmp_path):
    scaffold(tmp_path)
    for path in re.findall(
        r"`((?:spec|environments|\.schemas)/)`", (tmp_path / "README.md").read_text()
    ):
        assert (tmp_path / path).is_dir()
