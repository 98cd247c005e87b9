"""Retrainer: trains a model again when it is due, and begins the way of the best version into production."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from bandit_serve.cli.access import actor
from bandit_serve.cli.output import say
from bandit_serve.errors import (
    BanditServeError,
    Conflict,
    InvalidInput,
    NotFound,
    StoreUnavailable,
    in_full,
)
from bandit_serve.node import Node
from bandit_serve.processes.child import start_child
from bandit_serve.promotions.promoting import Promoting
from bandit_serve.registry.promotions import PromotionPlan, present
from bandit_serve.registry.registry import Version
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.metric_result import MetricResult
from bandit_serve.results.tables import objective_table
from bandit_serve.training.plan import Plan
from bandit_serve.training.retraining import reason_to_train, trained_last

STDOUT = 1
LOOK_S = 2.0
LEASE_MS = 15_000
RENEW_S = 5.0
MIN_RETRY_S, MAX_RETRY_S = 60.0, 3_600.0
"""Pauses after a run that has failed: twice as long each time."""
LEAVE_S = 2.0
"""Time for a run that is ended to leave."""


class Retrainer:
    """Repeats a run. What is due follows from the registry, so another goes on wherever this one ends.

    command: arguments of `train`. variables: settings of its process.
    """

    def __init__(
        self,
        node: Node,
        plan: Plan,
        promotion_plan: PromotionPlan | None,
        command: Sequence[str],
        variables: Mapping[str, str],
    ) -> None:
        assert plan.retrain is not None
        self._node = node
        self._plan = plan
        self._model = plan.model
        self._retraining = plan.retrain
        self._promotion_plan = promotion_plan
        self._command = [sys.executable, "-P", "-m", "bandit_serve", "train", *command]
        self._variables = variables
        self._holder = secrets.token_hex(16)
        self._retry_at_s = self._begin_at_s = 0.0
        self._retry_s = MIN_RETRY_S
        self._said = ""

    async def keep(self, *, once: bool) -> None:
        """Trains when it is due, until cancelled; with `once`, now or never.

        With `once`, raises `Conflict` where another looks after the model, and `BanditServeError` for a run that fails.
        """
        try:
            while True:
                try:
                    await self._look(once=once)
                except StoreUnavailable as error:
                    if once:
                        raise
                    self._say_once(in_full(error))
                if once:
                    return
                await asyncio.sleep(LOOK_S)
        finally:
            with contextlib.suppress(StoreUnavailable):
                await self._node.store.drop_trainer(self._model, self._holder)

    def _say_once(self, text: str) -> None:
        """Says what lasts, and not again before something else was said so."""
        if text != self._said:
            self._said = text
            say(f"{self._model}: {text}")

    async def _look(self, *, once: bool) -> None:
        if not await self._holds():
            text = f"Another process looks after {self._model!r}."
            if once:
                raise Conflict(text)
            self._say_once(text)
            return
        await self._begin(once=once)
        if time.monotonic() < self._retry_at_s:
            return
        reason = await self._reason()
        if reason is None:
            if once:
                say(f"{self._model} is not due.")
        elif await self._holds():
            await self._train(reason, once=once)
            await self._begin(once=once)

    async def _holds(self) -> bool:
        return await self._node.store.hold_trainer(self._model, self._holder, LEASE_MS)

    async def _begin(self, *, once: bool) -> None:
        """Begins the promotion of the best version of the last run, unless it had one; and retires those of before."""
        if self._promotion_plan is None or time.monotonic() < self._begin_at_s:
            return
        registry = await self._node.model_changes.known()
        known = registry.models.get(self._model)
        last = None if known is None else trained_last(known.versions.values())
        if known is None or last is None:
            return
        promotions = registry.promotions.get(self._model, ())
        run = [each for each in known.versions.values() if _run(each) == _run(last)]
        had = {each.version for each in promotions}
        best = self._plan.best([each for each in run if each.status == "staged"])
        if best is None or any(each.version in had for each in run) or present(promotions) is not None:
            return
        try:
            begun = await Promoting(self._node).begin(
                self._model, best.version, self._promotion_plan, actor()
            )
        except (Conflict, InvalidInput) as error:
            if once:
                raise
            self._begin_at_s = time.monotonic() + MIN_RETRY_S
            self._say_once(f"{best.version} is not promoted: {in_full(error)}")
            return
        say(f"{self._model}: {best.version} is promoted by steps: {begun.id}.")
        for each in known.versions.values():
            former = each.status == "staged" and each.version in had and _run(each) not in (None, _run(last))
            if former:
                reason = f"{best.version} was trained since."
                await self._node.model_changes.set_status(
                    self._model, each.version, "retired", actor(), reason=reason
                )

    async def _reason(self) -> str | None:
        """Reason to train now; None where there is none, or the version before is still on its way."""
        registry = await self._node.model_changes.known()
        known = registry.models.get(self._model)
        if known is None:
            return reason_to_train(self._retraining, (), None, {}, 0)
        if present(registry.promotions.get(self._model, ())) is not None:
            return None
        return reason_to_train(
            self._retraining,
            known.versions.values(),
            None if known.production is None else known.versions[known.production],
            await self._results(known.production),
            await self._node.store.time_ms(),
        )

    async def _results(self, version: str | None) -> dict[str, float]:
        """Facts of the objective of the experiment's arm that serves a version of the model, control first."""
        name = self._retraining.experiment
        if name is None or version is None:
            return {}
        try:
            live = await self._node.experiment_changes.known(name)
        except NotFound as error:
            self._say_once(in_full(error))
            return {}
        record, control = live.record, live.experiment.control_arm
        arms = [control, *(k for k in range(len(live.experiment.arms)) if k != control)]
        served = (
            k
            for k in arms
            if (live.experiment.arms[k].model, live.experiment.arms[k].version) == (self._model, version)
            and record.arm_statuses[live.experiment.arm_names[k]] != "removed"
        )
        arm = next(served, None)
        if arm is None:
            self._say_once(f"No arm of {name} serves {version}, so its results are not asked.")
            return {}

        def row_of(fold: ResultsFold) -> MetricResult:
            newest = max(record, fold.record, key=lambda each: each.revision)
            return objective_table(fold, newest).row(arm, None)

        row = await self._node.results.read(live, live.offset, row_of)
        low, high = row.interval or (None, None)
        found = {"n": float(row.n), "mean": row.mean, "lower": low, "upper": high}
        return {f"results.{fact}": value for fact, value in found.items() if value is not None}

    async def _train(self, reason: str, *, once: bool) -> None:
        say(f"{self._model} is trained: {reason}.")
        process, _ = await asyncio.to_thread(
            start_child, self._command, output=STDOUT, variables=self._variables
        )
        try:
            while process.poll() is None:
                await self._while_it_runs(process)
        finally:
            await _end(process)
        if process.returncode == 0:
            self._retry_s, self._retry_at_s = MIN_RETRY_S, 0.0
            return
        text = f"The run for {self._model!r} has failed."
        if once:
            raise BanditServeError(text)
        self._retry_at_s = time.monotonic() + self._retry_s
        say(f"{text} The next is in {self._retry_s:g} s at the soonest.")
        self._retry_s = min(2.0 * self._retry_s, MAX_RETRY_S)

    async def _while_it_runs(self, process: subprocess.Popen[bytes]) -> None:
        """Waits a while for the end of a run, and keeps the lease. Ends a run whose lease another has taken."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, RENEW_S)
            return
        # Where the store is away nothing can be registered either.
        with contextlib.suppress(StoreUnavailable):
            if not await self._holds():
                say(f"{self._model}: another process looks after it now, and this run is ended.")
                await _end(process)


def _run(version: Version) -> int | None:
    """Run that has trained a version, by the log time at which it began; None for one of no run."""
    about = version.metadata.get("training")
    began_ms = about.get("began_ms") if isinstance(about, dict) else None
    return began_ms if isinstance(began_ms, int) else None


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a run unless it has ended, and whatever it has started."""
    if process.poll() is None:
        _signal(process, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, LEAVE_S)
    _signal(process, signal.SIGKILL)
    await asyncio.to_thread(process.wait)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a run and all that is in its session's first group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
