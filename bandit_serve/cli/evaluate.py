"""Command `bandit-serve evaluate`: what other policies would have earned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import typer

from bandit_serve.base.extras import require
from bandit_serve.cli.access import following, store_url
from bandit_serve.cli.command import WHERE, AsJson, Tenant
from bandit_serve.cli.data_directory import require_data_directory
from bandit_serve.cli.evaluate_learning import LearningQuestion
from bandit_serve.cli.evaluate_table import print_evaluation, single
from bandit_serve.cli.export import Since, Until, span_of
from bandit_serve.cli.named_policies import MAX_CANDIDATES, Named, named_policies
from bandit_serve.cli.number_options import number_option
from bandit_serve.cli.output import print_json
from bandit_serve.cli.output_file import output_file
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.errors import BanditServeError, InvalidInput, UsageError
from bandit_serve.evaluation.at_scale import evaluate_export
from bandit_serve.evaluation.candidates import Candidate, of_policy, of_version
from bandit_serve.evaluation.decisions import LoggedDecisions
from bandit_serve.evaluation.evaluation import Evaluation, EvaluationOptions, evaluate
from bandit_serve.evaluation.evaluation import search as search_best
from bandit_serve.evaluation.learning import LearningEvaluation
from bandit_serve.evaluation.parquet_sums import DEFAULT_MEMORY, SumsOptions
from bandit_serve.evaluation.sources import ParquetExport, from_log, metric_of
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.reading import TimeSpan
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node
from bandit_serve.pictures.values import Valued, values_chart
from bandit_serve.results.off_policy import ArmMean, OutcomeMachine, Ridge
from bandit_serve.results.off_policy.crossing import Regressor
from bandit_serve.results.off_policy.estimate import INTERVALS, Interval
from bandit_serve.results.off_policy.learning import ReplayOptions
from bandit_serve.settings import Settings

MAX_TAU = 1e100
"""Largest bound of a weight, whose square is a number, too."""
Found = TypeVar("Found", Evaluation, LearningEvaluation)
Judge = Callable[[Experiment, Metric, LoggedDecisions, list[Candidate], EvaluationOptions], Evaluation]


@takes_settings(*WHERE)
def evaluate_policies(
    settings: Settings,
    experiment: Annotated[
        str, typer.Argument(help="The experiment's name, or a Parquet export of one.", show_default=False)
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="A kind, shares such as a=0.2,b=0.8, or a file with one policy or several by name.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        list[str] | None,
        typer.Option(
            help="The arm with this model's version, MODEL/VERSION, for everybody.", show_default=False
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric (default: the objective).", show_default=False)
    ] = None,
    since: Since = None,
    until: Until = None,
    interval: Annotated[
        Interval | None, typer.Option(help="Kind of the intervals (default: anytime).", show_default=False)
    ] = None,
    alpha: Annotated[float, number_option("Level of error of all intervals together.")] = 0.05,
    tau: Annotated[
        float | None,
        number_option("Weight above which `switch` asks the model alone (default: 10).", show_default=False),
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="Model of outcomes: ridge (default), mean (of the arm), fm (a factorization machine), or a regressor "
            "of scikit-learn such as ensemble.RandomForestRegressor.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all that is drawn.")] = 0,
    engine: Annotated[
        Literal["memory", "duckdb", "dask"],
        typer.Option(
            help="What reads an export: memory; duckdb, which holds --memory of it at most; or dask, whose workers do "
            "so with a part each."
        ),
    ] = "memory",
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory of --engine duckdb, and of each part that dask reads, such as 512MB (default: 1GB).",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Scheduler of the cluster of --engine dask, such as tcp://10.0.0.1:8786 (default: a cluster on this "
            "machine).",
            show_default=False,
        ),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Choose the best on one half, and estimate it on the other.")
    ] = False,
    learning: Annotated[
        bool, typer.Option("--learning", help="Replay the policies as they would have learned.")
    ] = False,
    runs: Annotated[
        int | None, typer.Option(help="Runs of --learning (default: 10).", show_default=False)
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            help="Decisions of a run of --learning (default: as many as there are).", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the values as an SVG file.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of --engine duckdb (default: all cores), and of each part that dask reads (default: 1).",
            min=1,
            show_default=False,
        ),
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Estimates what other policies would have earned, from the decisions of a log and their propensities.

    A policy that learns is taken as this log teaches it, and stands still. With --learning it begins anew and learns
    from the decisions that it might have made itself.

    bandit-serve evaluate checkout --policy thompson --policy control=1
    """
    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot writes an SVG file, not {plot}.")
    policies, versions, span = named_policies(policy or []), version, span_of(since, until)
    if not 0 < len(policies) + len(versions or []) <= MAX_CANDIDATES:
        raise UsageError(f"--policy, --version: expected one at least, and {MAX_CANDIDATES} at most.")
    where = (settings, experiment, tenant)
    if learning:
        others = {
            "version": version or None,
            "metric": metric,
            "interval": interval,
            "tau": tau,
            "outcome": outcome,
            "engine": engine if engine != "memory" else None,
            "memory": memory,
            "threads": threads,
            "scheduler": scheduler,
        }
        _require_none("--learning goes without it", **others, search=search or None)
        question = LearningQuestion(policies, span, _replay_options(runs, horizon, seed, alpha))
        _answer(question, *where, plot, as_json)
    else:
        _require_none("only --learning has it", runs=runs, horizon=horizon)
        options = _options(
            interval or "anytime", alpha, 10.0 if tau is None else tau, seed, outcome or "ridge"
        )
        judge = search_best if search else evaluate
        reading = _reading(engine, memory, threads, scheduler, experiment, search)
        asked = StandingQuestion(policies, versions or [], metric, span, options, judge, reading)
        _answer(asked, *where, plot, as_json)


class Question(Protocol[Found]):
    """Question about policies, which an export or a log answers."""

    def of_export(self, export: ParquetExport) -> Found: ...

    async def of_log(self, node: Node, live: LiveExperiment) -> Found: ...

    def print(self, found: Found, plot: Path | None) -> None: ...

    def picture(self, found: Found) -> str: ...


class StandingQuestion:
    """Question what policies would have earned that stand still."""

    def __init__(
        self,
        policies: Named,
        versions: list[str],
        metric: str | None,
        span: TimeSpan,
        options: EvaluationOptions,
        judge: Judge,
        reading: SumsOptions | None,
    ) -> None:
        self._policies, self._versions, self._metric = policies, versions, metric
        self._span, self._options, self._judge = span, options, judge
        self._reading = reading

    def of_export(self, export: ParquetExport) -> Evaluation:
        chosen, asked = self._asked(export.experiment)
        if self._reading is not None:
            return evaluate_export(export, chosen, self._span, asked, self._options, self._reading)
        decisions = export.decisions(chosen.name, self._span)
        return self._judge(export.experiment, chosen, decisions, asked, self._options)

    async def of_log(self, node: Node, live: LiveExperiment) -> Evaluation:
        chosen, asked = self._asked(live.experiment)
        decisions = await from_log(node, live, chosen.name, self._span)
        return await asyncio.to_thread(self._judge, live.experiment, chosen, decisions, asked, self._options)

    def _asked(self, experiment: Experiment) -> tuple[Metric, list[Candidate]]:
        chosen = metric_of(experiment, self._metric)
        return chosen, _candidates(experiment, self._policies, self._versions, chosen.name)

    def print(self, found: Evaluation, plot: Path | None) -> None:
        print_evaluation(found, plot)

    def picture(self, found: Evaluation) -> str:
        return _picture(found)


def _require_none(said: str, **options: Any) -> None:
    """Raises `UsageError` for the first option that is given."""
    given = next((name for name, value in options.items() if value is not None), None)
    if given is not None:
        raise UsageError(f"--{given}: {said}.")


def _replay_options(runs: int | None, horizon: int | None, seed: int, alpha: float) -> ReplayOptions:
    try:
        return ReplayOptions(runs=10 if runs is None else runs, horizon=horizon, seed=seed, alpha=alpha)
    except ValueError as error:
        raise UsageError(f"--{error}.") from None


def _reading(
    engine: Literal["memory", "duckdb", "dask"],
    memory: str | None,
    threads: int | None,
    scheduler: str | None,
    experiment: str,
    search: bool,
) -> SumsOptions | None:
    """Options of DuckDB; None where decisions are to be in memory."""
    if engine != "dask":
        _require_none("only --engine dask has it", scheduler=scheduler)
    if engine == "memory":
        _require_none("only --engine duckdb and dask have it", memory=memory, threads=threads)
        return None
    if not _is_path(experiment):
        raise UsageError(f"--engine {engine}: expected a Parquet export; export the experiment first.")
    _require_none(f"--engine {engine} goes without it", search=search or None)
    if engine == "dask" and threads is None:
        threads = 1
    return SumsOptions(engine=engine, memory=memory or DEFAULT_MEMORY, threads=threads, scheduler=scheduler)


def _is_path(experiment: str) -> bool:
    return "/" in experiment or experiment.endswith(".parquet")


def _answer(
    asked: Question[Found],
    settings: Settings,
    experiment: str,
    tenant: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Asks, and prints what is found. Raises `BanditServeError` where the log has no answer for any policy."""
    with output_file(plot) as picture:
        if _is_path(experiment):
            found = asked.of_export(ParquetExport(experiment))
        else:
            found = _from_log(asked, settings, experiment, tenant)
        if picture is not None:
            picture.write(asked.picture(found))
    refused = [each.refusal for each in found.policies if each.refusal is not None]
    if as_json:
        print_json(single(found))
    else:
        asked.print(found, plot)
    if len(refused) == len(found.policies):
        raise BanditServeError(refused[0])


def _from_log(asked: Question[Found], settings: Settings, experiment: str, tenant: str | None) -> Found:
    require_data_directory(settings)

    async def run(url: str) -> Found:
        async with following(settings, url, tenant) as node:
            return await asked.of_log(node, await node.experiment_changes.known(experiment))

    with store_url(settings) as url:
        return asyncio.run(run(url))


def _options(interval: Interval, alpha: float, tau: float, seed: int, outcome: str) -> EvaluationOptions:
    if interval not in INTERVALS:
        raise UsageError(f"--interval: expected one of {', '.join(INTERVALS)}.")
    if not 0.0 < alpha < 1.0:
        raise UsageError(f"--alpha: expected a number between 0 and 1, not {alpha:g}.")
    if not 0.0 < tau <= MAX_TAU:
        raise UsageError(f"--tau: expected a number above 0, up to {MAX_TAU:g}, not {tau:g}.")
    return EvaluationOptions(interval=interval, alpha=alpha, tau=tau, seed=seed, model=_model(outcome, seed))


def _model(outcome: str, seed: int) -> Callable[[], Regressor]:
    """Maker of a model of outcomes. Only what is a regressor of scikit-learn is made."""
    if outcome == "ridge":
        return Ridge
    if outcome == "mean":
        return ArmMean
    if outcome == "fm":
        return partial(OutcomeMachine, seed=seed)
    require("sklearn", "evaluate")
    base: Any = require("sklearn.base", "evaluate")
    module, _, name = f"sklearn.{outcome}".rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, base.RegressorMixin)):
        raise UsageError(
            "--outcome: expected ridge, mean, fm, or a regressor such as ensemble.RandomForestRegressor, not "
            f"{outcome!r}."
        )
    takes_seed = "random_state" in kind().get_params()

    def made() -> Regressor:
        model: Regressor = kind(random_state=seed) if takes_seed else kind()
        return model

    return made


def _candidates(experiment: Experiment, policies: Named, versions: list[str], metric: str) -> list[Candidate]:
    candidates: list[Candidate] = []
    for name, spec in policies:
        if spec.kind != "fixed_split" and metric != experiment.objective.name:
            raise UsageError(
                f"--policy: {spec.kind} learns from the objective, {experiment.objective.name}: leave out --metric."
            )
        try:
            candidates.append(of_policy(name, spec, experiment))
        except InvalidInput as error:
            raise UsageError(f"--policy {name}: {error}", error.errors) from None
    return [*candidates, *(of_version(version, experiment) for version in versions)]


def _picture(found: Evaluation) -> str:
    rows = [Valued("as it was", found.logged.value, found.logged.interval)]
    for each in found.policies:
        best = each.estimates.get("dr")
        rows.append(Valued(each.name, best.value if best else None, best.interval if best else None))
    level = f"{1 - found.alpha:.0%} {found.interval} in all"
    about = f"mean {found.metric} of {found.n:,} decisions, doubly robust, {level}"
    return values_chart(
        f"{found.experiment}: what policies would have earned", about, found.logged.value, rows
    )
