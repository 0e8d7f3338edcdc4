"""TLS on both sides, with certificates made for the test."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from schemas.gateway import Credential, Tls, UpstreamTls
from tests.gateway.wire import (
    KEY,
    Gateway,
    MockUpstream,
    Start,
    config_for,
    write,
)

LOOPBACK = "127.0.0.1"


def certify(folder: Path, name: str) -> None:
    """Write ``name``.pem and ``name``.key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)  # noqa: TID251  a certificate is valid now
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    for name in ("server", "client", "upstream"):
        certify(tmp_path, name)
    return tmp_path


def trusting(
    certificates: Path, name: str, *, show: str | None = None
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates / f"{name}.pem")
    if show is not None:
        context.load_cert_chain(
            certificates / f"{show}.pem", certificates / f"{show}.key"
        )
    return context


async def status_line(port: int, context: ssl.SSLContext, path: str) -> bytes:
    """Ask, and give the first line of the answer; nothing: the door is shut."""
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=context)
    except (ssl.SSLError, ConnectionError):
        return b""
    request = f"GET {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    writer.write(request.encode())
    try:
        # Under TLS 1.3 a client learns only here that its certificate is missing.
        return await reader.readline()
    except (ssl.SSLError, ConnectionError):
        return b""
    finally:
        writer.close()


async def test_the_edge_speaks_tls_1_3_and_can_demand_a_certificate(
    start: Start, upstream: MockUpstream, certificates: Path
) -> None:
    tls = Tls(
        certificate=str(certificates / "server.pem"),
        key=str(certificates / "server.key"),
        client_ca=str(certificates / "client.pem"),
    )
    gateway = await start(config_for(upstream, listener={"tls": tls}), fresh=True)
    port = int(gateway.listen.rpartition(":")[2])
    known = trusting(certificates, "server", show="client")
    assert await status_line(port, known, "/v1/models") == b"HTTP/1.1 200 OK\r\n"
    # A path that is handed over to the cold side goes through TLS as well.
    assert await status_line(port, known, "/v1/models/smol") == b"HTTP/1.1 200 OK\r\n"
    unknown = trusting(certificates, "server")
    assert await status_line(port, unknown, "/v1/models") == b""
    old = trusting(certificates, "server", show="client")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await status_line(port, old, "/v1/models") == b""


async def test_an_upstream_is_shown_our_certificate_and_the_next_when_it_turns(
    start: Start, certificates: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(
        certificates / "upstream.pem", certificates / "upstream.key"
    )
    context.load_verify_locations(certificates / "client.pem")
    context.load_verify_locations(certificates / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    secure = MockUpstream()
    await secure.start(tls=context)
    base = config_for(secure, attempts=1)
    named = {
        name: Credential(file=str(certificates / f"shown.{name}"))
        for name in ("certificate", "key")
    }
    trust = Credential(file=str(certificates / "upstream.pem"))

    async def gateway_that(tls: UpstreamTls) -> Gateway:
        with_tls = {
            name: upstream.model_copy(update={"tls": tls})
            for name, upstream in base.upstreams.items()
        }
        return await start(base.model_copy(update={"upstreams": with_tls}))

    ask = {"model": "smol", "messages": [{"role": "user", "content": "x"}]}
    gateway = await gateway_that(UpstreamTls(ca=trust))
    with pytest.raises(openai.InternalServerError):  # it shows nothing
        await gateway.client().chat.completions.create(**ask)
    for name in ("client", "server"):
        before = (await gateway.status())["generation"]
        for part, suffix in (("certificate", "pem"), ("key", "key")):
            fresh = (certificates / f"{name}.{suffix}").read_text()
            write(certificates / f"shown.{part}", fresh)
        if name == "client":
            gateway = await gateway_that(UpstreamTls(ca=trust, **named))
        else:
            await gateway.until(lambda s, b=before: s["generation"] > b)
        answer = await gateway.client().chat.completions.create(**ask)
        assert answer.choices[0].message.content == "hello"
    assert secure.shown == ["client", "server"]
    write(certificates / "shown.key", "no key at all")
    await gateway.until(lambda s: s["error"] is not None)
    assert "tls" in (await gateway.status())["error"]
    await secure.stop()


async def test_an_upstream_that_speaks_no_tls_1_3_needs_leave_for_it(
    start: Start, certificates: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(
        certificates / "upstream.pem", certificates / "upstream.key"
    )
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    behind = MockUpstream()
    await behind.start(tls=context)
    base = config_for(behind, attempts=1)
    ca = Credential(file=str(certificates / "upstream.pem"))
    ask = {"model": "smol", "messages": [{"role": "user", "content": "x"}]}
    for oldest, answered in (("1.3", False), ("1.2", True)):
        tls = UpstreamTls(ca=ca, oldest=oldest)
        upstreams = {
            n: u.model_copy(update={"tls": tls}) for n, u in base.upstreams.items()
        }
        gateway = await start(base.model_copy(update={"upstreams": upstreams}))
        asking = gateway.client().chat.completions.create(**ask)
        if answered:
            assert (await asking).choices[0].message.content == "hello"
        else:
            with pytest.raises(openai.InternalServerError):
                await asking
    await behind.stop()


async def test_an_upstream_by_https_is_verified(
    start: Start, certificates: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(
        certificates / "upstream.pem", certificates / "upstream.key"
    )
    secure = MockUpstream()
    await secure.start(tls=context)
    config = config_for(secure, attempts=1)
    gateway = await start(config, SSL_CERT_FILE=str(certificates / "upstream.pem"))
    ask = {"model": "smol", "messages": [{"role": "user", "content": "x"}]}
    answer = await gateway.client().chat.completions.create(**ask)
    assert answer.choices[0].message.content == "hello"
    stranger = await start(config, SSL_CERT_FILE=str(certificates / "server.pem"))
    with pytest.raises(openai.InternalServerError):
        await stranger.client().chat.completions.create(**ask, timeout=20)
    assert len(secure.asked) == 1
    await secure.stop()
