"""A real small model answers the official client."""

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from reconciler.engines.llamacpp import has_chat_template
from schemas.local import Weights
from tests.reconciler.engines.conftest import GEMMA, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def client(weights: Callable[[Weights], Path]) -> Iterator[openai.OpenAI]:
    options = ("--model", str(weights(GEMMA)), "--alias", "gemma", "--context", "512")
    with (
        serving("reconciler.engines.llamacpp", *options, "--parallel", "2") as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def test_a_base_model_answers_one_turn_and_stops(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gemma",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=24,
        temperature=0,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop", "not the client's next turn"
    assert answer.model == "gemma"


def test_a_stream_ends_with_its_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="gemma",
            messages=[{"role": "user", "content": "Say hello."}],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 5
    assert any(c.choices and c.choices[0].delta.content for c in chunks)


def test_it_goes_by_the_endpoints_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["gemma"]


def test_text_is_continued(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="gemma", prompt="One, two, three,", max_tokens=3, temperature=0
    )
    assert "four" in answer.choices[0].text


def test_its_metrics_can_be_scraped(client: openai.OpenAI) -> None:
    url = str(client.base_url).removesuffix("/v1/")
    page = client.with_options(base_url=url).get("/metrics", cast_to=str)
    assert "llamacpp:requests_processing" in page


def test_a_base_model_brings_no_chat_template(
    weights: Callable[[Weights], Path], tmp_path: Path
) -> None:
    assert not has_chat_template(weights(GEMMA))
    (tmp_path / "chat.gguf").write_bytes(b"GGUF tokenizer.chat_template {{ }}")
    assert has_chat_template(tmp_path / "chat.gguf")
