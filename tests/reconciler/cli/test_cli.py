"""The command as its user meets it: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from reconciler.cli.main import main

ROOT = Path(__file__).resolve().parents[3]


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Bud = Callable[..., Said]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name in ("spec", "environments"):
        shutil.copytree(ROOT / name, root / name)
    return root


@pytest.fixture
def bud(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Bud:
    def run(*args: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["bud", "--repo", str(repo), "-q", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Said(code, out, err)

    return run


def test_validate_says_that_all_is_well(bud: Bud) -> None:
    said = bud("validate")

    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("all is valid: ")


def test_validate_shows_every_error_and_exits_2(bud: Bud, repo: Path) -> None:
    for name in ("endpoint/gemma", "route/gemma"):
        file = repo / f"spec/{name}.yaml"
        file.write_text(file.read_text() + "  wrong: 1\n")

    said = bud("validate")

    assert said.code == 2
    assert said.out == ""
    assert "spec/endpoint/gemma.yaml" in said.err
    assert "spec/route/gemma.yaml" in said.err


def test_an_unknown_environment_is_named_with_those_there_are(bud: Bud) -> None:
    said = bud("--env", "locale", "plan")

    assert said.code == 1
    assert "cannot find environment 'locale'" in said.err
    assert "local" in said.err


def test_schema_prints_json_for_editors(bud: Bud) -> None:
    assert bud("schema", "Endpoint").data["title"] == "Endpoint"
    assert set(bud("schema").data) >= {"Cluster", "Model", "Route"}


def test_resolve_writes_the_lock_once_and_check_says_when_it_is_stale(
    bud: Bud, repo: Path
) -> None:
    lock = repo / "environments/local/resolved.lock.yaml"
    lock.unlink(missing_ok=True)

    assert bud("resolve", "--check").code == 3
    assert not lock.exists()
    assert bud("resolve").code == 0
    written = lock.read_bytes()
    assert bud("resolve", "--check").code == 0
    assert bud("resolve").out.endswith("is current\n")
    assert lock.read_bytes() == written


def test_plan_refuses_a_stale_lock_by_name(bud: Bud, repo: Path) -> None:
    bud("resolve")
    file = repo / "spec/endpoint/gemma.yaml"
    file.write_text(file.read_text().replace("context: 2048", "context: 1024"))

    said = bud("plan")

    assert said.code == 2
    assert "Endpoint/default/gemma" in said.err
    assert "bud resolve" in said.err


def test_plan_is_one_document_in_three_forms_and_exits_3(bud: Bud) -> None:
    bud("resolve")
    text, markdown, document = (
        bud("plan"),
        bud("plan", "--format", "markdown"),
        bud("plan", "--format", "json"),
    )

    assert {text.code, markdown.code, document.code} == {3}
    assert document.data["digest"][:12] in text.out
    assert document.data["digest"] in markdown.out
    again = bud("--json", "plan").data
    assert document.data == again | {"madeAt": document.data["madeAt"]}
    assert len(document.data["steps"]) > 5


def test_applying_a_plan_that_nobody_made_is_refused(bud: Bud) -> None:
    bud("resolve")
    said = bud("apply", "--plan", "0" * 64)

    assert said.code == 1
    assert "no such plan is kept here" in said.err


def test_diff_shows_line_by_line_what_would_change(bud: Bud) -> None:
    bud("resolve")

    every, one = bud("--json", "diff"), bud("diff", "Endpoint/gemma")

    assert every.code == one.code == 3
    assert every.data.keys() == {
        step["key"] for step in bud("--json", "plan").data["steps"]
    }
    assert "local:Endpoint/default/gemma\n" in one.out
    assert "+++ local:Endpoint/default/gemma as planned" in one.out
    assert "Route" not in one.out
    assert bud("diff", "Endpoint/nobody").out == "nothing to change\n"


def test_why_of_nothing_says_where_to_look(bud: Bud) -> None:
    bud("resolve")
    said = bud("why", "Endpoint/nobody")

    assert said.code == 1
    assert "cannot find Endpoint/default/nobody" in said.err
    assert bud("why", "no such thing").code == 2


def test_why_says_what_is_due_and_what_holds_it_back(bud: Bud) -> None:
    bud("resolve")
    bud("suspend", "Endpoint/gemma", "--reason", "hands off", "--for", "1h")
    said = bud("why", "Endpoint/gemma")

    assert said.code == 3
    assert "hands off" in said.out
    assert bud("resume", "Endpoint/gemma").out == "Endpoint/default/gemma is resumed\n"
    assert "was not suspended" in bud("resume", "Endpoint/gemma").out


def test_a_time_without_a_unit_is_a_usage_error(bud: Bud) -> None:
    said = bud("suspend", "Endpoint/gemma", "--reason", "x", "--for", "10")

    assert said.code == 2
    assert "write a number and a unit" in said.err


def test_tree_draws_what_needs_what(bud: Bud) -> None:
    bud("resolve")
    lines = bud("tree").out.splitlines()
    top = next(
        i for i, line in enumerate(lines) if line.startswith("Route/default/gemma")
    )

    assert lines[top + 1].startswith("└─ Endpoint/default/gemma")
    assert bud("--json", "tree").data["Endpoint/default/gemma"]["needs"] == [
        "Cluster/default/local",
        "Model/default/gemma-3-270m",
    ]


def test_a_key_is_shown_once_and_only_its_hash_is_written(bud: Bud, repo: Path) -> None:
    said = bud("keys", "create", "mine")
    file = repo / "spec/apikey/mine.yaml"

    assert said.out.startswith("sk-bud-")
    assert said.out.strip() not in file.read_text()
    assert bud("validate").code == 0
    assert bud("keys", "create", "mine").code == 1
    assert bud("keys", "revoke", "mine").code == 0
    assert not file.exists()
    assert bud("keys", "revoke", "mine").code == 1


def test_status_before_anything_was_done(bud: Bud) -> None:
    said = bud("status")

    assert said.code == 0
    assert "not running" in said.out
    assert "nothing is applied yet" in said.out


def test_init_makes_a_repository_that_validates_and_plans(
    bud: Bud, tmp_path: Path
) -> None:
    made = tmp_path / "team"

    assert bud("init", str(made)).code == 0
    assert bud("--repo", str(made), "validate").code == 0
    assert bud("--repo", str(made), "resolve").code == 0
    assert bud("--repo", str(made), "plan").code == 3
    assert bud("init", str(made)).code == 1


def test_a_mistake_never_shows_a_traceback(bud: Bud, tmp_path: Path) -> None:
    said = bud("--repo", str(tmp_path), "plan")

    assert said.code == 1
    assert "bud init" in said.err
    assert "Traceback" not in said.err
    assert bud("no-such-verb").code == 2


def test_what_is_proposed_leaves_the_checkout_alone(bud: Bud, repo: Path) -> None:
    lock = repo / "environments/local/resolved.lock.yaml"
    whole = lock.read_text()
    lock.write_text("version: 1\nendpoints: {}\n")
    for args in (
        ("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "Begin"),
    ):  # fmt: skip
        _git(repo, *args)

    made = bud("--json", "resolve", "--propose")
    again = bud("--json", "resolve", "--propose")

    assert (made.code, made.err, made.data) == (0, "", again.data)
    assert made.data["branch"].startswith("bud/resolve/local-")
    assert (
        _git(repo, "show", f"{made.data['branch']}:{lock.relative_to(repo)}") == whole
    )
    assert lock.read_text() != whole
    assert _git(repo, "worktree", "list").count("\n") == 1

    _git(repo, "merge", "-q", made.data["branch"])
    said = bud("resolve", "--propose")
    assert "it changes no file" in said.err


def test_what_was_never_applied_is_not_promoted(bud: Bud, repo: Path) -> None:
    assert bud("promote", "Endpoint/drafts", "--to", "local").code == 2
    for args in (
        ("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "Begin"),
    ):  # fmt: skip
        _git(repo, *args)

    said = bud("promote", "Endpoint/rehearsal", "--from", "local", "--to", "production")

    assert said.code == 1
    assert "cannot promote Endpoint/default/rehearsal" in said.err
    assert "was never applied there" in said.err


def _git(repo: Path, *args: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *who, *args], cwd=repo, check=True, capture_output=True, text=True
    )
    return done.stdout
