"""What an environment takes, how it differs, and that both are true together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.load import load
from reconciler.overlay import merge, overlay
from reconciler.values import Commit
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.objects import Ref

COMMIT = Commit(sha="0" * 40)
CHAT = Ref("Endpoint", "default", "chat")
OURS = load(Path(__file__).parents[2], COMMIT)
DIFFERS = """\
apiVersion: foundry.bud/v1
kind: Endpoint
metadata: {name: chat}
spec:
"""

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from("abcd"), json, max_size=4)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return value


@given(objects)
def test_an_empty_difference_changes_nothing(base):
    assert merge(base, {}) == base


@given(objects, objects)
def test_a_difference_applied_twice_is_applied_once(base, difference):
    once = merge(base, difference)
    assert merge(once, difference) == once


@given(objects, objects)
def test_what_a_difference_says_is_what_is_read_back(base, difference):
    merged = merge(base, difference)
    for key, value in difference.items():
        if value is None:
            assert key not in merged
        elif not isinstance(value, dict):
            assert merged[key] == value
        elif not isinstance(base.get(key), dict):
            assert merged[key] == without_nulls(value)


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
    ids=str,
)
def test_merging_follows_the_examples_of_rfc_7396(base, patch, merged):
    assert merge(base, patch) == merged


def test_an_environment_holds_what_it_takes_with_its_differences(checkout):
    checkout.put("environments/dev/endpoint/chat.yaml", DIFFERS + "  replicas: 3\n")
    desired = overlay(load(checkout.root, COMMIT), "dev")
    chat = desired.objects[CHAT]
    assert isinstance(chat, Endpoint)
    assert chat.spec.replicas == 3
    assert chat.spec.model == "small"
    assert desired.files[CHAT] == "spec/endpoint/chat.yaml"


@settings(max_examples=20)
@given(st.randoms())
def test_the_order_of_the_files_changes_nothing(random):
    shuffled = [*OURS.spec.items()]
    random.shuffle(shuffled)
    expected, found = (
        overlay(d, "production") for d in (OURS, replace(OURS, spec=dict(shuffled)))
    )
    assert list(found.objects.items()) == list(expected.objects.items())
    assert found == expected


def test_a_valid_difference_can_make_an_invalid_whole(checkout, problems):
    checkout.put(
        "environments/dev/endpoint/chat.yaml",
        DIFFERS + "  scaling: {min: 1, max: 4, queueDepth: 8}\n",
    )
    documents = load(checkout.root, COMMIT)
    (problem,) = problems(lambda: overlay(documents, "dev"))
    assert problem.startswith(
        "environments/dev/endpoint/chat.yaml:5:3: spec: replicas and"
    )


def test_null_removes_a_field_and_an_autoscaler_takes_its_place(checkout):
    scaling = "  scaling: {min: 1, max: 4, queueDepth: 8}\n  replicas: null\n"
    checkout.put("environments/dev/endpoint/chat.yaml", DIFFERS + scaling)
    chat = overlay(load(checkout.root, COMMIT), "dev").objects[CHAT]
    assert isinstance(chat, Endpoint)
    assert chat.spec.replicas is None


def test_a_problem_lies_in_the_file_that_has_to_be_mended(checkout, problems):
    checkout.put(
        "environments/dev/endpoint/chat.yaml",
        DIFFERS + "  model: null\n  engine: {nmae: vllm}\n  cluster: there\n",
    )
    documents = load(checkout.root, COMMIT)
    assert problems(lambda: overlay(documents, "dev")) == [
        "environments/dev/endpoint/chat.yaml:5:10: spec.model: cannot leave out model",
        (
            "environments/dev/endpoint/chat.yaml:6:12: spec.engine.nmae: "
            'cannot use "nmae": Endpoint has no such field here'
        ),
    ]


def test_a_reference_that_leads_nowhere_is_an_error_with_the_nearest_name(
    checkout, problems
):
    text = (checkout.root / "spec/route/chat.yaml").read_text()
    checkout.put(
        "spec/route/chat.yaml", text.replace("endpoint: chat", "endpoint: chad")
    )
    documents = load(checkout.root, COMMIT)
    assert problems(lambda: overlay(documents, "dev")) == [
        (
            "spec/route/chat.yaml:6:24: spec.targets[0].endpoint: "
            "cannot find Endpoint 'chad'"
        )
    ]


def test_a_project_uses_its_own_object_first_and_then_the_shared_one(checkout):
    route = (checkout.root / "spec/route/chat.yaml").read_text()
    checkout.put(
        "spec/search/route/chat.yaml", route.replace("{name", "{project: search, name")
    )
    checkout.put(
        "spec/project/search.yaml",
        "apiVersion: foundry.bud/v1\nkind: Project\nmetadata: {name: search}\nspec: {}\n",
    )
    text = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put(
        "environments/dev/environment.yaml",
        text.replace("Route/*", "Route/*/*, Project/*"),
    )
    desired = overlay(load(checkout.root, COMMIT), "dev")
    assert Ref("Route", "search", "chat") in desired.objects


def test_a_project_that_nobody_declared_is_an_error(checkout, problems):
    route = (checkout.root / "spec/route/chat.yaml").read_text()
    checkout.put(
        "spec/search/route/chat.yaml", route.replace("{name", "{project: search, name")
    )
    text = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put(
        "environments/dev/environment.yaml", text.replace("Route/*", "Route/*/*")
    )
    documents = load(checkout.root, COMMIT)
    assert problems(lambda: overlay(documents, "dev")) == [
        "spec/search/route/chat.yaml:3:21: metadata.project: cannot find Project 'search'"
    ]


def test_an_object_that_is_not_taken_cannot_be_used(checkout, problems):
    text = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put("environments/dev/environment.yaml", text.replace("Model/*, ", ""))
    documents = load(checkout.root, COMMIT)
    assert problems(lambda: overlay(documents, "dev")) == [
        (
            "spec/endpoint/chat.yaml:5:10: spec.model: "
            "cannot use Model/default/small: environment dev does not take it"
        )
    ]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("Endpoint/chad", "did you mean chat?"),
        ("Endpont/chat", "did you mean Endpoint?"),
        ("Route/none/*", ""),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(checkout, pattern, hint):
    text = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put(
        "environments/dev/environment.yaml",
        text.replace("Route/*", f"Route/*, {pattern}"),
    )
    documents = load(checkout.root, COMMIT)
    with pytest.raises(Exception, match="no object matches") as caught:
        overlay(documents, "dev")
    (problem,) = caught.value.problems
    assert problem.field == "spec.take[4]"
    assert problem.hint == hint


def test_what_is_left_is_not_there(checkout):
    text = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put("environments/dev/environment.yaml", text + "  leave: [Route/chat]\n")
    desired = overlay(load(checkout.root, COMMIT), "dev")
    assert Ref("Route", "default", "chat") not in desired.objects


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("chat", "this environment does not take it"),
        ("chad", "spec/ has no such object"),
    ],
)
def test_a_difference_of_nothing_is_an_error(checkout, problems, name, reason):
    text = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put("environments/dev/environment.yaml", text + "  leave: [Route/chat]\n")
    checkout.put(
        f"environments/dev/route/{name}.yaml",
        f"apiVersion: foundry.bud/v1\nkind: Route\nmetadata: {{name: {name}}}\n",
    )
    documents = load(checkout.root, COMMIT)
    assert problems(lambda: overlay(documents, "dev")) == [
        (
            f"environments/dev/route/{name}.yaml:3:18: metadata.name: "
            f"cannot change Route/default/{name}: {reason}"
        )
    ]


def test_an_environment_that_is_not_there_names_the_nearest(checkout):
    with pytest.raises(
        PermanentError, match="cannot find environment 'deve'"
    ) as caught:
        overlay(load(checkout.root, COMMIT), "deve")
    assert caught.value.hint == "did you mean dev?"
