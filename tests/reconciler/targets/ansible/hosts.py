"""Machines for the ansible target: real sshd, in namespaces of this one.

Each has a network namespace with an address of its own and a mount namespace whose
/etc, /usr/local and /var are its own; kernel, clock and disk are this machine's. Real:
ssh, host keys, Ansible, every file, the download and its checksum. Stand-ins, because
a namespace has no service manager and no kubelet: `systemctl`, `modprobe`, `sysctl`,
`swapoff`, and a "k3s" or "rke2" that says its version and takes kubectl's verbs. So no
containerd, no kubelet and no etcd ever ran these roles here.
"""

import hashlib
import io
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which

_READY_S = 30.0
_OWN = ("etc", "usr/local", "var")
_PARTS = ("server", "agent")

SYSTEMCTL = """#!/bin/sh
d=/var/lib/stand-in; mkdir -p $d
u=${2%.service}
echo "systemctl $*" >> $d/log
case "$1" in
is-active) [ -e $d/$u.active ] && echo active || { echo inactive; exit 3; } ;;
is-enabled) [ -e $d/$u.enabled ] && echo enabled || { echo disabled; exit 1; } ;;
is-failed) echo inactive; exit 1 ;;
enable) touch $d/$u.enabled ;;
disable) rm -f $d/$u.enabled ;;
stop) rm -f $d/$u.active ;;
start|restart)
  touch $d/$u.active
  case $u in k3s|rke2-server)
    k=${u%-server}; r=/var/lib/rancher/$k
    mkdir -p $r/server $r/bin
    cat /etc/rancher/$k/token > $r/server/token
    # RKE2 brings kubectl with its images, and k3s is one.
    printf '#!/bin/sh\nshift 2\nexec /usr/local/bin/%s kubectl "$@"\n' $k > $r/bin/kubectl
    chmod 755 $r/bin/kubectl
    echo '{"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "default",
    "cluster": {"server": "https://127.0.0.1:6443"}}], "users": [{"name": "default",
    "user": {"client-key-data": "Y2FuYXJ5"}}]}' > /etc/rancher/$k/$k.yaml
  esac ;;
show)
  load=not-found
  for d2 in /etc /usr/local/lib; do [ -e $d2/systemd/system/$u.service ] && load=loaded; done
  active=inactive; [ -e $d/$u.active ] && active=active
  echo "Id=$u.service"; echo "LoadState=$load"; echo "ActiveState=$active" ;;
esac
"""
K3S = """#!/bin/sh
[ "$1" = --version ] && echo "$(basename "$0") version RELEASE (stand-in)" && exit
d=/var/lib/stand-in; mkdir -p $d
[ "$1" = certificate ] && echo "$(basename "$0") $*" >> $d/log && exit
[ "$1" = kubectl ] || exit 1
shift
echo "kubectl $*" >> $d/log
case "$1" in
label)
  mark=$d/label-$(echo "$*" | sha256sum | cut -c1-12)
  [ -e "$mark" ] && echo "node/$3 not labeled" || echo "node/$3 labeled"
  touch "$mark" ;;
esac
"""
NOTED = '#!/bin/sh\necho "$(basename "$0") $*" >> /var/lib/stand-in/log\n'


def missing() -> str:
    """What these tests cannot run without."""
    lacks = [
        name
        for name in ("ip", "unshare", "sshd", "ssh-agent", "ssh-keygen")
        if which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
    if os.geteuid() != 0:
        lacks.append("root, for namespaces")
    return ", ".join(lacks)


@dataclass
class Host:
    address: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def name(self) -> str:
        return self.address.replace(".", "-")

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def file(self, path: str) -> Path:
        """A file of the machine, where it differs from this one's."""
        own = next(o for o in _OWN if path.startswith(f"/{o}/"))
        upper = self.folder / own.replace("/", "-")
        return upper / path.removeprefix(f"/{own}/")

    @property
    def log(self) -> list[str]:
        log = self.file("/var/lib/stand-in/log")
        return log.read_text().splitlines() if log.exists() else []


@dataclass
class Site:
    """Machines, the key that opens them, and where releases are served."""

    hosts: Sequence[Host]
    key: str
    releases: str
    published: Path

    def publish(self, release: str) -> None:
        folder = self.published / release
        folder.mkdir()
        content, file = K3S.replace("RELEASE", release).encode(), "k3s"
        if "rke2" in release:
            units = (f"lib/systemd/system/rke2-{part}.service" for part in _PARTS)
            held = {"bin/rke2": content, **dict.fromkeys(units, b"")}
            content, file = _packed(held), "rke2.linux-amd64.tar.gz"
        (folder / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        (folder / "sha256sum-amd64.txt").write_text(f"{digest}  {file}\n")


def _packed(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)


@contextmanager
def site(folder: Path, count: int) -> Iterator[Site]:
    """Bring up ``count`` machines, and take every trace of them away."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
    published = folder / "releases"
    published.mkdir()
    # Two runs beside each other on one machine must not meet.
    net = f"10.{200 + os.getpid() % 50}"
    with ExitStack() as running:
        hosts = [
            running.enter_context(
                host(folder / f"h{i}", f"{net}.{i}", folder / "key.pub")
            )
            for i in range(1, count + 1)
        ]
        handler = partial(Quiet, directory=str(published))
        server = ThreadingHTTPServer((f"{net}.1.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Site(
                hosts,
                (folder / "key").read_text(),
                f"http://{net}.1.1:{server.server_port}",
                published,
            )
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@contextmanager
def host(folder: Path, net: str, key: Path) -> Iterator[Host]:
    folder.mkdir()
    space, outer, inner = f"bud-{net}", f"v{net}"[-14:] + "o", f"v{net}"[-14:] + "i"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key"))
    (folder / "sshd_config").write_text(
        f"ListenAddress {net}.2\nHostKey {folder}/host_key\nAuthorizedKeysFile {key}\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\n"
        "SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "MaxStartups 100\n"
    )
    mounts = ""
    for own in _OWN:
        upper, work = (
            folder / own.replace("/", "-"),
            folder / f"work-{own.replace('/', '-')}",
        )
        upper.mkdir()
        work.mkdir()
        mounts += f"mount -t overlay o -o lowerdir=/{own},upperdir={upper},workdir={work} /{own}\n"
    for name, content in (
        ("bin/systemctl", SYSTEMCTL),
        *((f"bin/{name}", NOTED) for name in ("modprobe", "sysctl", "swapoff")),
    ):
        stand_in = folder / "usr-local" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(content)
        stand_in.chmod(0o755)
    script = (
        f"set -e\nmount --make-rprivate /\n{mounts}mount -t tmpfs t /run\n"
        f"mkdir -p /run/sshd /var/lib/stand-in\n"
        f"exec {which('sshd', path='/usr/sbin:/usr/local/sbin:/sbin')} -D -e -f {folder}/sshd_config\n"
    )
    try:
        run("ip", "netns", "add", space)
        run(
            "ip",
            "link",
            "add",
            outer,
            "type",
            "veth",
            "peer",
            "name",
            inner,
            "netns",
            space,
        )
        run("ip", "addr", "add", f"{net}.1/30", "dev", outer)
        run("ip", "link", "set", outer, "up")
        for command in (
            f"addr add {net}.2/30 dev {inner}",
            f"link set {inner} up",
            "link set lo up",
            f"route add default via {net}.1",
        ):
            run("ip", "-n", space, *command.split())
        with (folder / "sshd.log").open("wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", space, "unshare", "-m", "sh", "-c", script],
                stdout=log,
                stderr=log,
            )
        try:
            made = Host(f"{net}.2", folder, process)
            _wait(made)
            yield made
        finally:
            process.kill()
            process.wait()
    finally:
        subprocess.run(["ip", "netns", "del", space], check=False)


def _wait(made: Host) -> None:
    deadline = time.monotonic() + _READY_S
    scan = ["ssh-keyscan", "-T", "2", made.address]
    while not subprocess.run(scan, check=False, capture_output=True).stdout:
        assert made.process.poll() is None, (made.folder / "sshd.log").read_text()
        assert time.monotonic() < deadline, "sshd is not ready"
        time.sleep(0.1)  # waits for a condition, until the deadline
