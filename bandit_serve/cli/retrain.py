"""Command `bandit-serve retrain`: repeats a training run when it is due."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from bandit_serve.cli.access import following, store_url
from bandit_serve.cli.command import WHERE, Tenant
from bandit_serve.cli.described import read_described
from bandit_serve.cli.promotion_table import plan_in
from bandit_serve.cli.retrainer import Retrainer
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.errors import UsageError
from bandit_serve.settings import Settings, variables_for
from bandit_serve.training.plan import Plan, read_plan

ENDED_BY_SIGNAL = 128
"""Exit status of what a signal ended, less the signal's number, as shells have it."""


@takes_settings(*WHERE)
def retrain(
    settings: Settings,
    run: Annotated[
        Path,
        typer.Argument(help="The run, described (TOML, YAML, JSON) with `retrain`.", show_default=False),
    ],
    once: Annotated[bool, typer.Option("--once", help="Train if it is due now, and end.")] = False,
    tenant: Tenant = None,
) -> None:
    """Trains again on a schedule, on drift or on a metric, and takes the best version through its gates.

    Of several that look after one model one trains at a time.
    """
    plan = _plan(run)
    with store_url(settings) as url:
        asyncio.run(_until_a_signal(settings, url, tenant, run, plan, once))


def _plan(run: Path) -> Plan:
    plan = read_plan(read_described(run))
    if plan.retrain is None:
        raise UsageError(f"{run} does not say when: it lacks `retrain`, with every, drift or when.")
    if (plan.data.path is None) == (plan.data.log is None):
        raise UsageError(f"{run}: expected data.path or data.log.")
    return plan


async def _until_a_signal(
    settings: Settings, url: str, tenant: str | None, run: Path, plan: Plan, once: bool
) -> None:
    """Keeps a model trained until a signal ends it, which ends a run that is under way first."""
    keeping = asyncio.create_task(_keep(settings, url, tenant, run, plan, once))
    got: list[int] = []

    def leave(number: int) -> None:
        got.append(number)
        keeping.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, leave, number)
    try:
        await keeping
    except asyncio.CancelledError:
        # Ctrl-C cancels this task, too, and is raised by whoever runs it.
        if not got:
            raise
        raise typer.Exit(ENDED_BY_SIGNAL + got[0]) from None


async def _keep(settings: Settings, url: str, tenant: str | None, run: Path, plan: Plan, once: bool) -> None:
    assert plan.retrain is not None
    promotion_plan = None if plan.retrain.gated is None else plan_in(Path(plan.retrain.gated))
    command = ["--config", str(run), "--data", settings.data, "--namespace", settings.namespace]
    if tenant is not None:
        command += ["--tenant", tenant]
    # Not flags: the store's password would be among the arguments, which anybody on the machine can read.
    variables = variables_for(
        store=url,
        artifacts=settings.artifacts,
        store_timeout=settings.store_timeout,
        max_artifact=str(settings.max_artifact),
        tenants=settings.tenants,
    )
    async with following(settings, url, tenant) as node:
        await Retrainer(node, plan, promotion_plan, command, variables).keep(once=once)
