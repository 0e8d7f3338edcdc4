"""A simulated engine: OpenAI's API for the official client, and it never hides."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import IncompleteRead, RemoteDisconnected

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.reconciler.engines.conftest import serving

pytestmark = pytest.mark.slow

SIMULATOR = "reconciler.engines.simulator"
PLANNED = (
    *("--alias", "chat", "--rehearses", "vllm", "--context", "256", "--parallel", "2"),
    *("--input-tokens", "4", "--concurrency", "2"),
    *("--ttft-ms", "20", "--tpot-ms", "4", "--tpot-alone-ms", "2"),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(SIMULATOR, *PLANNED) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


ASKED: list[ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "what waits?"}
]


def test_a_chat_is_answered_the_same_every_time(client: openai.OpenAI) -> None:
    first, second = (
        client.chat.completions.create(model="chat", messages=ASKED, max_tokens=9)
        for _ in range(2)
    )
    said = first.choices[0].message.content
    assert said == second.choices[0].message.content
    assert first.choices[0].finish_reason == "length"
    assert first.usage is not None
    assert first.usage.completion_tokens == 9
    assert first.system_fingerprint == "simulated-vllm"


def test_another_seed_is_another_answer(client: openai.OpenAI) -> None:
    one, other = (
        client.completions.create(model="chat", prompt="hi", max_tokens=9, seed=seed)
        for seed in (1, 2)
    )
    assert one.choices[0].text != other.choices[0].text
    assert one.system_fingerprint == "simulated-vllm"


def test_every_chunk_of_a_stream_says_what_it_is(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="chat", messages=ASKED, max_tokens=9)
    chunks = list(
        client.chat.completions.create(
            model="chat",
            messages=ASKED,
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert {c.system_fingerprint for c in chunks} == {"simulated-vllm"}
    *spoken, last = chunks
    text = "".join(c.choices[0].delta.content or "" for c in spoken)
    assert text == whole.choices[0].message.content
    assert spoken[-1].choices[0].finish_reason == "length"
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 9)


def test_an_answer_ends_by_itself_unless_told_to_go_on(client: openai.OpenAI) -> None:
    free = client.completions.create(model="chat", prompt="hi")
    assert free.choices[0].finish_reason == "stop"
    held = client.completions.create(
        model="chat", prompt="hi", max_tokens=150, extra_body={"ignore_eos": True}
    )
    assert held.usage is not None
    assert held.usage.completion_tokens == 150


def test_embeddings_are_unit_vectors_of_the_text_alone(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="chat", input=["a", "b", "a"])
    a, b, again = (item.embedding for item in answer.data)
    assert a == again != b
    assert sum(x * x for x in a) == pytest.approx(1)
    raw = client.with_raw_response.embeddings.create(model="chat", input="a")
    assert json.loads(raw.content)["system_fingerprint"] == "simulated-vllm"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"model": "other", "prompt": "x"}, openai.NotFoundError),
        ({"model": "chat", "prompt": 5}, openai.BadRequestError),
        (
            {"model": "chat", "prompt": "x", "max_tokens": 999},
            openai.BadRequestError,
        ),
        ({"model": "chat", "prompt": "x" * 2000}, openai.BadRequestError),
    ],
)
def test_what_an_engine_refuses_is_refused_in_its_shape(
    client: openai.OpenAI, body: dict[str, object], error: type[openai.APIError]
) -> None:
    with pytest.raises(error):
        client.post("/completions", body=body, cast_to=object)


def test_metrics_have_vllms_names(url: str, client: openai.OpenAI) -> None:
    client.completions.create(model="chat", prompt="hi", max_tokens=3)
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    names = {line.split("{")[0] for line in page.splitlines() if line[:1] != "#"}
    assert {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_sum",
        "vllm:time_per_output_token_seconds_count",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
        "vllm:e2e_request_latency_seconds_bucket",
    } <= names
    assert 'vllm:num_requests_running{model_name="chat"} 0.0' in page


def test_the_first_token_takes_what_was_predicted(client: openai.OpenAI) -> None:
    started = time.monotonic()
    client.completions.create(model="chat", prompt="x" * 16, max_tokens=1)
    # 4 tokens, as planned: 20 ms; the upper bound only says that it is not seconds.
    assert time.monotonic() - started >= 0.020


def posted(url: str, **body: object) -> urllib.request.Request:
    content = json.dumps({"model": "chat", "prompt": "hi", **body}).encode()
    headers = {"Content-Type": "application/json"}
    return urllib.request.Request(f"{url}/v1/completions", content, headers)


def ask(url: str) -> int:
    """The HTTP status of one request."""
    try:
        with urllib.request.urlopen(posted(url, max_tokens=2), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_it_fails_from_the_answer_on_that_it_is_told() -> None:
    with serving(SIMULATOR, "--alias", "chat", "--error-after", "2") as url:
        assert [ask(url) for _ in range(4)] == [200, 200, 500, 500]


def test_it_can_listen_and_never_be_ready() -> None:
    with serving(SIMULATOR, "--alias", "chat", "--not-ready") as url:
        assert [ask(url) for _ in range(2)] == [503, 503]


def test_it_can_drop_a_stream_in_the_middle() -> None:
    with (
        serving(SIMULATOR, "--alias", "chat", "--cut-after-tokens", "3") as url,
        urllib.request.urlopen(posted(url, stream=True), timeout=10) as answer,
        pytest.raises((IncompleteRead, ConnectionResetError)),
    ):
        answer.read()


def test_it_can_end_in_the_middle_of_a_request() -> None:
    options = ("--alias", "chat", "--crash-after", "1")
    with serving(SIMULATOR, *options, ends=70) as url:
        assert ask(url) == 200
        with pytest.raises((RemoteDisconnected, ConnectionError)):
            ask(url)
