"""`bud optimize` and `bud optimizer ...`. (I/O)

Mounted by ``reconciler.cli``. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import click
import orjson

from reconciler import lockfile
from reconciler.load import load
from reconciler.lock import parse
from reconciler.optimizer import Heuristic, artefact
from reconciler.optimizer.aic import AicPredictor
from reconciler.optimizer.calibration import Calibration
from reconciler.optimizer.evaluation import decide, score, table
from reconciler.optimizer.explain import drawn, explain
from reconciler.optimizer.explain import table as alternatives
from reconciler.optimizer.feedback import feedback, line_of, read_records
from reconciler.optimizer.forecast import forecast
from reconciler.optimizer.rows import read_rows
from reconciler.optimizer.task import Infeasible
from reconciler.optimizer.training import left_out, read_measured, train
from reconciler.overlay import overlay
from reconciler.resolve import questions
from reconciler.values import Commit, Desired
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
    found = left_out(measured, seed=seed)
    scores, chosen = score(measured, found), decide(measured, found)
    if as_json:
        report = {"errors": scores, "decisions": chosen}
        click.echo(orjson.dumps(report).decode())
    else:
        click.echo(table(scores, chosen))


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
    known = (
        Calibration.of(orjson.loads(calibration.read_bytes())) if calibration else None
    )
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
    envvar="BUD_INPUT",
    help="the columns of `predict`, or endpoint, with the measured ttft_ms and tpot_ms",
)
@click.option(
    "--records",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="BUD_RECORDS",
    help="folder of the gateway's records, measured of every endpoint they name",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BUD_OUTPUT",
    help="the calibration, which `predict` takes; left out, the environment's lock, "
    "which `resolve` reads",
)
@click.pass_obj
def feedback_command(
    context: Checkout | None,
    source: Path | None,
    records: Path | None,
    output: Path | None,
) -> None:
    """Compare measurements with what was predicted, and learn from them."""
    desired = None if context is None else _desired(context)
    running = {} if desired is None else _running(desired)
    lines = [] if source is None else read_rows(source)
    if records is not None:
        replicas = {name: int(line["replicas"]) for name, line in running.items()}
        lines += read_records(records, replicas)
    if not lines:
        raise PermanentError(
            "cannot learn from nothing: no measured line was found",
            hint="give --input with lines, or --records with 20 streams an endpoint",
        )
    found = feedback(lines, running, artefact.shipped(), catalog())
    _tell(found)
    if output is not None:
        output.write_bytes(orjson.dumps(found.data(), option=orjson.OPT_INDENT_2))
    elif context is not None and desired is not None:
        before = parse(desired.lock)
        known = Calibration.of(before.calibration).joined(found)
        path = lockfile.write(
            context.repo, context.environment, replace(before, calibration=known.data())
        )
        click.echo(f"wrote {path}; `bud resolve` decides by it", err=True)


def _tell(found: Calibration) -> None:
    for target, tracks in sorted(found.tracks.items()):
        for key, track in sorted(tracks.items()):
            click.echo(
                f"{target} {key}: {track.count} measured, {100 * track.offset:+.0f} % "
                f"off, {track.covered} inside the interval"
            )


def _desired(context: Checkout) -> Desired:
    return overlay(load(context.repo, Commit(sha="0" * 40)), context.environment)


def _running(desired: Desired) -> dict[str, dict[str, str]]:
    """Each GPU endpoint of the lock whose replicas are counted, as a line."""
    entries, posed = parse(desired.lock).entries, questions(desired, catalog())
    return {
        f"{ref.project}/{ref.name}": line_of(posed[ref].task, found.resolution)
        for ref, found in entries.items()
        if ref in posed and found.resolution.gpu and found.resolution.replicas
    }


@click.command()
@click.argument("endpoint")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BUD_PICTURE",
    help="write the Pareto front as SVG",
)
@click.option(
    "--predictor",
    type=click.Choice(["own", "aic"]),
    default="own",
    envvar="BUD_PREDICTOR",
    help="whose prediction to believe: aic is NVIDIA AIConfigurator, if installed",
)
@click.pass_obj
def optimize(
    context: Checkout, endpoint: str, picture: Path | None, predictor: str
) -> None:
    """Explain ENDPOINT: the best alternatives, what binds, what one more GPU buys."""
    ref = Ref.parse(endpoint if "/" in endpoint else f"Endpoint/{endpoint}")
    posed = questions(_desired(context), catalog())
    if ref not in posed:
        raise PermanentError(
            f"cannot explain {ref}: environment {context.environment} has no such "
            "endpoint",
            hint=f"it has {', '.join(str(found) for found in sorted(posed))}",
        )
    question = posed[ref]
    other = Heuristic(predictor=AicPredictor()) if predictor == "aic" else None
    try:
        found = explain(question.task, other or question.optimizer)
    except Infeasible as error:
        raise PermanentError(
            f"cannot place {ref}: nothing meets {error.binding}",
            hint=error.alternatives or "widen the node pools or what is fixed",
        ) from error
    if picture is not None:
        picture.write_text(drawn(found), encoding="utf-8")
    if context.as_json:
        click.echo(orjson.dumps(asdict(found)).decode())
    else:
        click.echo(alternatives(found))
