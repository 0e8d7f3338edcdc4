"""The timing of a rehearsal follows the prediction; its text repeats."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engines.rehearsal import Batch, Timing, count_tokens, embed, speak

PREDICTED = Timing(
    ttft_ms=100, tpot_ms=20, tpot_alone_ms=8, input_tokens=512, concurrency=5
)


def test_the_predictions_are_met_where_they_were_made() -> None:
    assert PREDICTED.first_token_s(512) == pytest.approx(0.1)
    assert PREDICTED.next_token_s(5) == pytest.approx(0.020)
    assert PREDICTED.next_token_s(1) == pytest.approx(0.008)


def test_between_and_beyond_time_grows_with_the_batch() -> None:
    assert PREDICTED.next_token_s(3) == pytest.approx(0.014)
    assert PREDICTED.next_token_s(10) == pytest.approx(0.040)
    assert PREDICTED.first_token_s(1024) == pytest.approx(0.2)


@given(st.integers(1, 1000))
def test_a_larger_batch_is_never_faster(running: int) -> None:
    assert PREDICTED.next_token_s(running + 1) >= PREDICTED.next_token_s(running)


def test_a_scale_shrinks_every_wait() -> None:
    quick = Timing(
        ttft_ms=100,
        tpot_ms=20,
        tpot_alone_ms=8,
        input_tokens=512,
        concurrency=5,
        scale=0.01,
    )
    assert quick.first_token_s(512) == pytest.approx(0.001)
    assert quick.next_token_s(5) == pytest.approx(0.0002)


async def test_those_beyond_the_batch_wait_in_their_order() -> None:
    batch = Batch(timing=PREDICTED, places=2, context=100)
    order: list[int] = []
    gate = asyncio.Event()

    async def request(number: int) -> None:
        async with batch.place(50):
            order.append(number)
            await gate.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(request(number))
        while batch.waiting < 3:
            await asyncio.sleep(0)
        assert (batch.running, batch.waiting) == (2, 3)
        assert batch.cache_usage == pytest.approx(0.5)
        gate.set()
    assert order == [0, 1, 2, 3, 4]
    assert (batch.running, batch.waiting, batch.tokens) == (0, 0, 0)


async def test_one_that_gives_up_waiting_leaves_no_trace() -> None:
    batch = Batch(timing=PREDICTED, places=1, context=100)
    async with batch.place(1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), batch.place(1):
                pass
        assert (batch.running, batch.waiting) == (1, 0)
    assert batch.tokens == 0


@given(st.text(), st.integers(0, 9))
def test_the_same_prompt_and_seed_say_the_same(prompt: str, seed: int) -> None:
    assert speak(prompt, seed) == speak(prompt, seed)
    assert count_tokens(prompt) >= 1


def test_a_text_of_long_ago_is_still_the_same() -> None:
    assert "".join(speak("hello", 0)[:5]) == "Across within some some small"
    assert embed("a", 8) == embed("a", 8) != embed("b", 8)
