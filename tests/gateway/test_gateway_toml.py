"""The config's text: read, written, and every mistake named by table and value."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import UTC, datetime

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SpecError
from schemas.gateway import (
    Addresses,
    Credential,
    GatewayConfig,
    Key,
    Listener,
    Route,
    Target,
    Upstream,
    hash_key,
)
from schemas.gateway_toml import (
    dump,
    dump_addresses,
    dump_table,
    json_schema,
    load,
    load_addresses,
)
from schemas.units import Duration
from tests.gateway.wire import TREE

CONFIG = GatewayConfig(
    gateway=Listener(listen="127.0.0.1:8000", hold=Duration("5s")),
    keys={"team/ci": Key(hash=hash_key("k"), expires=datetime(2027, 1, 1, tzinfo=UTC))},
    upstreams={
        "team/smol": Upstream(discovered=True, model="smol.gguf"),
        "team/cloud": Upstream(
            urls=("https://api.example.com/v1",), credential=Credential(env="CLOUD_KEY")
        ),
    },
    routes={
        "team/chat": Route(
            models=("smol", "org/smol:latest"),
            targets=(
                Target(upstream="team/smol", weight=3),
                Target(upstream="team/cloud", priority=1),
            ),
        )
    },
)


def test_what_is_written_reads_back_equal() -> None:
    text = dump(CONFIG)
    assert load(text) == CONFIG
    assert dump(load(text)) == text


def test_a_table_can_be_written_alone_and_the_file_is_its_tables_in_order() -> None:
    alone = dump_table('routes."team/chat"', CONFIG.routes["team/chat"])
    assert alone in dump(CONFIG)
    assert alone == (
        '[routes."team/chat"]\n'
        'models = ["smol", "org/smol:latest"]\n'
        'targets = [{ upstream = "team/smol", weight = 3 },'
        ' { upstream = "team/cloud", priority = 1 }]\n'
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives_the_file(name: str) -> None:
    table = dump_table("upstreams.x", Upstream(model=name, discovered=True))
    assert name == tomllib.loads(table)["upstreams"]["x"]["model"]


BROKEN = [
    ("[gateway]\nworkerz = 2\n", "gateway.workerz: extra inputs are not permitted"),
    ("[gateway]\nhold = 30\n", "gateway.hold: cannot read 30 as a duration"),
    ("[gateway]\nlisten = '8080'\n", "gateway.listen: string should match"),
    ("[gateway\n", "cannot read TOML"),
    ('[upstreams."a/x"]\n', 'upstreams."a/x": cannot reach it'),
    (
        '[upstreams."a/x"]\nurls = ["http://me:secret@host"]\n',
        "cannot use the address of 'host'",
    ),
    ('[upstreams."a/x"]\nurls = ["ftp://host"]\n', "cannot use the address 'ftp://"),
    (
        '[upstreams."a/x"]\ndiscovered = true\ncredential = {}\n',
        "give either env or file",
    ),
    (
        '[routes."a/r"]\nmodels = ["m"]\ntargets = [{ upstream = "a/gone" }]\n',
        "routes.\"a/r\".targets: cannot find the upstream 'a/gone'",
    ),
    (
        (
            '[upstreams."a/x"]\ndiscovered = true\n'
            '[routes."a/r"]\nmodels = ["m"]\ntargets = [{ upstream = "a/x" }]\n'
            '[routes."a/s"]\nmodels = ["m"]\ntargets = [{ upstream = "a/x" }]\n'
        ),
        'routes."a/s".models: cannot offer \'m\': routes."a/r" of the same project does',
    ),
    (
        '[routes."a/r"]\nmodels = ["m", "m"]\ntargets = [{ upstream = "a/x" }]\n',
        "cannot use the model 'm' twice in a route",
    ),
    (
        '[routes."a/r"]\nmodels = ["m"]\ntargets = [{ upstream = "a/x", weight = 0 }]\n',
        "every weight is 0",
    ),
    ('[keys."a/k"]\nhash = "sk-plain"\n', 'keys."a/k".hash: string should match'),
    (
        f'[keys."a/k"]\nhash = "hmac-sha256:{"0" * 64}"\n',
        "gateway.key_pepper is not set",
    ),
    (
        f'[keys."a/k"]\nhash = "sha256:{"0" * 64}"\nroutes = ["a/none"]\n',
        "keys.\"a/k\".routes: cannot find the route 'a/none'",
    ),
    (
        (
            f'[keys."a/k"]\nhash = "sha256:{"0" * 64}"\n'
            f'[keys."b/k"]\nhash = "sha256:{"0" * 64}"\n'
        ),
        'keys."b/k".hash: cannot tell it from keys."a/k"',
    ),
    (
        f'[keys."a/k"]\nhash = "sha256:{"0" * 64}"\nexpires = 2027-01-01T00:00:00\n',
        "add the offset",
    ),
]


@pytest.mark.parametrize(("text", "problem"), BROKEN)
def test_a_mistake_is_named_by_table_and_value(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(text)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value).replace("a secret belongs", "")


def test_the_same_model_may_be_offered_by_two_projects() -> None:
    upstream = Upstream(discovered=True)
    route = Route(models=("m",), targets=(Target(upstream="a/x"),))
    config = GatewayConfig(
        upstreams={"a/x": upstream}, routes={"a/r": route, "b/r": route}
    )
    assert load(dump(config)) == config


def test_addresses_read_back_equal_and_unknown_versions_are_refused() -> None:
    addresses = Addresses(upstreams={"a/x": ("http://127.0.0.1:41001",)})
    assert load_addresses(dump_addresses(addresses)) == addresses
    with pytest.raises(SpecError, match="version"):
        load_addresses('{"version": 2}')


def test_a_pepper_changes_the_hash_and_its_name() -> None:
    assert hash_key("k").startswith("sha256:")
    assert hash_key("k", pepper=b"p").startswith("hmac-sha256:")
    assert hash_key("k", pepper=b"p") != hash_key("k", pepper=b"q")


SCHEMA_FILE = TREE / "schemas" / "gateway.schema.json"


def test_the_committed_schema_is_current(update_golden: bool) -> None:
    if update_golden:
        SCHEMA_FILE.write_text(json_schema())
    assert SCHEMA_FILE.read_text() == json_schema()


def test_an_editor_accepts_what_the_gateway_does_and_sees_a_wrong_word() -> None:
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    page = (TREE / "docs" / "gateway.md").read_text()
    [example, *_] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    for text in (dump(CONFIG), example):
        load(text)
        # As editors do it: a time of TOML's is a text of JSON's.
        said = json.dumps(tomllib.loads(text), default=datetime.isoformat)
        jsonschema.validate(json.loads(said), schema)
    wrong = tomllib.loads(example.replace("workers", "wrokers"))
    with pytest.raises(jsonschema.ValidationError, match="wrokers"):
        jsonschema.validate(wrong, schema)
