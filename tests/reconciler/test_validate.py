"""One command says everything that is wrong, and nothing twice."""

from __future__ import annotations

from pathlib import Path

from reconciler.validate import validate
from reconciler.values import Commit

COMMIT = Commit(sha="0" * 40)


def test_a_good_checkout_is_returned(checkout):
    assert validate(checkout.root, COMMIT).spec


def test_problems_of_files_and_of_environments_come_together(checkout, problems):
    text = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put(
        "environments/dev/environment.yaml", text.replace("Route/*", "Route/x")
    )
    checkout.put("spec/model/small.yaml", "kind: [Model\n")
    found = problems(lambda: validate(checkout.root, COMMIT))
    assert [line.partition(": ")[0] for line in found] == [
        "environments/dev/environment.yaml:5:42",
        "spec/model/small.yaml:2:1",
    ]


def test_what_names_a_broken_object_is_not_blamed_for_it(checkout, problems):
    checkout.put("spec/model/small.yaml", "kind: Model\n")
    checkout.put("spec/endpoint/chat.yaml", "kind: Endpoint\n")
    found = problems(lambda: validate(checkout.root, COMMIT))
    assert {line.partition(":")[0] for line in found} == {
        "spec/model/small.yaml",
        "spec/endpoint/chat.yaml",
    }


def test_an_object_that_breaks_only_when_merged_is_not_missed_either(
    checkout, problems
):
    checkout.put(
        "environments/dev/model/small.yaml",
        "apiVersion: foundry.bud/v1\nkind: Model\nmetadata: {name: small}\n"
        "spec: {precision: null}\n",
    )
    assert problems(lambda: validate(checkout.root, COMMIT)) == [
        (
            "environments/dev/model/small.yaml:4:19: spec.precision: "
            "cannot leave out precision"
        )
    ]


def test_our_own_foundry_is_valid_in_every_environment():
    documents = validate(Path(__file__).parents[2], COMMIT)
    assert set(documents.environments) == {"local", "evaluation", "production"}
