"""A pasted secret is found by its shape or by its name, whatever surrounds it."""

from __future__ import annotations

import pytest

from reconciler.apikeys import new_key
from reconciler.pasted import may_name_secret, pasted_fields, pasted_values
from reconciler.wording import field_names

# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "OpenAI": "sk-" + "proj-" + "Ab3dEf6hIj9lMn2pQr5t",
    "Anthropic": "sk-" + "ant-api03-" + "Ab3dEf6h-Ij9lMn2pQr5tUv8x",
    "AWS": "AKIA" + "IOSFODNN7EXAMPLE",
    "GitHub": "ghp_" + "a1" * 18,
    "GitHub, fine-grained": "github_pat_" + "a1" * 20,
    "GitLab": "glpat-" + "a1" * 10,
    "Hugging Face": "hf_" + "aB" * 17,
    "Slack": "xoxb-" + "1234567890-ab",
    "Google": "AIza" + "a1" * 18,
    "JWT": "eyJ" + "hbGciOiJIU.eyJ" + "zdWIiOiIxMj",
    "PEM": "-----BEGIN " + "EC PRIVATE KEY-----",
    "age": "AGE-SECRET-KEY-1" + "QQQQQQQQQQQQ",
    "URL": "https://me:" + "hunter2@example.com/v1",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("line", ["key: {}", 'key: "{}"', "- {}", "# {}", "{}"])
def test_a_secret_is_found_by_its_shape(secret, line):
    (problem,) = pasted_values(f"a: 1\n{line.format(secret)}\n".encode(), "f.yaml")
    assert problem.line == 2
    assert secret not in str(problem)


def test_a_key_of_our_own_is_always_found():
    for _ in range(200):
        assert pasted_values(new_key().encode(), "f.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "name: task-runner-production-environment",
        "name: sk-learn-pipeline-production-v2",
        "version: sk-1",
        "url: https://api.example.com:8443/v1",
        "revision: 1605565b47bb9346c5515c34102e054115b4f98b",
        "hash: sha256:" + "0" * 64,
        "note: ask a colleague about the eyJ of a token",
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    assert not pasted_values(text.encode(), "f.yaml")


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("adminPassword", True),
        ("api-key", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("passphrase", True),
        ("existingSecret", False),
        ("imagePullSecret", False),
        ("eos-token", False),
        ("secretName", False),
        ("tokenizer", False),
        ("max-tokens", False),
        ("firstToken", False),
        ("sort-key", False),
    ],
)
def test_a_name_says_whether_its_value_is_secret(name, secret):
    content = {"spec": {"list": [{name: "hunter2"}]}}
    found = list(pasted_fields(content, field_names()))
    assert bool(found) == secret
    assert not secret or may_name_secret(f"{name}: hunter2".encode())


@pytest.mark.parametrize("value", [None, "", True, False])
def test_a_name_without_a_value_hides_nothing(value):
    assert not list(pasted_fields({"token": value}, field_names()))


@pytest.mark.parametrize(
    "piece", ["sk-", "sk-a ", "eyJ-", "eyJaaaaaaaaaa.", "://a:", "-----BEGIN ", "gh", "PRIVATE KEY", "AKIA", "xoxb-a ", "a-"],
)  # fmt: skip
@pytest.mark.timeout(60)  # backtracking over a mebibyte would take hours
def test_no_text_makes_the_search_slow(piece):
    data = (b"sk- :// eyJ PRIVATE KEY " + piece.encode() * (1 << 20))[: 1 << 20]
    pasted_values(data, "f.yaml")
    may_name_secret(data)
