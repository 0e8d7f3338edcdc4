"""`bud optimize` and `bud optimizer ...`. (I/O)

Mounted by ``reconciler.cli``. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import click
import orjson
import yaml

from reconciler import lockfile
from reconciler.load import load
from reconciler.lock import parse
from reconciler.optimizer import Heuristic, artefact
from reconciler.optimizer.aic import AicPredictor
from reconciler.optimizer.calibration import Calibration
from reconciler.optimizer.describe import read_config, shaping
from reconciler.optimizer.evaluation import decide, predictions, score, table
from reconciler.optimizer.explain import drawn, explain
from reconciler.optimizer.explain import table as alternatives
from reconciler.optimizer.feedback import (
    feedback,
    line_of,
    read_records,
    replicas_of,
)
from reconciler.optimizer.fleet import place
from reconciler.optimizer.forecast import forecast
from reconciler.optimizer.rows import read_rows
from reconciler.optimizer.task import Infeasible, Optimizer
from reconciler.optimizer.training import read_measured, train
from reconciler.overlay import overlay
from reconciler.resolve import Question, questions
from reconciler.values import Commit, Desired
from schemas.catalog import catalog
from schemas.errors import PermanentError
from schemas.objects import Ref
from schemas.resolution import Resolution

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
    found = predictions(measured.runs, seed=seed)
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
        click.echo(f"not known, taken for the nearest that is: {what}", err=True)
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
    served = {} if desired is None else _running(desired)
    running = {
        name: line_of(question.task, chosen)
        for name, (question, chosen) in served.items()
    }
    lines = [] if source is None else read_rows(source)
    if records is not None:
        counts = {
            name: replicas_of(question.endpoint, chosen)
            for name, (question, chosen) in served.items()
        }
        lines += read_records(records, counts)
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


def _running(desired: Desired) -> dict[str, tuple[Question, Resolution]]:
    """Each GPU endpoint of the lock that has replicas."""
    entries, posed = parse(desired.lock).entries, questions(desired, catalog())
    return {
        f"{ref.project}/{ref.name}": (posed[ref], found.resolution)
        for ref, found in entries.items()
        if ref in posed and found.resolution.gpu and found.resolution.replicas != 0
    }


@optimizer.command("config")
@click.argument("source")
def config_command(source: str) -> None:
    """Print what a Model says of a model that no catalog has.

    SOURCE is a folder with a config.json, or owner/name@commit on the hub.
    """
    config, shape = shaping(read_config(source))
    click.echo(yaml.safe_dump({"config": config}, sort_keys=False).rstrip())
    total, active = shape.parameters.total / 1e9, shape.active_parameters / 1e9
    click.echo(
        f"{total:.2f}B parameters, {active:.2f}B active, {shape.layers} layers, "
        f"{shape.heads} heads, {shape.kv_heads} kv heads; put it under spec of the Model",
        err=True,
    )
    for assumed in shape.assumed:
        click.echo(f"assumed: {assumed}", err=True)


@click.command()
@click.argument("endpoints", nargs=-1, required=True, metavar="ENDPOINT...")
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
    context: Checkout, endpoints: tuple[str, ...], picture: Path | None, predictor: str
) -> None:
    """Explain ENDPOINT: the best alternatives, what binds, what one more GPU buys.

    Of several, how they are placed together on the pools they share, for the least
    cost.
    """
    posed = questions(_desired(context), catalog())
    wanted = [_asked(context, name, posed) for name in endpoints]
    other = Heuristic(predictor=AicPredictor()) if predictor == "aic" else None
    if len(wanted) > 1:
        _place(context, wanted, other)
        return
    (question,) = wanted
    try:
        found = explain(question.task, other or question.optimizer)
    except Infeasible as error:
        raise _infeasible(question.task.name, error) from error
    if picture is not None:
        picture.write_text(drawn(found), encoding="utf-8")
    if context.as_json:
        click.echo(orjson.dumps(asdict(found)).decode())
    else:
        click.echo(alternatives(found))


def _asked(context: Checkout, name: str, posed: Mapping[Ref, Question]) -> Question:
    ref = Ref.parse(name if "/" in name else f"Endpoint/{name}")
    if ref not in posed:
        raise PermanentError(
            f"cannot explain {ref}: environment {context.environment} has no such "
            "endpoint",
            hint=f"it has {', '.join(str(found) for found in sorted(posed))}",
        )
    return posed[ref]


def _place(
    context: Checkout, questions: Sequence[Question], other: Optimizer | None
) -> None:
    try:
        found = place(
            [(question.task, other or question.optimizer) for question in questions]
        )
    except Infeasible as error:
        raise _infeasible("them together", error) from error
    if context.as_json:
        click.echo(orjson.dumps(asdict(found)).decode())
        return
    for name, chosen in found.chosen.items():
        click.echo(f"{name}: {chosen}")
    for pool, taken in found.used.items():
        click.echo(f"{pool}: {taken} of {found.capacity[pool]} devices")
    click.echo(f"{found.usd_per_h:.2f} USD an hour at list prices")


def _infeasible(what: str, error: Infeasible) -> PermanentError:
    return PermanentError(
        f"cannot place {what}: nothing meets {error.binding}",
        hint=error.alternatives or "widen the node pools or what is fixed",
    )
