"""Command `bandit-serve plan`: how long an experiment takes, or what so many days can find."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from bandit_serve.base.validation import field_error
from bandit_serve.cli.access import following, store_url
from bandit_serve.cli.command import WHERE, AsJson, Tenant
from bandit_serve.cli.data_directory import require_data_directory
from bandit_serve.cli.number_options import number_option
from bandit_serve.cli.output import print_json
from bandit_serve.cli.output_file import output_file
from bandit_serve.cli.plan_table import print_plan, title
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.pictures.power import PowerCurve, power_chart
from bandit_serve.results.plan_request import (
    PlanRequest,
    Seen,
    design_from,
    design_of,
    metric_of,
    planned,
    require_complete,
)
from bandit_serve.results.planning import TESTS, Design, ExperimentPlan, chances
from bandit_serve.settings import Settings

KNOWN, ASKED, HOW = "What is known", "What is asked", "How"


@takes_settings(*WHERE)
def plan(
    settings: Settings,
    experiment: Annotated[
        str | None,
        typer.Argument(
            help="An experiment whose own log has the baseline, shares and traffic.", show_default=False
        ),
    ] = None,
    rate: Annotated[
        float | None, number_option("Rate in control, of values 0 and 1.", rich_help_panel=KNOWN)
    ] = None,
    mean: Annotated[
        float | None, number_option("Mean in control, of any numbers.", rich_help_panel=KNOWN)
    ] = None,
    sd: Annotated[float | None, number_option("Their standard deviation.", rich_help_panel=KNOWN)] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Metric of the experiment (default: the objective).", rich_help_panel=KNOWN),
    ] = None,
    traffic: Annotated[
        float | None, number_option("Observations a day, of all arms.", rich_help_panel=KNOWN)
    ] = None,
    effect: Annotated[
        str | None,
        typer.Option(
            help="Difference to find: 0.005, or 5% of control's mean.",
            rich_help_panel=ASKED,
            show_default=False,
        ),
    ] = None,
    days: Annotated[
        float | None, number_option("Or days, and what they can find.", rich_help_panel=ASKED)
    ] = None,
    arms: Annotated[
        int | None, typer.Option(help="Arms with control, evenly shared (default: 2).", rich_help_panel=HOW)
    ] = None,
    alpha: Annotated[
        float | None, number_option("Level of error (default: 0.05).", rich_help_panel=HOW)
    ] = None,
    power: Annotated[
        float | None, number_option("Chance of finding it (default: 0.8).", rich_help_panel=HOW)
    ] = None,
    correlation: Annotated[
        float | None,
        number_option("With a covariate from before: adds CUPED.", rich_help_panel=HOW),
    ] = None,
    looks: Annotated[
        int | None, typer.Option(help="Looks of the horizon (default: 5).", rich_help_panel=HOW)
    ] = None,
    expected_samples: Annotated[
        int | None,
        typer.Option(
            help="Where they are fixed already, what intervals are tightest at.", rich_help_panel=HOW
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the chances over time as an SVG file.", rich_help_panel=HOW)
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Says how many observations and days an experiment takes, before it starts or while it runs.

    For one test at a fixed end, for looks at any time, and for a horizon with a few looks.

    bandit-serve plan --rate 0.1 --effect 5% --traffic 4000
    """
    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot writes an SVG file, not {plot}.")
    if tenant is not None and experiment is None:
        raise UsageError("--tenant is whose experiment it is: name one.")
    document = {
        "baseline": _given(rate=rate, mean=mean, sd=sd) or None,
        "experiment": experiment,
        "metric": metric,
        "effect": None if effect is None else _effect(effect),
        "days": days,
        "traffic": traffic,
        "arms": arms,
        "alpha": alpha,
        "correlation": correlation,
        "looks": looks,
        "expected_samples": expected_samples,
        **_given(power=power),
    }
    with output_file(plot) as picture:
        try:
            request = _request(document)
            require_complete(request)
            design = design_of(request) if experiment is None else _design_from(settings, tenant, request)
            found = planned(request, design)
        except InvalidInput as error:
            raise UsageError(str(error), error.errors) from None
        if picture is not None:
            picture.write(_picture(found, design))
    if as_json:
        print_json(found)
    else:
        print_plan(found, plot)


def _given(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _effect(text: str) -> dict[str, float]:
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if rest.strip() or not math.isfinite(value):
        raise UsageError(
            f"--effect must be a number, or a percentage of control's mean like 5%, not {text!r}."
        )
    return {"relative": value / 100.0} if percent else {"absolute": value}


def _request(document: dict[str, Any]) -> PlanRequest:
    try:
        return msgspec.convert(document, PlanRequest)
    except msgspec.ValidationError as error:
        at = field_error(error)
        raise InvalidInput(f"{at.at}: {at.detail}.", [at]) from None


def _design_from(settings: Settings, tenant: str | None, request: PlanRequest) -> Design:
    require_data_directory(settings)

    async def read(url: str) -> Design:
        async with following(settings, url, tenant) as node:
            live = await node.experiment_changes.known(request.experiment or "")
            index = metric_of(request, live.record)
            seen = await node.results.up_to_now(live, lambda fold: Seen.of(fold, index))
            return design_from(request, live.record, seen)

    with store_url(settings) as url:
        return asyncio.run(read(url))


def _picture(found: ExperimentPlan, design: Design) -> str:
    difference = found.fixed.effect.absolute
    curves = [
        PowerCurve(name, chances(design, name, difference), getattr(found, name).n, name == "horizon")
        for name in TESTS
    ]
    unit, each = ("observations", 1.0) if found.traffic is None else ("days", found.traffic)
    return power_chart(title(found), curves, found.power, unit, each)
