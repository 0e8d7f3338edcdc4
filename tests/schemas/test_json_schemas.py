"""The JSON Schemas that editors use are current, and say what the models say."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from reconciler.scaffold import schema_files
from reconciler.yaml_reader import read_yaml
from schemas.kinds import KINDS

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "schemas" / "json"
OBJECTS = sorted(
    [*(ROOT / "spec").rglob("*.yaml"), *ROOT.glob("environments/*/environment.yaml")]
)


def test_the_committed_schemas_are_current(update_golden):
    files = schema_files()
    if update_golden:
        COMMITTED.mkdir(exist_ok=True)
        for name, content in files.items():
            (COMMITTED / name).write_bytes(content)
    assert {f.name: f.read_bytes() for f in COMMITTED.iterdir()} == files


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_a_schema(kind):
    schema = json.loads(schema_files()[f"{kind.lower()}.json"])
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("file", OBJECTS, ids=lambda f: str(f.relative_to(ROOT)))
def test_an_editor_finds_nothing_wrong_with_our_own_foundry(file):
    content, _ = read_yaml(file.read_bytes(), file.name)
    schema = json.loads((COMMITTED / f"{content['kind'].lower()}.json").read_text())
    jsonschema.validate(content, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("field", "value"),
    [("replicas", "1"), ("replcas", 1), ("engine", {"name": "tgi"}), ("model", "A")],
)
def test_an_editor_finds_what_the_models_would_refuse(field, value):
    content = yaml.safe_load((ROOT / "spec/endpoint/gemma.yaml").read_text())
    content["spec"][field] = value
    schema = json.loads((COMMITTED / "endpoint.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema, cls=jsonschema.Draft202012Validator)
