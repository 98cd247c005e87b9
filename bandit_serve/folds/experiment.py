"""Experiment in a worker's memory: the policy fold of its log, without any other input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from bandit_serve.base.known_fields import decode_known
from bandit_serve.base.turns import HeavyWork, Step
from bandit_serve.errors import Unfoldable, UnreadableEntry
from bandit_serve.experiments.logged import n_logged
from bandit_serve.experiments.policy import (
    context_features,
    from_experiment,
    policy_from_snapshot,
    policy_from_state,
)
from bandit_serve.experiments.spec import MAX_METRICS, Experiment, Record
from bandit_serve.folds._kept_arms import KeptArms
from bandit_serve.folds.alarms import AlarmsState, ChangeAlarms
from bandit_serve.folds.attribution.joined import JoinedDecisions, JoinedState
from bandit_serve.folds.attribution.pending import PendingDecisions, PendingState
from bandit_serve.folds.traded_metrics import TradedMetrics, TradedState, moments_of
from bandit_serve.log._rewards import learned
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import (
    FIRST,
    HELD_OUT,
    MAX_TIME_MS,
    Changed,
    Event,
    Exposed,
    Revised,
    Rewarded,
    Shape,
    decode,
    is_another_draft,
)
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import generation_of
from bandit_serve.log.reader import event_of
from bandit_serve.log.repairs import LeftOut, Repairs
from bandit_serve.log.snapshot import Codec, reading
from bandit_serve.policies import POLICIES, AnyPolicy, ContextFreePolicy, ContextualPolicy, Thompson
from bandit_serve.policies._feature_limits import MAX_SPREADS
from bandit_serve.policies.mixtures import LearnedMetric

MAX_HISTORY = 10_000
# About how many decisions `mean_shares` is the mean of.
AVERAGED = 1_000
# What is folded in one piece: rows that wait for their rewards, and about how many numbers of models are moved.
PIECE_ROWS = 500
PIECE_NUMBERS = 2**16
# The inverse of a model with so many coefficients takes a millisecond or more.
HEAVY_ORDER = 128
# With `keep_assigned`: about 46 bytes a unit in each worker, 14 in each snapshot; and the bytes of their vectors.
MAX_KEPT_UNITS = 1_000_000
MAX_KEPT_VECTOR_BYTES = 16 * 2**20
KEPT_PIECE_ROWS = 10_000


class HistoryEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """Change in the history: its time (log time), its author, its arm if it had one, and the policy's kind after it.

    `evidence` as in the change.
    """

    revision: int
    at_ms: int
    what: str
    who: str
    reason: str | None
    status: str
    policy: str
    arm: str | None = None
    evidence: dict[str, Any] | UnsetType = UNSET
    metric: str | UnsetType = UNSET


class ExperimentState(Struct, frozen=True, forbid_unknown_fields=True):
    """State of `LiveExperiment`, in fields of the same names; `record` and each entry of `history` are MessagePack.

    Former builds wrote neither `far` nor `omitted`. `owner` is there where it differs from the experiment's name,
    `kept` with `keep_assigned`, and `traded` with weights or constraints.
    """

    record: bytes
    policy: dict[str, Any]
    pending: PendingState | None
    joined: JoinedState | None
    waits_since_ms: Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
    alarms: AlarmsState | None
    history: list[bytes]
    exposures: NDArray[np.int64]
    rewards: NDArray[np.int64]
    held_out: NDArray[np.int64]
    mean_shares: NDArray[np.float64]
    far: dict[str, int] = {}
    omitted: int = 0
    owner: str | UnsetType = UNSET
    kept: dict[str, NDArray[Any]] | UnsetType = UNSET
    traded: Annotated[list[TradedState], Meta(max_length=MAX_METRICS)] | UnsetType = UNSET


_CODEC = Codec(ExperimentState, "an experiment")


class LiveExperiment:
    """Policy fold of one experiment. Two workers at the same `offset` have the same `state`, bit for bit.

    `apply` folds one entry. `steps` does the same in pieces, between which others have their turn; in between,
    `midway`, there is no state, but shares may be asked for.

    It begins with the first `Changed` event in the log of `owner`. An arm keeps its index from the start of the
    experiment. `exposures`, `rewards` and `held_out` (the exposures in the holdout), int64 (K,), grow with the arms.
    `n_logged` is the width of the vectors x that the log has of decisions. `mean_shares`, float64 (K,), is the mean of
    the vectors that the latest decisions were drawn from; it is kept where there is context. `far` counts, by numeric
    field of the context, decisions with a value so far outside that the policy clipped it. `omitted` counts the
    omissions met so far (`repairs.py`). `kept` has the arms that units were first given, with `keep_assigned`, `traded`
    what was learned of further metrics that the policy goes by.
    """

    def __init__(self, first: Changed, owner: str | None = None) -> None:
        self.record: Record = first.whole(None).record
        experiment = self.record.experiment
        self.owner = owner or experiment.id
        self.policy: AnyPolicy = _patient(from_experiment(experiment))
        self.features = context_features(experiment)
        self.n_logged = n_logged(experiment)
        self._shape = Shape(experiment, self.n_logged)
        self._objective = experiment.metrics.index(experiment.objective)
        # Of decisions before it, Unix time, nothing more is learned where they would have to wait for their rewards; of
        # values that decisions had by then no change.
        self.waits_since_ms = 0
        self._wait()
        self.alarms = self._watch()
        self.history: list[HistoryEntry] = []
        self.offset: Offset = START
        self.exposures: NDArray[np.int64] = np.zeros(len(experiment.arms), np.int64)
        self.rewards: NDArray[np.int64] = np.zeros(len(experiment.arms), np.int64)
        self.held_out: NDArray[np.int64] = np.zeros(len(experiment.arms), np.int64)
        self.mean_shares: NDArray[np.float64] = np.full(len(experiment.arms), 1.0 / len(experiment.arms))
        self.far = self._none_far()
        self.kept = _none_kept(experiment)
        self.traded = TradedMetrics.of(experiment)
        self.omitted = 0
        self.evidence = 0
        self.midway = False

    @property
    def experiment(self) -> Experiment:
        return self.record.experiment

    @property
    def etag(self) -> int:
        """ETag, unique for each state: the revision and, above its 32 bits, the number of namesakes before."""
        return self.record.revision + ((generation_of(self.owner) - 1) << 32)

    @property
    def n_features(self) -> int:
        """Number d of features of its decisions' contexts, 0 without context: the first columns of the vectors x."""
        return 0 if self.features is None else self.features.n_features

    @property
    def active(self) -> NDArray[np.bool_]:
        """Mask, bool (K,), of the arms that are neither paused nor removed."""
        return np.array([status == "active" for status in self.record.arm_statuses.values()])

    @property
    def decided(self) -> NDArray[np.int64]:
        """Numbers, int64 (K,), of logged decisions by the policy itself, outside the holdout."""
        return self.exposures - self.held_out

    def _wait(self) -> None:
        """Makes the store of open decisions, if a missing reward counts as zero: as counts, or with features.

        Where it does not, decisions wait only for values that may change, and only with features: `_revised` makes it.
        """
        experiment = self.experiment
        zero, window_ms = experiment.missing == "zero", experiment.attribution.window_ms
        self.pending: PendingDecisions | None = None
        self.joined: JoinedDecisions | None = None
        if zero and isinstance(self.policy, ContextualPolicy):
            self.joined = JoinedDecisions(window_ms, self.policy.n_features)
        elif zero:
            self.pending = PendingDecisions(window_ms, len(experiment.arms))

    def _watch(self) -> ChangeAlarms | None:
        """Makes the watch of the arms' means; None with a contextual policy, which changes them itself."""
        experiment = self.experiment
        if self.policy.contextual:
            return None
        return ChangeAlarms(len(experiment.arms), _watched(experiment))

    @property
    def n_pending(self) -> int:
        """Number of open decisions, which may still get the reward that they lack; 0 where none is missed."""
        waiting = self.pending if self.joined is None else self.joined
        return 0 if waiting is None else len(waiting)

    def next_close_ms(self) -> int | None:
        """Time from which a tick closes a decision; None without open decisions."""
        waiting: list[PendingDecisions | JoinedDecisions | TradedMetrics | None]
        waiting = [self.pending, self.joined, self.traded]
        due_ms = [each.next_close_ms() for each in waiting if each is not None]
        return min((each_ms for each_ms in due_ms if each_ms is not None), default=None)

    def apply(self, offset: Offset, event: Event | LeftOut) -> None:
        """Folds the log's entry at `offset`. `evidence` counts the entries that may have moved the shares.

        Raises `UnreadableEntry` for an entry that does not fit the experiment, and `InvalidInput` for a policy that can
        not be made. Nothing has changed then.
        """
        for heavy in self.steps(offset, event):
            if heavy is not None:
                heavy.do()

    def steps(self, offset: Offset, event: Event | LeftOut) -> Iterator[Step]:
        """Does as `apply` in pieces; run the iterator to its end. Long pieces are yielded as work for the caller."""
        if isinstance(event, LeftOut):
            self._leave_out(offset, event)
            return
        # What may be refused is asked before anything is changed.
        if isinstance(event, Changed):
            event = event.whole(self.record)
            if self.offset > START and is_another_draft(self.record, event):
                yield from self._put(offset, event)
                return
        self._shape.check(event)
        successor = self._successor(event.record) if isinstance(event, Changed) else None
        self.midway = True
        if self.policy.advance(offset.time_ms):
            self.evidence += 1
        if self.traded is not None:
            self.traded.advance(offset.time_ms)
        yield from self._close(offset.time_ms)
        match event:
            case Rewarded():
                yield from self._rewarded(offset, event)
            case Revised():
                yield from self._revised(offset, event)
            case Exposed():
                yield from self._exposed(event)
            case Changed():
                yield from self._changed(offset, event, successor)
        yield from _freshened(self.policy)
        yield from _drawn(self.policy)
        self.offset = offset
        self.midway = False

    def _leave_out(self, offset: Offset, event: LeftOut) -> None:
        """Skips the entry at `offset`; the omission goes into the history once."""
        if event.met > self.omitted:
            self.omitted = event.met
            policy, record = self.experiment.policy.kind, self.record
            at_ms, who, reason = event.omission.at_ms, event.omission.who, event.omission.reason
            self.history.append(
                HistoryEntry(record.revision, at_ms, "leave_out", who, reason, record.status, policy)
            )
            del self.history[:-MAX_HISTORY]
        self.offset = offset
        self.evidence += 1

    def _successor(self, record: Record) -> AnyPolicy | None:
        """Policy for a changed record, which has learned nothing yet; None if the policy stays."""
        added = len(record.experiment.arms) - len(self.exposures)
        if added < 0:
            raise UnreadableEntry("The log holds a change that takes arms away; they can only be removed.")
        changed = added > 0 or record.experiment.policy != self.experiment.policy
        return from_experiment(record.experiment) if changed else None

    def _close(self, now_ms: int) -> Iterator[Step]:
        """Learns from the decisions whose windows have closed."""
        if self.traded is not None and self.traded.close(now_ms):
            self.evidence += 1
        if self.joined is not None:
            for learned in self.joined.close(now_ms, PIECE_ROWS):
                missing = np.isnan(learned.values)
                if self.joined.all_wait:
                    yield from self._learn(learned.arms, np.where(missing, 0.0, learned.values), learned.x)
                else:
                    there = ~missing
                    yield from self._learn(learned.arms[there], learned.values[there], learned.x[there])
                self.evidence += 1
        elif self.pending is not None and isinstance(self.policy, ContextFreePolicy):
            closed = self.pending.close(now_ms)
            if closed is None:
                return
            self.policy.update_counts(closed.zeros, self._zero)
            if self.alarms is not None:
                self.alarms.closed(closed.decisions, closed.conversions, now_ms)
            self.evidence += 1

    def _learn(
        self, arms: NDArray[np.intp], values: NDArray[np.float64], x: NDArray[np.float32]
    ) -> Iterator[Step]:
        """Learns from rows with features, some at a time, which a contextual policy can not tell from one by one."""
        assert isinstance(self.policy, ContextualPolicy)
        few = max(1, PIECE_NUMBERS // self.policy.order**2)
        for start in range(0, len(arms), few):
            some = slice(start, start + few)
            self.policy.update_many(arms[some], self._utilities(values[some]), x[some])
            yield None
            # Here rather than by the next row, which would do it in one piece with its own.
            yield from _freshened(self.policy)

    def _changed(self, offset: Offset, event: Changed, successor: AnyPolicy | None) -> Iterator[Step]:
        record, change = event.record, event.change
        if successor is not None:
            succession = HeavyWork[Any](partial(_succeeded, successor, self.policy))
            yield succession
            self.policy = succession.result
        self._grow(len(record.experiment.arms))
        former = self.experiment.policy
        self.record = record
        self._shape = Shape(record.experiment, self.n_logged)
        if self.traded is not None:
            self.traded.adapt(record.experiment)
        if POLICIES[former.kind].contextual != self.policy.contextual:
            # What waited is not in the other's form; of those decisions only results will know, also where their
            # rewards are yet to come: without the zeros among them they would look better than they are.
            self.waits_since_ms = offset.time_ms
            self._wait()
            self.alarms = self._watch()
        self.history.append(
            HistoryEntry(
                revision=record.revision,
                at_ms=offset.time_ms,
                what=change.what,
                who=change.who,
                reason=change.reason,
                status=record.status,
                policy=record.experiment.policy.kind,
                arm=change.arm,
                evidence=change.evidence,
                metric=change.metric,
            )
        )
        del self.history[:-MAX_HISTORY]
        self.evidence += 1

    def _put(self, offset: Offset, event: Changed) -> Iterator[Step]:
        """Begins anew with the replaced draft. Drafts have no decisions, so only the history goes on."""
        anew = LiveExperiment(event, self.owner)
        anew.history, anew.omitted, anew.evidence = list(self.history), self.omitted, self.evidence
        yield from anew.steps(offset, event)
        vars(self).update(vars(anew))

    def _grow(self, n_arms: int) -> None:
        """Makes room for the arms that were added."""
        added = n_arms - len(self.exposures)
        if added <= 0:
            return
        if self.pending is not None:
            self.pending = self.pending.grown(n_arms)
        if self.alarms is not None:
            self.alarms = self.alarms.grown(n_arms)
        self.exposures, self.rewards, self.held_out = (
            np.pad(counts, (0, added)) for counts in (self.exposures, self.rewards, self.held_out)
        )
        self.mean_shares = np.pad(self.mean_shares, (0, added))
        if self.kept is not None:
            self.kept.grow(n_arms)

    def _exposed(self, event: Exposed) -> Iterator[Step]:
        if not event.arms:
            return
        arms = np.frombuffer(event.arms, np.uint16)
        warming = self._warming
        if self.kept is not None:
            yield from self._keep(self.kept, event)
        self.exposures += np.bincount(arms, minlength=len(self.exposures))
        if self.features is not None:
            self._average(event)
            self._count_far(self._features(np.frombuffer(event.x, "<f4").reshape(len(arms), -1)))
        held_out = event.held_out_rows()
        if held_out is not None:
            self.held_out += np.bincount(arms[held_out], minlength=len(self.held_out))
        times_ms = event.time_ms + np.frombuffer(event.ages_ms, np.uint32).astype(np.int64)
        unlearned = times_ms < self.waits_since_ms
        if held_out is not None:
            unlearned |= held_out
        if self.joined is not None and self.joined.all_wait:
            x = self._features(np.frombuffer(event.x, "<f4").reshape(len(arms), -1))
            for start in range(0, len(arms), PIECE_ROWS):
                some = slice(start, start + PIECE_ROWS)
                self.joined.exposed(
                    event.incarnation,
                    event.first + start,
                    arms[some],
                    times_ms[some],
                    x[some],
                    unlearned[some],
                    last=start + PIECE_ROWS >= len(arms),
                )
                yield None
        if self.traded is not None:
            self.traded.exposed(event.incarnation, event.first, arms, times_ms, held_out)
        if self.pending is not None:
            self.pending.exposed(event.incarnation, event.first, arms, times_ms)
            if unlearned.any():
                self.pending.take_back(arms[unlearned], times_ms[unlearned])
            self.evidence += 1
        elif warming:
            self.evidence += 1

    def _keep(self, kept: KeptArms, event: Exposed) -> Iterator[Step]:
        """Keeps the arms of units that are met for the first time, or whose arm was removed."""
        columns = self._shape.columns(event)
        statuses = self.record.arm_statuses.values()
        removed = np.array([status == "removed" for status in statuses], np.uint8)
        for low in range(0, len(columns.arms), KEPT_PIECE_ROWS):
            kept.meet(
                columns.units,
                columns.arms,
                columns.vectors,
                columns.runs,
                removed,
                low,
                low + KEPT_PIECE_ROWS,
            )
            yield None

    def _none_far(self) -> dict[str, int]:
        return {} if self.features is None else dict.fromkeys(self.features.numeric[0], 0)

    def _count_far(self, x: NDArray[np.float32]) -> None:
        """Counts clipped values in x, float32 (n, d). Before the policy knows limits, the declared ones count."""
        if self.features is None or not self.far or not isinstance(self.policy, ContextualPolicy):
            return
        places, declared = self.features.numeric
        columns = list(places.values())
        centre, spread = np.zeros(len(columns)), np.where(declared, 1.0, np.inf)
        if self.policy.limits is not None:
            centre, spread = (of_all[columns] for of_all in self.policy.limits)
        values = x[:, columns]
        beyond = (np.abs(values - centre) > MAX_SPREADS * spread) & (values != 0.0)
        for name, count in zip(places, np.count_nonzero(beyond, axis=0).tolist(), strict=True):
            self.far[name] += count

    def _average(self, event: Exposed) -> None:
        """Moves `mean_shares` towards the vectors that these decisions were drawn from."""
        runs = np.frombuffer(event.runs, np.uint32)
        n = int(runs.sum())
        if n:
            vectors = np.frombuffer(event.vectors, np.float64).reshape(len(runs), -1)
            mean = np.zeros_like(self.mean_shares)
            mean[: vectors.shape[1]] = (runs[:, None] * vectors).sum(axis=0) / n
            self.mean_shares = self.mean_shares + min(1.0, n / AVERAGED) * (mean - self.mean_shares)

    @property
    def _warming(self) -> bool:
        return self.policy.warmup > 0 and bool((self.decided[self.active] < self.policy.warmup).any())

    def _rewarded(self, offset: Offset, event: Rewarded) -> Iterator[Step]:
        if self.traded is not None and self.traded.rewarded(event.rows, offset.time_ms):
            self.evidence += 1
        since_ms = self.waits_since_ms if self.experiment.missing == "zero" else 0
        arms, values, chances, places = learned(event.rows, self._objective, since_ms, self.rewards)
        if not len(arms):
            return
        rows, x = event.rows, None if event.x is None else self._features(event.x)
        if places is not None:
            rows, x = rows[places], None if x is None else x[places]
        if self.joined is not None and self.joined.all_wait and x is not None:
            for start in range(0, len(rows), PIECE_ROWS):
                some = slice(start, start + PIECE_ROWS)
                self.joined.rewarded(rows[some], x[some], last=start + PIECE_ROWS >= len(rows))
                yield None
            return
        if self.pending is not None:
            self.pending.rewarded(rows, offset.time_ms)
        elif self.alarms is not None:
            self.alarms.rewarded(arms, values, offset.time_ms)
        if isinstance(self.policy, ContextualPolicy):
            assert x is not None
            yield from self._learn(arms, values, x)
        else:
            self.policy.update_many(arms, self._utilities(values), self._learned_chances(chances))
        self.evidence += 1

    def _revised(self, offset: Offset, event: Revised) -> Iterator[Step]:
        """Folds values of decisions that are sums of events.

        A policy without context revises what it has learned; one with context learns them when their windows close.
        """
        if self.traded is not None and self.traded.revised(event.rows, offset.time_ms):
            self.evidence += 1
        mine = event.rows["metric"] == self._objective
        rows = event.rows[mine]
        new, gone = np.isnan(rows["former"]), np.isnan(rows["value"])
        for sign, those in ((1, new), (-1, gone)):
            self.rewards += sign * np.bincount(rows["arm"][those], minlength=len(self.rewards))
        # Where the entry that began a value was left out, its end is not.
        np.maximum(self.rewards, 0, out=self.rewards)
        learned = self._revisable(rows, offset.time_ms)
        rows = rows[learned]
        if not len(rows):
            return
        if isinstance(self.policy, ContextualPolicy):
            assert event.x is not None
            yield from self._hold(rows, self._features(event.x)[mine][learned])
        else:
            self._revise(self.policy, rows, offset.time_ms)
            self.evidence += 1

    def _features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of the contexts, float32 (n, d), of n vectors that the log has."""
        return x if x.shape[1] == self.n_features else np.ascontiguousarray(x[:, : self.n_features])

    def _revisable(self, rows: NDArray[np.void], now_ms: int) -> NDArray[np.bool_]:
        """Mask, bool (n,), of the revisions that are learned from: of values that this policy has learned, or may."""
        if self.experiment.missing == "zero":
            known = rows["time_ms"] >= self.waits_since_ms
        else:
            known = (_since_ms(rows, now_ms) > self.waits_since_ms) | (self.waits_since_ms == 0)
        learned: NDArray[np.bool_] = known & (rows["flags"] & HELD_OUT == 0)
        return learned

    def _hold(self, rows: NDArray[np.void], x: NDArray[np.float32]) -> Iterator[Step]:
        if self.joined is None:
            window_ms = self.experiment.attribution.window_ms
            self.joined = JoinedDecisions(window_ms, self.n_features, all_wait=False)
        for start in range(0, len(rows), PIECE_ROWS):
            some = slice(start, start + PIECE_ROWS)
            self.joined.revised(rows[some], x[some], last=start + PIECE_ROWS >= len(rows))
            yield None

    def _revise(self, policy: ContextFreePolicy, rows: NDArray[np.void], now_ms: int) -> None:
        formers, values = rows["former"], rows["value"]
        if self.pending is not None:
            formers, values = self.pending.revised(rows, now_ms)
        elif self.alarms is not None:
            first = rows["since_ms"] == FIRST
            self.alarms.rewarded(rows["arm"][first].astype(np.intp), values[first], now_ms)
        policy.revise_many(
            rows["arm"],
            self._utilities(formers),
            self._utilities(values),
            self._learned_chances(rows["propensity"]),
            policy.left_since(_since_ms(rows, now_ms)),
        )

    def _learned_chances(self, propensities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of decisions, given that they are outside the holdout.

        A policy that weights by them learns from those decisions only. With the mixture's probabilities it would
        undervalue the arms that it seldom draws itself. The holdout is supposed to have been over the arms that are
        active now; where it was not, the floor bounds the error.
        """
        holdout = self.policy.holdout
        if not self.policy.weighs:
            return propensities
        propensities = np.minimum(propensities, 1.0)
        if not 0.0 < holdout < 1.0:
            return propensities
        chances = (propensities - holdout / np.count_nonzero(self.active)) / (1.0 - holdout)
        least = np.minimum(propensities, max(self.policy.min_share, 1e-3))
        return np.clip(chances, least, 1.0)

    def _utilities(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rewards as the policy takes them: more is better. NaN stays NaN."""
        objective = self.experiment.metrics[self._objective]
        if objective.goal == "maximize":
            return values
        reflected = objective.traits.reflected
        return np.array([reflected(value) for value in values.tolist()])

    @property
    def _zero(self) -> float:
        """Value of a missing reward to the policy."""
        return self.experiment.objective.utility(0.0)

    def shares(
        self,
        eligible: NDArray[np.bool_] | None = None,
        now_ms: int | None = None,
        x: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """Shares, float64 (K,), to draw from: the policy's distribution over `eligible`, by default the active arms.

        now_ms: Unix time, by default that of the last entry. x: the decision's features, float32 (d,), which a
        contextual policy needs.
        """
        mask = self.active if eligible is None else eligible
        time_ms = self.offset.time_ms if now_ms is None else now_ms
        circumstances = self.circumstances(time_ms)
        if isinstance(self.policy, ContextualPolicy):
            assert x is not None
            return self.policy.shares(x, eligible=mask, **circumstances)
        if self.traded is not None:
            assert isinstance(self.policy, Thompson)
            return self.traded.shares(self.policy, mask, self.offset.time_ms, circumstances)
        return self.policy.shares(eligible=mask, **circumstances)

    def shares_apart(self, now_ms: int) -> Callable[[NDArray[np.bool_]], NDArray[np.float64]]:
        """Function from a mask, bool (K,), of eligible arms to their shares, where the policy knows no context.

        It has copies of all that it needs as it is now, so it may run in a thread while further entries are applied.
        now_ms: as in `shares`.
        """
        circumstances = self.circumstances(now_ms)
        copy = policy_from_state(self.policy.state())
        assert isinstance(copy, ContextFreePolicy)
        if self.traded is None:
            return lambda eligible: copy.shares(eligible=eligible, **circumstances)
        assert isinstance(copy, Thompson)
        return self.traded.shares_apart(copy, self.offset.time_ms, circumstances)

    def current_shares(self, now_ms: int) -> NDArray[np.float64]:
        """Shares, float64 (K,), of the requests that the arms get at `now_ms`, Unix time.

        With a contextual policy this is the mean of the latest vectors.
        """
        if not self.record.draws:
            return self.undrawn_shares()
        return self.latest_shares() if self.policy.contextual else self.shares(now_ms=now_ms)

    def undrawn_shares(self) -> NDArray[np.float64]:
        """Shares, float64 (K,), while nothing is drawn: 1 for the arm that everyone gets, 0 for the others."""
        shares = np.zeros(len(self.exposures))
        shares[self.record.fallback] = 1.0
        return shares

    def latest_shares(self) -> NDArray[np.float64]:
        """Shares, float64 (K,): `mean_shares`, renormalized over the arms that are active now."""
        shares: NDArray[np.float64] = np.where(self.active, self.mean_shares, 0.0)
        if not shares.any():
            shares = self.active.astype(np.float64)
        return shares / float(shares.sum())

    def circumstances(self, now_ms: int) -> dict[str, Any]:
        """Arguments of the policy's `shares` besides the eligible arms.

        They are the open decisions, the ramps at `now_ms` (Unix time) and, with a warm-up, the decisions for each arm.
        """
        arguments: dict[str, Any] = {}
        if self.pending is not None:
            arguments = {"pending": self.pending.weights(self.offset.time_ms), "pending_value": self._zero}
        if any(standing.is_capped for standing in self.record.standings):
            arms = range(len(self.exposures))
            arguments["ramps"] = np.array([self.record.standing(k).cap(now_ms) for k in arms])
        if self.policy.warmup:
            arguments["decided"] = self.decided
        return arguments

    def means(self) -> NDArray[np.float64]:
        """Estimates, float64 (K,), of each arm's mean reward, in the objective's own values; NaN where unknown.

        They include missing rewards that count as zero; open decisions count by the policy's `pending`.
        """
        pending = np.zeros(len(self.exposures))
        if self.pending is not None:
            pending = self.pending.weights(self.offset.time_ms)
        counts, means = self.policy.counts, np.nan_to_num(self.policy.means)
        with np.errstate(invalid="ignore"):
            utilities = means + (self._zero - means) * (pending / (counts + pending))
        # Between the two, whatever rounding makes of the step.
        utilities = np.clip(utilities, np.minimum(means, self._zero), np.maximum(means, self._zero))
        return np.array([self.experiment.objective.utility(value) for value in utilities.tolist()])

    def traded_means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Means of the P metrics that the policy goes by, the objective's first, and their standard deviations.

        They are float64 (P, K), in the metrics' own values, NaN where nothing was observed; None where the policy goes
        by the objective alone.
        """
        if self.traded is None:
            return None
        assert isinstance(self.policy, Thompson)
        now_ms = self.offset.time_ms
        pending = None if self.pending is None else self.pending.weights(now_ms)
        utilities, deviations = moments_of(LearnedMetric(self.policy, pending, self._zero))
        objective = [self.experiment.objective.utility(value) for value in utilities.tolist()]
        others = self.traded.means(now_ms)
        return np.vstack([objective, others[0]]), np.vstack([deviations, others[1]])

    def state(self) -> bytes:
        """Whole state, in its one encoding."""
        return self.capture()()

    def capture(self) -> Callable[[], bytes]:
        """Captures the state now and returns the function that packs it.

        Packing takes longer, and may run in a thread while further entries are applied.
        """
        if self.midway:
            raise RuntimeError(f"{self.experiment.id} has no state in the middle of an entry")
        state = ExperimentState(
            record=self.record.packed(),
            policy=self.policy.state(),
            pending=None if self.pending is None else self.pending.state(),
            joined=None if self.joined is None else self.joined.state(),
            waits_since_ms=self.waits_since_ms,
            alarms=None if self.alarms is None else self.alarms.state(),
            history=[msgspec.msgpack.encode(entry) for entry in self.history],
            exposures=self.exposures.copy(),
            rewards=self.rewards.copy(),
            held_out=self.held_out.copy(),
            mean_shares=self.mean_shares.copy(),
            far=dict(self.far),
            omitted=self.omitted,
            owner=UNSET if self.owner == self.experiment.id else self.owner,
            kept=UNSET if self.kept is None else self.kept.state(),
            traded=UNSET if self.traded is None else self.traded.state(),
        )
        return lambda: _CODEC.pack(state)

    @classmethod
    def from_state(cls, offset: Offset, state: bytes) -> LiveExperiment:
        """Experiment that had this `state` at `offset`. Raises `UnreadableEntry` for any other bytes."""
        fields = _CODEC.unpack(state)
        with reading("an experiment"):
            return cls._restored(offset, fields)

    @classmethod
    def _restored(cls, offset: Offset, state: ExperimentState) -> LiveExperiment:
        live = cls.__new__(cls)
        live.record = msgspec.msgpack.decode(state.record, type=Record)
        experiment = live.record.experiment
        n_arms, window_ms = len(experiment.arms), experiment.attribution.window_ms
        live.owner = experiment.id if state.owner is UNSET else state.owner
        live.policy = _ready(policy_from_snapshot(state.policy, experiment))
        live.features = context_features(experiment)
        live.n_logged = n_logged(experiment)
        live._shape = Shape(experiment, live.n_logged)
        live._objective = experiment.metrics.index(experiment.objective)
        live.waits_since_ms = state.waits_since_ms
        live.pending = live.joined = None
        if state.pending is not None:
            live.pending = PendingDecisions.from_state(window_ms, n_arms, state.pending)
        if state.joined is not None:
            all_wait = experiment.missing == "zero"
            live.joined = JoinedDecisions.from_state(
                window_ms, live.n_features, state.joined, all_wait=all_wait
            )
        live.alarms = live._watch()
        if live.alarms is not None and state.alarms is not None:
            live.alarms = ChangeAlarms.from_state(state.alarms)
        live.history = [msgspec.msgpack.decode(entry, type=HistoryEntry) for entry in state.history]
        live.exposures = state.exposures.reshape(n_arms)
        live.rewards = state.rewards.reshape(n_arms)
        live.held_out = state.held_out.reshape(n_arms)
        live.mean_shares = state.mean_shares.reshape(n_arms)
        live.far = live._none_far() | state.far
        live.kept = _none_kept(experiment)
        if live.kept is not None and state.kept is not UNSET:
            live.kept = KeptArms.from_state(state.kept, n_arms, *_most_kept(n_arms))
        live.traded = None
        if experiment.trades:
            live.traded = TradedMetrics.from_state(experiment, [] if state.traded is UNSET else state.traded)
        live.omitted = state.omitted
        live.offset = offset
        live.evidence = 0
        live.midway = False
        return live

    @staticmethod
    def omitted_in(state: bytes) -> int:
        """Reads `omitted` from a snapshot, even if the rest is unusable."""
        with reading("an experiment"):
            return int(_CODEC.content(state).get("omitted", 0))

    @staticmethod
    def record_in(state: bytes) -> Record:
        """Reads the record from a snapshot, as far as this build knows its fields, even if the rest is unusable."""
        with reading("an experiment"):
            return decode_known(_CODEC.content(state)["record"], Record)

    def digest(self) -> str:
        return blake2b(self.state(), digest_size=16).hexdigest()


def folding(
    live: LiveExperiment | None, owner: str, entry: Entry, repairs: Repairs
) -> tuple[LiveExperiment, Iterator[Step]]:
    """Fold and the steps that apply one entry to it; `live` is None before the first entry."""
    if live is not None:
        event = event_of(entry, owner, repairs, live.n_logged)
        return live, live.steps(entry.offset, event)
    created = decode(entry.kind, entry.data)
    if not isinstance(created, Changed):
        raise Unfoldable(f"The log of {owner} does not begin with its creation, and no snapshot is there.")
    live = LiveExperiment(created, owner)
    return live, live.steps(entry.offset, created)


def folded(live: LiveExperiment | None, owner: str, entry: Entry, repairs: Repairs) -> LiveExperiment:
    """Does as `folding`, to its end. After any exception `live` may be unusable."""
    live, steps = folding(live, owner, entry, repairs)
    for heavy in steps:
        if heavy is not None:
            heavy.do()
    return live


def _none_kept(experiment: Experiment) -> KeptArms | None:
    n_arms = len(experiment.arms)
    return KeptArms(n_arms, *_most_kept(n_arms)) if experiment.keeps_assigned else None


def _most_kept(n_arms: int) -> tuple[int, int]:
    """Numbers of units, and of share vectors, that are kept."""
    return MAX_KEPT_UNITS, MAX_KEPT_VECTOR_BYTES // (8 * n_arms)


def _since_ms(rows: NDArray[np.void], now_ms: int) -> NDArray[np.int64]:
    """Log times, int64 (n,), at which the decisions of revisions first had a value."""
    since_ms = rows["since_ms"]
    return np.where(since_ms == FIRST, now_ms, since_ms)


def _patient(policy: AnyPolicy) -> AnyPolicy:
    """Makes the policy leave factors and draws to the fold and the refresh, so that no request computes them."""
    if isinstance(policy, ContextualPolicy):
        policy.patient = True
    return policy


def _freshened(policy: AnyPolicy) -> Iterator[Step]:
    """Computes the inverses that are due, in steps."""
    if isinstance(policy, ContextualPolicy):
        while policy.stale_models:
            if policy.order < HEAVY_ORDER:
                policy.freshen_one()
                yield None
            else:
                heavy = HeavyWork[object](policy.freshen_one)
                yield heavy
                assert heavy.result is None


def _drawn(policy: AnyPolicy) -> Iterator[Step]:
    """Draws for the first time, in steps. Later the refresh draws, and requests use those draws."""
    if isinstance(policy, ContextualPolicy) and not policy.drawn:
        heavy = HeavyWork[object](policy.redraw)
        yield heavy
        assert heavy.result is None


def _succeeded(successor: AnyPolicy, former: AnyPolicy) -> AnyPolicy:
    """Gives `successor` what `former` has learned, in steps."""
    successor.take_over(former)
    return _ready(successor)


def _ready(policy: AnyPolicy) -> AnyPolicy:
    """Makes the policy ready for requests: all inverses and draws that they need are computed."""
    for steps in (_freshened(_patient(policy)), _drawn(policy)):
        for heavy in steps:
            if heavy is not None:
                heavy.do()
    return policy


def _watched(experiment: Experiment) -> tuple[float, float] | None:
    """Bounds of the values that are watched for changes; None where the values have no bounds."""
    if experiment.missing == "zero":
        return 0.0, 1.0
    traits = experiment.objective.traits
    return None if traits.unbounded else (traits.floor, traits.ceiling)
