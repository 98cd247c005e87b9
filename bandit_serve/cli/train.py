"""`bandit-serve train`: from a file of ratings to registered versions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct

from bandit_serve.cli.command import AsJson
from bandit_serve.cli.described import read_described
from bandit_serve.cli.house import House, actor, open_house, store_url
from bandit_serve.cli.output import print_json, print_table, say
from bandit_serve.cli.train_progress import TrainProgress
from bandit_serve.cli.train_table import print_result
from bandit_serve.errors import UsageError
from bandit_serve.models.registry import Version, VersionStatus
from bandit_serve.settings import Settings, load_settings
from bandit_serve.training.dataset import DataSet, read_dataset, read_features
from bandit_serve.training.logged import read_logged
from bandit_serve.training.mlflow_mirror import MlflowMirror
from bandit_serve.training.pipeline import Status, Trained, TrainingResult, judge, train
from bandit_serve.training.plan import Plan, read_plan

Text = str | None
# From training, where a version begins.
STEPS: Mapping[Status, tuple[VersionStatus, ...]] = {
    "failed": ("failed",),
    "staged": ("staged",),
    "production": ("staged", "production"),
}


class Registered(Struct, frozen=True, omit_defaults=True):
    """What became of a family's best model."""

    family: str
    status: str
    reason: str
    metrics: dict[str, float]
    parameters: dict[str, Any]
    model: str | None = None
    version: str | None = None
    file: str | None = None


class Report(Struct, frozen=True):
    data: Any
    baseline: dict[str, float]
    seconds: float
    versions: list[Registered]


def train_models(
    data: Annotated[
        Text,
        typer.Argument(
            help="ratings.csv or u.data of MovieLens, another CSV, or Parquet.", show_default=False
        ),
    ] = None,
    log: Annotated[
        Text, typer.Option(help="In place of a file: an experiment whose rewarded predictions are ratings.")
    ] = None,
    config: Annotated[Text, typer.Option(help="The run, described: TOML, YAML or JSON.")] = None,
    items: Annotated[
        Text, typer.Option(help="CSV of items' features (default: movies.csv beside ratings.csv).")
    ] = None,
    users: Annotated[Text, typer.Option(help="CSV of users' features.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="A family to train; repeatable.")] = None,
    model: Annotated[
        Text, typer.Option(help="The model that versions are of (default: recommender).")
    ] = None,
    search: Annotated[Text, typer.Option(help="random or grid (default: random).")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Combinations of each family at random (default: 6).")
    ] = None,
    split: Annotated[
        Text, typer.Option(help="What versions are measured on: random or time (default: random).")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Random folds (default: 5).")] = None,
    metric: Annotated[
        Text, typer.Option(help="rmse, mae, precision, recall, ndcg or coverage (default: rmse).")
    ] = None,
    gate: Annotated[
        list[str] | None, typer.Option(help="'staging: rmse <= 1.0' or 'production: …'; repeatable.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Fits at a time (default: 2).")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the run repeatable (default: 0).")] = None,
    out: Annotated[Text, typer.Option(help="Directory to leave the model files in.")] = None,
    register: Annotated[bool, typer.Option(help="Register what was trained as versions.")] = True,
    tracking: Annotated[
        Text, typer.Option(help="MLflow's tracking server or store, to mirror versions to.")
    ] = None,
    store: Annotated[
        Text, typer.Option(help="Store URL (default: the private server of the data directory).")
    ] = None,
    data_dir: Annotated[
        Text, typer.Option("--data", help="Data directory (default: bandit-serve-data).")
    ] = None,
    namespace: Annotated[
        Text, typer.Option(help="Prefix of all keys in the store (default: bandit_serve).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Searches, trains, measures, gates and registers models of ratings: of a file, or of an experiment's rewards."""
    plan = _plan(
        {} if config is None else read_described(Path(config)),
        {
            "data": {"path": data, "items": items, "users": users, "log": log},
            "families": None if not family else {name: {} for name in family},
            "split": {"kind": split, "folds": folds},
            "search": {"kind": search, "trials": trials, "jobs": jobs},
            "gates": None if not gate else dict(map(_gate, gate)),
            "metric": metric,
            "seed": seed,
            "model": model,
            "tracking": tracking,
        },
    )
    settings = load_settings({"store": store, "data": data_dir, "namespace": namespace})
    ratings = _read(plan, settings)
    if not as_json:
        say(f"{len(ratings):,} ratings from {ratings.source}.")
    with TrainProgress(plan.measured, quiet=as_json) as progress:
        result = train(ratings, plan, on_progress=progress.on_progress)
    if not as_json:
        print_result(result, plan)
    with TemporaryDirectory() as folder:
        place = Path(folder) if out is None else Path(out)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = _save(result, place)
        if register:
            with store_url(settings) as url:
                versions = asyncio.run(_register(settings, url, plan, result, files))
        else:
            versions = [_told(each, each.status, each.record.reason) for each in result.trained]
    if out is not None:
        versions = [msgspec.structs.replace(each, file=str(files[each.family])) for each in versions]
    _print(Report(result.trained[0].record.data, result.baseline, result.seconds, versions), plan, as_json)


def _plan(document: Any, flags: dict[str, Any]) -> Plan:
    """The described run with flags over it."""
    if not isinstance(document, dict):
        raise UsageError("The file that describes a run must be an object of its parts.")
    merged = dict(document)
    for name, value in flags.items():
        if isinstance(value, dict) and name not in ("families", "gates"):
            given = {key: each for key, each in value.items() if each is not None}
            if given:
                merged[name] = {**merged.get(name, {}), **given}
        elif value is not None:
            merged[name] = value
    return read_plan(merged)


def _gate(text: str) -> tuple[str, str]:
    status, colon, condition = text.partition(":")
    if not colon or status.strip() not in ("staging", "production"):
        raise UsageError(f"A gate is 'staging: …' or 'production: …', not {text!r}.")
    return status.strip(), condition.strip()


def _read(plan: Plan, settings: Settings) -> DataSet:
    about = plan.data
    if (about.path is None) == (about.log is None):
        raise UsageError(
            "Which ratings? Name a file, or an experiment with --log; in the description, data.path or data.log."
        )
    if about.path is not None:
        return read_dataset(about.path, columns=about.columns, items=about.items, users=about.users)
    assert about.log is not None
    with store_url(settings) as url:
        found = asyncio.run(_read_logged(settings, url, about.log))
    return replace(
        found,
        item_features={} if about.items is None else read_features(about.items),
        user_features={} if about.users is None else read_features(about.users),
    )


async def _read_logged(settings: Settings, url: str, experiment: str) -> DataSet:
    async with open_house(settings, url) as house:
        await house.tail.hear_all_news()
        live = house.replica.experiment(experiment)
        repairs = house.replica.registry.repairs
        return await read_logged(house.store, live.experiment, live.n_features, repairs, live.owner)


def _save(result: TrainingResult, place: Path) -> dict[str, Path]:
    files = {}
    for each in result.trained:
        files[each.record.family] = place / f"{each.record.family}.safetensors"
        each.model.save(files[each.record.family])
    return files


async def _register(
    settings: Settings, url: str, plan: Plan, result: TrainingResult, files: dict[str, Path]
) -> list[Registered]:
    """A version for each family, with the status that the gates give it now."""
    async with open_house(settings, url) as house:
        versions = [await _register_one(house, plan, result, each, files) for each in result.trained]
        if plan.tracking is not None:
            model = (await house.models.known()).model(plan.model)
            await asyncio.to_thread(MlflowMirror(plan.tracking).mirror, model, house.artifacts)
        return versions


async def _register_one(
    house: House, plan: Plan, result: TrainingResult, trained: Trained, files: dict[str, Path]
) -> Registered:
    registry = await house.models.known()
    known = registry.models.get(plan.model)
    current = None
    if known is not None and known.production is not None:
        current = known.versions[known.production].metrics
    status, reason = judge(plan, trained.record.metrics, result.baseline, current)
    record = msgspec.structs.replace(trained.record, status=status, reason=reason)
    version = await house.models.register(
        plan.model,
        files[record.family],
        actor(),
        status="training",
        metrics=record.metrics,
        metadata={"training": msgspec.to_builtins(record)},
    )
    for step in STEPS[status]:
        await house.models.set_status(plan.model, version.version, step, actor(), reason=reason)
    return _told(trained, status, reason, version)


def _told(trained: Trained, status: str, reason: str, version: Version | None = None) -> Registered:
    return Registered(
        trained.record.family,
        status,
        reason,
        trained.record.metrics,
        trained.record.parameters,
        model=None if version is None else version.model,
        version=None if version is None else version.version,
    )


def _print(report: Report, plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    registered = report.versions[0].version is not None
    say(f"Versions of {plan.model}:" if registered else "Not registered:")
    columns, rows = ["Version", "Family", "Status", "Why"], []
    for each in report.versions:
        rows.append([each.version or "–", each.family, each.status, each.reason])
        if each.file is not None:
            rows[-1].append(each.file)
    if report.versions[0].file is not None:
        columns.append("File")
    print_table(columns, rows, whole=("Version", "Family", "Status"))
    say(f"{report.seconds:.1f} s in all.")
    staged = [each for each in report.versions if each.status == "staged" and registered]
    if staged:
        say(f"Next: bandit-serve models promote {plan.model} {staged[-1].version}")
