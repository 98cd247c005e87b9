"""One experiment in a worker's memory: the policy fold of its log, and nothing that the log does not say."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgpack
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.events import Changed, Event, Exposed, Rewarded
from bandit_serve.experiment import Experiment, Record
from bandit_serve.pending import PendingDecisions
from bandit_serve.policies import Policy
from bandit_serve.policies.serving import carried_over, from_experiment, policy_from_state
from bandit_serve.store.offset import START, Offset

MAX_HISTORY = 10_000


class HistoryEntry(Struct, frozen=True):
    """One change: when it was made (the store's clock), by whom, and the policy's kind from then on."""

    revision: int
    at_ms: int
    what: str
    who: str
    reason: str | None
    status: str
    policy: str


class LiveExperiment:
    """`apply` folds one entry; `state` is everything, and two workers at one `offset` have the same, bit for bit.

    It comes to be with its first `Changed` event.
    """

    def __init__(self, first: Changed) -> None:
        experiment = first.record.experiment
        self.record: Record = first.record
        self.policy: Policy = from_experiment(experiment)
        self.pending: PendingDecisions | None = (
            PendingDecisions(experiment.attribution.window_ms, len(experiment.arms))
            if experiment.missing == "zero"
            else None
        )
        self.history: list[HistoryEntry] = []
        self.offset: Offset = START
        self.exposures: NDArray[np.int64] = np.zeros(len(experiment.arms), np.int64)
        self.rewards: NDArray[np.int64] = np.zeros(len(experiment.arms), np.int64)
        self.evidence = 0

    @property
    def experiment(self) -> Experiment:
        return self.record.experiment

    def apply(self, offset: Offset, event: Event) -> None:
        """Folds the log's entry at `offset`. `evidence` counts the entries that may have moved the shares."""
        if self.policy.advance(offset.time_ms):
            self.evidence += 1
        if self.pending is not None:
            zeros = self.pending.close(offset.time_ms)
            if zeros is not None:
                self.policy.update_counts(zeros, self._zero)
                self.evidence += 1
        match event:
            case Rewarded():
                self._rewarded(offset, event)
            case Exposed():
                self._exposed(event)
            case Changed():
                self._changed(offset, event)
        self.offset = offset

    def _changed(self, offset: Offset, event: Changed) -> None:
        record, change = event.record, event.change
        if record.experiment.policy != self.experiment.policy:
            self.policy = carried_over(self.policy, record.experiment)
        self.record = record
        self.history.append(
            HistoryEntry(
                revision=record.revision,
                at_ms=offset.time_ms,
                what=change.what,
                who=change.who,
                reason=change.reason,
                status=record.status,
                policy=record.experiment.policy.kind,
            )
        )
        del self.history[:-MAX_HISTORY]
        self.evidence += 1

    def _exposed(self, event: Exposed) -> None:
        arms = np.frombuffer(event.arms, np.uint16)
        self.exposures += np.bincount(arms, minlength=len(self.exposures))
        if self.pending is not None:
            times_ms = event.time_ms + np.frombuffer(event.ages_ms, np.uint32).astype(np.int64)
            self.pending.exposed(event.incarnation, event.first, arms, times_ms)
            self.evidence += 1

    def _rewarded(self, offset: Offset, event: Rewarded) -> None:
        objective = self.experiment.objective
        rows = event.rows[event.rows["metric"] == self.experiment.metrics.index(objective)]
        if not len(rows):
            return
        arms = rows["arm"].astype(np.intp)
        values = np.ascontiguousarray(rows["value"])
        if objective.goal == "minimize":
            values = np.array([objective.utility(value) for value in values.tolist()])
        self.policy.update_many(arms, values, rows["propensity"])
        self.rewards += np.bincount(arms, minlength=len(self.rewards))
        if self.pending is not None:
            self.pending.rewarded(rows, offset.time_ms)
        self.evidence += 1

    @property
    def _zero(self) -> float:
        """What a missing reward is to the policy."""
        return self.experiment.objective.utility(0.0)

    def shares(self, eligible: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """f64[K]: the vector to draw from now; the policy's own distribution over the `eligible` arms."""
        return self.policy.shares(eligible=eligible, **self.pending_arguments())

    def pending_arguments(self) -> dict[str, Any]:
        """What the policy's `shares` is to be told about decisions whose window is open."""
        if self.pending is None:
            return {}
        return {"pending": self.pending.weights(self.offset.time_ms), "pending_value": self._zero}

    def state(self) -> bytes:
        """Everything, in one spelling."""
        return _pack(
            {
                "record": msgspec.msgpack.encode(self.record),
                "policy": self.policy.state(),
                "pending": None if self.pending is None else self.pending.state(),
                "history": [msgspec.msgpack.encode(entry) for entry in self.history],
                "exposures": self.exposures,
                "rewards": self.rewards,
            }
        )

    @classmethod
    def from_state(cls, offset: Offset, state: bytes) -> LiveExperiment:
        fields = _unpack(state)
        live = cls.__new__(cls)
        live.record = msgspec.msgpack.decode(fields["record"], type=Record)
        live.policy = policy_from_state(fields["policy"])
        experiment = live.record.experiment
        live.pending = None
        if fields["pending"] is not None:
            live.pending = PendingDecisions.from_state(
                experiment.attribution.window_ms, len(experiment.arms), fields["pending"]
            )
        live.history = [msgspec.msgpack.decode(entry, type=HistoryEntry) for entry in fields["history"]]
        live.exposures = fields["exposures"]
        live.rewards = fields["rewards"]
        live.offset = offset
        live.evidence = 0
        return live

    def digest(self) -> str:
        return blake2b(self.state(), digest_size=16).hexdigest()


_ARRAY = 1


def _pack(fields: dict[str, Any]) -> bytes:
    def array(value: Any) -> msgpack.ExtType:
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise TypeError(
                f"a snapshot holds numbers, texts and arrays of numbers, not {type(value).__name__}"
            )
        header = msgpack.packb([value.dtype.str, list(value.shape)])
        return msgpack.ExtType(_ARRAY, header + np.ascontiguousarray(value).tobytes())

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
