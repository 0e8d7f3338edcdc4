"""What the charts under ``templates/charts`` may be given: their values, as models.

``renderers.kubernetes`` fills them; the charts' values.schema.json is generated from
them, so that Helm refuses what these models refuse. Everything that needs thought
(arguments, sizes, thresholds) is decided before it gets here: a chart lays out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from schemas.objects import Credential, ExternalSecret, Labels, Name, Strict

__all__ = [
    "AdapterValues",
    "EndpointValues",
    "IngressValues",
    "ModelValues",
    "ProbeValues",
    "RolloutValues",
    "ScalingValues",
    "SecretValues",
    "TolerationValues",
    "TriggerValues",
    "values_schema",
]

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9./-]+$")]
Amount = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$")]
# One run of Helm lays out many objects: the key only tells them apart.
Entry = Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")]
Argv = Annotated[tuple[str, ...], Field(min_length=1)]


class Values(Strict):
    """Written by our renderers under Python's names, read by charts under theirs."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)


class SecretValues(Values):
    """A Secret that the target fills when it writes, or that the cluster's operator
    fetches; its value is never rendered."""

    name: Name
    credential: Credential | None
    external: ExternalSecret | None = None


class TolerationValues(Values):
    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class AdapterValues(Values):
    """An init container that brings one LoRA adapter."""

    name: Name
    image: str
    command: Argv
    secret: SecretValues | None = None
    secret_env: str | None = None


class ProbeValues(Values):
    path: str
    startup_seconds: Annotated[int, Field(ge=10)] = Field(
        description="what loading the weights may take before the pod is restarted"
    )


class RolloutValues(Values):
    strategy: Literal["RollingUpdate", "Recreate"]
    max_surge: Annotated[int, Field(ge=1)]
    floor: Count | None
    drain_seconds: Seconds
    ready_seconds: Annotated[int, Field(ge=1)]


class TriggerValues(Values):
    """One reason to scale. ``average`` divides by the replicas; ``value`` does not."""

    name: Name
    metric: str
    query: str
    threshold: Annotated[int, Field(ge=1)]
    type: Literal["AverageValue", "Value"]


class ScalingValues(Values):
    by: Literal["hpa", "keda"]
    min: Count
    max: Annotated[int, Field(ge=1)]
    cooldown_seconds: Seconds
    prometheus: str
    triggers: Annotated[tuple[TriggerValues, ...], Field(min_length=1)]


class IngressValues(Values):
    kind: Literal["ingress", "gateway-api"]
    class_name: str
    host: str | None
    path: str


class EndpointValues(Values):
    name: Name
    namespace: Name
    project: Name
    engine: Name
    model: Name
    image: str
    command: Argv
    worker_command: tuple[str, ...] = Field(
        default=(), description="pods after the first of a replica that spans nodes"
    )
    env: dict[str, str]
    port: Port
    metrics_path: str
    monitored: bool = Field(description="the cluster knows ServiceMonitor")
    nodes: Annotated[int, Field(ge=1)] = Field(description="pods of one replica")
    replicas: Count | None = Field(
        description="None under an autoscaler: then the field is not written at all"
    )
    requests: dict[ResourceName, Amount]
    limits: dict[ResourceName, Amount]
    shm: Amount
    weights: Name | None = Field(description="the claim that holds the weights")
    adapters: tuple[AdapterValues, ...] = ()
    node_selector: Labels
    tolerations: tuple[TolerationValues, ...]
    probe: ProbeValues
    rollout: RolloutValues
    scaling: ScalingValues | None
    ingress: IngressValues | None


class ModelValues(Values):
    name: Name
    namespace: Name
    project: Name
    claim: Name
    storage_class: str | None
    size: Amount
    job: Name
    image: str
    command: Argv
    env: dict[str, str]
    secret: SecretValues | None = None
    secret_env: str | None = None
    deadline_seconds: Annotated[int, Field(ge=60)]


_CHARTS: dict[str, tuple[str, TypeAdapter[Any]]] = {
    "endpoint": ("endpoints", TypeAdapter(dict[Entry, EndpointValues])),
    "model": ("models", TypeAdapter(dict[Entry, ModelValues])),
}


def values_schema(chart: str) -> dict[str, Any]:
    """Say what ``values.schema.json`` of one of our charts must be."""
    field, adapter = _CHARTS[chart]
    schema = adapter.json_schema(by_alias=True)
    definitions = schema.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"values of the chart {chart}",
        "type": "object",
        "additionalProperties": False,
        "required": [field],
        "properties": {field: schema, "global": {"type": "object"}},
        "$defs": definitions,
    }
