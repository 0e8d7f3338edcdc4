"""Logs stay bounded, are quoted from the current run, and show no secret."""

from pathlib import Path

import pytest

from reconciler.targets.local import logs


def _say(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_only_the_current_run_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "chat.0.log"
    logs.mark(log, "first")
    _say(log, "old trouble\n")
    logs.mark(log, "second")
    assert logs.tail(log, lines=9, env={}) == []
    _say(log, "one\n\ntwo\nthree\n")
    assert logs.tail(log, lines=2, env={}) == ["two", "three"]


def test_a_log_that_never_was_has_no_end(tmp_path: Path) -> None:
    assert logs.tail(tmp_path / "none.log", lines=5, env={}) == []


def test_a_large_log_makes_room_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LIMIT", 10)
    log = tmp_path / "chat.0.log"
    log.write_text("more than ten\n")
    logs.mark(log, "again")
    assert log.read_text() == "=== again\n"
    assert (tmp_path / "chat.0.log.1").read_text() == "more than ten\n"


def test_a_log_is_cut_under_a_replica_that_goes_on_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LIMIT", 10)
    log = tmp_path / "chat.0.log"
    with log.open("ab") as held:
        held.write(b"more than ten\n")
        held.flush()
        logs.bound(log)
        held.write(b"next\n")
        held.flush()
    assert log.read_text() == "next\n"
    assert (tmp_path / "chat.0.log.1").read_text() == "more than ten\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("login with s3cr3t-value", "login with ***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("hf_abcdefghijklmnop is wrong", "*** is wrong"),
        ("key sk-proj-1234567890 refused", "key *** refused"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("get https://user:pw@host/x", "get https://***@host/x"),
        ("loading on port 8000", "loading on port 8000"),
    ],
)
def test_what_is_secret_or_looks_like_it_is_covered(line: str, shown: str) -> None:
    env = {"DB_PASSWORD": "s3cr3t-value", "LANG": "on", "EMPTY_TOKEN": ""}
    assert logs.masked(line, env) == shown
