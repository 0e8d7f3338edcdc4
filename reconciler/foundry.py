"""One foundry on this machine: its folders, store, targets and pipeline (I/O).

The commands and the daemon open one; nothing else knows where things lie. State
belongs to one environment: two environments of a checkout never share an
inventory, so that one can never delete what the other made.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from reconciler.apikeys import new_key
from reconciler.clusters import Clusters, Maker
from reconciler.gateway_process import GatewayProcess
from reconciler.pipeline import Pipeline
from reconciler.secrecy import Mask
from reconciler.secrets import SopsFiles, Vault, read_credential
from reconciler.store import Store, open_store
from reconciler.targets.ansible import open_ansible
from reconciler.targets.base import Target
from reconciler.targets.gateway import GatewayTarget
from reconciler.targets.local import LocalTarget
from reconciler.targets.terraform import open_terraform
from renderers.gateway import LOCAL_KEY_HASH
from schemas.catalog import catalog
from schemas.gateway import hash_key
from schemas.objects import Credential

__all__ = [
    "Foundry",
    "Home",
    "home_of",
    "makers_of",
    "now",
    "open_foundry",
    "reader_of",
]


def now() -> datetime:
    """The clock of every process that is not a test."""
    return datetime.now(UTC)  # noqa: TID251  the one place that reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where one environment keeps its state."""

    root: Path
    url: str
    """Of the store."""
    replica: str = ""
    """Of several daemons that share this state, which one."""

    @property
    def ledger_key(self) -> Path:
        return self.root / "ledger.key"

    @property
    def local(self) -> Path:
        return self.root / "local"

    @property
    def gateway_config(self) -> Path:
        return self.root / "gateway" / "gateway.toml"

    @property
    def clusters(self) -> Path:
        """Where the kubeconfig of each cluster is to be found."""
        return self.root / "clusters.json"

    @property
    def vault(self) -> Path:
        """What we obtained ourselves, sealed."""
        return self.root / "vault"

    @property
    def daemon(self) -> Path:
        """Who runs the daemon and where it answers, while it runs."""
        return self._own("daemon.json")

    @property
    def daemon_log(self) -> Path:
        return self.root / "daemon.log"

    def local_key(self) -> str:
        """The API key of this machine: made once, its hash beside it for the gateway."""
        file = self.root / "gateway" / "local.key"
        if not file.exists():
            made = new_key()
            hashed = file.with_name(LOCAL_KEY_HASH)
            hashed.write_text(hash_key(made), encoding="utf-8")
            with open(file, "x", opener=_private, encoding="utf-8") as out:
                out.write(made)
        return file.read_text(encoding="utf-8")

    @property
    def source(self) -> Path:
        return self._own("source")

    def _own(self, name: str) -> Path:
        return self.root / (f"{self.replica}.{name}" if self.replica else name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundry:
    repo: Path
    environment: str
    home: Home
    store: Store
    local: LocalTarget
    gateway: GatewayProcess
    pipeline: Pipeline
    read: Callable[[Credential], str]
    """Opens a credential, in memory."""
    mask: Mask

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """The block in which targets are used; connections end with it."""
        try:
            yield
        finally:
            if self.pipeline.clusters is not None:
                await self.pipeline.clusters.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def home_of(repo: Path, environment: str, state: str | None, replica: str = "") -> Home:
    """``state`` is a folder, the URL of a store, or nothing for ``.bud/``."""
    root = repo / ".bud" / environment
    if state is not None and "://" in state:
        return Home(root=root, url=state, replica=replica)
    if state is not None:
        root = Path(state) / environment
    url = f"sqlite:///{root.resolve() / 'state.db'}"
    return Home(root=root, url=url, replica=replica)


def makers_of(
    home: Home, environment: str, read: Callable[[Credential], str]
) -> Mapping[str, Callable[[], Maker]]:
    """Whatever makes clusters, opened by who needs it."""
    return {
        "ansible": partial(
            open_ansible, home.root, os.environ, read, Vault(home.vault)
        ),
        "terraform": partial(
            open_terraform, home.root, os.environ, read, owner=environment
        ),
    }


def files_of(repo: Path, environment: str, home: Home) -> SopsFiles:
    """The encrypted files of an environment, and who opens them."""
    named = os.environ.get("BUD_AGE_KEY_FILE")
    return SopsFiles(
        folder=repo / "environments" / environment / "secrets",
        identity=Path(named) if named else home.root / "age" / "age.key",
    )


def reader_of(
    repo: Path, environment: str, home: Home, mask: Mask
) -> Callable[[Credential], str]:
    """Opens credentials of an environment; what was opened is masked from then on."""

    def read(credential: Credential) -> str:
        value = read_credential(credential, files_of(repo, environment, home))
        mask.learn(value)
        return value

    return read


@contextmanager
def open_foundry(
    repo: Path,
    environment: str,
    state: str | None = None,
    *,
    replica: str = "",
    may_write: Callable[[], None] = lambda: None,
) -> Iterator[Foundry]:
    """Open the state of one environment, made when it is not there yet.

    ``replica`` names this one of several daemons; ``may_write`` is asked before each
    write to a cluster.

    Raises:
        PermanentError: the store cannot be opened, or a newer version wrote it.
    """
    home = home_of(repo, environment, state, replica)
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.gateway_config.parent.mkdir(exist_ok=True)
    home.local_key()  # the gateway's config may refer to its hash
    store = open_store(
        home.url, key=home.ledger_key, origin=f"bud/{environment}", clock=now
    )
    gateway = GatewayProcess(home.gateway_config)
    local = LocalTarget(home.local, checkout=repo)
    targets: dict[str, Target] = {
        "local": local,
        "gateway": GatewayTarget(
            home.gateway_config, ask=gateway.ask, keep=gateway.supervise
        ),
    }
    mask = Mask(_secrets_of_this_process())
    read = reader_of(repo, environment, home, mask)
    pipeline = Pipeline(
        environment=environment,
        catalog=catalog(),
        targets=targets,
        store=store,
        clusters=Clusters(
            home.clusters,
            owner=environment,
            checkout=repo,
            read=read,
            makers=makers_of(home, environment, read),
            vault=Vault(home.vault),
            may_write=may_write,
        ),
        clock=now,
        mask=mask,
    )
    with store:
        yield Foundry(
            repo=repo,
            environment=environment,
            home=home,
            store=store,
            local=local,
            gateway=gateway,
            pipeline=pipeline,
            read=read,
            mask=mask,
        )


def _secrets_of_this_process() -> Iterator[str]:
    """Values that a credential can refer to: whatever looks like one by its name."""
    for name, value in os.environ.items():
        if any(word in name for word in ("KEY", "TOKEN", "SECRET", "PASSWORD")):
            yield value
