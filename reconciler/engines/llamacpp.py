"""One llama.cpp server as a process of its own (I/O).

Started as ``python -m reconciler.engines.llamacpp`` by the local target. The wheel
``xllamacpp`` holds llama.cpp's own HTTP server; this sets it up for one model on
loopback and ends it on SIGTERM. It serves /v1/chat/completions, /v1/completions,
/v1/embeddings, /v1/models, /health and /metrics, as llama.cpp defines them.
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["NEXT_TURN", "PLAIN_DIALOGUE", "has_chat_template", "main"]

# For weights that bring no chat template, which means a base model: it continues
# text and knows no turn markers, so a dialogue is written out as plain text.
PLAIN_DIALOGUE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}\n"
    "{% endfor %}Assistant:"
)
# Where the next turn would begin: a base model does not know that it is the
# client's to write.
NEXT_TURN = "\nUser:"
# llama.cpp logs from 0 (nothing) to 4 (debug); 2 is warnings and errors. What a
# request costs is in /metrics, and a log that grows with each one fills a disk.
_WARNINGS = 2
_DRAIN_S = 5.0
"""After SIGTERM, requests in flight may go on for as long; whoever needs more
takes the address away first and waits, as the local target does."""


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM. A signal before the model is loaded ends it at once."""
    options = _parse(argv)
    import xllamacpp  # noqa: PLC0415 - `--help` needs no 100 MB of engine

    settings = xllamacpp.CommonParams()
    _configure(settings, options)
    try:
        server = xllamacpp.Server(settings)
    except RuntimeError as error:
        sys.exit(f"cannot serve {options.model}: {error}")
    # Blocked first, so that a signal between these lines waits for `sigwait`.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    sys.stderr.write(f"llamacpp serves {options.alias} on {server.listening_address}\n")
    signal.sigwait(stops)
    _drain(f"{server.listening_address}/metrics")
    del server  # stops the HTTP server and joins its threads


def _drain(metrics_url: str) -> None:
    """Wait until nothing is running, for `_DRAIN_S` at most."""
    until = time.monotonic() + _DRAIN_S
    while time.monotonic() < until:
        with urllib.request.urlopen(metrics_url, timeout=1) as page:  # noqa: S310 - ours
            if b"requests_processing 0" in page.read():
                return
        time.sleep(0.1)


def has_chat_template(model: Path) -> bool:
    """Tell whether a GGUF file says how a dialogue is written."""
    with (
        model.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return data.find(b"tokenizer.chat_template") >= 0


def _configure(settings: Any, options: argparse.Namespace) -> None:
    settings.model.path = str(options.model)
    settings.model_alias = {options.alias}
    settings.hostnames, settings.port = ["127.0.0.1"], options.port
    settings.n_parallel = options.parallel
    # llama.cpp divides this among its slots; the context is meant for each.
    settings.n_ctx = options.context * options.parallel
    settings.cpuparams.n_threads = options.threads
    settings.cpuparams_batch.n_threads = options.threads
    settings.n_gpu_layers = options.gpu_layers
    settings.endpoint_metrics = True
    # What is for people at a browser, or tells one client about another.
    settings.ui = settings.endpoint_slots = False
    settings.cors_origins = ""
    # Its default keeps up to 8 GiB of old prompts in memory that nobody planned.
    settings.cache_ram_mib = 0
    settings.offline = True
    settings.verbosity = _WARNINGS
    settings.embedding = options.embedding
    if options.embedding:
        # An encoder sees its whole input at once: it must fit one batch.
        settings.n_batch = settings.n_ubatch = options.context
    elif options.chat_template:
        settings.chat_template = options.chat_template
    elif not has_chat_template(options.model):
        settings.chat_template = PLAIN_DIALOGUE
        settings.antiprompt = [NEXT_TURN]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llamacpp", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a GGUF file")
    add("--alias", required=True, help="the served model name")
    add("--port", type=int, required=True)
    add("--context", type=int, default=2048, help="longest sequence, tokens")
    add("--parallel", type=int, default=1, help="sequences that run at once")
    # Its threads spin while they wait for each other: one that shares its core
    # with anything else holds all of them up.
    spare = max(1, (os.cpu_count() or 2) - 1)
    add("--threads", type=int, default=spare, help="all cores but one")
    add("--gpu-layers", type=int, default=-1, help="-1: as many as fit")
    add("--chat-template", default="", help="a name that llama.cpp knows, or Jinja")
    add("--embedding", action="store_true", help="serve embeddings instead of text")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
