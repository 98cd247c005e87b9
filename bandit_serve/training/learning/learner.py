"""Learner: a model that follows the rewards of experiments, and can be killed at any time.

All that it is, is a fold of their logs. A checkpoint holds the model, how far each log was read, the decisions that
wait for their reward, and the errors so far, and replaces the one before it at once; so after a crash the fold goes on
where the checkpoint stands, and every event counts once. Events of several logs are taken in the order of their offsets
as far as all logs are known, so the order does not depend on when they were read.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bandit_serve.base.private_files import translating_disk_full, truncated
from bandit_serve.errors import InvalidArtifact, InvalidInput, UnreadableEntry, UsageError
from bandit_serve.log.events import Event
from bandit_serve.log.offset import Offset
from bandit_serve.log.repairs import LeftOut
from bandit_serve.log.snapshot import Codec, reading
from bandit_serve.models.artifact import Artifact
from bandit_serve.models.family import load_model
from bandit_serve.models.model import Model
from bandit_serve.training.learning.prequential import Prequential, PrequentialState
from bandit_serve.training.learning.reward_log import Rating, RewardLog
from bandit_serve.training.rating_rule import RatingRule

CHECKPOINT, FROZEN = "checkpoint", "frozen.safetensors"


class Followed(Struct, frozen=True):
    """Experiment whose rewards are learned from: its number, its window, and the rule that makes ratings of them."""

    name: str
    uid: int
    window_ms: int
    rule: RatingRule


class _Checkpoint(Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    frozen: str
    offsets: dict[str, tuple[int, int]]
    uids: dict[str, int]
    joins: dict[str, bytes]
    prequential: PrequentialState
    learned: int
    published: int
    # Of all experiments that were ever followed; None from builds that took every reward as it is.
    rules: dict[str, RatingRule] | None = None


_LEARNER = "a learner"
_CODEC = Codec(_Checkpoint, _LEARNER)


class ContinuousLearner:
    """Model, and the logs it learns from. `learned` counts ratings, `published` is that count at the last version.

    An experiment whose ratings would be of another unit than those so far is not followed.
    """

    def __init__(self, model: Model, frozen: Model, followed: Iterable[Followed]) -> None:
        self.model = model
        self._frozen = frozen
        self.prequential = Prequential()
        self.rules: dict[str, RatingRule] = {}
        self._uids: dict[str, int] = {}
        self._joins: dict[str, RewardLog] = {}
        self.learned = 0
        self.published = 0
        for experiment in followed:
            self.follow(experiment)

    @property
    def offsets(self) -> Mapping[str, Offset]:
        """Offsets up to which each experiment's log was learned from."""
        return {name: join.offset for name, join in self._joins.items()}

    def pass_over(self, experiment: str, through: Offset) -> None:
        """Goes on behind a part of a log that was trimmed."""
        self._joins[experiment].offset = through

    @property
    def lost(self) -> int:
        """Decisions that were given up before their window closed, as there were too many."""
        return sum(join.lost for join in self._joins.values())

    @property
    def unit(self) -> str | None:
        """Unit of the ratings; None where their rule was given."""
        return next((rule.unit for rule in self.rules.values() if rule.unit is not None), None)

    def follows(self, name: str, uid: int) -> bool:
        """Return whether `offsets[name]` is a place in the log of the experiment with this uid."""
        return self._uids.get(name) == uid

    def follow(self, experiment: Followed) -> bool:
        """Follows an experiment from the start of its log on, unless it is known; False where it is refused."""
        name, unit = experiment.name, experiment.rule.unit
        if self.follows(name, experiment.uid):
            return True
        others = {rule.unit for known, rule in self.rules.items() if known != name} - {None, unit}
        if unit is not None and others:
            return False
        self._uids[name] = experiment.uid
        self.rules[name] = experiment.rule
        self._joins[name] = RewardLog(experiment.window_ms, experiment.rule)
        return True

    def apply(self, experiment: str, offset: Offset, event: Event | LeftOut) -> int:
        """Learns from the ratings that an event completes; returns how many those were."""
        # That a reward is gone can not be unlearned.
        ratings = [
            each for each in self._joins[experiment].apply(offset, event) if not math.isnan(each.value)
        ]
        for rating in ratings:
            self._learn(rating)
        return len(ratings)

    def _learn(self, rating: Rating) -> None:
        features = rating.features if self.model.takes_features else None
        frozen_features = rating.features if self._frozen.takes_features else None
        try:
            target = self.model.target(rating.value)
            error = target - self.model.predict(rating.user, rating.item, features)
            target = self._frozen.target(rating.value)
            frozen = target - self._frozen.predict(rating.user, rating.item, frozen_features)
            self.model.partial_fit(rating.user, rating.item, rating.value, features)
        except InvalidInput:
            # Of features or a value that this model does not take: the same in every replay.
            return
        self.prequential.add(error, frozen)
        self.learned += 1

    def save(self, folder: Path) -> None:
        """Writes a checkpoint in place of the one before; a crash at any time leaves one or the other."""
        name = f"model-{self.learned}-{sum(offset.time_ms for offset in self.offsets.values())}.safetensors"
        path = folder / name
        self.model.save(path)
        checkpoint = _Checkpoint(
            model=f"{name} {sha256_of(path)}",
            frozen=self._kept_frozen(folder),
            offsets={name: (offset.time_ms, offset.sequence) for name, offset in self.offsets.items()},
            uids=dict(self._uids),
            joins={name: join.state() for name, join in self._joins.items()},
            prequential=self.prequential.state(),
            learned=self.learned,
            published=self.published,
            rules=self.rules,
        )
        temporary = folder / f".{CHECKPOINT}"
        with translating_disk_full(), truncated(temporary) as file:
            file.write(_CODEC.pack(checkpoint))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / CHECKPOINT)
        kept = {checkpoint.model.split(" ")[0], checkpoint.frozen.split(" ")[0]}
        for left in folder.glob("*.safetensors"):
            if left.name not in kept:
                left.unlink()

    def _kept_frozen(self, folder: Path) -> str:
        path = folder / FROZEN
        if not path.exists():
            self._frozen.save(path)
        return f"{path.name} {sha256_of(path)}"

    @classmethod
    def load(cls, folder: Path, followed: Mapping[str, Followed]) -> ContinuousLearner | None:
        """Learner that the checkpoint in a folder is of; None where there is none.

        None also where an earlier build took rewards for ratings as they are, and they are not to be taken so. An
        experiment's rule stays: `UsageError` where there is another now. `InvalidArtifact` where a checkpoint can not
        be read, or a file is not what it says.
        """
        try:
            content = (folder / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return None
        try:
            checkpoint = _CODEC.unpack(content)
        except UnreadableEntry as error:
            raise InvalidArtifact(f"The checkpoint in {folder} can not be read: {error}") from None
        rules = checkpoint.rules
        if rules is None:
            rules = {
                name: msgspec.structs.replace(each.rule, factor=1.0, shift=0.0)
                for name, each in followed.items()
                if name in checkpoint.uids
            }
            if any(followed[name].rule != rule for name, rule in rules.items()):
                return None
        learner = cls(_read(folder, checkpoint.model), _read(folder, checkpoint.frozen), ())
        learner.rules = dict(rules)
        for name, each in followed.items():
            if checkpoint.uids.get(name) == each.uid:
                each = _as_before(each, rules.get(name, each.rule))
            learner.follow(each)
        try:
            learner._take(checkpoint, followed)
        except UnreadableEntry as error:
            raise InvalidArtifact(f"The checkpoint in {folder} can not be read: {error}") from None
        return learner

    def _take(self, checkpoint: _Checkpoint, followed: Mapping[str, Followed]) -> None:
        """Goes on where the checkpoint stands, in the logs of experiments that are followed and no namesakes."""
        with reading(_LEARNER):
            for name, offset in checkpoint.offsets.items():
                if name in self._uids and self._uids[name] == checkpoint.uids[name]:
                    at, window_ms = Offset(*offset), followed[name].window_ms
                    state, rule = checkpoint.joins[name], self.rules[name]
                    self._joins[name] = RewardLog.from_state(at, state, window_ms, rule)
            self.prequential = Prequential.from_state(checkpoint.prequential)
            self.learned, self.published = checkpoint.learned, checkpoint.published


def _as_before(experiment: Followed, rule: RatingRule) -> Followed:
    now = experiment.rule
    if now.unit is None and now != msgspec.structs.replace(rule, unit=None):
        raise UsageError(
            f"The rewards of {experiment.name} were learned otherwise so far: {rule.shift:g} + {rule.factor:g} times "
            f"its metric {rule.metric + 1}, not {now.shift:g} + {now.factor:g} times its metric {now.metric + 1}; "
            "another model, or another data directory, can begin with that."
        )
    return msgspec.structs.replace(experiment, rule=rule)


def _read(folder: Path, about: str) -> Model:
    name, _, sha256 = about.partition(" ")
    path = folder / Path(name).name
    if not path.is_file() or sha256_of(path) != sha256:
        raise InvalidArtifact(f"The checkpoint in {folder} names {name}, which is not there or was changed.")
    return load_model(Artifact.map(path))


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_order(logs: Mapping[str, list[tuple[Offset, Any]]], known_ms: int) -> list[tuple[Offset, str, Any]]:
    """Entries of several logs in the order of their offsets, as far as nothing earlier can come any more.

    known_ms: the store's time before the logs were read to their ends; what comes later is at that time or after it.
    """
    entries = [
        (offset, name, entry)
        for name, log in logs.items()
        for offset, entry in log
        if offset.time_ms < known_ms
    ]
    return sorted(entries, key=lambda each: (each[0], each[1]))
