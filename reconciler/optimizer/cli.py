"""`bud optimize` and `bud optimizer ...`. (I/O)

Mounted by ``reconciler.cli``. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import click
import orjson

from reconciler.load import load
from reconciler.optimizer import artefact
from reconciler.optimizer.calibration import Calibration
from reconciler.optimizer.evaluation import score, table
from reconciler.optimizer.explain import explain
from reconciler.optimizer.explain import picture as drawing
from reconciler.optimizer.explain import table as alternatives
from reconciler.optimizer.forecast import feedback, forecast
from reconciler.optimizer.task import Infeasible
from reconciler.optimizer.training import left_out, read_measured, train
from reconciler.overlay import overlay
from reconciler.resolve import questions
from reconciler.values import Commit
from schemas.catalog import catalog
from schemas.errors import PermanentError
from schemas.objects import Ref

__all__ = ["optimize", "optimizer"]


class Checkout(Protocol):
    """What the command that this is mounted on knows."""

    @property
    def repo(self) -> Path: ...
    @property
    def environment(self) -> str: ...
    @property
    def as_json(self) -> bool: ...


FOLDER = Path(__file__).parent / artefact.FOLDER
_DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="BUD_DATA",
    default=Path("../shared/data"),
    show_default=True,
    help="folder of the measured rows",
)
_SEED = click.option(
    "--seed", type=int, envvar="BUD_SEED", default=0, show_default=True
)


@click.group()
def optimizer() -> None:
    """The performance model behind `bud resolve`."""


@optimizer.command("train")
@_DATA
@_SEED
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BUD_OUTPUT",
    default=FOLDER,
    help="folder of the artefact, by default the one this release carries",
)
def train_command(data: Path, seed: int, output: Path) -> None:
    """Rebuild the artefact; the same rows and seed give the same bytes."""
    model = train(data, output, catalog(), seed=seed)
    measured = model.kinships["tpot"].measured
    click.echo(f"trained on {len(measured)} runs, wrote {output}")


@optimizer.command("evaluate")
@_DATA
@_SEED
@click.option("--json", "as_json", is_flag=True, envvar="BUD_JSON")
def evaluate_command(data: Path, seed: int, *, as_json: bool) -> None:
    """Score what is left out, beside AIConfigurator on the same rows."""
    measured = read_measured(data, catalog())
    scores = score(measured, left_out(measured, seed=seed))
    if as_json:
        click.echo(orjson.dumps([asdict(s) for s in scores]).decode())
    else:
        click.echo(table(scores))


@optimizer.command("predict")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    envvar="BUD_INPUT",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    envvar="BUD_OUTPUT",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="BUD_CALIBRATION",
    help="what `bud optimizer feedback` wrote",
)
def predict_command(source: Path, output: Path, calibration: Path | None) -> None:
    """Predict each configuration of a CSV, line for line."""
    known = Calibration.load(calibration.read_text()) if calibration else None
    rows = forecast(source, output, artefact.shipped(), catalog(), calibration=known)
    unknown = sorted({what for row in rows for what in row.assumed})
    for what in unknown:
        click.echo(f"not in the catalog, taken for its nearest: {what}", err=True)
    click.echo(f"predicted {len(rows)} lines into {output}", err=True)


@optimizer.command("feedback")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    envvar="BUD_INPUT",
    help="the columns of `predict`, with the measured ttft_ms and tpot_ms",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    envvar="BUD_OUTPUT",
    help="the calibration, which `predict` takes",
)
def feedback_command(source: Path, output: Path) -> None:
    """Compare measurements with what was predicted, and learn from them."""
    found = feedback(source, artefact.shipped(), catalog())
    output.write_text(found.dump(), encoding="utf-8")
    for target, tracks in sorted(found.tracks.items()):
        for key, track in sorted(tracks.items()):
            click.echo(
                f"{target} {key}: {track.count} measured, {100 * track.offset:+.0f} % "
                f"off, {track.covered} inside the interval"
            )


@click.command()
@click.argument("endpoint")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BUD_PICTURE",
    help="write the Pareto front as SVG",
)
@click.pass_obj
def optimize(context: Checkout, endpoint: str, picture: Path | None) -> None:
    """Explain ENDPOINT: the best alternatives, what binds, what one more GPU buys."""
    ref = Ref.parse(endpoint if "/" in endpoint else f"Endpoint/{endpoint}")
    documents = load(context.repo, Commit(sha="0" * 40))
    posed = questions(overlay(documents, context.environment), catalog())
    if ref not in posed:
        raise PermanentError(
            f"cannot explain {ref}: environment {context.environment} has no such "
            "endpoint",
            hint=f"it has {', '.join(str(found) for found in sorted(posed))}",
        )
    question = posed[ref]
    try:
        found = explain(question.task, question.optimizer)
    except Infeasible as error:
        raise PermanentError(
            f"cannot place {ref}: nothing meets {error.binding}",
            hint=error.alternatives or "widen the node pools or what is fixed",
        ) from error
    if picture is not None:
        picture.write_text(drawing(found), encoding="utf-8")
    if context.as_json:
        click.echo(orjson.dumps(asdict(found)).decode())
    else:
        click.echo(alternatives(found))
