"""A real Gitea on loopback with people and a repository, and a team's checkout."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.team import free_ports

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60
PEOPLE = ("alice", "bob", "carol", "mallory")
"""Who writes, who approves, who owns money, who may nothing."""
PASSWORD = "a-password-of-a-test"

INI = """
APP_NAME = test
RUN_MODE = prod
WORK_PATH = {home}
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {port}
ROOT_URL = http://127.0.0.1:{port}/
STATIC_ROOT_PATH = {share}
OFFLINE_MODE = true
DISABLE_SSH = true
LFS_START_SERVER = false
[database]
DB_TYPE = sqlite3
PATH = {home}/gitea.db
[repository]
ROOT = {home}/repositories
[security]
INSTALL_LOCK = true
SECRET_KEY = of-a-test
PASSWORD_HASH_ALGO = pbkdf2$1000$20
[service]
DISABLE_REGISTRATION = true
[webhook]
ALLOWED_HOST_LIST = loopback
[indexer]
ISSUE_INDEXER_TYPE = db
[actions]
ENABLED = false
[cron]
ENABLED = false
[log]
MODE = file
LEVEL = warn
ROOT_PATH = {home}/log
"""


class Gitea:
    def __init__(self, home: Path, port: int) -> None:
        self.home, self.url, self.pid = home, f"http://127.0.0.1:{port}", 0
        self.tokens: dict[str, str] = {}

    def call(
        self, who: str, method: str, path: str, body: Any = None, *, login: str = ""
    ) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Content-Type": "application/json",
                "Authorization": login or f"token {self.tokens[who]}",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()}") from error
        return json.loads(said) if said else None

    def join(self, who: str) -> None:
        """Make a person, with a token of their own."""
        person = {
            "username": who,
            "email": f"{who}@example.org",
            "password": PASSWORD,
            "must_change_password": False,
        }
        self.call("bud", "POST", "/admin/users", person)
        basic = base64.b64encode(f"{who}:{PASSWORD}".encode()).decode()
        body = {"name": "test", "scopes": ["all"]}
        made = self.call(
            "", "POST", f"/users/{who}/tokens", body, login=f"Basic {basic}"
        )
        self.tokens[who] = made["sha1"]

    def repository(self, name: str) -> Path:
        """Where a repository of the team lies; git reads it as a file."""
        return self.home / "repositories" / "team" / f"{name}.git"

    def new_repository(self, name: str) -> None:
        """Empty, and open to its people but not to mallory."""
        self.call(
            "bud", "POST", "/orgs/team/repos", {"name": name, "default_branch": "main"}
        )
        for who, may in (("alice", "write"), ("bob", "write"), ("carol", "write")):
            self.call(
                "bud",
                "PUT",
                f"/repos/team/{name}/collaborators/{who}",
                {"permission": may},
            )


def binary() -> Path:
    found = shutil.which("gitea", path=f"{ROOT / '.tools/bin'}:{os.environ['PATH']}")
    share = ROOT / ".tools/share/gitea/templates"
    if found is None or not share.exists():
        message = "Gitea is not there: `make tools` builds it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return Path(found)


@contextmanager
def running(home: Path) -> Iterator[Gitea]:
    program = binary()
    [port] = free_ports(1)
    home.mkdir(parents=True, exist_ok=True)
    config = home / "app.ini"
    share = ROOT / ".tools/share/gitea"
    config.write_text(INI.format(home=home, port=port, share=share))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "USER": os.environ.get("USER", "root"),
        "GITEA_WORK_DIR": str(home),
        "GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT": "true",
    }
    if os.geteuid() == 0:
        text = "I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true\n" + config.read_text()
        config.write_text(text)

    def admin(*args: str) -> str:
        done = subprocess.run(
            [program, "--config", config, *args],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    admin("migrate")
    gitea = Gitea(home, port)
    said = admin(
        "admin", "user", "create", "--username", "bud", "--password", PASSWORD,
        "--email", "bud@example.org", "--must-change-password=false", "--admin",
        "--access-token", "--access-token-name", "test", "--access-token-scopes", "all",
    )  # fmt: skip
    gitea.tokens["bud"] = said.partition("successfully created... ")[2].split()[0]
    with (home / "out").open("wb") as out:
        process = subprocess.Popen(
            [program, "--config", config, "web"],
            env=environment,
            stdout=out,
            stderr=out,
        )
    gitea.pid = process.pid
    try:
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                gitea.call("bud", "GET", "/version")
                break
            except OSError:
                assert process.poll() is None, (home / "out").read_text()
                assert time.monotonic() < end, (home / "out").read_text()
                time.sleep(0.05)
        for who in PEOPLE:
            gitea.join(who)
        gitea.call("bud", "POST", "/orgs", {"username": "team"})
        yield gitea
    finally:
        process.kill()
        process.wait()
