"""Cluster: where things run, made by us or by somebody else."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.objects import Credential, FoundryObject, Labels, Name, Sha256, Strict
from schemas.units import Bytes

__all__ = ["Addon", "ChartSource", "Cluster", "ClusterSpec", "Host", "NodePool"]

Cidr = Annotated[
    str, StringConstraints(pattern=r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$")
]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+(\.[0-9]+)?$")]

CLOUDS = ("aws-eks", "azure-aks")
_WHOLE = 2  # dots of a version with its patch


class Taint(Strict):
    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class NodePool(Strict):
    """Machines of one shape. ``instanceType`` where a cloud sells them; ``gpu``,
    ``gpusPerNode``, ``memory`` and ``cpus`` where the machines are one's own."""

    name: Name
    instance_type: str | None = None
    gpu: str | None = None
    gpus_per_node: Annotated[int, Field(ge=1, le=72)] | None = None
    cpus: Annotated[int, Field(ge=1)] | None = None
    memory: Bytes | None = None
    count: Annotated[int, Field(ge=0, le=10_000)] | None = None
    min: Annotated[int, Field(ge=0)] | None = None
    max: Annotated[int, Field(ge=0, le=10_000)] | None = None
    spot: bool = False
    taints: tuple[Taint, ...] = ()
    labels: Labels = {}

    @model_validator(mode="after")
    def _one_shape_one_size(self) -> Self:
        if self.instance_type is not None and self.gpu is not None:
            raise ValueError(
                "name instanceType or gpu, not both: one implies the other"
            )
        if self.gpus_per_node is not None and self.gpu is None:
            raise ValueError("gpusPerNode needs gpu")
        if self.count is None and self.max is None:
            raise ValueError("say how many: count, or min and max")
        if self.count is not None and (self.min is not None or self.max is not None):
            raise ValueError("count and min/max are mutually exclusive")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self

    @property
    def capacity(self) -> int:
        """The most nodes that this pool may have."""
        return self.count if self.count is not None else (self.max or 0)


class ChartSource(Strict):
    """Where the archive of a chart comes from, where it is not the add-on's own place."""

    oci: Annotated[str, StringConstraints(pattern=r"^oci://[^\s@]+$")] | None = Field(
        default=None, description="a chart in a registry, without its version"
    )
    repository: (
        Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]+$")] | None
    ) = Field(default=None, description="a repository of charts: the URL of its index")
    archive: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w./+-]*\.tgz$")] | None
    ) = Field(default=None, description="a packed chart in this checkout")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(v is not None for v in (self.oci, self.repository, self.archive)) != 1:
            raise ValueError("name exactly one of oci, repository, archive")
        return self


class Addon(Strict):
    """A chart of a pinned version, installed once the cluster answers."""

    name: Literal[
        "node-feature-discovery",
        "gpu-operator",
        "hami",
        "kube-prometheus-stack",
        "keda",
        "lws",
        "ingress-nginx",
        "cert-manager",
        "external-secrets",
    ]
    version: Annotated[str, StringConstraints(pattern=r"^v?[0-9][\w.+-]*$")]
    digest: Sha256 | None = Field(
        default=None, description="SHA-256 of the chart's archive"
    )
    source: ChartSource | None = None
    values: dict[str, object] = {}

    @model_validator(mode="after")
    def _an_archive_is_pinned(self) -> Self:
        if self.source is not None and self.source.archive and self.digest is None:
            raise ValueError(
                "an archive of the checkout needs its digest: sha256sum it"
            )
        return self


class ZoneSubnets(Strict):
    """Addresses of one zone: of its nodes and pods, and of its load balancers."""

    private: Cidr
    public: Cidr


class Network(Strict):
    cidr: Cidr = "10.0.0.0/16"
    subnets: dict[str, ZoneSubnets] = Field(
        default={}, description="by zone; in place of availabilityZones, on EKS"
    )
    availability_zones: Annotated[int, Field(ge=1, le=6)] = 3
    private_api: bool = False
    nat: Literal["none", "single", "per-zone"] = "single"


class Ingress(Strict):
    host: str | None = None
    class_name: str = "nginx"
    kind: Literal["ingress", "gateway-api"] = "ingress"


# A resource of our module, and what its cloud calls the one that is there. Both are
# written into Terraform's own files: nothing in them can open a template.
ModuleAddress = Annotated[
    str,
    StringConstraints(
        pattern=r'^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*(\["[A-Za-z0-9_./:-]+"\])?$'
    ),
]
CloudId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_/][A-Za-z0-9_:/.@=,+-]*$", max_length=1024),
]

# They become arguments and inventory: nothing in them can be an option or a template.
Address = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$")
]
User = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
HostKey = Annotated[
    str, StringConstraints(pattern=r"^(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+={0,2}$")
]


class Host(Strict):
    """One machine of an on-premises cluster, reached over SSH."""

    address: Address
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: User = "root"
    host_key: HostKey | None = Field(
        default=None,
        description="its public key; left out, the first one seen is kept",
    )
    role: Literal["control-plane", "worker"]
    node_pool: Name | None = None


class ClusterSpec(Strict):
    provider: Literal["local", "existing", "onprem", "aws-eks", "azure-aks"]
    version: Version | None = None
    region: str | None = None
    network: Network | None = None
    node_pools: tuple[NodePool, ...] = ()
    hosts: tuple[Host, ...] = ()
    distribution: Literal["k3s", "rke2"] | None = None
    addons: tuple[Addon, ...] = ()
    ingress: Ingress | None = None
    storage_class: str | None = None
    adopt: dict[ModuleAddress, CloudId] = Field(
        default={},
        description="what exists and becomes ours: resources of the module, by their IDs",
    )
    credentials: Credential | None = None
    observer: Credential | None = Field(
        default=None,
        description="a kubeconfig that may only read: what lives is looked at with it, "
        "and credentials are opened for an apply alone",
    )
    # Infrastructure outlives a careless commit unless somebody says otherwise.
    deletion_policy: Literal["retain", "delete"] = "retain"

    @model_validator(mode="after")
    def _fits_its_provider(self) -> Self:
        cloud = self.provider in CLOUDS
        if cloud and not (self.region and self.version and self.node_pools):
            raise ValueError(
                f"provider {self.provider} needs region, version, nodePools"
            )
        if self.region and not cloud:
            raise ValueError(f"region has no meaning for provider {self.provider}")
        if (self.provider == "onprem") != bool(self.hosts):
            raise ValueError("hosts belong to provider onprem, which needs them")
        if self.provider == "onprem":
            self._fits_machines()
        if self.provider == "existing" and self.credentials is None:
            raise ValueError("provider existing needs credentials: its kubeconfig")
        if self.observer is not None and self.provider != "existing":
            raise ValueError(f"observer has no meaning for provider {self.provider}")
        addons = [addon.name for addon in self.addons]
        if len(set(addons)) != len(addons):
            raise ValueError(f"an add-on is named twice: {', '.join(sorted(addons))}")
        names = [pool.name for pool in self.node_pools]
        if len(set(names)) != len(names):
            raise ValueError(f"node pool names must differ: {', '.join(sorted(names))}")
        return self

    @model_validator(mode="after")
    def _fits_its_cloud(self) -> Self:
        cloud = self.provider in CLOUDS
        if not cloud and any(p.instance_type for p in self.node_pools):
            raise ValueError(
                f"provider {self.provider} sells no instanceType: describe the machine "
                "by gpu, gpusPerNode, cpus, memory"
            )
        if cloud and any(not p.instance_type for p in self.node_pools):
            raise ValueError(f"each node pool of {self.provider} needs an instanceType")
        if self.adopt and not cloud:
            raise ValueError(
                f"adopt has no meaning for provider {self.provider}: a cluster that is "
                "there is provider existing, or onprem with its hosts"
            )
        if self.network and self.network.subnets and self.provider != "aws-eks":
            raise ValueError(f"network.subnets has no meaning for {self.provider}")
        return self

    def _fits_machines(self) -> None:
        if self.version is None or self.version.count(".") != _WHOLE:
            raise ValueError(
                "provider onprem needs a whole version, such as 1.33.5: nobody patches "
                "these machines but bud"
            )
        planes = [h for h in self.hosts if h.role == "control-plane"]
        if len(planes) % 2 == 0:
            raise ValueError(
                f"{len(planes)} hosts of role control-plane: etcd needs an odd number, "
                "or losing one loses the vote"
            )
        places = [(h.address, h.port) for h in self.hosts]
        if len(set(places)) != len(places):
            raise ValueError("hosts must differ in address or port")


class Cluster(FoundryObject):
    kind: Literal["Cluster"]
    spec: ClusterSpec
