"""What an endpoint costs: a list price, a range, or unknown; never 0."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from reconciler.review.prices import HOURS_PER_MONTH, price_of, total
from schemas.catalog import catalog
from schemas.cluster import Cluster
from schemas.endpoint import Endpoint
from schemas.environment import ReservedPrice
from schemas.resolution import Resolution


def cluster(pool: dict[str, Any], provider: str = "aws-eks") -> Cluster:
    cloud = {"region": "eu-north-1", "version": "1.33"} if provider == "aws-eks" else {}
    spec = {
        "provider": provider,
        "nodePools": [{"name": "gpus", "count": 4, **pool}],
        **cloud,
    }
    return Cluster.model_validate_json(orjson.dumps(
        {"apiVersion": "foundry.bud/v1", "kind": "Cluster", "metadata": {"name": "c"}, "spec": spec}
    ))  # fmt: skip


def endpoint(**spec: Any) -> Endpoint:
    return Endpoint.model_validate_json(orjson.dumps(
        {"apiVersion": "foundry.bud/v1", "kind": "Endpoint", "metadata": {"name": "e"},
         "spec": {"model": "m", "cluster": "c", "engine": {"name": "vllm"},
                  "workload": {"inputTokens": 1, "outputTokens": 1, "concurrency": 1}, **spec}}
    ))  # fmt: skip


def chosen(gpu: str | None = "h200-sxm-141gb", replicas: int | None = 2) -> Resolution:
    return Resolution(
        cluster="c", node_pool="gpus", gpu=gpu, tensor=4, pipeline=1, data=1, expert=1,
        max_batch=8, context=100, precision="bf16", replicas=replicas,
        prediction={"tokens_per_s": 1000.0, "tokens_per_s_lo": 500.0},
    )  # fmt: skip


def price(e: Endpoint, c: Cluster, r: Resolution, *reserved: ReservedPrice) -> Any:
    return price_of(e, c, r, catalog=catalog(), reserved=reserved)


def test_a_list_price_has_its_source_and_date() -> None:
    found = price(endpoint(), cluster({"instanceType": "p5en.48xlarge"}), chosen())

    assert (
        found["monthLow"]
        == found["monthHigh"]
        == pytest.approx(63.296 * HOURS_PER_MONTH, rel=1e-6)
    )
    assert "us-east-1, 2026-07-20" in found["source"]
    # 63.296 USD/h over 3.6 million tokens an hour, and half of them at worst.
    assert found["millionLow"] == pytest.approx(63.296 / 3.6, rel=1e-4)
    assert found["millionHigh"] == pytest.approx(2 * 63.296 / 3.6, rel=1e-4)


def test_an_autoscaler_makes_a_range() -> None:
    scaled = endpoint(scaling={"min": 1, "max": 3, "queueDepth": 4})
    found = price(
        scaled, cluster({"instanceType": "p5en.48xlarge"}), chosen(replicas=None)
    )

    assert found["monthHigh"] == pytest.approx(3 * found["monthLow"])


def test_spot_is_a_range_and_a_contract_a_number() -> None:
    spot = cluster({"instanceType": "p5en.48xlarge", "spot": True})
    listed = price(endpoint(), cluster({"instanceType": "p5en.48xlarge"}), chosen())
    found = price(endpoint(), spot, chosen())
    reserved = ReservedPrice.model_validate_json(
        '{"cluster": "c", "nodePool": "gpus", "percent": 60, "source": "contract 7"}'
    )
    bound = price(endpoint(), spot, chosen(), reserved)

    assert found["monthLow"] < found["monthHigh"] <= listed["monthHigh"]
    assert (
        bound["monthLow"]
        == bound["monthHigh"]
        == pytest.approx(0.6 * listed["monthLow"])
    )
    assert "contract 7" in bound["source"]


def test_ones_own_machines_are_a_range_or_unknown_never_nothing() -> None:
    own = price(
        endpoint(),
        cluster({"gpu": "h200-sxm-141gb", "gpusPerNode": 8}, "local"),
        chosen(),
    )
    cpu = price(endpoint(), cluster({}, "local"), chosen(gpu=None))

    assert 0 < own["monthLow"] < own["monthHigh"]
    assert cpu["monthLow"] is None
    assert total([own, cpu])["unknown"] == 1
