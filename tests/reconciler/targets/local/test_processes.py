"""A process is known by more than its pid, and is found without any record."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.targets.local.processes import (
    Process,
    Processes,
    alive,
    connections,
    exit_code,
    free_port,
    is_free,
    send,
)
from schemas.errors import PermanentError
from tests.reconciler.targets.local.conftest import wait_until_gone

pytestmark = pytest.mark.slow

# Says that it runs, then waits for its end.
WAITS = "import sys; print('up', flush=True); sys.stdin.read() or __import__('signal').pause()"


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    (tmp_path / "instances" / "p.chat" / "p.chat.u.0.a").mkdir(parents=True)
    return Processes(tmp_path, tmp_path / "instances")


def spawn(processes: Processes, tmp_path: Path, code: str) -> Process:
    return processes.spawn(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"]},
        instance="p.chat.u.0.a",
        folder=tmp_path / "instances" / "p.chat" / "p.chat.u.0.a",
        log=tmp_path / "log",
    )


def test_a_process_is_found_by_its_marks_alone(
    processes: Processes, tmp_path: Path
) -> None:
    process = spawn(processes, tmp_path, WAITS)
    try:
        again = Processes(tmp_path, tmp_path / "instances")
        assert again.scan() == {"p.chat.u.0.a": [process]}
        assert Processes(tmp_path / "other", tmp_path / "other").scan() == {}
    finally:
        send(process, signal.SIGKILL)
        wait_until_gone(process)
    assert not alive(process)
    assert exit_code(process) == -signal.SIGKILL
    assert processes.scan() == {}


def test_a_process_without_its_environment_is_found_by_its_folder(
    processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "instances" / "p.chat" / "p.chat.u.0.a"
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        env={},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"up\n"
        assert [p.pid for p in processes.members("p.chat.u.0.a")] == [stranger.pid]
        stranger.kill()


def test_workers_belong_to_their_instance_after_the_one_that_was_started(
    processes: Processes, tmp_path: Path
) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITS!r}])"
    process = spawn(processes, tmp_path, code)
    try:
        while len(processes.members("p.chat.u.0.a")) < 2:
            pass
        first, worker = processes.members("p.chat.u.0.a")
        assert first == process
        assert worker.pid != process.pid
    finally:
        for member in processes.members("p.chat.u.0.a"):
            send(member, signal.SIGKILL)
            wait_until_gone(member)


def test_another_process_under_the_same_pid_is_neither_alive_nor_signalled() -> None:
    someone = Process(os.getpid(), 1)
    assert not alive(someone)
    send(someone, signal.SIGKILL)  # or this test ends here


def test_a_program_that_is_not_there_is_refused(
    processes: Processes, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError, match="cannot start /no/such/program: No such"):
        processes.spawn(
            ["/no/such/program"],
            env={},
            instance="p.chat.u.0.a",
            folder=tmp_path,
            log=tmp_path / "log",
        )


def test_connections_of_a_port_are_counted_while_they_last() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert connections(port) == 0
        assert not is_free(port)
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            assert connections(port) == 1
            accepted.close()


def test_a_free_port_is_free() -> None:
    assert is_free(free_port())
