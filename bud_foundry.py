"""The command `bud`: put this tree first on the path, then run it.

The packages have plain names (`schemas`, `gateway` ...), which other
distributions ship too. Whatever is installed beside us, ours win in our own
processes: in a checkout they lie next to this file, in a wheel below
`bud_foundry_tree/`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
ROOT = _HERE / "bud_foundry_tree" if (_HERE / "bud_foundry_tree").is_dir() else _HERE
sys.path.insert(0, str(ROOT))
# The optimizer's arithmetic is small; threads that spin while they wait for each other
# would take the cores from the engines beside it, and round in another order.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> None:
    from reconciler.cli import main as run  # noqa: PLC0415  after the path is set

    run()


def gateway_main() -> None:
    from gateway.__main__ import main as run  # noqa: PLC0415  after the path is set

    run()


if __name__ == "__main__":
    main()
