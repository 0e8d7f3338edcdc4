"""What a stranger's branch may try against whoever plans it.

The classes are those of published advisories against the peers; each is tried here, and
against the bare tool where one is at hand, so that the test shows what is stopped.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from reconciler.review.describer import Describer
from reconciler.review.trees import Trees
from reconciler.secrecy import Mask
from reconciler.source import git, lay_out
from schemas.errors import PermanentError, TemporaryError
from tests.e2e.team import CLUSTER, ENDPOINT, MODEL
from tests.reconciler.review.repository import ENVIRONMENT, POLICY
from tests.reconciler.review.test_pinning import bench

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).resolve().parents[3]
FILES = {
    "spec/cluster/here.yaml": CLUSTER,
    "spec/model/llama.yaml": MODEL,
    "spec/policy/four-eyes.yaml": POLICY,
    "environments/local/environment.yaml": ENVIRONMENT.replace(
        '"Endpoint/*", "Route/*", ', ""
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def describer() -> AsyncIterator[Describer]:
    os.environ["AWS_SECRET_ACCESS_KEY"] = "canary-in-the-daemon"
    made = Describer()
    yield made
    await made.close()
    del os.environ["AWS_SECRET_ACCESS_KEY"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        file = tmp_path / "tree" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text).replace("NAME", "x").lstrip())
    return tmp_path / "tree"


def run(argv: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, **options)  # noqa: PLW1510


async def refused(describer: Describer, root: Path) -> str:
    with pytest.raises(PermanentError) as caught:
        await describer.describe(root, "local", "0" * 40, trusted=False)
    return str(caught.value)


async def test_1_a_link_arrives_as_a_file_that_holds_its_target(
    describer: Describer, tree: Path, tmp_path: Path
) -> None:
    """CVE-2022-31036: a link out of the repository was read and shown."""
    secret = tmp_path / "secret.yaml"
    secret.write_text("password: canary-behind-a-link\n")
    (tree / "spec/endpoint").mkdir()
    (tree / "spec/endpoint/evil.yaml").symlink_to(secret)
    bare, laid = tmp_path / "bare", tmp_path / "laid"
    for args in (
        ("init", "-q"), ("add", "-A"),
        ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"),
        ("worktree", "add", "-q", str(bare)),
    ):  # fmt: skip
        run(["git", *args], cwd=tree, check=True)
    assert "canary" in (bare / "spec/endpoint/evil.yaml").read_text()

    sha = (await git("rev-parse", "HEAD", cwd=tree)).strip()
    # As the forge's mirror is read: by its objects, without links.
    await lay_out(tree, sha, laid)

    assert not (laid / "spec/endpoint/evil.yaml").is_symlink()
    said = await refused(describer, laid)
    assert "spec/endpoint/evil.yaml" in said
    assert "canary" not in said


CONFINED = """
import os, socket, sys, subprocess
sys.path.insert(0, {root!r})
from pathlib import Path
from reconciler.review.confine import confine
confine([Path({tree!r})])
def tried(what, act):
    try:
        act()
    except BaseException as error:
        print(what, type(error).__name__)
    else:
        print(what, "DONE")
tried("read", lambda: open("/etc/passwd").read())
tried("list", lambda: os.listdir("/"))
tried("environ", lambda: open("/proc/%d/environ" % os.getppid()).read())
tried("write", lambda: open({tree!r} + "/x", "w"))
tried("connect", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
tried("listen", lambda: socket.create_server(("127.0.0.1", 0)))
tried("fork", lambda: run(["true"]))
tried("memory", lambda: bytearray(8 << 30))
print("inside", open({tree!r} + "/spec/cluster/here.yaml").read()[:10])
"""


async def test_2_and_9_the_child_reads_the_checkout_and_can_do_nothing_else(
    tree: Path,
) -> None:
    """Traversal (GHSA-63qx-x74g-jcr7) and code that gets to run all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = CONFINED.format(
            root=str(ROOT), tree=str(tree), port=server.getsockname()[1]
        )
        done = run(
            [sys.executable, "-c", script],
            check=False,
        )
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())

    assert lines.pop("inside").startswith("apiVersi"), done.stderr
    assert set(lines) == {
        "read",
        "list",
        "environ",
        "write",
        "connect",
        "listen",
        "fork",
        "memory",
    }
    assert "DONE" not in lines.values(), lines


async def test_3_nothing_becomes_an_option_or_a_transport_of_git(
    tmp_path: Path,
) -> None:
    """CVE-2026-113708 and its kin: a value of the repository read as an option."""
    mark = tmp_path / "mark"
    evil = f"--upload-pack=touch {mark};git-upload-pack"
    run(["git", "init", "-q", "--bare", tmp_path / "r.git"], check=True)
    run(
        ["git", "fetch", evil, str(tmp_path / "r.git")],
        cwd=tmp_path / "r.git", check=False,
    )  # fmt: skip
    assert mark.exists(), "the bare tool runs it"
    mark.unlink()

    with pytest.raises(PermanentError, match="begins with '-'"):
        Trees(evil, "main", tmp_path)
    for url in (f"ext::sh -c touch% {mark}", f"http://127.0.0.1:1/{mark}"):
        with pytest.raises(TemporaryError):
            await Trees(url, "main", tmp_path).base()
    for ref in ("--upload-pack=x", "refs/heads/x:refs/heads/main", "HEAD"):
        with pytest.raises(PermanentError, match="no ref of a forge"):
            await Trees("file:///x", "main", tmp_path).merge("0" * 40, ref, "0" * 40)
    assert not mark.exists()


async def test_4_the_planning_process_has_no_environment_of_ours(
    describer: Describer, tree: Path
) -> None:
    """CVE-2026-113709: configuration and credentials of whoever renders."""
    await describer.describe(tree, "local", "0" * 40, trusted=False)
    assert describer._process is not None
    environ = Path(f"/proc/{describer._process.pid}/environ").read_bytes()

    names = {part.split(b"=")[0] for part in environ.split(b"\0") if part}
    assert names == {b"HOME", b"PATH", b"LANG"}
    assert os.environ["HOME"].encode() not in environ.split(b"\0")[0]


BOMBS = {
    "merge keys": "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
    ),
    "aliases": "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    ),
    "depth": "[" * 5000,
    "size": "a: " + "x" * (2 << 20),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
async def test_6_a_yaml_bomb_is_an_error_of_its_file(
    describer: Describer, tree: Path, bomb: str
) -> None:
    (tree / "spec/route").mkdir()
    (tree / "spec/route/bomb.yaml").write_text(BOMBS[bomb])

    assert "spec/route/bomb.yaml" in await refused(describer, tree)


async def test_7_and_8_a_template_in_a_value_is_text(
    describer: Describer, tree: Path
) -> None:
    """SSTI and Ansible's lookups: nobody evaluates what a file says."""
    evil = "{{ lookup('pipe','id') }}{{ ''.__class__.__mro__ }}"
    route = tree / "spec/cluster/here.yaml"
    route.write_text(
        route.read_text().replace(
            "metadata: {name: here}",
            f'metadata:\n  name: here\n  annotations: {{note: "{evil}"}}',
        )
    )
    described = await describer.describe(tree, "local", "0" * 40, trusted=False)

    contents = b"".join(u.content for u in described.rendered.units.values())
    assert b"uid=" not in contents


async def test_5_and_9_rules_and_clusters_of_the_branch_do_not_count(
    tmp_path: Path, describer: Describer
) -> None:
    """Atlantis reads its rules from the branch unless it is told not to."""
    async with bench(tmp_path, describer) as b:
        b.work.git("switch", "-q", "change")
        b.work.git("rm", "-q", "spec/policy/four-eyes.yaml")
        b.work.write(
            "environments/local/environment.yaml",
            ENVIRONMENT.replace(', "Policy/*"', ""),
        )
        b.work.write(
            "spec/cluster/theirs.yaml",
            """
            apiVersion: foundry.bud/v1
            kind: Cluster
            metadata: {name: theirs}
            spec: {provider: existing, credentials: {file: /tmp/kubeconfig-with-exec}}
            """,
        )
        head = b.commit("No rules", "refs/pull/1/head")
        b.forge.pulls[1] = type(b.forge.pulls[1])(
            number=1, title="x", author="alice", head=head, branch="main",
            fork=False, open=True, merged=False,
        )  # fmt: skip
        b.forge.approved = []
        await b.gate.reviewer.look(1)

        assert b.forge.statuses[-1][1:] == ("pending", "1 approvals of bob are missing")
        assert set(b.pipeline.targets) == {"local", "gateway"}


CANARY = "c4n4ry/Secret+Value=="


@pytest.mark.parametrize(
    "form",
    [
        CANARY,
        base64.b64encode(CANARY.encode()).decode(),
        base64.b64encode(f"user:{CANARY}".encode()).decode(),
        base64.b64encode(f"u:{CANARY}@host".encode()).decode(),
        base64.urlsafe_b64encode(CANARY.encode()).decode(),
        CANARY.encode().hex(),
        CANARY.encode().hex().upper(),
        quote(CANARY, safe=""),
        json.dumps(CANARY)[1:-1],
        "\n".join((CANARY[:7], CANARY[7:])),
        "\n+  ".join((CANARY[:7], CANARY[7:])),
        json.dumps("\n".join((CANARY[:9], CANARY[9:])))[1:-1],
    ],
)
async def test_11_a_secret_is_masked_in_every_form(form: str) -> None:
    mask = Mask([CANARY])
    said = mask(f"before {form} after")

    assert said.startswith("before ")
    assert said.endswith(" after")
    assert "[secret]" in said
    assert form[6:-6] not in said


async def test_11_a_secret_in_content_reaches_no_output(
    tmp_path: Path, describer: Describer
) -> None:
    """CVE-2024-52009, CVE-2026-42880: tokens and live secrets in comments."""
    async with bench(tmp_path, describer) as b:
        object.__setattr__(b.pipeline, "mask", Mask([CANARY]))
        b.work.git("switch", "-q", "change")
        b.work.write("spec/endpoint/one.yaml", ENDPOINT.replace(
            "rehearses: vllm}", f"rehearses: vllm, env: {{PLAIN: '{CANARY}'}}}}"
        ))  # fmt: skip
        head = b.commit("A secret", "refs/pull/1/head")
        b.forge.pulls[1] = type(b.forge.pulls[1])(
            number=1, title=CANARY, author="alice", head=head, branch="main",
            fork=False, open=True, merged=False,
        )  # fmt: skip
        await b.gate.reviewer.look(1)
        review = b.pipeline.store.reviews.of_pull(1)
        assert review is not None
        outputs = [
            review.document.decode(),
            *(note.body for note in b.forge.written),
            *(said for _, _, said in b.forge.statuses),
            *(d.said for d in b.pipeline.store.decisions()),
        ]

        for form in (
            CANARY,
            base64.b64encode(CANARY.encode()).decode(),
            quote(CANARY, safe=""),
        ):
            assert not [text for text in outputs if form in text]


async def test_12_one_project_cannot_write_in_anothers_name(
    describer: Describer, tree: Path
) -> None:
    """CVE-2026-77459: the place of a file says whose it is, whatever stands in it."""
    (tree / "spec/search/route").mkdir(parents=True)
    (tree / "spec/search/route/r.yaml").write_text(
        "apiVersion: foundry.bud/v1\nkind: Route\nmetadata: {name: r, project: default}\nspec: {}\n"
    )
    assert "the place says search" in await refused(describer, tree)
