"""From what an environment wants to the Task of one endpoint, and its inputs.

``resolve`` calls it. The inputs are everything a decision depends on, by part, as
plain data: the lock keeps a digest of each, so that a stale one can be named.
Pure: the catalog is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

from reconciler.optimizer.pools import pools_of
from reconciler.optimizer.task import Fixed, Goal, Goals, Limits, Task
from reconciler.values import Desired
from schemas import naming
from schemas.architecture import Precision
from schemas.catalog import Catalog
from schemas.cluster import Cluster
from schemas.endpoint import Endpoint, EndpointSpec
from schemas.model import Model

__all__ = ["clusters_of", "inputs_of", "model_of", "task_of"]


def task_of(desired: Desired, endpoint: Endpoint, catalog: Catalog) -> Task:
    """Pose the question that the endpoint leaves open.

    Raises:
        PermanentError: the catalog does not know a model, a GPU or an instance.
    """
    spec = endpoint.spec
    model = model_of(desired, endpoint)
    pools = tuple(
        pool
        for cluster in clusters_of(desired, endpoint)
        for pool in pools_of(cluster, spec, catalog)
    )
    engine = spec.engine.rehearses or spec.engine.name
    if engine == "simulator":
        # Without a word it plays vLLM, or llama.cpp where there is no GPU.
        engine = "vllm" if any(pool.gpu for pool in pools) else "llamacpp"
    limits = spec.optimizer.constraints
    cost = limits.max_cost_per_month
    return Task(
        name=str(endpoint.ref),
        model=model.spec.architecture_id,
        architecture=model.spec.shape(catalog),
        precisions=_precisions(spec, model),
        kv_precision=Precision.BF16,
        engine=engine,
        engine_version=spec.engine.version,
        input_tokens=spec.workload.input_tokens,
        output_tokens=spec.workload.output_tokens,
        concurrency=spec.workload.concurrency,
        pools=pools,
        goals=_goals(spec),
        fixed=Fixed(
            tensor=1 if spec.gpu_share is not None else spec.parallelism.tensor,
            pipeline=1 if spec.gpu_share is not None else spec.parallelism.pipeline,
            data=spec.parallelism.data,
            expert=spec.parallelism.expert,
            max_batch=spec.max_batch,
            context=spec.context,
            replicas=spec.replicas,
        ),
        limits=Limits(
            max_gpus=limits.max_gpus,
            max_replicas=limits.max_replicas,
            max_usd_per_month=float(cost.usd) if cost is not None else None,
        ),
        autoscaled=(spec.scaling.min, spec.scaling.max) if spec.scaling else None,
        lora_ranks=tuple(adapter.rank for adapter in spec.adapters),
        objective=spec.optimizer.objective,
        seed=spec.optimizer.seed,
    )


def inputs_of(
    task: Task,
    endpoint: Endpoint,
    *,
    identity: str,
    measured: Mapping[str, object],
) -> Mapping[str, object]:
    """Everything the decision depends on, by the part a person would look at.

    ``measured`` is what the team's own measurements say of such tasks, if anything.
    """
    spec = endpoint.spec.model_dump(mode="json", by_alias=True)
    parts: dict[str, object] = {
        part: spec.get(part)
        for part in ("engine", "workload", "slo", "parallelism", "adapters")
    }
    # What an engine is told beside its version changes no decision.
    parts["engine"] = {"name": task.engine, "version": task.engine_version}
    parts["limits"] = {
        name: spec.get(name)
        for name in ("maxBatch", "context", "precision", "gpuShare", "cpus")
    }
    parts["replicas"] = {name: spec.get(name) for name in ("replicas", "scaling")}
    parts["optimizer"] = spec.get("optimizer")
    parts["model"] = {"name": task.model, "architecture": _plain(task.architecture)}
    parts["precision"] = [str(p) for p in task.precisions]
    parts["nodePools"] = [_plain(pool) for pool in task.pools]
    parts["method"] = identity
    if measured:
        parts["calibration"] = measured
    return parts


def clusters_of(desired: Desired, endpoint: Endpoint) -> tuple[Cluster, ...]:
    """The cluster that is named, or those in its regions that the placement selects."""
    regions = endpoint.spec.optimizer.constraints.regions
    found = naming.clusters_of(desired.objects, endpoint)
    if endpoint.spec.cluster is not None or not regions:
        return found
    return tuple(cluster for cluster in found if cluster.spec.region in regions)


def model_of(desired: Desired, endpoint: Endpoint) -> Model:
    project, name = endpoint.metadata.project, endpoint.spec.model
    found = naming.find(desired.objects, Model, project, name)
    assert found is not None, "the overlay has checked every reference"
    return found


def _precisions(spec: EndpointSpec, model: Model) -> tuple[Precision, ...]:
    """The one that is set; else the model's own and what it may be turned into."""
    own = spec.precision or model.spec.precision
    names = dict.fromkeys([own, *spec.optimizer.constraints.precisions])
    return tuple(Precision(name) for name in names)


def _goals(spec: EndpointSpec) -> Goals:
    def latency(name: str) -> Goal | None:
        target = getattr(spec.slo, name)
        if target is None:
            return None
        return Goal(
            value=target.target.ms,
            percentile=target.percentile,
            hard=target.enforcement == "hard",
        )

    rate = spec.slo.throughput
    return Goals(
        ttft_ms=latency("ttft"),
        tpot_ms=latency("tpot"),
        e2e_ms=latency("e2e"),
        tokens_per_s=None
        if rate is None
        else Goal(value=rate.target.tokens_per_s, hard=rate.enforcement == "hard"),
    )


def _plain(value: object) -> object:
    """A dataclass as data that canonical JSON can say."""
    return dict(_items(asdict(value)))  # type: ignore[call-overload]


def _items(data: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in data.items():
        yield str(name), _value(value)


def _value(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(_items(value))
    if isinstance(value, frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    return value
