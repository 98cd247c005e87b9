"""Command `bandit-serve train`: from ratings to registered versions."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile, gettempdir, mkdtemp
from typing import Annotated, Any

import msgspec
import typer
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.api.promotions import PromotionView, promotion_view
from bandit_serve.base.private_files import own_folder
from bandit_serve.base.terminal import print_line
from bandit_serve.cli.access import actor, following, store_url
from bandit_serve.cli.command import AsJson, Tenant
from bandit_serve.cli.described import read_described
from bandit_serve.cli.output import print_json, print_table, say
from bandit_serve.cli.promotion_table import plan_in, print_promotion
from bandit_serve.cli.setting_options import setting_option
from bandit_serve.cli.train_progress import TrainProgress
from bandit_serve.cli.train_table import print_result
from bandit_serve.errors import BanditServeError, UsageError
from bandit_serve.models.family import FAMILIES
from bandit_serve.node import Node
from bandit_serve.promotions.promoting import Promoting
from bandit_serve.registry.promotions import PromotionPlan
from bandit_serve.registry.registry import Version, VersionStatus
from bandit_serve.settings import Settings, load_settings
from bandit_serve.training.dataset import DataSet, read_dataset
from bandit_serve.training.features import read_features
from bandit_serve.training.logged import read_logged
from bandit_serve.training.mlflow_mirror import MlflowMirror
from bandit_serve.training.pipeline import Status, Trained, TrainingResult, judge, train
from bandit_serve.training.plan import Plan, read_plan

Text = str | None
FAMILY = f"A family to train: {', '.join(FAMILIES)} (default: {', '.join(Plan().families)}); repeatable."
# From training, where a version begins.
STEPS: Mapping[Status, tuple[VersionStatus, ...]] = {
    "failed": ("failed",),
    "staged": ("staged",),
    "production": ("staged", "production"),
}


class Registered(Struct, frozen=True, omit_defaults=True):
    """Registration of a family's best model."""

    family: str
    status: str
    reason: str
    metrics: dict[str, float]
    parameters: dict[str, Any]
    model: str | None = None
    version: str | None = None
    file: str | None = None


class TrainingReport(Struct, frozen=True):
    data: Any
    baseline: dict[str, float]
    popular: dict[str, float]
    seconds: float
    versions: list[Registered]
    promotion: PromotionView | UnsetType = UNSET


def train_models(
    data: Annotated[
        Text,
        typer.Argument(
            help="Ratings: MovieLens' files, another CSV or text, Parquet, or a directory of parts.",
            show_default=False,
        ),
    ] = None,
    log: Annotated[
        Text, typer.Option(help="In place of a file: an experiment whose rewarded predictions are ratings.")
    ] = None,
    columns: Annotated[
        Text,
        typer.Option(help="Names of the columns: user=who,item=what,rating=stars,time=at,feature=hour."),
    ] = None,
    config: Annotated[Text, typer.Option(help="The run, described: TOML, YAML or JSON.")] = None,
    items: Annotated[
        Text,
        typer.Option(help="A table of items' features (default: movies.csv or .dat beside the ratings)."),
    ] = None,
    users: Annotated[Text, typer.Option(help="A table of users' features.")] = None,
    family: Annotated[list[str] | None, typer.Option(help=FAMILY)] = None,
    model: Annotated[
        Text, typer.Option(help="The model that versions are of (default: recommender).")
    ] = None,
    search: Annotated[Text, typer.Option(help="random or grid (default: random).")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Combinations of each family at random (default: 6).")
    ] = None,
    split: Annotated[
        Text, typer.Option(help="Split that versions are measured on: random or time (default: random).")
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
    gated: Annotated[
        Text, typer.Option(help="A plan by whose steps the best staged version goes into production.")
    ] = None,
    tracking: Annotated[
        Text, typer.Option(help="MLflow's tracking server or store, to mirror versions to.")
    ] = None,
    store: Annotated[Text, setting_option("store")] = None,
    data_dir: Annotated[Text, setting_option("data")] = None,
    namespace: Annotated[Text, setting_option("namespace")] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Searches, trains, measures, gates and registers models of ratings: of a file, or of an experiment's rewards."""
    plan = _plan(
        {} if config is None else read_described(Path(config)),
        {
            "data": {
                "path": data,
                "items": items,
                "users": users,
                "log": log,
                "columns": None if columns is None else _columns(columns),
            },
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
    promotion_plan = None if gated is None else plan_in(Path(gated))
    if gated is not None and not register:
        raise UsageError("--gated is the way of a version that is registered: this run registers none.")
    if gated is not None and "production" in plan.gates:
        raise UsageError("--gated: expected either this or a gate of production, which is a way of its own.")
    settings = load_settings({"store": store, "data": data_dir, "namespace": namespace})
    if tenant is not None and not register and plan.data.log is None:
        raise UsageError(
            "--tenant is whose log is read and whose versions are registered: this run does neither."
        )
    place = None if out is None else _made(Path(out))
    began_s = time.monotonic()
    ratings = _read(plan, settings, tenant)
    if not as_json:
        _say_what_was_read(ratings)
        if not register and out is None:
            say("Models are measured and not kept: --out names a directory for them.")
    now_ms = _look_for_store(settings, plan, tenant) if register else None
    began_ms = None if now_ms is None else now_ms - round(1_000 * (time.monotonic() - began_s))
    with TrainProgress(plan, quiet=as_json) as progress:
        result = train(ratings, plan, on_progress=progress.on_progress)
    if not as_json:
        print_result(result, plan)
    trouble: BanditServeError | None = None
    promotion: PromotionView | UnsetType = UNSET
    if register:
        with _kept(result, place, settings, plan, tenant) as files, store_url(settings) as url:
            versions, trouble = asyncio.run(_register(settings, url, tenant, plan, result, files, began_ms))
            staged = [each for each in versions if each.status == "staged"]
            if promotion_plan is not None and (best := plan.best(staged)) is not None:
                try:
                    promotion = asyncio.run(_begin(settings, url, tenant, best, promotion_plan))
                except BanditServeError as error:
                    trouble = trouble or error
    else:
        files = {} if place is None else _save(result, place)
        versions = [_registered(each, each.status, each.record.reason) for each in result.trained]
    if place is not None:
        versions = [msgspec.structs.replace(each, file=str(files[each.family])) for each in versions]
    versions += [Registered(family, "failed", reason, {}, {}) for family, reason in result.dropped.items()]
    _print(
        TrainingReport(
            result.trained[0].record.data,
            result.baseline,
            result.popular,
            result.seconds,
            versions,
            promotion,
        ),
        plan,
        as_json,
    )
    if trouble is not None:
        raise trouble


def _plan(document: Any, flags: dict[str, Any]) -> Plan:
    """Reads the plan from its file, with flags overriding it."""
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


def _columns(text: str) -> dict[str, Any]:
    columns: dict[str, Any] = {"features": []}
    for part in text.split(","):
        what, sign, name = part.partition("=")
        if not sign or what.strip() not in ("user", "item", "rating", "time", "feature"):
            raise UsageError(f"Expected columns as user=who,item=what,rating=stars, not {text!r}.")
        if what.strip() == "feature":
            columns["features"].append(name)
        else:
            columns[what.strip()] = name
    return columns


def _gate(text: str) -> tuple[str, str]:
    status, colon, condition = text.partition(":")
    if not colon or status.strip() not in ("staging", "production"):
        raise UsageError(f"A gate is 'staging: …' or 'production: …', not {text!r}.")
    return status.strip(), condition.strip()


def _read(plan: Plan, settings: Settings, tenant: str | None) -> DataSet:
    about = plan.data
    if (about.path is None) == (about.log is None):
        raise UsageError(
            "Which ratings? Name a file, or an experiment with --log; in the description, data.path or data.log."
        )
    if about.path is not None:
        return read_dataset(about.path, columns=about.columns, items=about.items, users=about.users)
    assert about.log is not None
    with store_url(settings) as url:
        logged = asyncio.run(_read_logged(settings, url, tenant, about.log))
    return replace(
        logged,
        item_features={} if about.items is None else read_features(about.items),
        user_features={} if about.users is None else read_features(about.users),
    )


async def _read_logged(settings: Settings, url: str, tenant: str | None, experiment: str) -> DataSet:
    async with following(settings, url, tenant) as node:
        await node.tail.refresh_all()
        live = node.replica.experiment(experiment)
        repairs = node.replica.registry.repairs
        return await read_logged(node.store, live.experiment, live.n_logged, repairs, live.owner)


def _say_what_was_read(data: DataSet) -> None:
    say(f"{len(data):,} ratings from {data.source}.")
    n_pairs = int(data.ratings.pairs.max()) + 1
    if n_pairs < len(data):
        say(f"They are of {n_pairs:,} pairs of a user and an item; those of one pair stay in one fold.")


def _look_for_store(settings: Settings, plan: Plan, tenant: str | None) -> int:
    """Log time, by a store where versions can be registered after the training; raises if there is none."""

    async def look(url: str) -> int:
        async with following(settings, url, tenant) as node:
            await node.model_changes.known()
            return await node.store.time_ms()

    with store_url(settings) as url:
        now_ms = asyncio.run(look(url))
    if plan.tracking is not None:
        MlflowMirror(plan.tracking)
    return now_ms


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"The directory {folder} can not be written to: {error.strerror}.") from None
    return folder


@contextlib.contextmanager
def _kept(
    result: TrainingResult, out: Path | None, settings: Settings, plan: Plan, tenant: str | None
) -> Iterator[dict[str, Path]]:
    """Saves the models in `out`, or in a temporary directory, and yields the paths by family.

    The temporary directory is removed unless the block raises; then its models can still be registered by hand.
    """
    folder = out
    for parent in () if out else (settings.data_dir, Path(gettempdir())):
        with contextlib.suppress(OSError, UsageError):
            folder = Path(
                mkdtemp(prefix="trained-", dir=own_folder(parent) if parent == settings.data_dir else parent)
            )
            break
    if folder is None:
        raise UsageError(f"No file can be made, neither in {settings.data_dir} nor in {gettempdir()}.")
    files = _save(result, folder)
    try:
        yield files
    except BaseException:
        print_line(
            f"The models are kept: bandit-serve models register {plan.model} {folder.absolute()}/FAMILY.safetensors"
            f"{'' if tenant is None else f' --tenant {tenant}'} registers one ({', '.join(files)}).",
            to=sys.stderr,
        )
        raise
    if out is None:
        shutil.rmtree(folder, ignore_errors=True)


def _save(result: TrainingResult, place: Path) -> dict[str, Path]:
    files = {}
    for each in result.trained:
        files[each.record.family] = place / f"{each.record.family}.safetensors"
        each.model.save(files[each.record.family])
    return files


async def _register(
    settings: Settings,
    url: str,
    tenant: str | None,
    plan: Plan,
    result: TrainingResult,
    files: dict[str, Path],
    began_ms: int | None,
) -> tuple[list[Registered], BanditServeError | None]:
    """Registers a version for each family, with the status of its gates; returns also what kept MLflow from it."""
    async with following(settings, url, tenant) as node:
        versions = [await _register_one(node, plan, result, each, files, began_ms) for each in result.trained]
        try:
            if plan.tracking is not None:
                model = (await node.model_changes.known()).model(plan.model)
                await asyncio.to_thread(MlflowMirror(plan.tracking).mirror, model, node.artifacts)
        except BanditServeError as error:
            return versions, error
        return versions, None


async def _register_one(
    node: Node,
    plan: Plan,
    result: TrainingResult,
    trained: Trained,
    files: dict[str, Path],
    began_ms: int | None,
) -> Registered:
    registry = await node.model_changes.known()
    known = registry.models.get(plan.model)
    current = None
    if known is not None and known.production is not None:
        current = known.versions[known.production].metrics
    baselines = {"baseline": result.baseline, "popular": result.popular}
    status, reason = judge(plan, trained.record.family, trained.record.metrics, baselines, current)
    record = msgspec.structs.replace(trained.record, status=status, reason=reason, began_ms=began_ms)
    version = await node.model_changes.register(
        plan.model,
        files[record.family],
        actor(),
        status="training",
        metrics=record.metrics,
        metadata={"training": msgspec.to_builtins(record)},
    )
    for step in STEPS[status]:
        await node.model_changes.set_status(plan.model, version.version, step, actor(), reason=reason)
    return _registered(trained, status, reason, version)


async def _begin(
    settings: Settings, url: str, tenant: str | None, best: Registered, plan: PromotionPlan
) -> PromotionView:
    assert best.model is not None
    assert best.version is not None
    async with following(settings, url, tenant) as node:
        begun = await Promoting(node).begin(best.model, best.version, plan, actor())
    return promotion_view(begun)


def _registered(trained: Trained, status: str, reason: str, version: Version | None = None) -> Registered:
    return Registered(
        trained.record.family,
        status,
        reason,
        trained.record.metrics,
        trained.record.parameters,
        model=None if version is None else version.model,
        version=None if version is None else version.version,
    )


def _print(report: TrainingReport, plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    registered = any(each.version is not None for each in report.versions)
    say(f"Versions of {plan.model}:" if registered else "Not registered:")
    columns = ["Version", "Family", "Status", "Why"]
    rows = [[each.version or "–", each.family, each.status, each.reason] for each in report.versions]
    if any(each.file is not None for each in report.versions):
        columns.append("File")
        rows = [[*row, each.file or "–"] for row, each in zip(rows, report.versions, strict=True)]
    print_table(columns, rows, whole=("Version", "Family", "Status"))
    say(f"{report.seconds:.1f} s in all.")
    if isinstance(report.promotion, PromotionView):
        print_promotion(report.promotion)
        return
    staged = [each for each in report.versions if each.status == "staged" and registered]
    if staged:
        say(f"Next: bandit-serve models promote {plan.model} {staged[-1].version}")
