"""Rules between objects. What each says when it is broken is in ``broken/``; here
is that they find all of it, and let pass what is right."""

from __future__ import annotations

import graphlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.checks.routes import _circles, _inside
from reconciler.validate import validate
from reconciler.values import Commit
from schemas.objects import Ref

COMMIT = Commit(sha="0" * 40)
HEAD = "apiVersion: foundry.bud/v1\nkind: {}\nmetadata: {{name: {}}}\nspec:\n"


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3)
    )
)
def test_fallbacks_are_refused_exactly_where_they_never_end(graph):
    nodes = {name: Ref("Route", "default", name) for name in "abcdef"}
    steps = {
        ref: {nodes[after]: i for i, after in enumerate(graph.get(name, ()))}
        for name, ref in nodes.items()
    }
    found = list(_circles(steps))
    try:
        graphlib.TopologicalSorter(steps).prepare()
    except graphlib.CycleError:
        assert found
    else:
        assert not found
    for circle in found:
        for here, after in zip(circle, [*circle[1:], circle[0]], strict=True):
            assert after in steps[here]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://api.example.com/v1", "a public name"),
        ("http://127.0.0.1:8000/v1", "this machine, for a mock or a local server"),
        ("http://10.1.2.3/v1", "one's own network"),
        ("https://1password.example/v1", "a name that begins with a digit"),
        ("https://[2606:4700::1111]/v1", "a public IPv6 address"),
    ],
)
def test_a_provider_may_be_anywhere_that_answers(url, reason):
    assert not _inside(url), reason


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://169.254.170.2/v2/credentials",
        "http://[fe80::1]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[fd00:ec2::254]/",
        "http://METADATA.google.internal/",
        "http://metadata.google.internal./",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://169.254.43518/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://224.0.0.1/",
        "http://[broken/",
    ],
)
def test_a_provider_is_never_where_a_machine_gets_its_credentials(url):
    assert _inside(url)


def test_one_name_may_be_public_in_two_projects(checkout):
    route = (checkout.root / "spec/route/chat.yaml").read_text()
    checkout.put(
        "spec/search/route/chat.yaml", route.replace("{name", "{project: search, name")
    )
    checkout.put(
        "spec/project/search.yaml", HEAD.format("Project", "search")[:-1] + " {}\n"
    )
    environment = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put(
        "environments/dev/environment.yaml",
        environment.replace("Route/*", "Route/*/*, Project/*"),
    )
    validate(checkout.root, COMMIT)


def test_an_embedding_model_may_be_served_by_llamacpp_from_safetensors(checkout):
    checkout.put(
        "spec/model/small.yaml",
        HEAD.format("Model", "small") + "  source: {path: {path: /models/minilm}}\n"
        "  architecture: sentence-transformers/all-MiniLM-L6-v2\n"
        "  task: embedding\n  precision: fp32\n  licence: {id: Apache-2.0}\n",
    )
    validate(checkout.root, COMMIT)


def test_a_placement_may_select_more_than_one_cluster(checkout):
    for name in ("here", "there"):
        checkout.put(
            f"spec/cluster/{name}.yaml",
            f"apiVersion: foundry.bud/v1\nkind: Cluster\n"
            f"metadata: {{name: {name}, labels: {{tier: gold}}}}\n"
            "spec: {provider: local, nodePools: [{name: cpu, count: 1}]}\n",
        )
    endpoint = (checkout.root / "spec/endpoint/chat.yaml").read_text()
    checkout.put(
        "spec/endpoint/chat.yaml",
        endpoint.replace("cluster: here", "placement: {tier: gold}"),
    )
    validate(checkout.root, COMMIT)
