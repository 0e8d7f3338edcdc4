"""What a checkout says, and that a hole in it is never silence."""

from __future__ import annotations

import os

import pytest

from reconciler.load import load
from reconciler.values import Commit, Document
from schemas.endpoint import Endpoint
from schemas.objects import Ref

COMMIT = Commit(sha="0" * 40)
CHAT = Ref("Endpoint", "default", "chat")


def test_a_checkout_becomes_validated_objects_with_places(checkout):
    documents = load(checkout.root, COMMIT)
    chat = documents.spec[CHAT]
    assert isinstance(chat.item, Endpoint)
    assert chat.file == "spec/endpoint/chat.yaml"
    assert chat.places["spec.engine.name"] == (7, 18)
    assert chat.places["spec.engine.name#key"] == (7, 12)
    assert set(documents.environments) == {"dev"}


def test_an_object_of_a_project_lies_in_the_folder_of_the_project(checkout):
    text = (checkout.root / "spec/route/chat.yaml").read_text()
    checkout.put(
        "spec/search/route/chat.yaml", text.replace("{name", "{project: search, name")
    )
    documents = load(checkout.root, COMMIT)
    assert Ref("Route", "search", "chat") in documents.spec
    assert Ref("Route", "default", "chat") in documents.spec


def test_every_problem_of_the_tree_comes_at_once(checkout, problems):
    checkout.put("spec/route/chat.yaml", "kind: Route\n")
    checkout.put("spec/endpoint/chat.yaml", "a: [\n")
    checkout.put("spec/model/other.txt", "")
    found = problems(lambda: load(checkout.root, COMMIT))
    assert [line.split(":")[0] for line in found] == [
        "spec/endpoint/chat.yaml",
        "spec/model/other.txt",
        *["spec/route/chat.yaml"] * 3,
    ]


@pytest.mark.parametrize("folder", ["spec", "environments"])
def test_a_missing_folder_is_an_error_and_not_an_empty_one(checkout, problems, folder):
    (checkout.root / folder).rename(checkout.root / "elsewhere")
    assert problems(lambda: load(checkout.root, COMMIT)) == [
        f"{folder}: cannot read the folder: no such file or directory"
    ]


@pytest.fixture
def as_nobody(checkout):
    """Root may read everything: be nobody where the checkout can be reached."""
    if os.geteuid() != 0:
        yield lambda: None
        return
    closed = {
        p: p.stat().st_mode
        for p in checkout.root.parents
        if p.stat().st_mode & 0o11 != 0o11
    }
    for inside in [checkout.root, *checkout.root.rglob("*")]:
        inside.chmod(0o755)
    for folder, mode in closed.items():
        folder.chmod(mode | 0o11)
    yield lambda: os.seteuid(65534)
    os.seteuid(0)
    for folder, mode in closed.items():
        folder.chmod(mode)


@pytest.mark.parametrize("file", ["spec/route/chat.yaml", "spec/route"])
def test_what_may_not_be_read_is_an_error_and_not_an_absence(
    checkout, as_nobody, problems, file
):
    (checkout.root / file).chmod(0)
    as_nobody()
    noun = "file" if file.endswith("yaml") else "folder"
    assert problems(lambda: load(checkout.root, COMMIT)) == [
        f"{file}: cannot read the {noun}: permission denied"
    ]


def test_a_link_that_leads_nowhere_is_an_error(checkout, problems):
    (checkout.root / "spec/route/gone.yaml").symlink_to("nowhere")
    (checkout.root / "spec/route/loop.yaml").symlink_to("loop.yaml")
    assert problems(lambda: load(checkout.root, COMMIT)) == [
        "spec/route/gone.yaml: cannot read the file: no such file or directory",
        "spec/route/loop.yaml: cannot read the file: too many levels of symbolic links",
    ]


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../../../outside.yaml", "../../.git/config"]
)
def test_a_link_never_leaves_the_spec(checkout, problems, target):
    checkout.put(".git/config", "token")
    (checkout.root.parent / "outside.yaml").write_text("token")
    (checkout.root / "spec/route/link.yaml").symlink_to(target)
    assert problems(lambda: load(checkout.root, COMMIT)) == [
        "spec/route/link.yaml: cannot follow the link: it leaves spec/ and environments/"
    ]


def test_a_link_to_another_file_of_the_spec_is_followed(checkout):
    overlay = "apiVersion: foundry.bud/v1\nkind: Route\nmetadata: {name: chat}\n"
    checkout.put("environments/dev/route/chat.yaml", overlay)
    text = (checkout.root / "environments/dev/environment.yaml").read_text()
    checkout.put("environments/other/environment.yaml", text.replace("dev", "other"))
    link = checkout.root / "environments/other/route/chat.yaml"
    link.parent.mkdir()
    link.symlink_to("../../dev/route/chat.yaml")
    assert len(load(checkout.root, COMMIT).overlays["other"]) == 1


def test_a_folder_behind_a_link_is_refused(checkout, problems):
    (checkout.root / "spec/again").symlink_to("route")
    assert problems(lambda: load(checkout.root, COMMIT)) == [
        "spec/again: cannot follow the link: it leads to no file"
    ]


def test_a_pipe_is_refused_without_waiting_on_it(checkout, problems):
    os.mkfifo(checkout.root / "spec/route/pipe.yaml")
    assert problems(lambda: load(checkout.root, COMMIT)) == [
        "spec/route/pipe.yaml: cannot read it: it is no regular file"
    ]


def test_secrets_are_for_others_to_open(checkout):
    checkout.put("environments/dev/secrets/keys.yaml", b"\xff sealed")
    load(checkout.root, COMMIT)


def test_readmes_and_dotfiles_are_no_objects(checkout):
    checkout.put("spec/README.md", "# hello")
    checkout.put("spec/route/.gitkeep", "")
    load(checkout.root, COMMIT)


def test_a_lock_is_read_as_data(checkout):
    checkout.put(
        "environments/dev/resolved.lock.yaml", "endpoints: {chat: {tensor: 1}}\n"
    )
    locks = load(checkout.root, COMMIT).locks
    assert locks == {"dev": {"endpoints": {"chat": {"tensor": 1}}}}


@pytest.mark.parametrize("file", ["resolved.lock.yaml", "route/chat.yaml"])
def test_an_environment_without_its_file_is_an_error(checkout, problems, file):
    overlay = "apiVersion: foundry.bud/v1\nkind: Route\nmetadata: {name: chat}\n"
    checkout.put(f"environments/prod/{file}", overlay)
    assert problems(lambda: load(checkout.root, COMMIT)) == [
        "environments/prod: cannot read the environment: it has no environment.yaml"
    ]


def test_a_second_load_reads_only_what_changed(checkout):
    cache: dict[str, tuple[bytes, Document]] = {}
    first = load(checkout.root, COMMIT, cache=cache)
    text = (checkout.root / "spec/endpoint/chat.yaml").read_text()
    checkout.put("spec/endpoint/chat.yaml", text.replace("replicas: 1", "replicas: 2"))
    (checkout.root / "spec/route/chat.yaml").unlink()
    second = load(checkout.root, COMMIT, cache=cache)
    changed = {r for r in first.spec if second.spec.get(r) is not first.spec[r]}
    assert changed == {CHAT, Ref("Route", "default", "chat")}
    assert second == load(checkout.root, COMMIT)
    assert "spec/route/chat.yaml" not in cache


def test_a_file_that_broke_is_read_again_once_it_is_mended(checkout, problems):
    cache: dict[str, tuple[bytes, Document]] = {}
    good = (checkout.root / "spec/endpoint/chat.yaml").read_text()
    expected = load(checkout.root, COMMIT, cache=cache)
    checkout.put("spec/endpoint/chat.yaml", "torn")
    problems(lambda: load(checkout.root, COMMIT, cache=cache))
    checkout.put("spec/endpoint/chat.yaml", good)
    assert load(checkout.root, COMMIT, cache=cache) == expected
