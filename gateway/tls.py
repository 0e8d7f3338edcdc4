"""Contexts of TLS, made of PEM (I/O).

Called by the worker for its listener and for each upstream that wants more than
the usual. TLS 1.3 unless the config says otherwise.
"""

from __future__ import annotations

import ssl
import tempfile

from gateway.snapshot import Trust

__all__ = ["context_of", "listening_context"]


def context_of(trust: Trust) -> ssl.SSLContext:
    """Make what speaks to an upstream: it is always verified.

    Raises:
        ssl.SSLError: what should be PEM is none, or the key is not the certificate's.
    """
    context = ssl.create_default_context(cadata=trust.ca)
    if trust.oldest == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if trust.certificate is not None and trust.key is not None:
        # The library reads a certificate from files alone; this one is ours only.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pem:
            pem.write(f"{trust.certificate}\n{trust.key}\n")
            pem.flush()
            context.load_cert_chain(pem.name)
    return context


def listening_context(given: dict[str, str | None] | None) -> ssl.SSLContext | None:
    """Make the edge's, 1.3 only: every client library of today speaks it."""
    if given is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    certificate = given["certificate"]
    assert certificate is not None
    context.load_cert_chain(certificate, given["key"])
    if given["client_ca"] is not None:
        context.load_verify_locations(given["client_ca"])
        context.verify_mode = ssl.CERT_REQUIRED
    return context
