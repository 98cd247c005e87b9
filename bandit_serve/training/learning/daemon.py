"""Daemon of continuous learning: it follows the logs, saves checkpoints, publishes versions, and survives crashes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bandit_serve.base.private_files import open_own, own_folder, truncated
from bandit_serve.errors import Conflict, NotFound, Overloaded, StoreUnavailable, UsageError
from bandit_serve.models.family import load_model
from bandit_serve.node import Node
from bandit_serve.notices.notice import Notice
from bandit_serve.notices.teller import Teller
from bandit_serve.registry.registry import Version
from bandit_serve.training.learning.learner import CHECKPOINT, FROZEN, ContinuousLearner, Followed
from bandit_serve.training.learning.publisher import Publication, Publisher
from bandit_serve.training.learning.sources import Sources

PAUSE_S = 0.2
LEASE_MS = 15_000
REPORT_EVERY_S = 5.0
AS_UTILITIES = "-as-utilities"
CHOOSE = "name those to learn from with --experiment, or say what their rewards are as ratings with --rating."


class LearnerStatus(Struct, frozen=True):
    """Progress of a learner. `lost`: decisions given up before their window closed; `drift_at`: see `Prequential`."""

    model: str
    started_from: str
    learned: int
    published: int
    metrics: dict[str, float]
    drift_at: int | None
    lost: int
    offsets: dict[str, str]
    versions: list[str] = []


class Options(Struct, frozen=True):
    """Options of a daemon: a version every `publish_every` ratings, a checkpoint every `checkpoint_s` seconds."""

    publication: Publication
    publish_every: int = 5_000
    checkpoint_s: float = 5.0
    ends_when_caught_up: bool = False
    experiments: list[str] | None = None
    rules: dict[str, str] = {}


class Daemon:
    """Learner of one model, which begins with `version`; of a data directory and a model there is one at a time.

    `who` is for the history, `say` takes sentences for whoever looks on.
    """

    def __init__(
        self, node: Node, version: Version, options: Options, *, who: str, say: Callable[[str], None]
    ) -> None:
        self._node = node
        self._model = version.model
        self._version = version
        self._options = options
        self._say = say
        self._folder = node.settings.data_dir / "learn" / version.model
        self._started_from = version.version
        with contextlib.suppress(FileNotFoundError):
            self._started_from = (self._folder / "started-from").read_text()
        self._sources = Sources(node, version.model, options.experiments, options.rules, say)
        self._publisher = Publisher(node, version.model, options.publication, self._folder, who, say)
        self._teller = Teller.of(node.store, node.settings.told_webhooks, None)
        self._refused: set[str] = set()
        self._saved_s = time.monotonic()
        self._report_at_s = 0.0

    async def status(self) -> LearnerStatus:
        """Status of the last checkpoint; `NotFound` where there is none."""
        learner = ContinuousLearner.load(self._folder, await self._sources.followed())
        if learner is None:
            raise NotFound(f"Nothing was learned for {self._model!r} in {self._node.settings.data_dir} yet.")
        return self._status(learner)

    async def run(self) -> LearnerStatus:
        """Learns until it is cancelled, or has caught up where the options say so. `Conflict` where another runs."""
        for each in (self._node.settings.data_dir, self._folder.parent, self._folder):
            own_folder(each)
        with _locked(self._folder, self._model) as holder:
            return await self._run(holder)

    async def _run(self, holder: str) -> LearnerStatus:
        followed = await self._sources.followed()
        learner = await asyncio.to_thread(self._start, followed)
        self._follow(learner, followed)
        ends = await self._sources.ends(followed)
        self._say(
            f"{self._model} {self._started_from}: goes on from {learner.learned:,} ratings of "
            f"{', '.join(learner.offsets)}."
        )
        while True:
            if not await self._node.store.hold_learner(self._model, holder, LEASE_MS):
                raise Conflict(f"Another process learns for {self._model!r}.")
            n = await self._learn(learner)
            await self._tell_drift(learner)
            await self._report(learner, followed)
            if n or time.monotonic() - self._saved_s >= self._options.checkpoint_s:
                await self._save(learner, force=not n)
            if self._options.ends_when_caught_up and self._sources.are_learned(learner, ends):
                break
            if not n:
                await asyncio.sleep(PAUSE_S)
                self._follow(learner, await self._sources.followed())
        if learner.learned > learner.published:
            await self._publish(learner)
        await self._save(learner, force=True)
        return self._status(learner)

    async def _report(self, learner: ContinuousLearner, followed: dict[str, Followed]) -> None:
        """Reports from time to time how much log time is still to be learned."""
        now_s = time.monotonic()
        if now_s < self._report_at_s:
            return
        self._report_at_s = now_s + REPORT_EVERY_S
        store, owner = self._node.store, self._node.replica.registry.owner
        behind_ms = 0
        for name, end in (await self._sources.ends(followed)).items():
            next_ = await store.read(owner(name), learner.offsets.get(name, end), 1)
            if next_:
                behind_ms = max(behind_ms, end.time_ms - next_[0].offset.time_ms)
        await store.report_learner(self._model, behind_ms)

    def _start(self, followed: dict[str, Followed]) -> ContinuousLearner:
        """Learner of the checkpoint, or one that begins with the version."""
        learner = ContinuousLearner.load(self._folder, followed)
        if learner is not None:
            return learner
        if (self._folder / CHECKPOINT).exists():
            self._start_over()
        units = {each.rule.unit: name for name, each in followed.items() if each.rule.unit is not None}
        if len(units) > 1:
            names = ", ".join(f"{name} ({unit})" for unit, name in units.items())
            raise UsageError(f"The objectives of {names} are of different kinds or scales: {CHOOSE}")
        if not self._version.sha256:
            raise UsageError(
                f"{self._model} {self._version.version} is remote: it has no file to go on from."
            )
        artifact = self._node.artifacts.open(self._version.sha256)
        learner = ContinuousLearner(load_model(artifact), load_model(artifact), followed.values())
        with truncated(self._folder / "started-from") as file:
            file.write(self._started_from.encode())
        learner.save(self._folder)
        return learner

    def _start_over(self) -> None:
        """Starts again from the first version, and names new versions apart from the former ones."""
        self._say("Starts over: rewards had been learned as they are, though they are to be minimized.")
        self._version = self._node.replica.registry.version(self._model, self._started_from)
        self._started_from += AS_UTILITIES
        (self._folder / FROZEN).unlink(missing_ok=True)

    def _follow(self, learner: ContinuousLearner, followed: dict[str, Followed]) -> None:
        """Follows what has come; what is of another kind or scale than the ratings so far is said, once."""
        for name, experiment in followed.items():
            if not learner.follow(experiment) and name not in self._refused:
                refusal = (
                    f"{name} is not learned from: its objective ({experiment.rule.unit}) is of another kind or scale "
                    f"than the ratings so far ({learner.unit}): {CHOOSE}"
                )
                if self._sources.are_named:
                    raise UsageError(refusal)
                self._refused.add(name)
                self._say(refusal)

    async def _learn(self, learner: ContinuousLearner) -> int:
        """Learns from the logs' news; returns how many entries that were."""
        news = await self._sources.news(learner)
        for offset, name, event in news:
            learner.apply(name, offset, event)
            if learner.learned - learner.published >= self._options.publish_every:
                await self._publish(learner)
        return len(news)

    async def _tell_drift(self, learner: ContinuousLearner) -> None:
        """Has webhooks told that errors have grown; tried again with the next news while the store takes nothing."""
        watch = learner.prequential
        if watch.drift_at is None:
            return
        data = {
            "model": self._model,
            "started_from": self._started_from,
            "rating": watch.drift_at,
            "metrics": watch.metrics(),
        }
        told = f"drift:{self._model}:{self._started_from}:{watch.drift_at}"
        notice = Notice("drift", told, self._node.store.clock.now_ms(), data, for_ever=True)
        with contextlib.suppress(StoreUnavailable, Overloaded):
            await self._teller.tell(notice)

    async def _publish(self, learner: ContinuousLearner) -> None:
        learner.published = learner.learned
        await self._publisher.publish(
            f"{self._started_from}-learned-{learner.learned}",
            learner.model,
            learner.prequential.metrics(),
            self._provenance(learner),
        )

    def _provenance(self, learner: ContinuousLearner) -> dict[str, Any]:
        return {
            "started_from": self._started_from,
            "learned": learner.learned,
            "drift_at": learner.prequential.drift_at,
            "lost": learner.lost,
            "ratings": msgspec.to_builtins(learner.rules),
            "offsets": {name: str(offset) for name, offset in learner.offsets.items()},
        }

    async def _save(self, learner: ContinuousLearner, *, force: bool) -> None:
        if force or time.monotonic() - self._saved_s >= self._options.checkpoint_s:
            await asyncio.to_thread(learner.save, self._folder)
            self._saved_s = time.monotonic()

    def _status(self, learner: ContinuousLearner) -> LearnerStatus:
        return LearnerStatus(
            self._model,
            self._started_from,
            learner.learned,
            learner.published,
            learner.prequential.metrics(),
            learner.prequential.drift_at,
            learner.lost,
            {name: str(offset) for name, offset in learner.offsets.items()},
            self._publisher.versions,
        )


@contextlib.contextmanager
def _locked(folder: Path, model: str) -> Iterator[str]:
    """Folder's own name in the store, while no other process of this machine has the folder."""
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
