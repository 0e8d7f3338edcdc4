from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from reconciler.optimizer.aic import AicPredictor
from reconciler.optimizer.layouts import Layouts
from reconciler.optimizer.task import Task
from schemas.architecture import Precision
from schemas.catalog import catalog
from schemas.errors import PermanentError

INSTALLED = importlib.util.find_spec("aiconfigurator") is not None


@pytest.mark.skipif(INSTALLED, reason="the extra is here")
def test_without_the_extra_the_error_says_how_to_get_it(chat_task: Task) -> None:
    with pytest.raises(PermanentError, match="AIConfigurator") as caught:
        AicPredictor().predict(
            chat_task,
            chat_task.pools[0],
            Precision.BF16,
            Layouts.one(max_batch=8),
            concurrency=np.array([8.0]),
        )
    assert "[aic]" in caught.value.hint


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="the extra `aic` is 200 MB, Linux x86-64")
def test_the_judge_answers_where_it_can_and_never_where_it_cannot(
    chat_task: Task,
) -> None:
    model = "Qwen/Qwen3-32B"
    shape = catalog().models.find(model).architecture
    task = replace(chat_task, model=model, architecture=shape)
    layouts = Layouts.of([(2, 1, 1, 1, 16, 8192), (3, 1, 1, 1, 16, 8192)])
    found = AicPredictor().predict(
        task, task.pools[0], Precision.FP8, layouts, concurrency=np.array([16.0, 16.0])
    )
    assert 1 < found.tpot_ms[0] < 100
    assert found.tpot_ms[1] == np.inf
