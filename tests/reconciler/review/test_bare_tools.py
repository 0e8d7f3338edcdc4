"""The same attack against the bare tool and against us: what is stopped here.

docs/pull-requests.md has the table. The tools are those that we run or that others
build this on; each is used as its documentation says.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import jinja2
import pytest
import yaml

from reconciler import lockfile
from reconciler.connect import Tools, connect
from reconciler.foundry import now
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.review.describer import Describer
from reconciler.review.receiver import Receiver, Wanted
from reconciler.source import git
from reconciler.targets.helm import Charts
from reconciler.targets.helm.command import HelmCommand
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.sandbox import read_chart
from reconciler.values import Commit, Key
from schemas.catalog import catalog
from schemas.errors import PermanentError, SpecError
from schemas.kinds import KINDS
from schemas.objects import Credential, Ref
from tests.e2e.team import ENDPOINT
from tests.reconciler.review.repository import FILES, store_of
from tests.reconciler.review.test_refusals import deliver
from tests.renderers.kubernetes_cases import cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).resolve().parents[3]
UNNAMED = Commit(sha="0" * 40)
LOOKUP = "{{ lookup('pipe', 'echo uid=$((40+2))') }}"
GLOBALS = "{{ cycler.__init__.__globals__.os.getpid() }}"
EVIL = LOOKUP + GLOBALS
CANARY = "canary-of-the-machine"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        write(tmp_path / "tree" / path, text)
    return tmp_path / "tree"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dedent(text).replace("NAME", file.stem).lstrip())


def tool(name: str) -> str:
    folders = f"{ROOT / '.tools/bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"  # fmt: skip
    found = shutil.which(name, path=folders)
    if found is None:
        said = f"{name} is not there: run `make tools`"
        pytest.fail(said) if os.environ.get("CI") == "true" else pytest.skip(said)
    return found


def run(*argv: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, argv)], capture_output=True, text=True, timeout=120, check=False, **options
    )  # fmt: skip


def bare_chart(folder: Path, template: str) -> Path:
    write(folder / "Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n")
    write(folder / "templates/a.yaml", template)
    return folder


async def test_1_and_12_helm_follows_a_link_and_a_chart_chooses_its_namespace(
    tmp_path: Path,
) -> None:
    helm = tool("helm")
    (tmp_path / "secret").write_text(f"a: {CANARY}\n")
    chart = bare_chart(tmp_path / "c", "kind: X\nmetadata: {namespace: kube-system}\n")
    (chart / "templates/b.yaml").symlink_to(tmp_path / "secret")
    said = run(helm, "template", "--namespace", "tenant", "x", chart).stdout

    assert CANARY in said
    assert "namespace: kube-system" in said
    with pytest.raises(PermanentError, match=r"templates/b\.yaml is a link"):
        read_chart(chart)


MAIN_TF = """
terraform {}
resource "terraform_data" "x" {
  provisioner "local-exec" { command = "touch ran" }
}
output "read" { value = file("../secret") }
"""


async def test_2_and_9_and_10_tofu_reads_runs_and_applies_what_is_stale(
    tmp_path: Path, describer: Describer, tree: Path
) -> None:
    tofu, work = tool("tofu"), tmp_path / "work"
    (tmp_path / "secret").write_text(CANARY)
    write(work / "main.tf", MAIN_TF)
    assert run(tofu, "init", "-no-color", cwd=work).returncode == 0
    planned = run(tofu, "plan", "-no-color", "-out=p", cwd=work)
    assert CANARY in planned.stdout, "a plan reads any file, and shows it"
    (work / "main.tf").write_text("")  # the branch moved on
    assert run(tofu, "apply", "-no-color", "p", cwd=work).returncode == 0
    assert (work / "ran").exists(), "the stale plan was applied, and ran a program"

    # Ours reads no HCL of a branch; what is stale is refused by test_pinning.
    write(tree / "spec/cluster/main.tf", MAIN_TF)
    with pytest.raises(PermanentError, match=r"spec/cluster/main\.tf"):
        await describer.describe(tree, "local", "0" * 40, trusted=False)


async def test_4_git_runs_what_a_repository_configures(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    run("git", "init", "-q", tmp_path)
    run("git", "config", "core.fsmonitor", f"touch {mark}; false", cwd=tmp_path)
    run("git", "status", cwd=tmp_path)
    assert mark.exists()
    mark.unlink()

    await git("status", cwd=tmp_path)
    assert not mark.exists()


async def test_5_helm_runs_what_a_kubeconfig_names(tmp_path: Path) -> None:
    mark, helm = tmp_path / "ran", tool("helm")
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "touch",
            "args": [str(mark)], "interactiveMode": "Never",
        }}}],
    }  # fmt: skip
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(config))
    run(helm, "list", "--kubeconfig", file)
    assert mark.exists()
    mark.unlink()

    async def read(_: Credential) -> str:
        return file.read_text()

    command = HelmCommand(binary=helm)
    connected = connect(
        cluster(credentials={"secret": "clusters.yaml#evil"}),
        owner="c",
        tools=Tools(
            renderer=Renderer(helm), helm=command,
            charts=Charts(command, folder=tmp_path, checkout=tmp_path),
        ),
        credentials=read,
    )  # fmt: skip
    key = Key(connected.objects.name, Ref("Endpoint", "default", "a"))
    live = (await connected.objects.observe([key]))[key]
    assert "comes from the repository and has exec" in live.detail
    await connected.close()
    assert not mark.exists()


MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
)


async def test_6_pyyaml_does_not_come_back_from_a_file_of_400_bytes(tree: Path) -> None:
    assert len(MERGE_BOMB) < 600
    code = (
        "import resource, sys, yaml\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (2, 2))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "yaml.safe_load(sys.stdin.read())"
    )
    assert run(sys.executable, "-c", code, input=MERGE_BOMB).returncode != 0

    write(tree / "spec/route/bomb.yaml", MERGE_BOMB)
    with pytest.raises(SpecError, match=r"spec/route/bomb\.yaml"):
        load(tree, UNNAMED)


async def test_7_and_8_jinja_and_ansible_run_what_a_value_says(
    describer: Describer, tree: Path, tmp_path: Path
) -> None:
    played = jinja2.Environment().from_string(GLOBALS).render()
    assert played == str(os.getpid())
    ansible = tool("ansible")
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    said = run(
        ansible, "localhost", "-m", "debug", "-a", "msg={{ x }}", "-e",
        json.dumps({"x": LOOKUP}), env=home,
    )  # fmt: skip
    assert "uid=42" in said.stdout

    # As our plays read what a spec says: data, by a lookup, in group_vars.
    shutil.copytree(ROOT / "templates/ansible/group_vars", tmp_path / "group_vars")
    (tmp_path / "cluster.json").write_text(json.dumps({"distribution": EVIL}))
    play = [{"hosts": "all", "gather_facts": False,
             "tasks": [{"debug": {"msg": "{{ cluster.distribution }} {{ service_of }}"},
                        "vars": {"service_of": "{{ cluster }}"}}]}]  # fmt: skip
    (tmp_path / "play.yml").write_text(json.dumps(play))
    said = run(
        f"{ansible}-playbook", "-i", "localhost,", "-c", "local", "-e", "ansible_user=root", "play.yml",
        cwd=tmp_path, env=home,
    )  # fmt: skip
    assert "lookup('pipe'" in said.stdout, said.stdout + said.stderr
    assert "uid=42" not in said.stdout

    engine = f'rehearses: vllm, env: {{A: "{EVIL}"}}}}'
    write(tree / "spec/endpoint/one.yaml", ENDPOINT.replace("rehearses: vllm}", engine))
    lock, _ = lockfile.refresh(overlay(load(tree, UNNAMED), "local"), catalog())
    lockfile.write(tree, "local", lock)
    described = await describer.describe(tree, "local", "0" * 40, trusted=False)
    contents = b"".join(u.content for u in described.rendered.units.values())
    assert b"echo uid=$((40+2))" in contents
    assert b"uid=42" not in contents


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"Environment"}))
async def test_12_no_kind_lets_one_project_speak_for_another(
    tree: Path, kind: str
) -> None:
    write(tree / "spec/project/search.yaml", "apiVersion: foundry.bud/v1\nkind: Project\nmetadata: {name: NAME}\nspec: {}\n")  # fmt: skip
    for field in ("project: default", "namespace: kube-system", "ownerReferences: []"):
        text = f"apiVersion: foundry.bud/v1\nkind: {kind}\nmetadata:\n  name: x\n  {field}\nspec: {{}}\n"  # fmt: skip
        write(tree / f"spec/search/{kind.lower()}/x.yaml", text)
        with pytest.raises(SpecError) as caught:
            load(tree, UNNAMED)
        said = [
            problem.message
            for problem in caught.value.problems
            if "search" in problem.file and field.split(":")[0] in str(problem)
        ]
        assert said, (field, str(caught.value))


async def test_13_of_a_delivery_that_comes_fifty_times_at_once_one_is_taken(
    tmp_path: Path,
) -> None:
    with store_of(tmp_path, now) as store:
        receiver = Receiver(
            kind="gitea", repository="t/r", secret="s3cret", store=store,
            wanted=Wanted(), clock=now,
        )  # fmt: skip
        body = json.dumps({"repository": {"full_name": "t/r"}}).encode()
        async with receiver.serve("127.0.0.1", 0) as port:
            answers = await asyncio.gather(
                *[deliver(port, body, id_="one", secret="s3cret") for _ in range(50)]
            )  # fmt: skip

    assert sorted(answers) == [202, *[409] * 49]
