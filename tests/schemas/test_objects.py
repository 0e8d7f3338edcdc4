"""What every object has in common."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.objects import Credential, Metadata, PodCredential, Ref

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


@given(st.sampled_from(["Endpoint", "ApiKey"]), names, names)
def test_a_reference_reads_back_as_it_is_written(kind, project, name):
    ref = Ref(kind, project, name)
    assert Ref.parse(str(ref)) == ref
    assert Ref.parse(f"{kind}/{name}", project=project) == ref


@pytest.mark.parametrize(
    "text", ["", "Endpoint", "Endpoint/", "/chat", "a/b/c/d", "Endpoint/Chat"]
)
def test_what_names_no_object_is_refused(text):
    with pytest.raises(ValueError, match="write Kind/name or Kind/project/name"):
        Ref.parse(text)


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "A", "a_b", "a.b", "a b", "a" * 64, "a\n", "ä", "../a", "a/b"],
)
def test_a_name_is_fit_for_dns_kubernetes_and_a_file(name):
    with pytest.raises(ValidationError):
        Metadata(name=name)


def test_a_name_may_have_63_characters():
    assert Metadata(name="a" * 63).name == "a" * 63


def test_a_credential_says_one_place():
    assert Credential(env="HF_TOKEN").env == "HF_TOKEN"
    for places in ({}, {"env": "A", "file": "/b"}, {"env": "A", "secret": "a#b"}):
        with pytest.raises(ValidationError, match="exactly one of env, file, secret"):
            Credential.model_validate(places)


def test_only_what_pods_read_may_be_kept_in_a_store():
    store = {"externalSecret": {"store": "vault", "key": "hub"}}
    assert PodCredential.model_validate(store).external_secret.key == "hub"
    with pytest.raises(ValidationError, match="secret, externalSecret"):
        PodCredential.model_validate({**store, "env": "HF_TOKEN"})
    with pytest.raises(ValidationError, match="name env, file or secret"):
        Credential.model_validate(store)


def test_an_object_never_changes():
    with pytest.raises(ValidationError, match="frozen"):
        Metadata(name="a").name = "b"
