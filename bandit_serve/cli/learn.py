"""`bandit-serve learn`: a model that keeps learning from the rewards of its experiments."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct

from bandit_serve.base.private_files import open_own, own_folder, truncated
from bandit_serve.cli.command import AsJson, in_house, of_what_is_there
from bandit_serve.cli.house import House, actor
from bandit_serve.cli.output import print_json, say
from bandit_serve.errors import Conflict, NotFound, UsageError
from bandit_serve.experiments.spec import Arm, Ramp, Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Event, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.log.reader import event_of, pages
from bandit_serve.log.repairs import LeftOut
from bandit_serve.models.family import load_model
from bandit_serve.registry.registry import Version
from bandit_serve.training.gates import Gate
from bandit_serve.training.learning.learner import (
    CHECKPOINT,
    FROZEN,
    ContinuousLearner,
    Followed,
    in_order,
    sha256_of,
)
from bandit_serve.training.rating_rule import rule_of, told_rule, told_rules

# How many entries of a log are read before they are learned from.
ENTRIES_AT_ONCE = 20_000
PAUSE_S = 0.2
LEASE_MS = 15_000
STAGING = "prequential.rmse <= frozen.rmse"
AS_UTILITIES = "-as-utilities"
CHOOSE = "name those to learn from with --experiment, or say what their rewards are as ratings with --rating."


class LearnerStatus(Struct, frozen=True):
    """Where a learner stands. `lost`: decisions given up before their window closed; `drift_at`: see `Prequential`."""

    model: str
    started_from: str
    learned: int
    published: int
    metrics: dict[str, float]
    drift_at: int | None
    lost: int
    offsets: dict[str, str]
    versions: list[str] = []


class Wishes(Struct, frozen=True):
    """What a learner was told to do beside learning."""

    every: int
    checkpoint_s: float
    staging: Gate
    production: Gate | None
    arm_of: str | None
    ramp: Ramp | None
    caught_up_ends: bool
    experiments: list[str] | None
    told: dict[str, str]


@in_house
@of_what_is_there
async def learn(
    house: House,
    model: Annotated[str, typer.Argument(help="The model whose versions learn.", show_default=False)],
    start_from: Annotated[
        str | None, typer.Option("--from", help="The version to start from (default: the one in production).")
    ] = None,
    experiment: Annotated[
        list[str] | None,
        typer.Option(help="An experiment to learn from (default: all that use the model); repeatable."),
    ] = None,
    rating: Annotated[
        list[str] | None,
        typer.Option(
            help="What a reward is as a rating, such as 'EXPERIMENT=1 + 4 * METRIC' (default: the objective's, as a "
            "utility); repeatable."
        ),
    ] = None,
    every: Annotated[int, typer.Option(help="Ratings between two versions.", min=1)] = 5_000,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between two checkpoints.", min=0.0)] = 5.0,
    gate: Annotated[str, typer.Option(help="What a version's metrics must be to be staged.")] = STAGING,
    promote: Annotated[
        str | None, typer.Option(help="And to go into production: a gate (default: never).")
    ] = None,
    arm_of: Annotated[str | None, typer.Option(help="Add each version as an arm of this experiment.")] = None,
    ramp_over: Annotated[
        str | None, typer.Option(help='How long a new arm\'s share is bounded, such as "2h".')
    ] = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Stop when everything logged so far is learned.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Say where the learner stands, and leave.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learns from rewards as they come, measures itself, and publishes versions; goes on after a crash."""
    if ramp_over is not None and arm_of is None:
        raise UsageError("--ramp-over needs --arm-of.")
    wishes = Wishes(
        every,
        checkpoint_every,
        Gate(gate),
        None if promote is None else Gate(promote),
        arm_of,
        None if ramp_over is None else msgspec.convert({"from": 0.05, "over": ramp_over}, Ramp),
        until_caught_up,
        experiment,
        told_rules(rating or []),
    )
    folder = house.settings.data_dir / "learn" / model
    registry = await house.models.known()
    version = registry.production(model) if start_from is None else registry.version(model, start_from)
    if status:
        learner = ContinuousLearner.load(folder, await _followed(house, model, wishes))
        if learner is None:
            raise NotFound(f"Nothing was learned for {model!r} in {house.settings.data_dir} yet.")
        _report(_status(learner, model, _started_from(folder, version), []), as_json)
        return
    for each in (house.settings.data_dir, folder.parent, folder):
        own_folder(each)
    with _only_one(folder, model) as holder:
        await _Run(house, model, version, wishes, folder, holder, as_json).run()


class _Run:
    def __init__(
        self,
        house: House,
        model: str,
        version: Version,
        wishes: Wishes,
        folder: Path,
        holder: str,
        as_json: bool,
    ) -> None:
        self._house = house
        self._model = model
        self._base = _started_from(folder, version)
        self._version = version
        self._wishes = wishes
        self._folder = folder
        self._holder = holder
        self._refused: set[str] = set()
        self._as_json = as_json
        self._versions: list[str] = []
        self._saved_s = time.monotonic()

    async def run(self) -> None:
        store = self._house.store
        followed = await _followed(self._house, self._model, self._wishes)
        learner = await asyncio.to_thread(self._start, followed)
        self._follow(learner, followed)
        owner = self._house.replica.registry.owner
        ends = {name: await store.last_offset(owner(name)) for name in followed}
        self._say(
            f"{self._model} {self._base}: goes on from {learner.learned:,} ratings of {', '.join(learner.offsets)}."
        )
        while True:
            if not await store.hold_learner(self._model, self._holder, LEASE_MS):
                raise Conflict(f"Another process learns for {self._model!r}.")
            n = await self._round(learner)
            if n or time.monotonic() - self._saved_s >= self._wishes.checkpoint_s:
                await self._save(learner, force=not n)
            if self._wishes.caught_up_ends and all(
                learner.offsets[name] >= end
                for name, end in ends.items()
                if name in learner.offsets and name in self._house.replica.experiments
            ):
                break
            if not n:
                await asyncio.sleep(PAUSE_S)
                self._follow(learner, await _followed(self._house, self._model, self._wishes))
        if learner.learned > learner.published:
            await self._publish(learner)
        await self._save(learner, force=True)
        _report(_status(learner, self._model, self._base, self._versions), self._as_json)

    def _start(self, followed: dict[str, Followed]) -> ContinuousLearner:
        learner = ContinuousLearner.load(self._folder, followed)
        if learner is not None:
            return learner
        if (self._folder / CHECKPOINT).exists():
            self._start_over()
        units = {each.rule.unit: name for name, each in followed.items() if each.rule.unit is not None}
        if len(units) > 1:
            told = ", ".join(f"{name} ({unit})" for unit, name in units.items())
            raise UsageError(f"The objectives of {told} are of different kinds or scales: {CHOOSE}")
        artifact = self._house.artifacts.open(self._version.sha256)
        learner = ContinuousLearner(load_model(artifact), load_model(artifact), followed.values())
        with truncated(self._folder / "started-from") as file:
            file.write(self._base.encode())
        learner.save(self._folder)
        return learner

    def _start_over(self) -> None:
        """From the version of before, under names that its versions do not have."""
        self._say("Starts over: rewards had been learned as they are, though they are to be minimized.")
        self._version = self._house.replica.registry.version(self._model, self._base)
        self._base += AS_UTILITIES
        (self._folder / FROZEN).unlink(missing_ok=True)

    def _follow(self, learner: ContinuousLearner, followed: dict[str, Followed]) -> None:
        """Follows what has come; what is of another kind or scale than the ratings so far is said, once."""
        for name, experiment in followed.items():
            if not learner.follow(experiment) and name not in self._refused:
                told = (
                    f"{name} is not learned from: its objective ({experiment.rule.unit}) is of another kind or scale "
                    f"than the ratings so far ({learner.unit}): {CHOOSE}"
                )
                if self._wishes.experiments is not None:
                    raise UsageError(told)
                self._refused.add(name)
                self._say(told)

    async def _round(self, learner: ContinuousLearner) -> int:
        """Learns from what came; returns how many entries that were."""
        store = self._house.store
        known_ms = await store.time_ms()
        found: dict[str, list[tuple[Offset, Event | LeftOut]]] = {}
        for name in list(learner.offsets):
            live = self._house.replica.experiments.get(name)
            if live is None or not learner.follows(name, live.record.uid):
                continue  # set aside, or a namesake came: the others are learned from meanwhile
            log: list[tuple[Offset, Event | LeftOut]] = []
            async for page in pages(store, live.owner, learner.offsets[name]):
                if page.gap is not None:
                    self._say(
                        f"The log of {name} was trimmed through {page.gap}, further than was learned: a part is lost."
                    )
                    learner.pass_over(name, page.gap)
                decoded = self._decoded(live, page.entries)
                log += decoded
                if len(decoded) < len(page.entries):
                    break
                if len(log) >= ENTRIES_AT_ONCE:
                    # Not to its end: what comes after is later than the last that was read.
                    known_ms = min(known_ms, log[-1][0].time_ms)
                    break
            found[name] = log
        ordered = in_order(found, known_ms)
        for offset, name, event in ordered:
            learner.apply(name, offset, event)
            if learner.learned - learner.published >= self._wishes.every:
                await self._publish(learner)
        return len(ordered)

    def _decoded(self, live: LiveExperiment, entries: list[Entry]) -> list[tuple[Offset, Event | LeftOut]]:
        """The events of entries; of one that was folded by a build that could read it, as if time passed.

        They end at one that can not be read where the fold has not come to yet: there the experiment is set aside.
        """
        name, repairs = live.experiment.id, self._house.replica.registry.repairs
        decoded: list[tuple[Offset, Event | LeftOut]] = []
        for entry in entries:
            event: Event | LeftOut = Tick()
            try:
                event = event_of(entry, live.owner, repairs, live.n_features)
            except Exception as error:
                if entry.offset > live.offset:
                    break
                self._say(f"What {name} has at {entry.offset} can not be read and is passed over: {error}")
            decoded.append((entry.offset, event))
        return decoded

    async def _save(self, learner: ContinuousLearner, *, force: bool) -> None:
        if force or time.monotonic() - self._saved_s >= self._wishes.checkpoint_s:
            await asyncio.to_thread(learner.save, self._folder)
            self._saved_s = time.monotonic()

    async def _publish(self, learner: ContinuousLearner) -> None:
        """A version of what was learned so far, where the gate is open. Once, however often it is tried."""
        learner.published = learner.learned
        registry = await self._house.models.known()
        model = registry.models[self._model]
        current = None if model.production is None else model.versions[model.production].metrics
        metrics = learner.prequential.metrics()
        verdict = self._wishes.staging.check(metrics, "prequential.rmse", current)
        name = f"{self._base}-learned-{learner.learned}"
        if not verdict.open:
            self._say(f"{name} is not published: {verdict.reason}.")
            return
        path = self._folder / "publish.safetensors"
        await asyncio.to_thread(learner.model.save, path)
        known = model.versions.get(name)
        if known is None:
            await self._house.models.register(
                self._model,
                path,
                actor(),
                version=name,
                status="training",
                metrics=metrics,
                metadata={"learner": self._metadata(learner)},
            )
            await self._house.models.set_status(self._model, name, "staged", actor(), reason=verdict.reason)
        elif known.sha256 != await asyncio.to_thread(sha256_of, path):
            raise Conflict(f"There is another version {name!r} of {self._model!r} already.")
        self._versions.append(name)
        self._say(f"{name}: {verdict.reason}.")
        await self._use(name, metrics, current)

    async def _use(self, name: str, metrics: dict[str, float], current: Any) -> None:
        """Production, or an arm, as was wished; what an earlier try did stays done."""
        registry = await self._house.models.known()
        if self._wishes.production is not None and registry.version(self._model, name).status == "staged":
            verdict = self._wishes.production.check(metrics, "prequential.rmse", current)
            self._say(
                f"{name} {'goes' if verdict.open else 'does not go'} into production: {verdict.reason}."
            )
            if verdict.open:
                await self._house.models.set_status(
                    self._model, name, "production", actor(), reason=verdict.reason
                )
        if self._wishes.arm_of is not None:
            arms = self._house.replica.experiment(self._wishes.arm_of).experiment.arm_names
            if name not in arms:
                await self._house.experiments.add_arm(
                    self._wishes.arm_of,
                    Arm(name=name, model=self._model, version=name),
                    actor(),
                    ramp=self._wishes.ramp,
                    reason="learned from rewards",
                )

    def _metadata(self, learner: ContinuousLearner) -> dict[str, Any]:
        return {
            "started_from": self._base,
            "learned": learner.learned,
            "drift_at": learner.prequential.drift_at,
            "lost": learner.lost,
            "ratings": msgspec.to_builtins(learner.rules),
            "offsets": {name: str(offset) for name, offset in learner.offsets.items()},
        }

    def _say(self, text: str) -> None:
        if not self._as_json:
            say(text)


async def _followed(house: House, model: str, wishes: Wishes) -> dict[str, Followed]:
    """The named experiments, or all that have an arm of the model."""
    await house.tail.hear_all_news()
    found, names = {}, wishes.experiments
    # Those that are set aside, too: once they are repaired, the learner goes on where it was.
    for name, record in sorted(house.replica.records().items()):
        uses = any(arm.model == model for arm in record.experiment.arms)
        if (uses if names is None else name in names) and record.status != "draft":
            found[name] = _follow(record, wishes.told.get(name))
    registry = house.replica.registry
    missing = [
        name for name in (*(names or ()), *wishes.told) if registry.owner(name) not in registry.experiments
    ]
    if missing:
        raise NotFound(f"There is no experiment {missing[0]!r}.")
    return found


def _follow(record: Record, told: str | None) -> Followed:
    experiment = record.experiment
    rule = rule_of(experiment) if told is None else told_rule(told, experiment)
    return Followed(experiment.id, record.uid, experiment.attribution.window_ms, rule)


def _started_from(folder: Path, version: Version) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "started-from").read_text()
    return version.version


@contextlib.contextmanager
def _only_one(folder: Path, model: str) -> Iterator[str]:
    """The folder's own name in the store, while no other process of this machine has the folder."""
    with os.fdopen(open_own(folder / "lock", os.O_RDWR | os.O_CREAT), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"Another process learns for {model!r} in {folder}.") from None
        holder = folder / "holder"
        if not holder.exists():
            with truncated(holder) as file:
                file.write(secrets.token_hex(16).encode())
        yield holder.read_text()


def _status(learner: ContinuousLearner, model: str, base: str, versions: list[str]) -> LearnerStatus:
    return LearnerStatus(
        model,
        base,
        learner.learned,
        learner.published,
        learner.prequential.metrics(),
        learner.prequential.drift_at,
        learner.lost,
        {name: str(offset) for name, offset in learner.offsets.items()},
        versions,
    )


def _report(status: LearnerStatus, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    say(f"{status.model} {status.started_from}: {status.learned:,} ratings learned.")
    for name, value in status.metrics.items():
        say(f"  {name:16} {value:.4f}")
    if status.drift_at is not None:
        say(f"  errors grew at rating {status.drift_at:,}")
    if status.lost:
        say(f"  {status.lost:,} decisions were given up before their window closed")
