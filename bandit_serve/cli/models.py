"""Commands `bandit-serve models`: the registry."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import msgspec
import typer
from msgspec import UNSET, UnsetType

from bandit_serve.api.promotions import PromotionList, promotion_view
from bandit_serve.api.views import (
    ModelList,
    VersionPage,
    VersionView,
    compare_versions,
    model_summary,
    model_view,
    version_view,
)
from bandit_serve.base.names import NAME_PATTERN, is_name
from bandit_serve.base.validation import invalid
from bandit_serve.cli.access import actor, store_name
from bandit_serve.cli.command import AsJson, Reason, of_existing_store, with_state
from bandit_serve.cli.output import print_facts, print_json, print_table, say, short_time
from bandit_serve.cli.promotion_table import plan_in, print_promotion
from bandit_serve.errors import InvalidArtifact, UsageError
from bandit_serve.models.foreign_files import foreign_folder_sentence
from bandit_serve.models.onnx.signature import Signature
from bandit_serve.node import Node
from bandit_serve.promotions.promoting import Promoting
from bandit_serve.registry.catalogue import find_versions
from bandit_serve.registry.registry import VersionStatus
from bandit_serve.training.mlflow_mirror import MlflowMirror
from bandit_serve.upstreams.upstream import Upstream, UpstreamProtocol

app = typer.Typer(help="The model registry.", no_args_is_help=True)
MAX_SHOWN = 20


def _new_name(name: str | None) -> str | None:
    if name is not None and not is_name(name):
        raise typer.BadParameter(f"{name!r} is not a name: expected {NAME_PATTERN}")
    return name


Model = Annotated[str, typer.Argument(help="The model's name.", show_default=False)]
Version = Annotated[str, typer.Argument(help="The version's name.", show_default=False)]
NewModel = Annotated[str, typer.Argument(help="The model's name.", callback=_new_name, show_default=False)]
NewVersion = Annotated[
    str | None, typer.Option("--version", help="The version's name (default: v1, v2, …).", callback=_new_name)
]
File = Annotated[
    Path | None,
    typer.Argument(
        help="A model that bandit_serve saved (safetensors), or an ONNX graph.",
        exists=True,
        readable=True,
        show_default=False,
    ),
]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="A metric of the version, such as rmse=0.86; repeatable.")
]


@app.command("list")
@with_state
@of_existing_store
async def list_all(node: Node, as_json: AsJson = False) -> None:
    """Lists all models with their versions."""
    registry = await node.model_changes.known()
    models = [model for _, model in sorted(registry.models.items())]
    if as_json:
        print_json(ModelList([model_summary(model) for model in models]))
    elif not models:
        say(f"No model is registered in {store_name(node.settings)}.")
    else:
        rows = [
            (model.model, version.version, version.status, version.family, short_time(version.created_at))
            for model in map(model_view, models)
            for version in model.versions
        ]
        print_table(
            ("Model", "Version", "Status", "Family", "Registered"), rows, whole=("Status", "Registered")
        )


@app.command()
@with_state
async def register(
    node: Node,
    model: NewModel,
    file: File = None,
    version: NewVersion = None,
    status: Annotated[VersionStatus, typer.Option(help="training or staged.")] = "staged",
    metric: Metrics = None,
    remote: Annotated[
        str | None,
        typer.Option(
            help="URL of an upstream that answers for the version, in place of a file; see --upstreams."
        ),
    ] = None,
    protocol: Annotated[UpstreamProtocol, typer.Option(help="What the upstream speaks.")] = "open-inference",
    remote_model: Annotated[
        str | None, typer.Option(help="The model's name there, with open-inference (default: its name here).")
    ] = None,
    timeout: Annotated[str, typer.Option(help="Longest wait for an answer of the upstream.")] = "200ms",
    header: Annotated[
        list[str] | None,
        typer.Option(help="Header for the upstream, as Authorization=env:NAME or =file:/PATH; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Registers a model file as a new version, after checking that it is a model; or an upstream."""
    if file is not None and file.is_dir():
        raise InvalidArtifact(foreign_folder_sentence(file))
    metrics = dict(_metric(text) for text in metric or ())
    if file is not None and remote is None:
        registered = await node.model_changes.register(
            model, file, actor(), version=version, status=status, metrics=metrics, metadata={}
        )
    elif remote is not None and file is None:
        headers = dict(_header(text) for text in header or ())
        described: dict[str, Any] = {
            "url": remote,
            "protocol": protocol,
            "timeout": timeout,
            "headers": headers,
        }
        if remote_model is not None:
            described["model"] = remote_model
        registered = await node.model_changes.register_remote(
            model, _upstream(described), actor(), version=version, status=status, metrics=metrics, metadata={}
        )
    else:
        raise typer.BadParameter("expected a file, or --remote URL.")
    _print_version(version_view(registered), as_json)


@app.command()
@with_state
@of_existing_store
async def show(
    node: Node,
    model: Model,
    version: Annotated[str | None, typer.Argument(help="One version of it.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Shows a model with its versions and history, or one version."""
    registry = await node.model_changes.known()
    if version is not None:
        _print_version(version_view(registry.version(model, version)), as_json)
        return
    view = model_view(registry.model(model))
    if as_json:
        print_json(view)
        return
    say(f"{view.model}: {view.production or 'no version'} is in production")
    print_table(
        ("Version", "Status", "Family", "Bytes", "Metrics", "Registered"),
        [
            (
                each.version,
                each.status,
                each.family,
                str(each.size),
                _metrics(each.metrics),
                short_time(each.created_at),
            )
            for each in view.versions
        ],
        numbers=("Bytes",),
        whole=("Status", "Registered"),
    )
    print_table(
        ("When", "Who", "What", "Version", "Status", "Why"),
        [(short_time(e.at), e.who, e.what, e.version, e.status, e.reason or "") for e in view.history],
        whole=("When", "What", "Status"),
    )


@app.command("status")
@with_state
@of_existing_store
async def set_status(
    node: Node,
    model: Model,
    version: Version,
    status: Annotated[VersionStatus, typer.Argument(help="The new status.", show_default=False)],
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Moves a version to another status."""
    moved = await node.model_changes.set_status(model, version, status, actor(), reason=reason)
    _print_version(version_view(moved), as_json)


@app.command()
@with_state
@of_existing_store
async def promote(
    node: Node,
    model: Model,
    version: Version,
    reason: Reason = None,
    gated: Annotated[
        Path | None,
        typer.Option(
            help="A plan (TOML, JSON, YAML) of the steps before: offline, shadow, ramp.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Puts a version into production and retires the one that was there: at once, or by the steps of a plan.

    With --gated the service that runs goes through the steps; `models promotions` shows how far it is.
    """
    if gated is not None:
        if reason is not None:
            raise UsageError(
                "--reason: expected --gated without it; the evidence of the steps is the reason."
            )
        begun = promotion_view(await Promoting(node).begin(model, version, plan_in(gated), actor()))
        if as_json:
            print_json(begun)
        else:
            print_promotion(begun)
        return
    promoted = await node.model_changes.set_status(model, version, "production", actor(), reason=reason)
    _print_version(version_view(promoted), as_json)


@app.command()
@with_state
@of_existing_store
async def promotions(node: Node, model: Model, as_json: AsJson = False) -> None:
    """Shows the promotions of a model's versions with their steps, the newest first."""
    registry = await node.model_changes.known()
    registry.model(model)
    views = [promotion_view(each) for each in reversed(registry.promotions.get(model, ()))]
    if as_json:
        print_json(PromotionList(views))
    elif not views:
        say(f"No version of {model} was promoted by steps.")
    for view in [] if as_json else views:
        print_promotion(view)


@app.command()
@with_state
@of_existing_store
async def rollback(node: Node, model: Model, reason: Reason = None, as_json: AsJson = False) -> None:
    """Puts the version that was in production before back into production."""
    view = model_view(await node.model_changes.rollback(model, actor(), reason=reason))
    if as_json:
        print_json(view)
    else:
        say(f"{view.model}: {view.production} is in production again.")


def _metric(text: str) -> tuple[str, float]:
    name, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (name and equals and math.isfinite(value)):
        raise typer.BadParameter(f"{text!r}: expected name=number, such as rmse=0.86.", param_hint="--metric")
    return name, value


def _header(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not equals:
        raise typer.BadParameter(
            f"{name!r}: expected a name and the place of the value.", param_hint="--header"
        )
    return name, source


def _upstream(described: dict[str, Any]) -> Upstream:
    try:
        return msgspec.convert(described, Upstream)
    except msgspec.ValidationError as error:
        raise invalid(error, "remote") from None


def _print_version(version: VersionView, as_json: bool) -> None:
    if as_json:
        print_json(version)
        return
    print_facts(
        [
            ("Model", version.model),
            ("Version", version.version),
            ("Status", version.status + (f" ({version.reason})" if version.reason else "")),
            ("Family", version.family),
            *_place(version),
            ("Registered", version.created_at),
            ("Changed", version.updated_at),
            *_tensors(version.signature),
            *((name, f"{value:g}") for name, value in version.metrics.items()),
        ]
    )


def _place(version: VersionView) -> list[tuple[str, str]]:
    """Facts about a version's file or upstream."""
    remote = version.remote
    if remote is UNSET:
        return [("SHA-256", version.sha256), ("Bytes", str(version.size))]
    headers = [("Header", f"{name} from {source}") for name, source in remote.headers.items()]
    model = [] if remote.model is None else [("Model there", remote.model)]
    return [
        ("Upstream", remote.url),
        ("Protocol", remote.protocol),
        *model,
        ("Timeout", remote.timeout),
        *headers,
    ]


def _tensors(signature: Signature | UnsetType) -> list[tuple[str, str]]:
    """Facts about what a graph takes and gives."""
    if signature is UNSET:
        return []
    dtypes = [each.dtype for each in signature.inputs] * (
        len(signature.columns) if signature.is_matrix else 1
    )
    taken = [f"{name} ({dtype})" for name, dtype in zip(signature.columns, dtypes, strict=True)]
    given = [f"{each.name} ({each.dtype})" for each in signature.outputs]
    return [("Features", _some(taken)), ("Outputs", _some(given))]


def _some(texts: list[str]) -> str:
    """First texts, as many as are read."""
    return ", ".join(texts[:MAX_SHOWN]) + (
        f" and {len(texts) - MAX_SHOWN} more" if len(texts) > MAX_SHOWN else ""
    )


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in metrics.items())


@app.command()
@with_state
@of_existing_store
async def versions(
    node: Node,
    model: Model,
    status: Annotated[list[str] | None, typer.Option(help="Only of this status; repeatable.")] = None,
    family: Annotated[str | None, typer.Option(help="Only of this family.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Only versions whose metrics fit, such as 'rmse<=0.9'; repeatable."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Only with this in the name, reason or metadata.")] = None,
    sort: Annotated[
        str, typer.Option(help="created, version or a metric; - for the largest first.")
    ] = "-created",
    limit: Annotated[int, typer.Option(help="How many at most.")] = 100,
    after: Annotated[str | None, typer.Option(help="The last version of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """Finds versions of a model, the newest first."""
    registry = await node.model_changes.known()
    page = find_versions(
        registry.model(model),
        statuses=status or (),
        family=family,
        metrics=metric or (),
        text=text,
        sort=sort,
        limit=limit,
        after=after,
    )
    if as_json:
        print_json(VersionPage([version_view(each) for each in page.versions], page.total, page.after))
        return
    rows = [
        (each.version, each.status, each.family, _few(each.metrics), each.reason or "")
        for each in page.versions
    ]
    print_table(
        ("Version", "Status", "Family", "Metrics", "Why"), rows, whole=("Version", "Status", "Family")
    )
    say(
        f"{len(page.versions)} of {page.total}"
        + ("" if page.after is None else f"; more with --after {page.after}")
    )


@app.command()
@with_state
@of_existing_store
async def compare(node: Node, model: Model, a: Version, b: Version, as_json: AsJson = False) -> None:
    """Compares two versions: metrics, hyper-parameters, size, age."""
    registry = await node.model_changes.known()
    comparison = compare_versions(registry.version(model, a), registry.version(model, b))
    if as_json:
        print_json(comparison)
        return
    rows: list[tuple[str, ...]] = [
        ("status", comparison.a.status, comparison.b.status, ""),
        ("family", comparison.a.family, comparison.b.family, ""),
        ("bytes", f"{comparison.a.size:,}", f"{comparison.b.size:,}", f"{comparison.size:+,}"),
        (
            "registered",
            short_time(comparison.a.created_at),
            short_time(comparison.b.created_at),
            f"{-comparison.age_s:+,.0f} s",
        ),
    ]
    for name in dict.fromkeys((*comparison.a.metrics, *comparison.b.metrics)):
        figures = [_figure(each.metrics.get(name)) for each in (comparison.a, comparison.b)]
        difference = comparison.metrics.get(name)
        rows.append((name, *figures, "" if difference is None else f"{difference:+.4g}"))
    rows += [(name, str(each.a), str(each.b), "") for name, each in comparison.parameters.items()]
    print_table(("", a, b, "difference"), rows, numbers=(a, b, "difference"))


@app.command()
@with_state
@of_existing_store
async def agreement(node: Node, model: Model, version: Version, as_json: AsJson = False) -> None:
    """Shows how a shadow version agrees with the answers that were given."""
    measured = await node.model_changes.agreement(model, version)
    if as_json:
        print_json(measured)
        return
    facts = [(name.replace("_", " "), getattr(measured, name)) for name in measured.__struct_fields__]
    print_facts([(name, _figure(value) if isinstance(value, float) else str(value)) for name, value in facts])


@app.command()
@with_state
@of_existing_store
async def prune(
    node: Node,
    keep: Annotated[int, typer.Option(help="Retired and failed versions to keep of each model.")] = 5,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would go, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Removes files of retired and failed versions that neither experiments nor a rollback need."""
    gone = await node.model_changes.prune(keep, actor(), dry_run=dry_run)
    if as_json:
        print_json([version_view(each) for each in gone])
        return
    for each in gone:
        say(f"{each.model} {each.version}: {each.size:,} bytes, {each.status}")
    say(
        f"{'Would remove' if dry_run else 'Removed'} {len(gone)} files, {sum(each.size for each in gone):,} bytes."
    )


@app.command()
@with_state
@of_existing_store
async def mirror(
    node: Node,
    model: Model,
    tracking: Annotated[str, typer.Option(help="MLflow's tracking server or store.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Writes a model's versions to MLflow, with @champion and @challenger."""
    registry = await node.model_changes.known()
    numbers = await asyncio.to_thread(MlflowMirror(tracking).mirror, registry.model(model), node.artifacts)
    if as_json:
        print_json(numbers)
        return
    print_table(("Version", "In MLflow"), [(name, f"{model}/{number}") for name, number in numbers.items()])


@app.command("import")
@with_state
async def import_version(
    node: Node,
    reference: Annotated[str, typer.Argument(help="name@alias or name/number.", show_default=False)],
    tracking: Annotated[str, typer.Option(help="MLflow's tracking server or store.", show_default=False)],
    model: Annotated[
        str | None, typer.Option("--as", help="The model's name here (default: its name there).")
    ] = None,
    version: NewVersion = None,
    gated: Annotated[
        Path | None,
        typer.Option(help="A plan by whose steps it goes into production.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Registers a version that is in MLflow, a safetensors file of ours or an ONNX graph, as staged."""
    plan = None if gated is None else plan_in(gated)
    with TemporaryDirectory() as folder:
        file, about = await asyncio.to_thread(MlflowMirror(tracking).fetch, reference, Path(folder))
        metrics = about.pop("metrics")
        name = _new_name(model or about["mlflow"]["name"])
        assert name is not None
        registered = await node.model_changes.register(
            name, file, actor(), version=version, status="staged", metrics=metrics, metadata=about
        )
    _print_version(version_view(registered), as_json)
    if plan is not None:
        begun = await Promoting(node).begin(registered.model, registered.version, plan, actor())
        if not as_json:
            print_promotion(promotion_view(begun))


def _few(metrics: Mapping[str, float]) -> str:
    """First metrics, as many as fit on a line."""
    figures = [f"{name} {value:.4g}" for name, value in metrics.items()]
    return ", ".join(figures[:3]) + (" …" if len(figures) > 3 else "")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
