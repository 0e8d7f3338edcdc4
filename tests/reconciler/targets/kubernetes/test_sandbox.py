import asyncio
from pathlib import Path

import pytest

from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.sandbox import find_helm, read_chart, template
from renderers.helm import Chart, Release, our_chart, write_release
from schemas.errors import PermanentError
from tests.reconciler.targets.kubernetes.plane import find
from tests.renderers.kubernetes_cases import CASES

pytestmark = pytest.mark.skipif(find("helm") is None, reason="run `make tools`")

CHART = b"apiVersion: v2\nname: c\nversion: 1.0.0\n"


def chart(body: str) -> Chart:
    files = {"Chart.yaml": CHART, "templates/a.yaml": body.encode()}
    return Chart(name="c", files=files)


async def render(body: str) -> str:
    output = await template(find_helm(), chart(body), {}, kube_version="1.34.2")
    return output.decode()


def test_a_link_out_of_a_chart_is_refused(tmp_path: Path) -> None:
    """Helm follows it, and renders what it finds there."""
    (tmp_path / "secret").write_text("s3cr3t")
    folder = tmp_path / "c"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_bytes(CHART)
    (folder / "templates" / "a.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(PermanentError, match=r"templates/a\.yaml is a link"):
        read_chart(folder)


def test_a_chart_of_plain_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_bytes(CHART)
    assert read_chart(tmp_path).files == {"Chart.yaml": CHART}


async def test_a_path_out_of_the_sandbox_is_refused() -> None:
    bad = Chart(name="c", files={"../a": b""})
    with pytest.raises(PermanentError, match="path"):
        await template(find_helm(), bad, {}, kube_version="1.34.2")


async def test_a_chart_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    for function in ("env", "expandenv"):
        with pytest.raises(PermanentError, match=f'function "{function}" not defined'):
            await render(f'a: {{{{ {function} "AWS_SECRET_ACCESS_KEY" }}}}')


async def test_a_chart_reads_no_file_of_the_machine() -> None:
    assert await render('a: {{ .Files.Get "/etc/passwd" | quote }}') == (
        '---\n# Source: c/templates/a.yaml\na: ""\n'
    )


async def test_a_chart_asks_no_network_and_no_cluster() -> None:
    said = await render(
        'a: {{ getHostByName "localhost" | quote }}\n'
        'b: {{ lookup "v1" "Secret" "default" "" | toJson }}'
    )
    assert 'a: ""' in said
    assert "b: {}" in said


async def test_one_bad_release_does_not_fail_its_neighbours() -> None:
    good = CASES["dense"]()
    digest = our_chart("endpoint").digest
    bad = write_release(
        Release(chart="endpoint", chart_digest=digest, entry="x", values={"name": 1})
    )
    renderer = Renderer(find_helm())
    one, other = await asyncio.gather(
        renderer.render(good), renderer.render(bad), return_exceptions=True
    )
    assert isinstance(one, tuple)
    assert isinstance(other, PermanentError)
    assert "values" in str(other)


async def test_what_was_rendered_once_is_not_rendered_again() -> None:
    renderer = Renderer(find_helm())
    first = await renderer.render(CASES["dense"]())
    assert await renderer.render(CASES["dense"]()) is first
    assert renderer.runs == 1


async def test_a_release_of_another_chart_is_refused() -> None:
    stale = write_release(
        Release(chart="endpoint", chart_digest="0" * 64, entry="x", values={})
    )
    with pytest.raises(PermanentError, match="wants chart endpoint 000000000000"):
        await Renderer(find_helm()).render(stale)
