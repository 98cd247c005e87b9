"""The results of one experiment as a fold of its log: everything a report needs, also when the log has been
trimmed.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.spec import Experiment, Metric, Policy, Record
from bandit_serve.log.events import Changed, Event, Exposed, Rewarded, Shape, is_another_draft
from bandit_serve.log.states import known_only
from bandit_serve.policies import POLICIES
from bandit_serve.policies.features import n_features_of
from bandit_serve.results import columns, snapshot
from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._beginnings import Beginnings
from bandit_serve.results._open_decisions import OpenDecisions
from bandit_serve.results._rewarded_decisions import RewardedDecisions
from bandit_serve.results._share_history import ShareHistory
from bandit_serve.results._units import Units
from bandit_serve.results.early import EarlyRewards
from bandit_serve.results.evidence import Evidence
from bandit_serve.results.floors import Floors
from bandit_serve.results.sequence import Floats

LINGER_MS = 3_600_000
"""How long after its window the fold remembers which decisions a worker has exposed."""
GRACE_MS = 120_000
"""And with which shares: a reward that was in time may still come, or an exposure that was long on its way."""
MOST_BYTES = 64 * 2**20
"""Of share vectors with `unit: request`: more are thinned out."""
MOST_X_BYTES = 64 * 2**20
"""Of the features of decisions that are open, with `missing: zero`: more are analysed without."""
MOST_UNIT_BYTES = 96 * 2**20
"""Of units with `unit: user`: then fewer of those that come are taken, so that they never are more than 3.5 times that,
which fits into one value of the store.
"""

StillOpen = tuple[NDArray[np.int64], Floats]

_BEFORE_ALL_MS = -(2**53)


class ResultsFold:
    """What the log of `record`'s experiment says, up to an entry.

    `exposures` i8[K] counts the exposures seen, `sums` and `evidence` are what estimates and p-values are
    made from, `pending` and `crossovers` as in the contract. `now_ms` is the time of the last entry, by the
    store's clock; `omitted` counts the omissions that it has met (`repairs.py`).
    """

    def __init__(self, record: Record) -> None:
        experiment = record.experiment
        n_metrics, n_arms = len(experiment.metrics), len(experiment.arms)
        self.record = record
        self._shape = Shape(experiment, None)
        self.now_ms = _BEFORE_ALL_MS
        self.omitted = 0
        self.exposures = np.zeros(n_arms, np.int64)
        self.sums = Accumulators(
            n_metrics, n_arms, experiment.control_arm, contextual=_contextual(experiment.policy)
        )
        self.sums.know_features(_n_features(experiment, self.sums))
        self._beginnings = self.sums.beginnings = _beginnings(experiment)
        self.evidence = Evidence.none(n_metrics, n_arms)
        self._window_ms = experiment.attribution.window_ms
        self._shares = ShareHistory(_first_shares(experiment), _most_vectors(experiment))
        self._floors = Floors.since(record.revision, experiment.policy)
        self._decisions = _decisions(experiment, self.sums, self._shares)
        self._early = EarlyRewards()

    @property
    def pending(self) -> int:
        """With `missing: zero`, the decisions (with `unit: user`, units) whose window has not closed."""
        return self._decisions.pending

    def begins_exactly(self, metric: int) -> bool:
        """Whether an arm's first values are kept, so that their interval can be exact."""
        experiment = self.record.experiment
        return _has_bounds(experiment, experiment.metrics[metric]) and not self.sums.contextual

    def still_open(self) -> StillOpen | None:
        """With `missing: zero`: by arm, how many decisions (units) are pending, i8[K], and the sum of the rewards that
        they have had, f8[M, K]. None otherwise.
        """
        if isinstance(self._decisions, RewardedDecisions) or self.record.experiment.missing == "ignore":
            return None
        return self._decisions.still_open()

    @property
    def one_in(self) -> int:
        """Of how many decisions one is analysed now: more than 1 while more shares are open than are kept.

        With `unit: user`, of how many units that come: more than 1 once there are more than are kept.
        """
        return self._decisions.one_in if isinstance(self._decisions, Units) else self._shares.one_in

    def beginning(self, metric: int, arm: int) -> Floats | None:
        """All values that have been analysed of an arm, in their order; None where they are not kept (`Beginnings`)."""
        return self._beginnings.of_arm(metric, arm)

    @property
    def crossovers(self) -> int:
        """With `unit: user`, how many units were later served another arm."""
        return self._decisions.crossovers

    def apply(self, time_ms: int, event: Event) -> None:
        """Takes the next entry of the log; `time_ms` is its stream time.

        The event comes first, then what has closed by now is analysed. `UnreadableEntry`, and nothing has
        changed, when an entry's columns do not fit together or the experiment.
        """
        match event:
            case Exposed():
                self._expose(time_ms, event)
            case Rewarded():
                self._reward(time_ms, event)
            case Changed():
                self._change(event)
        self.now_ms = max(self.now_ms, time_ms)
        closed_ms = self.now_ms - self._window_ms
        self._count(self._early.given_up(self.now_ms))
        self._early.forget(closed_ms - LINGER_MS)
        self._decisions.close(closed_ms)
        self._shares.forget(closed_ms - GRACE_MS, closed_ms - LINGER_MS)
        self.evidence.look(self.sums, self.record.experiment)

    def _expose(self, time_ms: int, event: Exposed) -> None:
        experiment = self.record.experiment
        rows = columns.widened(self._shape.columns(event), len(experiment.arms))
        unfloored = bool(self._floors.of(np.array([event.revision], np.uint32))[0])
        x = columns.features(event.x, len(rows.arms), self.sums.n_features)
        for low, high in self._shares.unseen(event.incarnation, event.first, len(rows.arms)):
            if low == high:
                continue
            self.exposures += np.bincount(rows.arms[low:high], minlength=len(experiment.arms))
            last_ms = max(time_ms, event.time_ms + int(rows.ages_ms[low:high].max()))
            self._shares.extend(event.incarnation, event.first, low, high, last_ms, rows.vectors, rows.runs)
            self._decisions.expose(
                event.incarnation,
                event.first,
                low,
                high,
                event.time_ms,
                rows.arms,
                rows.ages_ms,
                rows.units,
                unfloored,
                x,
            )
        seen_ms = max(time_ms, self.now_ms)
        self._count(self._early.exposed(event.incarnation, event.first + len(rows.arms), seen_ms))

    def _reward(self, time_ms: int, event: Rewarded) -> None:
        self._shape.check(event)
        n_features = self.sums.n_features
        x = columns.features(event.x, len(event.rows), n_features)
        rewards = columns.Rewards(np.ascontiguousarray(event.rows), x)
        if self.record.experiment.missing == "ignore":
            rewards = self._early.keep(rewards, time_ms)
        self._count([rewards])

    def _count(self, several: list[columns.Rewards]) -> None:
        for rows, x in several:
            if len(rows):
                self._decisions.reward(rows, self._floors.of(rows["revision"]), x)

    def complete(self) -> ResultsFold:
        """This fold, or a copy of it that counts the rewards too whose exposures are still on their way."""
        if not self._early:
            return self
        copy = ResultsFold.from_state(self.state())
        copy._count(copy._early.given_up(None))
        copy.evidence.look(copy.sums, copy.record.experiment)
        return copy

    def _change(self, event: Changed) -> None:
        former = self.record
        if event.record.status == "draft" and event.record.revision < former.revision:
            # What it was before it was another draft does not matter: nothing was decided.
            return
        event = event.whole(former)
        if is_another_draft(former, event):
            now_ms, omitted = self.now_ms, self.omitted
            vars(self).update(vars(ResultsFold(event.record)), now_ms=now_ms, omitted=omitted)
            return
        self._shape.check(event)
        record = event.record
        n_arms = len(record.experiment.arms)
        if n_arms > len(self.exposures):
            self._grow(n_arms)
        self._floors.learn(record.revision, record.experiment.policy)
        if _contextual(record.experiment.policy):
            if not self.sums.contextual:
                self.sums.contextual = True
                self.sums.know_features(_n_features(record.experiment, self.sums))
            self._beginnings.close()
        if record.revision >= self.record.revision:
            self.record = record
            self._shape = Shape(record.experiment, None)

    def _grow(self, n_arms: int) -> None:
        """Makes room for the arms that have come. What was decided before them says nothing about them."""
        self.evidence.grow(n_arms, looked=bool(self.sums.counts().any()))
        self.exposures = np.pad(self.exposures, (0, n_arms - len(self.exposures)))
        self.sums.grow(n_arms)
        if self.sums.n_features == 0 and isinstance(self._decisions, OpenDecisions):
            self._decisions.forget_features()
        self._shares.grow(n_arms)

    def state(self) -> bytes:
        """A snapshot: equal bytes for equal folds, wherever the log was cut."""
        return snapshot.packed(msgspec.msgpack.encode(self.record), self._columns())

    def _columns(self) -> snapshot.Columns:
        shares, numbers = self._shares.state(self._decisions.vectors())
        return {
            "fold": {
                "now_ms": np.array([self.now_ms]),
                "omitted": np.array([self.omitted]),
                "exposures": self.exposures,
                "revisions": self._floors.revisions,
                "flags": self._floors.flags,
            },
            "sums": self.sums.state(),
            "outcome": self.sums.model_state(),
            "beginnings": self._beginnings.state(),
            "evidence": vars(self.evidence),
            "shares": shares,
            "decisions": self._decisions.state(numbers),
            "early": self._early.state(),
        }

    @classmethod
    def from_state(cls, data: bytes) -> ResultsFold:
        """The fold whose `state()` was `data`; `InvalidInput` for anything else, `UnreadableEntry` where this build
        does not know a part of it.
        """
        packed_record, state = snapshot.unpacked(data)
        try:
            return cls._restored(packed_record, state)
        except (KeyError, IndexError, ValueError, msgspec.MsgspecError) as error:
            raise InvalidInput("These bytes are not a snapshot of an experiment's results.") from error

    @classmethod
    def _restored(cls, packed_record: bytes, state: snapshot.Columns) -> ResultsFold:
        fold = cls(msgspec.msgpack.decode(packed_record, type=Record))
        experiment = fold.record.experiment
        known = fold._columns()
        known_only(state, known, "results")
        for part, of_part in state.items():
            once_known = Evidence.FORMER if part == "evidence" else ()
            known_only(of_part, {*known[part], *once_known}, f"results' {part}")
        fold.now_ms = int(state["fold"]["now_ms"][0])
        fold.omitted = int(state["fold"].get("omitted", [0])[0])
        fold.exposures = state["fold"]["exposures"]
        fold._floors = Floors(state["fold"]["revisions"], state["fold"]["flags"])
        context = bool(experiment.context) or _contextual(experiment.policy)
        fold.sums = Accumulators.from_state(state["sums"], experiment.control_arm, contextual=context)
        n_features = _n_features(experiment, fold.sums)
        if "outcome" in state:
            fold.sums.restore_model(n_features, state["outcome"])
        else:
            # A former build knew no features: it is learned from now on.
            fold.sums.know_features(n_features)
        if "beginnings" in state:
            fold._beginnings = Beginnings.from_state(state["beginnings"])
        else:
            # A former build counted values without keeping them.
            fold._beginnings.close()
        fold.sums.beginnings = fold._beginnings
        fold.evidence = Evidence.from_state(state["evidence"])
        fold._shares = ShareHistory.from_state(state["shares"], _most_vectors(experiment))
        parts = fold.sums, fold._shares, state["decisions"]
        if experiment.unit == "user":
            fold._decisions = Units.from_state(*parts, MOST_UNIT_BYTES)
        elif experiment.missing == "zero":
            fold._decisions = OpenDecisions.from_state(*parts, GRACE_MS, MOST_X_BYTES)
        else:
            fold._decisions = RewardedDecisions.from_state(*parts)
        fold._early = EarlyRewards.from_state(state["early"])
        return fold


def _most_vectors(experiment: Experiment) -> int:
    """How many share vectors are kept; 0, for units, which are analysed whole: as many as there are."""
    return 0 if experiment.unit == "user" else MOST_BYTES // (8 * len(experiment.arms))


def _n_features(experiment: Experiment, sums: Accumulators) -> int:
    """Over how many features outcomes have a model, 0 for none: where shares follow them. A unit has no one context."""
    modelled = sums.contextual and experiment.unit == "request" and experiment.context
    return n_features_of(experiment.context) if modelled else 0


def _contextual(policy: Policy) -> bool:
    return POLICIES[policy.kind].contextual


def _decisions(
    experiment: Experiment, sums: Accumulators, shares: ShareHistory
) -> RewardedDecisions | OpenDecisions | Units:
    if experiment.unit == "user":
        takes_max = np.array([metric.kind == "binary" for metric in experiment.metrics], np.uint8)
        return Units(sums, shares, experiment.missing == "zero", takes_max, MOST_UNIT_BYTES)
    if experiment.missing == "zero":
        return OpenDecisions(sums, shares, LINGER_MS, GRACE_MS, MOST_X_BYTES)
    return RewardedDecisions(sums, shares)


def _first_shares(experiment: Experiment) -> Floats:
    """What stands in for the shares until some have been logged: those of a fixed split, or even ones."""
    weights = experiment.policy.shares if experiment.policy.kind == "fixed_split" else None
    even = dict.fromkeys(experiment.arm_names, 1.0)
    shares: Floats = np.array([(weights or even).get(name, 0.0) for name in experiment.arm_names], np.float64)
    shares /= shares.sum()
    return shares


def _beginnings(experiment: Experiment) -> Beginnings:
    """Under a contextual policy the decisions that an arm gets are not of the kind that all are: nothing is kept."""
    bounded = np.array([_has_bounds(experiment, metric) for metric in experiment.metrics], np.uint8)
    beginnings = Beginnings(bounded, len(experiment.arms))
    if _contextual(experiment.policy):
        beginnings.close()
    return beginnings


def _has_bounds(experiment: Experiment, metric: Metric) -> bool:
    """Whether every analysed value lies between two that are known: not where it is the sum of a unit's rewards."""
    return metric.kind == "binary" or (metric.kind == "bounded" and experiment.unit == "request")
