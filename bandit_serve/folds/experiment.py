"""One experiment in a worker's memory: the policy fold of its log, and nothing that the log does not say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from typing import Any

import msgpack
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.base.lenient import decode_known
from bandit_serve.base.turns import Heavy, Step
from bandit_serve.errors import Unfoldable, UnreadableEntry
from bandit_serve.experiments.spec import Experiment, Record
from bandit_serve.folds.alarms import ChangeAlarms
from bandit_serve.folds.attribution.joined import JoinedDecisions
from bandit_serve.folds.attribution.pending import PendingDecisions
from bandit_serve.log._rewards import learned
from bandit_serve.log.events import Changed, Event, Exposed, Rewarded, Shape, decode, is_another_draft
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import generation_of
from bandit_serve.log.repairs import Omission, Repairs
from bandit_serve.log.states import known_only
from bandit_serve.policies import POLICIES, ContextualPolicy, Policy
from bandit_serve.policies._feature_limits import MAX_SPREADS
from bandit_serve.policies.serving import features_of, from_experiment, policy_from_snapshot
from bandit_serve.store.store import Entry

MAX_HISTORY = 10_000
# About how many decisions `mean_shares` is the mean of.
AVERAGED = 1_000
# What is folded in one piece: rows that wait for their rewards, and about how many numbers of models are moved.
PIECE_ROWS = 500
PIECE_NUMBERS = 2**16
# The inverse of a model with so many coefficients takes a millisecond or more.
HEAVY_ORDER = 128


class HistoryEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One change: when it was made (the log's time), by whom, to which arm if it was to one, and the policy's kind
    from then on.
    """

    revision: int
    at_ms: int
    what: str
    who: str
    reason: str | None
    status: str
    policy: str
    arm: str | None = None


class LiveExperiment:
    """`apply` folds one entry; `state` is everything, and two workers at one `offset` have the same, bit for bit.

    `steps` folds one entry, too, to the same bits, and lets others have their turn between its pieces. In between,
    `midway`, there is no state; shares may be asked for.

    It comes to be with its first `Changed` event, in the log of `owner`. An arm keeps its index for ever, once it is no
    draft: `exposures`, `rewards` and `held_out` (those of the exposures that are of the holdout), i8[K], grow with the
    arms. `mean_shares`, f8[K], is the mean of the vectors that the latest decisions were drawn from, kept where there
    is context. `far` counts, by numeric field of the context, decisions with a value so far outside that the policy did
    not take it as it was. `omitted` counts the omissions that it has met (`repairs.py`).
    """

    def __init__(self, first: Changed, owner: str | None = None) -> None:
        self.record: Record = first.whole(None).record
        experiment = self.record.experiment
        self.owner = owner or experiment.id
        self.policy: Policy | ContextualPolicy = _patient(from_experiment(experiment))
        self.features = features_of(experiment)
        self._shape = Shape(experiment, self.n_features)
        self._objective = experiment.metrics.index(experiment.objective)
        # Of decisions before it, Unix time, nothing more is learned where they would have to wait for their rewards.
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
        self.omitted = 0
        self.evidence = 0
        self.midway = False

    @property
    def experiment(self) -> Experiment:
        return self.record.experiment

    @property
    def etag(self) -> int:
        """The revision, and above its 32 bits how many of the name there were before: no two states have the same."""
        return self.record.revision + ((generation_of(self.owner) - 1) << 32)

    @property
    def n_features(self) -> int:
        """d of the vectors x that go with its decisions; 0 without context."""
        return 0 if self.features is None else self.features.n_features

    @property
    def active(self) -> NDArray[np.bool_]:
        """bool (K,): the arms that are neither paused nor removed."""
        return np.array([status == "active" for status in self.record.arm_statuses.values()])

    @property
    def decided(self) -> NDArray[np.int64]:
        """i8[K]: the decisions in the log that are the policy's own, not the holdout's."""
        return self.exposures - self.held_out

    def _wait(self) -> None:
        """Where decisions wait for their rewards, if one that does not come is zero: as counts, or with features."""
        experiment = self.experiment
        zero, window_ms = experiment.missing == "zero", experiment.attribution.window_ms
        self.pending: PendingDecisions | None = None
        self.joined: JoinedDecisions | None = None
        if zero and isinstance(self.policy, ContextualPolicy):
            self.joined = JoinedDecisions(window_ms, self.policy.n_features)
        elif zero:
            self.pending = PendingDecisions(window_ms, len(experiment.arms))

    def _watch(self) -> ChangeAlarms | None:
        """What watches the arms' means; None with a contextual policy, which changes them itself."""
        experiment = self.experiment
        if self.policy.contextual:
            return None
        return ChangeAlarms(len(experiment.arms), _watched(experiment))

    def next_close_ms(self) -> int | None:
        """From when on a tick would close a decision's window."""
        waiting = self.pending if self.joined is None else self.joined
        return None if waiting is None else waiting.next_close_ms()

    def apply(self, offset: Offset, event: Event) -> None:
        """Folds the log's entry at `offset`. `evidence` counts the entries that may have moved the shares.

        `UnreadableEntry`, or `InvalidInput` for a policy that can not be made, and nothing has changed, when an entry
        does not fit the experiment.
        """
        for heavy in self.steps(offset, event):
            if heavy is not None:
                heavy.do()

    def steps(self, offset: Offset, event: Event) -> Iterator[Step]:
        """`apply` in pieces, to be run to its end. A piece that takes long is given out, to be done by the caller."""
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
        yield from self._close(offset.time_ms)
        match event:
            case Rewarded():
                yield from self._rewarded(offset, event)
            case Exposed():
                yield from self._exposed(event)
            case Changed():
                yield from self._changed(offset, event, successor)
        yield from _freshened(self.policy)
        yield from _drawn(self.policy)
        self.offset = offset
        self.midway = False

    def leave_out(self, offset: Offset, omission: Omission, met: int) -> None:
        """Passes over the entry at `offset`; `met` is how many omissions the fold has met with it."""
        if met > self.omitted:
            self.omitted = met
            policy, record = self.experiment.policy.kind, self.record
            who, reason = omission.who, omission.reason
            self.history.append(
                HistoryEntry(record.revision, omission.at_ms, "leave_out", who, reason, record.status, policy)
            )
            del self.history[:-MAX_HISTORY]
        self.offset = offset
        self.evidence += 1

    def _successor(self, record: Record) -> Policy | ContextualPolicy | None:
        """The policy of a changed record, which knows nothing yet; None where it is the one that there is."""
        added = len(record.experiment.arms) - len(self.exposures)
        if added < 0:
            raise UnreadableEntry("The log holds a change that takes arms away; they can only be removed.")
        changed = added > 0 or record.experiment.policy != self.experiment.policy
        return from_experiment(record.experiment) if changed else None

    def _close(self, now_ms: int) -> Iterator[Step]:
        """Learns from the decisions whose windows have closed."""
        if self.joined is not None:
            for learned in self.joined.close(now_ms, PIECE_ROWS):
                values = np.where(np.isnan(learned.values), 0.0, learned.values)
                yield from self._learn(learned.arms, values, learned.x)
                self.evidence += 1
        elif self.pending is not None and isinstance(self.policy, Policy):
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
        """A contextual policy learns from rows with features, a few at once: row by row is the same to it."""
        assert isinstance(self.policy, ContextualPolicy)
        few = max(1, PIECE_NUMBERS // self.policy.order**2)
        for start in range(0, len(arms), few):
            some = slice(start, start + few)
            self.policy.update_many(arms[some], self._utilities(values[some]), x[some])
            yield None
            # Here rather than by the next row, which would do it in one piece with its own.
            yield from _freshened(self.policy)

    def _changed(
        self, offset: Offset, event: Changed, successor: Policy | ContextualPolicy | None
    ) -> Iterator[Step]:
        record, change = event.record, event.change
        if successor is not None:
            succession = Heavy[Any](partial(_succeeded, successor, self.policy))
            yield succession
            self.policy = succession.result
        self._grow(len(record.experiment.arms))
        former = self.experiment.policy
        self.record = record
        self._shape = Shape(record.experiment, self.n_features)
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
            )
        )
        del self.history[:-MAX_HISTORY]
        self.evidence += 1

    def _put(self, offset: Offset, event: Changed) -> Iterator[Step]:
        """Begins anew with the other draft; nothing was decided or learned, so only the history goes on."""
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

    def _exposed(self, event: Exposed) -> Iterator[Step]:
        if not event.arms:
            return
        arms = np.frombuffer(event.arms, np.uint16)
        warming = self._warming
        self.exposures += np.bincount(arms, minlength=len(self.exposures))
        if self.features is not None:
            self._average(event)
            self._count_far(np.frombuffer(event.x, "<f4").reshape(len(arms), self.n_features))
        held_out = event.held_out_rows()
        if held_out is not None:
            self.held_out += np.bincount(arms[held_out], minlength=len(self.held_out))
        times_ms = event.time_ms + np.frombuffer(event.ages_ms, np.uint32).astype(np.int64)
        unlearned = times_ms < self.waits_since_ms
        if held_out is not None:
            unlearned |= held_out
        if self.joined is not None:
            x = np.frombuffer(event.x, "<f4").reshape(len(arms), self.n_features)
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
        if self.pending is not None:
            self.pending.exposed(event.incarnation, event.first, arms, times_ms)
            if unlearned.any():
                self.pending.take_back(arms[unlearned], times_ms[unlearned])
            self.evidence += 1
        elif warming:
            self.evidence += 1

    def _none_far(self) -> dict[str, int]:
        return {} if self.features is None else dict.fromkeys(self.features.numeric[0], 0)

    def _count_far(self, x: NDArray[np.float32]) -> None:
        """Decisions with features x, f4[n, d]. Before the policy knows limits, those that were declared count."""
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
        since_ms = self.waits_since_ms if self.experiment.missing == "zero" else 0
        arms, values, chances, places = learned(event.rows, self._objective, since_ms, self.rewards)
        if not len(arms):
            return
        rows, x = event.rows, event.x
        if places is not None:
            rows, x = rows[places], None if x is None else x[places]
        if self.joined is not None and x is not None:
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

    def _learned_chances(self, propensities: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities of decisions outside the holdout, given that they are: a policy that weighs learns only
        from those, and by the mixture would undervalue the arms that it seldom draws itself.

        The holdout is taken to have been of the arms that are active now. Where it was not, what the floor leaves
        bounds the error.
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
        """Rewards as the policy sees them: more is better."""
        objective = self.experiment.metrics[self._objective]
        if objective.goal == "maximize":
            return values
        return np.array([objective.utility(value) for value in values.tolist()])

    @property
    def _zero(self) -> float:
        """What a missing reward is to the policy."""
        return self.experiment.objective.utility(0.0)

    def shares(
        self,
        eligible: NDArray[np.bool_] | None = None,
        now_ms: int | None = None,
        x: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """f64[K]: the vector to draw from; the policy's own distribution over the `eligible` arms, by default the
        active ones, at `now_ms` (Unix time), by default that of the last entry. A contextual policy needs the
        decision's features x, f4[d].
        """
        mask = self.active if eligible is None else eligible
        time_ms = self.offset.time_ms if now_ms is None else now_ms
        told = self.circumstances(time_ms)
        if isinstance(self.policy, ContextualPolicy):
            assert x is not None
            return self.policy.shares(x, eligible=mask, **told)
        return self.policy.shares(eligible=mask, **told)

    def current_shares(self, now_ms: int) -> NDArray[np.float64]:
        """f64[K]: what share of the requests each arm gets at `now_ms`, Unix time.

        That is the vector to draw from; with a contextual policy, the mean of the latest ones.
        """
        if not self.record.draws:
            return self.undrawn_shares()
        return self.latest_shares() if self.policy.contextual else self.shares(now_ms=now_ms)

    def undrawn_shares(self) -> NDArray[np.float64]:
        """f64[K]: 1 for the arm that everyone gets while none is drawn, 0 for the others."""
        shares = np.zeros(len(self.exposures))
        shares[self.record.fallback] = 1.0
        return shares

    def latest_shares(self) -> NDArray[np.float64]:
        """f64[K]: `mean_shares` as they are among the arms that are active now."""
        shares: NDArray[np.float64] = np.where(self.active, self.mean_shares, 0.0)
        if not shares.any():
            shares = self.active.astype(np.float64)
        return shares / float(shares.sum())

    def circumstances(self, now_ms: int) -> dict[str, Any]:
        """What the policy's `shares` is to be told beside the eligible arms: decisions whose window is open, ramps
        at `now_ms` (Unix time), and with a warm-up how often each arm was decided for.
        """
        told: dict[str, Any] = {}
        if self.pending is not None:
            told = {"pending": self.pending.weights(self.offset.time_ms), "pending_value": self._zero}
        if any(standing.ramp is not None for standing in self.record.standings):
            arms = range(len(self.exposures))
            told["ramps"] = np.array([self.record.standing(k).cap(now_ms) for k in arms])
        if self.policy.warmup:
            told["decided"] = self.decided
        return told

    def means(self) -> NDArray[np.float64]:
        """f64[K]: what is now known of each arm's mean reward, in the objective's own values; NaN where nothing is.

        Missing rewards that count as zero are in it, those of open decisions by the policy's `pending`.
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

    def state(self) -> bytes:
        """Everything, in one spelling."""
        return self.capture()()

    def capture(self) -> Callable[[], bytes]:
        """What packs the state as it is now; that takes longer, and may be in a thread while entries are applied."""
        if self.midway:
            raise RuntimeError(f"{self.experiment.id} has no state in the middle of an entry")
        fields: dict[str, Any] = {
            "record": msgspec.msgpack.encode(self.record),
            "policy": self.policy.state(),
            "pending": None if self.pending is None else self.pending.state(),
            "joined": None if self.joined is None else self.joined.state(),
            "waits_since_ms": self.waits_since_ms,
            "alarms": None if self.alarms is None else self.alarms.state(),
            "history": [msgspec.msgpack.encode(entry) for entry in self.history],
            "exposures": self.exposures.copy(),
            "rewards": self.rewards.copy(),
            "held_out": self.held_out.copy(),
            "mean_shares": self.mean_shares.copy(),
            "far": dict(self.far),
            "omitted": self.omitted,
        }
        if self.owner != self.experiment.id:
            fields["owner"] = self.owner
        return lambda: _pack(fields)

    @classmethod
    def from_state(cls, offset: Offset, state: bytes) -> LiveExperiment:
        fields = _unpack(state)
        known_only(fields, _STATE, "an experiment")
        live = cls.__new__(cls)
        live.record = msgspec.msgpack.decode(fields["record"], type=Record)
        experiment = live.record.experiment
        live.owner = fields.get("owner", experiment.id)
        live.policy = _ready(policy_from_snapshot(fields["policy"], experiment))
        live.features = features_of(experiment)
        live._shape = Shape(experiment, live.n_features)
        live._objective = experiment.metrics.index(experiment.objective)
        live.waits_since_ms = fields["waits_since_ms"]
        live.pending = live.joined = None
        window_ms = experiment.attribution.window_ms
        if fields["pending"] is not None:
            live.pending = PendingDecisions.from_state(window_ms, len(experiment.arms), fields["pending"])
        if fields["joined"] is not None:
            live.joined = JoinedDecisions.from_state(window_ms, live.n_features, fields["joined"])
        live.alarms = live._watch()
        if live.alarms is not None and fields["alarms"] is not None:
            live.alarms = ChangeAlarms.from_state(fields["alarms"])
        live.history = [msgspec.msgpack.decode(entry, type=HistoryEntry) for entry in fields["history"]]
        live.exposures = fields["exposures"]
        live.rewards = fields["rewards"]
        live.held_out = fields["held_out"]
        live.mean_shares = fields["mean_shares"]
        live.far = live._none_far() | fields.get("far", {})
        live.omitted = fields.get("omitted", 0)
        live.offset = offset
        live.evidence = 0
        live.midway = False
        return live

    @staticmethod
    def omitted_in(state: bytes) -> int:
        """`omitted` in a snapshot."""
        return int(_unpack(state).get("omitted", 0))

    @staticmethod
    def record_in(state: bytes) -> Record:
        """The record in a snapshot, as far as this build knows its fields, also where the rest can not be used."""
        return decode_known(_unpack(state)["record"], Record)

    def digest(self) -> str:
        return blake2b(self.state(), digest_size=16).hexdigest()


def folding(
    live: LiveExperiment | None, owner: str, entry: Entry, repairs: Repairs
) -> tuple[LiveExperiment, Iterator[Step]]:
    """The fold of a log and the steps that take it one entry further; `live` is None before the first entry."""
    omission = repairs.omission(owner, entry.offset)
    if omission is not None and live is not None:
        live.leave_out(entry.offset, omission, repairs.omitted_before(owner, entry.offset))
        return live, iter(())
    event = decode(entry.kind, entry.data, 0 if live is None else live.n_features)
    if live is None:
        if not isinstance(event, Changed):
            raise Unfoldable(
                f"The log of {owner} does not begin with its creation, and no snapshot is there."
            )
        live = LiveExperiment(event, owner)
    return live, live.steps(entry.offset, event)


def folded(live: LiveExperiment | None, owner: str, entry: Entry, repairs: Repairs) -> LiveExperiment:
    """`folding` to its end. Whatever is raised, `live` may be spoilt."""
    live, steps = folding(live, owner, entry, repairs)
    for heavy in steps:
        if heavy is not None:
            heavy.do()
    return live


def _patient(policy: Policy | ContextualPolicy) -> Policy | ContextualPolicy:
    """The policy, so that no request makes factors or draws anew: the fold does, in pieces, and the refresh."""
    if isinstance(policy, ContextualPolicy):
        policy.patient = True
    return policy


def _freshened(policy: Policy | ContextualPolicy) -> Iterator[Step]:
    """Makes anew what inverses are due."""
    if isinstance(policy, ContextualPolicy):
        while policy.stale_models:
            if policy.order < HEAVY_ORDER:
                policy.freshen_one()
                yield None
            else:
                heavy = Heavy[object](policy.freshen_one)
                yield heavy
                assert heavy.result is None


def _drawn(policy: Policy | ContextualPolicy) -> Iterator[Step]:
    """Draws for the first time; later the refresh does, and requests go by the draws that are there."""
    if isinstance(policy, ContextualPolicy) and not policy.drawn:
        heavy = Heavy[object](policy.redraw)
        yield heavy
        assert heavy.result is None


def _succeeded(
    successor: Policy | ContextualPolicy, former: Policy | ContextualPolicy
) -> Policy | ContextualPolicy:
    """`successor` with what `former` has learned."""
    successor.take_over(former)
    return _ready(successor)


def _ready(policy: Policy | ContextualPolicy) -> Policy | ContextualPolicy:
    """The policy with all that requests go by."""
    for steps in (_freshened(_patient(policy)), _drawn(policy)):
        for heavy in steps:
            if heavy is not None:
                heavy.do()
    return policy


def _watched(experiment: Experiment) -> tuple[float, float] | None:
    """Between which values lies what is watched for changes, if there are bounds."""
    objective = experiment.objective
    if experiment.missing == "zero" or objective.kind == "binary":
        return 0.0, 1.0
    return (objective.floor, objective.ceiling) if objective.kind == "bounded" else None


_STATE = frozenset(
    {"record", "policy", "pending", "joined", "waits_since_ms", "alarms", "history"}
    | {"exposures", "rewards", "held_out", "mean_shares", "far", "omitted", "owner"}
)
_ARRAY = 1


def _pack(fields: dict[str, Any]) -> bytes:
    def array(value: Any) -> msgpack.ExtType:
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise TypeError(
                f"a snapshot holds numbers, texts and arrays of numbers, not {type(value).__name__}"
            )
        header = msgpack.packb([value.dtype.str, list(value.shape)])
        return msgpack.ExtType(_ARRAY, b"".join((header, np.ascontiguousarray(value).data)))

    packed: bytes = msgpack.packb(fields, default=array)
    return packed


def _unpack(state: bytes) -> dict[str, Any]:
    def array(code: int, data: bytes) -> NDArray[Any]:
        if code != _ARRAY:
            raise ValueError(f"a snapshot holds an extension that this build does not know: {code}")
        unpacker = msgpack.Unpacker()
        unpacker.feed(data)
        dtype, shape = unpacker.unpack()
        return np.frombuffer(data, np.dtype(dtype), offset=unpacker.tell()).reshape(shape).copy()

    fields: dict[str, Any] = msgpack.unpackb(state, ext_hook=array, strict_map_key=False)
    return fields
