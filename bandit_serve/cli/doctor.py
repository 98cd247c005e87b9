"""Command `bandit-serve doctor`: checks of the set-up, with advice for each problem."""

from __future__ import annotations

import asyncio

import typer
from msgspec import Struct
from rich.text import Text

from bandit_serve.base.secrets import concealed
from bandit_serve.cli.access import node_of, store_name, store_url
from bandit_serve.cli.checks import Check, Verdict, check_installation, check_settings
from bandit_serve.cli.command import AsJson, Tenant
from bandit_serve.cli.data_checks import (
    check_artifacts,
    check_data_directory,
    check_experiments,
    check_state,
    unusable_versions,
)
from bandit_serve.cli.output import print_json, print_table, say
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.cli.store_checks import check_snapshots, check_store, check_workers
from bandit_serve.errors import BanditServeError, in_full
from bandit_serve.settings import Settings

COLOURS: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "problem": "red"}
UNREACHABLE = "start the store, or name another with --store"


class Examination(Struct, frozen=True):
    ok: bool
    checks: list[Check]


@takes_settings(
    "host",
    "port",
    "workers",
    "insecure",
    "store",
    "data",
    "namespace",
    "store_timeout",
    "store_replicas",
    "max_artifact",
    "artifacts",
)
def doctor(settings: Settings, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Checks the set-up (store, durability, extension, settings) and says what is wrong and what to do."""
    checks = [*check_installation(), check_data_directory(settings)]
    try:
        with store_url(settings) as url:
            asyncio.run(_look_into(settings, url, tenant, checks))
    except BanditServeError as error:
        checks.append(check_settings(settings, None))
        checks.append(Check("store", "problem", concealed(in_full(error)), UNREACHABLE))
    examination = Examination(not any(check.verdict == "problem" for check in checks), checks)
    if as_json:
        print_json(examination)
    else:
        _print(examination)
    if not examination.ok:
        raise typer.Exit(1)


async def _look_into(settings: Settings, url: str, tenant: str | None, checks: list[Check]) -> None:
    """Runs the checks and adds their outcomes to `checks`, which keeps them when the store goes away meanwhile."""
    node = await node_of(settings, url, tenant)
    store, replica = node.store, node.replica
    try:
        checks += await check_store(store, store_name(settings))
        try:
            await node.tail.load()
        except BanditServeError:
            raise
        except Exception as error:  # whatever bytes that somebody changed in the common log can cause
            checks.append(check_settings(settings, None))
            detail = f"the registry can not be read: {type(error).__name__}: {concealed(str(error))}"
            checks.append(Check("state", "problem", detail, "restore the store from a backup"))
            return
        now_ms = await store.time_ms()
        if tenant is None:
            keys = sum(key.is_valid(now_ms) for key in replica.registry.keys.values())
            checks.append(check_settings(settings, keys))
        checks += check_state(replica)
        checks += await check_snapshots(store, replica)
        wrong = await asyncio.to_thread(unusable_versions, node)
        checks += check_artifacts(replica.registry, wrong)
        checks += check_experiments(replica, wrong)
        checks.append(await check_workers(store, replica))
    finally:
        await store.close()


def _print(examination: Examination) -> None:
    print_table(
        ("", "Check", "Found"),
        [
            (
                Text(check.verdict, style=COLOURS[check.verdict]),
                check.name,
                check.detail + (f"\n→ {check.advice}" if check.advice else ""),
            )
            for check in examination.checks
        ],
    )
    verdicts = [check.verdict for check in examination.checks]
    problems, warnings = verdicts.count("problem"), verdicts.count("warning")
    say(
        f"{problems or 'no'} problem{'' if problems == 1 else 's'}, "
        f"{warnings or 'no'} warning{'' if warnings == 1 else 's'}"
    )
