"""Results of one experiment as a fold of its log: everything a report needs, also when the log has been trimmed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.spec import Record
from bandit_serve.log.events import (
    Changed,
    Covariates,
    Event,
    Exposed,
    Revised,
    Rewarded,
    Shape,
    is_another_draft,
)
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.repairs import LeftOut
from bandit_serve.log.snapshot import reading
from bandit_serve.log.times import GRACE_MS, LINGER_MS
from bandit_serve.results import columns, kernels
from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._beginnings import Beginnings
from bandit_serve.results._histograms import Histograms
from bandit_serve.results._open_decisions import OpenDecisions
from bandit_serve.results._rewarded_decisions import RewardedDecisions
from bandit_serve.results._share_history import ShareHistory
from bandit_serve.results._units import Units
from bandit_serve.results.companions import Paired
from bandit_serve.results.decision import Noted, judge, noted
from bandit_serve.results.early import EarlyRewards
from bandit_serve.results.evidence import Evidence
from bandit_serve.results.failing_arm import watched
from bandit_serve.results.failure_runs import FailureRuns
from bandit_serve.results.floors import Floors
from bandit_serve.results.harm_evidence import HarmEvidence
from bandit_serve.results.history import PastResults
from bandit_serve.results.horizon import HorizonLooks
from bandit_serve.results.joining import with_metrics
from bandit_serve.results.notes import Notes
from bandit_serve.results.point import point_of
from bandit_serve.results.sequence import Floats
from bandit_serve.results.state import (
    CODEC,
    FIXED,
    RESULTS,
    SOMETIMES,
    ResultsState,
    StateColumns,
    require_known,
    require_shapes,
)
from bandit_serve.results.uploads import Uploads

DAY_MS = 86_400_000
MIN_RATE_MS = 60_000

StillOpen = tuple[NDArray[np.int64], Floats]

NO_UNITS = np.zeros(0, np.uint64)
_BEFORE_ALL_MS = -(2**53)


class ResultsFold:
    """Results of what the log of `record`'s experiment says, up to an entry.

    `exposures` int64 (K,) counts the exposures seen, `sums` and `evidence` are what estimates and p-values are made
    from, `pairs` and `pair_evidence` those of metrics with a companion, `segmented` those by segment, `harm` is the
    evidence on guardrails (None without any), `failure_runs` what the test of failing arms needs (None without it),
    `noted` the decision at the last look (None without one), `pending` and `crossovers` as in the contract.
    `n_features` is d of the vectors x that go with decisions, 0 without context and covariates. `offset` is that of the
    last entry, `now_ms` the latest time of one; `omitted` counts the omissions that it has met (`repairs.py`).
    `history` keeps what was known before.

    look_up: names of context fields that are dimensions in place of those that the experiment declares.
    """

    def __init__(self, record: Record, look_up: Sequence[str] = ()) -> None:
        experiment = record.experiment
        n_metrics, n_arms = len(experiment.metrics), len(experiment.arms)
        self.record = record
        self._look_up = tuple(look_up)
        dimensions = kernels.dimensions(experiment, self._look_up)
        self._notes = Notes(experiment, dimensions)
        self.n_features = self._notes.n_logged
        self._shape = Shape(experiment, None)
        self.offset = START
        self.now_ms = _BEFORE_ALL_MS
        self.omitted = 0
        self.exposures = np.zeros(n_arms, np.int64)
        self.sums = Accumulators(
            n_metrics, n_arms, experiment.control_arm, contextual=kernels.contextual(experiment.policy)
        )
        self.sums.know_features(kernels.n_features(experiment, self.sums))
        self.sums.note_width = self._notes.width
        self.pairs = kernels.pairs(experiment, self.sums)
        self.segmented = kernels.segmented(dimensions, self.sums, self._notes)
        self.pair_evidence = Evidence.none(len(self.pairs.metrics) if self.pairs else 0, n_arms)
        self._beginnings = self.sums.beginnings = kernels.beginnings(experiment)
        self.sums.put_caps(kernels.caps(experiment))
        self.sums.histograms = kernels.histograms(experiment)
        self.evidence = Evidence.none(n_metrics, n_arms)
        guarded = any(metric.is_guardrail for metric in experiment.metrics)
        self.harm = HarmEvidence.none(n_metrics, n_arms) if guarded else None
        self._watched = watched(experiment)
        self.failure_runs = None if self._watched is None else FailureRuns.none(n_arms)
        self.noted: Noted | None = None
        self._window_ms = experiment.attribution.window_ms
        self._shares = ShareHistory(kernels.first_shares(experiment), kernels.most_vectors(experiment))
        self._floors = Floors.since(record.revision, experiment.policy)
        self._decisions = kernels.decisions(experiment, self.sums, self._shares)
        self._early = EarlyRewards()
        self.looks = HorizonLooks.none(n_metrics, n_arms) if experiment.stopping.horizon else None
        self.contests = kernels.contests(experiment)
        self.history = PastResults(n_metrics, n_arms)
        self._know_since()

    @property
    def a_day(self) -> float | None:
        """Values of the objective a day since the experiment was started, those to come of open windows included.

        None before there has been a minute of it.
        """
        experiment, started_ms = self.record.experiment, self.record.started_ms
        if started_ms is None or self.now_ms - started_ms < MIN_RATE_MS:
            return None
        n = int(self.sums.counts()[experiment.metrics.index(experiment.objective)]) + self.pending
        return n * DAY_MS / (self.now_ms - started_ms) if n else None

    def _know_since(self) -> None:
        """Learns from when on decisions are analysed on each metric, int64 (M,)."""
        since_ms, metrics = self.record.since_ms, self.record.experiment.metrics
        self._since_ms: NDArray[np.int64] | None = None
        if since_ms:
            self._since_ms = np.array(
                [since_ms.get(metric.name, _BEFORE_ALL_MS) for metric in metrics], np.int64
            )
            self._decisions.know_since(self._since_ms)

    @property
    def pending(self) -> int:
        """Number of decisions (with `unit: user`, units) whose window has not closed, with `missing: zero`."""
        return self._decisions.pending

    def begins_exactly(self, metric: int) -> bool:
        """Return whether an arm's first values are kept, so that their interval can be exact."""
        experiment = self.record.experiment
        return experiment.metrics[metric].traits.has_bounds(experiment.unit) and not self.sums.contextual

    def still_open(self) -> StillOpen | None:
        """Numbers of pending decisions (units) by arm, int64 (K,), and sums of their rewards so far, float64 (M, K).

        None unless the experiment has `missing: zero`.
        """
        if isinstance(self._decisions, RewardedDecisions) or self.record.experiment.missing == "ignore":
            return None
        return self._decisions.still_open()

    @property
    def one_in(self) -> int:
        """Number of decisions of which one is analysed now: above 1 while more shares are open than are kept.

        With `unit: user`, of how many units that come: more than 1 once there are more than are kept.
        """
        return self._decisions.one_in if isinstance(self._decisions, Units) else self._shares.one_in

    def beginning(self, metric: int, arm: int) -> Floats | None:
        """Analysed values of an arm, all of them in their order; None where they are not kept (`Beginnings`)."""
        return self._beginnings.of_arm(metric, arm)

    @property
    def crossovers(self) -> int:
        """Number of units that were later served another arm, with `unit: user`."""
        return self._decisions.crossovers

    def apply(self, offset: Offset, event: Event | LeftOut) -> None:
        """Takes the log's entry at `offset`.

        The event comes first, then decisions that have closed by now are analysed. `UnreadableEntry`, and nothing has
        changed, when an entry's columns do not fit together or the experiment.
        """
        time_ms, history = offset.time_ms, self.history
        if isinstance(event, LeftOut):
            self.omitted, self.offset = event.met, offset
            return
        before = point_of(self) if history.is_due(self.now_ms, time_ms) else None
        match event:
            case Exposed():
                self._expose(time_ms, event)
            case Rewarded():
                self._reward(time_ms, event, False)
            case Revised():
                self._reward(time_ms, event, True)
            case Changed():
                self._change(event)
            case Covariates() if self.record.status == "draft":
                self._notes.uploads.take(event)
        if before is not None:
            history.keep(before)
        self.offset = offset
        self.now_ms = max(self.now_ms, time_ms)
        closed_ms = self.now_ms - self._window_ms
        self._count(self._early.given_up(self.now_ms))
        self._early.forget(closed_ms - LINGER_MS)
        self._decisions.close(closed_ms)
        if self.contests is not None:
            self.contests.close(closed_ms)
        self._shares.forget(closed_ms - GRACE_MS, closed_ms - LINGER_MS)
        self._look(isinstance(event, Changed))

    def _look(self, changed: bool) -> None:
        """Keeps the evidence, and notes the decision after a look or a change."""
        looked = self.evidence.look(self.sums, self.record.experiment, self.harm)
        if self.pairs is not None:
            self.pair_evidence.look_at_pairs(self.sums, self.pairs, self.record.experiment, self.harm)
        if self.segmented is not None:
            self.segmented.look(self.record.experiment)
        at_look = self.looks is not None and self.looks.look(
            self.sums, self.record.experiment, self.evidence.peers
        )
        if at_look or ((looked or changed) and self._may_be_decided()):
            self.noted = noted(self.noted, judge(self, self.record), self.now_ms)

    def _may_be_decided(self) -> bool:
        """Return whether there was ever evidence enough for a decision, or the experiment has been stopped."""
        experiment = self.record.experiment
        objective = experiment.metrics.index(experiment.objective)
        strongest = max(
            float(log_e.max())
            for moving in (False, True)
            for log_e in self.evidence.largest(objective, moving)
        )
        if self.harm is not None:
            strongest = max(strongest, float(self.harm.fixed.max()), float(self.harm.moving.max()))
        if self.contests is not None:
            strongest = self.contests.log_e
        return self.record.status == "stopped" or strongest >= -math.log(experiment.stopping.alpha)

    def paired(self, metric: int) -> Paired | None:
        """Metric with its companion; None where it has none."""
        if self.pairs is None or metric not in self.pairs.metrics:
            return None
        index = int(np.flatnonzero(self.pairs.metrics == metric)[0])
        return Paired(self.sums, self.pairs, index, self.record.experiment, self.evidence.peers)

    def _expose(self, time_ms: int, event: Exposed) -> None:
        experiment = self.record.experiment
        rows = columns.widened(self._shape.columns(event), len(experiment.arms))
        unfloored = bool(self._floors.of(np.array([event.revision], np.uint32))[0])
        logged = self._logged(event.x, len(rows.arms))
        x, notes = self._features(logged), self._notes.of(logged, rows.units, len(rows.arms))
        for low, high in self._shares.unseen(event.incarnation, event.first, len(rows.arms)):
            if low == high:
                continue
            self.exposures += np.bincount(rows.arms[low:high], minlength=len(experiment.arms))
            self.history.draw(rows, low, high)
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
                notes,
            )
        seen_ms = max(time_ms, self.now_ms)
        self._count(self._early.exposed(event.incarnation, event.first + len(rows.arms), seen_ms))

    def _reward(self, time_ms: int, event: Rewarded | Revised, revised: bool) -> None:
        self._shape.check(event)
        x = self._logged(event.x, len(event.rows))
        rewards = columns.RewardColumns(np.ascontiguousarray(event.rows), x, revised)
        if self._watched is not None and self.failure_runs is not None:
            self.failure_runs.take(rewards.rows, self._watched, time_ms)
        if self.contests is not None:
            experiment = self.record.experiment
            objective = experiment.metrics.index(experiment.objective)
            self.contests.take(rewards, objective, self.now_ms - self._window_ms)
        if self._since_ms is not None:
            rows = rewards.rows
            rewards = rewards.those(rows["time_ms"] >= self._since_ms[rows["metric"]])
        if self.record.experiment.missing == "ignore":
            rewards = self._early.keep(rewards, time_ms)
        self._count([rewards])

    def _count(self, several: list[columns.RewardColumns]) -> None:
        for rewards in several:
            if len(rewards.rows):
                take = self._decisions.revise if rewards.revised else self._decisions.reward
                units = rewards.rows["unit"] if self.record.experiment.unit == "user" else NO_UNITS
                notes = self._notes.of(rewards.x, units, len(rewards.rows))
                take(
                    rewards.rows, self._floors.of(rewards.rows["revision"]), self._features(rewards.x), notes
                )

    def _logged(self, x: bytes | columns.Features | None, n: int) -> columns.Features | None:
        """What the log has of n decisions, float32 (n, d), where any of it is analysed."""
        needed = self.sums.n_features or self._notes.width
        return columns.features(x, n, self._notes.n_logged) if needed else None

    def _features(self, logged: columns.Features | None) -> columns.Features | None:
        """Features for the model of outcomes; None where they are not known, or there is none."""
        if logged is None or self.sums.n_features == 0:
            return None
        return np.ascontiguousarray(logged[:, : self.sums.n_features])

    @property
    def waits(self) -> bool:
        """Whether rewards wait for exposures that are on their way."""
        return bool(self._early)

    def complete(self) -> ResultsFold:
        """This fold, or a copy of it that counts the rewards too whose exposures are still on their way."""
        if not self._early:
            return self
        copy = ResultsFold.from_state(self.offset, self.state(), self._look_up)
        copy._count(copy._early.given_up(None))
        copy._look(False)
        return copy

    def _change(self, event: Changed) -> None:
        former = self.record
        if event.record.status == "draft" and event.record.revision < former.revision:
            # Of a draft before it was another one nothing matters: nothing was decided.
            return
        event = event.whole(former)
        if is_another_draft(former, event):
            kept = {"now_ms": self.now_ms, "omitted": self.omitted}
            vars(self).update(vars(ResultsFold(event.record, self._look_up)), **kept)
            return
        self._shape.check(event)
        record = event.record
        if len(record.experiment.metrics) > self.sums.n_metrics:
            if former.status == "draft":
                self._begin_with(record)
            else:
                self._join(record)
        n_arms = len(record.experiment.arms)
        if n_arms > len(self.exposures):
            self._grow(n_arms)
        self._floors.learn(record.revision, record.experiment.policy)
        if kernels.contextual(record.experiment.policy):
            if not self.sums.contextual:
                self.sums.contextual = True
                if self.segmented is not None:
                    self.segmented.sums.contextual = True
                self.sums.know_features(kernels.n_features(record.experiment, self.sums))
            self._beginnings.close()
        if record.revision >= self.record.revision:
            self.record = record
            self._shape = Shape(record.experiment, None)

    def _begin_with(self, record: Record) -> None:
        """Begins anew with other metrics: of what came before, only what was uploaded is kept."""
        kept = {"now_ms": self.now_ms, "omitted": self.omitted, "_notes": self._notes}
        vars(self).update(vars(ResultsFold(record, self._look_up)), **kept)

    def _join(self, record: Record) -> None:
        """Makes room for the metrics that have come."""
        self.history.grow(len(record.experiment.metrics), len(self.exposures))
        former = self.record.experiment
        experiment = msgspec.structs.replace(former, metrics=record.experiment.metrics)
        joined = msgspec.structs.replace(self.record, experiment=experiment, joined=record.joined)
        state = with_metrics(
            self._columns(),
            ResultsFold(joined, self._look_up)._columns(),
            kernels.n_features(experiment, self.sums),
        )
        vars(self).update(vars(self._restored(joined, state, self._look_up)), offset=self.offset)

    def _grow(self, n_arms: int) -> None:
        """Makes room for the arms that have come. What was decided before them says nothing about them."""
        if self.harm is not None:
            self.harm.grow(n_arms)
        if self.failure_runs is not None:
            self.failure_runs.grow(n_arms)
        for evidence in (self.evidence, self.pair_evidence):
            evidence.grow(n_arms, looked=bool(self.sums.counts().any()))
        self.exposures = np.pad(self.exposures, (0, n_arms - len(self.exposures)))
        if self.segmented is not None:
            self.segmented.grow(n_arms)
        self.sums.grow(n_arms)
        if self.sums.n_features == 0 and isinstance(self._decisions, OpenDecisions):
            self._decisions.forget_features()
        self._shares.grow(n_arms)
        if self.looks is not None:
            self.looks.grow(n_arms)
        self.history.grow(self.sums.n_metrics, n_arms)

    def state(self) -> bytes:
        """Snapshot: equal bytes for equal folds, wherever the log was cut."""
        return CODEC.pack(ResultsState(self.record.packed(), self._columns()))

    def _columns(self) -> StateColumns:
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
            "epochs": self.sums.epochs_state(),
            "beginnings": self._beginnings.state(),
            "evidence": vars(self.evidence),
            "shares": shares,
            "decisions": self._decisions.state(numbers),
            "early": self._early.state(),
            **self._pairs_columns(),
            **({} if self.segmented is None else self.segmented.state()),
            **self._parts_in_use(),
        }

    def _pairs_columns(self) -> StateColumns:
        if self.pairs is None:
            return {}
        companions = self.pairs.companions
        return {
            "pairs": self.pairs.state(),
            "companions": companions.state(),
            "companion_epochs": companions.epochs_state(),
            "pair_evidence": vars(self.pair_evidence),
        }

    def _parts_in_use(self) -> StateColumns:
        """Columns of the parts that not every experiment has."""
        parts: StateColumns = {}
        if self.harm is not None:
            parts["harm"] = vars(self.harm)
        if self.failure_runs is not None:
            parts["failure_runs"] = vars(self.failure_runs)
        if self._notes.uploads:
            parts["uploads"] = self._notes.uploads.state()
        if self.noted is not None:
            parts["decision"] = self.noted.columns()
        if kernels.capped(self.record.experiment):
            parts["raw"] = self.sums.raw_state()
        if self.sums.histograms is not None:
            parts["quantiles"] = self.sums.histograms.state()
        if self.looks is not None and len(self.looks.n):
            parts["looks"] = vars(self.looks)
        if self.contests is not None:
            parts["contests"] = self.contests.state()
        if self.history.so_far.decisions:
            parts["history"] = self.history.state()
        return parts

    @classmethod
    def from_state(cls, offset: Offset, state: bytes, look_up: Sequence[str] = ()) -> ResultsFold:
        """Fold whose `state` at `offset` this was, with the same `look_up`; `UnreadableEntry` for anything else."""
        read = CODEC.unpack(state)
        with reading(RESULTS):
            fold = cls._restored(msgspec.msgpack.decode(read.record, type=Record), read.columns, look_up)
        fold.offset = offset
        return fold

    @classmethod
    def _restored(cls, record: Record, state: StateColumns, look_up: Sequence[str]) -> ResultsFold:
        fold = cls(record, look_up)
        experiment = record.experiment
        if "uploads" in state:
            fold._notes.uploads = Uploads.from_state(experiment.covariates, state["uploads"])
        known = fold._columns() | SOMETIMES | {"history": fold.history.state()}
        require_known(state, known, RESULTS)
        for part, columns_of_part in state.items():
            once_known = Evidence.FORMER if part == "evidence" else ()
            require_known(columns_of_part, {*known[part], *once_known}, part)
            if part in FIXED:
                require_shapes(columns_of_part, known[part], FIXED[part])
        fold.now_ms = int(state["fold"]["now_ms"][0])
        fold.omitted = int(state["fold"].get("omitted", [0])[0])
        fold.exposures = (
            state["fold"]["exposures"].astype(np.int64, casting="safe").reshape(len(experiment.arms))
        )
        fold._floors = Floors.from_state(state["fold"]["revisions"], state["fold"]["flags"])
        context = bool(experiment.context) or kernels.contextual(experiment.policy)
        fold.sums = Accumulators.from_state(state["sums"], experiment.control_arm, contextual=context)
        n_features = kernels.n_features(experiment, fold.sums)
        if "outcome" in state:
            fold.sums.restore_model(n_features, state["outcome"])
        else:
            # A former build knew no features: it is learned from now on.
            fold.sums.know_features(n_features)
        fold.sums.put_caps(kernels.caps(experiment))
        if "raw" in state:
            fold.sums.restore_raw(state["raw"])
        fold.sums.histograms = kernels.histograms(experiment)
        if "quantiles" in state:
            fold.sums.histograms = Histograms.from_state(state["quantiles"])
            if state["quantiles"]["counts"].shape[1] != len(experiment.arms):
                raise ValueError("the snapshot's histograms are not of its arms")
        if "epochs" in state:
            fold.sums.restore_epochs(state["epochs"])
        if "beginnings" in state:
            fold._beginnings = Beginnings.from_state(state["beginnings"])
        else:
            # A former build counted values without keeping them.
            fold._beginnings.close()
        fold.sums.beginnings = fold._beginnings
        fold.sums.note_width = fold._notes.width
        if fold.pairs is not None:
            companions = Accumulators.from_state(state["companions"], experiment.control_arm)
            companions.restore_epochs(state["companion_epochs"])
            fold.pairs = kernels.pairs(experiment, fold.sums, companions, state["pairs"])
            fold.pair_evidence = Evidence.from_state(state["pair_evidence"])
        if fold.segmented is not None:
            fold.segmented.restore(state)
            fold.sums.followers = (*fold.sums.followers, fold.segmented.follower)
        fold.evidence = Evidence.from_state(state["evidence"])
        if "harm" in state:
            fold.harm = HarmEvidence(**state["harm"])
        if "failure_runs" in state:
            fold.failure_runs = FailureRuns(**state["failure_runs"])
        if "decision" in state:
            fold.noted = Noted.from_columns(state["decision"], len(experiment.arms))
        fold._shares = ShareHistory.from_state(state["shares"], kernels.most_vectors(experiment))
        fold._decisions = kernels.decisions_of(experiment, fold.sums, fold._shares, state["decisions"])
        fold._early = EarlyRewards.from_state(state["early"])
        if "looks" in state:
            if fold.looks is None:
                raise ValueError("there are looks of an experiment without any")
            fold.looks = HorizonLooks.from_state(
                state["looks"], len(experiment.metrics), len(experiment.arms)
            )
        if fold.contests is not None:
            fold.contests.restore(state["contests"])
        if "history" in state:
            fold.history = PastResults.from_state(
                state["history"], len(experiment.metrics), len(experiment.arms), fold.now_ms
            )
        fold._know_since()
        return fold
