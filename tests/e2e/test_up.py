"""From a commit to an answered request, on one machine, without losing one."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import openai
import pytest

from tests.e2e.team import ENDPOINT, ROOT, ROUTE, Team, down_at_the_end


class Traffic:
    """A client that never stops asking, and remembers every failure.

    Named marks say what was going on: a step that fails a request between two
    probes would go unseen otherwise.
    """

    def __init__(self, team: Team, model: str) -> None:
        self._client = openai.OpenAI(base_url=team.url, api_key=team.key, max_retries=0)
        self._model, self._stop = model, threading.Event()
        self.mark = "before"
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(i,)) for i in range(2)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _ask(self, number: int) -> None:
        # Fifty a second: more would only take the processor from what is tested.
        while not self._stop.wait(0.04):
            mark = self.mark
            try:
                if number % 2:
                    self._stream()
                else:
                    self._whole()
                self.answered[mark] += 1
            except Exception as error:  # noqa: BLE001  every failure counts
                self.failures.append(f"{mark}: {error!r}")

    def _whole(self) -> None:
        answer = self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=4,
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4

    def _stream(self) -> None:
        chunks = list(
            self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": "Hi"}],
                max_tokens=4,
                stream=True,
            )
        )
        assert chunks[-1].choices[0].finish_reason == "length"


def _pids(team: Team, name: str) -> set[int]:
    return {pid for pid, line in team.engines().items() if f"--alias {name} " in line}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """One endpoint that answers; each test leaves it so."""
    with down_at_the_end(tmp_path_factory.mktemp("team")) as team:
        team.write_all("chat")
        team.commit("Serve")
        team.bud("up")
        yield team


@pytest.mark.slow
def test_every_change_under_traffic_loses_no_request(team: Team) -> None:
    team.write_all("chat", "other")
    team.commit("Serve two")
    team.bud("up")
    other = team.addresses("other")

    with Traffic(team, "chat") as traffic:

        def step(mark: str) -> None:
            traffic.mark = mark
            team.commit(mark)

        team.write(
            "spec/endpoint/chat.yaml", ENDPOINT.replace("replicas: 1", "replicas: 2")
        )
        step("scale to two")
        team.until("two replicas", lambda: len(team.addresses("chat")) == 2)
        team.until("two processes", lambda: len(_pids(team, "chat")) == 2)

        before = _pids(team, "chat")
        team.write(
            "spec/endpoint/chat.yaml",
            ENDPOINT.replace("replicas: 1", "replicas: 2").replace(
                "maxBatch: 8", "maxBatch: 4"
            ),
        )
        step("replace both")
        team.until(
            "a new revision",
            lambda: len(now := _pids(team, "chat")) == 2 and not now & before,
        )

        (team.root / "spec/route/other.yaml").unlink()
        (team.root / "spec/endpoint/other.yaml").unlink()
        step("delete the other")
        team.until("the other is gone", lambda: not team.addresses("other"))
        team.until("its process too", lambda: len(team.engines()) == 2)

        team.write("spec/endpoint/chat.yaml", ENDPOINT)
        step("scale to one")
        team.until("one replica", lambda: len(team.addresses("chat")) == 1)
        team.until("one process", lambda: len(team.engines()) == 1)

        team.write(
            "spec/route/late.yaml",
            ROUTE.replace("{endpoint: NAME}", "{endpoint: chat}"),
        )
        step("another name")
        client = openai.OpenAI(base_url=team.url, api_key=team.key, max_retries=0)
        team.until(
            "the new name", lambda: "late" in {m.id for m in client.models.list()}
        )
        client.close()

    assert traffic.failures == []
    assert set(traffic.answered) >= {"scale to two", "replace both", "delete the other"}
    assert len(other) == 1
    assert team.data("log", "verify")["entries"] > 0
    assert team.data("plan")["steps"] == []


@pytest.mark.slow
@pytest.mark.xdist_group("serving")
def test_the_daemon_may_die_and_come_back(serving: Team) -> None:
    """Engines and gateway go on without it, and it finds them again."""
    team = serving
    pid = team.data("status")["daemon"]["pid"]
    engines = team.engines()
    with Traffic(team, "chat") as traffic:
        os.kill(pid, signal.SIGKILL)
        team.until("it is dead", lambda: team.daemon_says() is None)
        team.bud("up")

    assert traffic.failures == []
    assert team.engines() == engines


@pytest.mark.slow
@pytest.mark.xdist_group("serving")
def test_a_replica_that_dies_is_replaced(serving: Team) -> None:
    team = serving
    [pid] = team.engines()
    os.kill(pid, signal.SIGKILL)
    team.until("another process", lambda: bool(set(team.engines()) - {pid}))
    client = openai.OpenAI(base_url=team.url, api_key=team.key, max_retries=0)
    answer = client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
    )
    client.close()

    assert answer.choices[0].message.content
    assert (answer.system_fingerprint or "").startswith("simulated-")


def error_of(team: Team) -> str:
    said = team.daemon_says()
    return "it does not answer" if said is None else str(said["error"])


@pytest.mark.slow
@pytest.mark.xdist_group("serving")
def test_a_broken_edit_changes_nothing_and_says_where(serving: Team) -> None:
    team = serving
    engines = team.engines()
    team.write(
        "spec/endpoint/chat.yaml", ENDPOINT.replace("replicas: 1", "replicas: one")
    )
    team.until("it is said", lambda: "replicas" in error_of(team))

    assert (
        "spec/endpoint/chat.yaml:12:13: spec.replicas"
        in team.data("status")["daemon"]["error"]
    )
    assert team.engines() == engines
    team.bud("validate", code=2)
    team.write("spec/endpoint/chat.yaml", ENDPOINT)
    team.until("it is mended", lambda: not error_of(team))


@pytest.mark.slow
def test_the_foundry_of_this_repository_answers_with_a_real_model(
    tmp_path: Path,
) -> None:
    root = tmp_path / "foundry"
    root.mkdir()
    team = Team(root)
    for name in ("spec", "environments"):
        shutil.copytree(ROOT / name, root / name)
    environment = root / "environments/local/environment.yaml"
    text = environment.read_text().replace("port: 8000", f"port: {team.port}")
    environment.write_text(
        text.replace("gateway:\n", f"gateway:\n    adminPort: {team.admin}\n")
    )
    team.commit("The foundry")
    try:
        printed = team.bud("up")
        client = openai.OpenAI(base_url=team.url, api_key=team.key, max_retries=0)
        stream = client.chat.completions.create(
            model="gemma",
            messages=[{"role": "user", "content": "The capital of France is"}],
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        client.close()
    finally:
        team.bud("down")

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert f"curl {team.url}/chat/completions" in printed
    assert len(text.split()) > 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16
