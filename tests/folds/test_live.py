"""Policy fold: live, replayed, and snapshot-plus-tail states are equal, bit for bit."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from builders import created, experiment, exposed, record, revisions, rewards

from bandit_serve.errors import InvalidInput, UnreadableEntry
from bandit_serve.experiments.checks import with_arm, with_policy
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Experiment, Ramp, Standing
from bandit_serve.folds import experiment as module
from bandit_serve.folds.experiment import MAX_HISTORY, PIECE_NUMBERS, PIECE_ROWS, LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.events import (
    FIRST,
    HELD_OUT,
    Census,
    Change,
    Changed,
    Event,
    Exposed,
    Revised,
    Rewarded,
    Tick,
)
from bandit_serve.log.offset import Offset

WINDOW_MS = 2_000
BOUNDED = {"name": "m", "kind": "bounded", "low": -1.0, "high": 2.0}
CONTINUOUS = {"name": "m", "kind": "continuous"}
BINARY = {"name": "m", "kind": "binary"}
COUNT = {"name": "m", "kind": "count"}

Log = list[tuple[Offset, Event]]


def metrics(objective: dict[str, Any], goal: str) -> list[dict[str, Any]]:
    return [{"name": "other", "kind": "continuous", "role": "secondary"}, {**objective, "goal": goal}]


def value_of(kind: str, generator: np.random.Generator) -> float:
    match kind:
        case "binary":
            return float(generator.random() < 0.4)
        case "bounded":
            return float(generator.uniform(-1.0, 2.0))
        case "count":
            return float(generator.poisson(2.0))
    return float(generator.normal(3.0, 2.0))


def written(made: Experiment, seed: int) -> Log:
    """A log with exposures of two workers, rewards of both metrics, ticks, and changes; as decoded from its wire."""
    generator = np.random.default_rng(seed)
    objective = made.metrics.index(made.objective)
    clock_ms, counters = 1_000, [0, 0]
    log: Log = [(Offset(clock_ms, 0), created(made))]
    waiting: list[tuple[int, int, int, int]] = []
    changed = record(made)
    for step in range(1, 120):
        clock_ms += int(generator.integers(1, 200))
        offset = Offset(clock_ms, step % 3)
        what = generator.random()
        if what < 0.35:
            worker, n = int(generator.integers(2)), int(generator.integers(1, 8))
            arms = generator.integers(0, len(made.arms), n).tolist()
            times = sorted(generator.integers(clock_ms - 100, clock_ms + 1, n).tolist())
            waiting += [(worker, counters[worker] + i, arms[i], times[i]) for i in range(n)]
            event: Event = exposed(
                counters[worker], arms, times, n_arms=len(made.arms), incarnation=worker + 1
            )
            counters[worker] += n
        elif what < 0.75 and waiting:
            worker, counter, arm, time_ms = waiting.pop(int(generator.integers(len(waiting))))
            is_objective = bool(generator.random() < 0.8)
            kind = made.objective.kind if is_objective else "continuous"
            event = Rewarded(
                rewards(
                    [counter],
                    values=value_of(kind, generator),
                    times_ms=time_ms,
                    arms=arm,
                    metric=objective if is_objective else 1 - objective,
                    incarnation=worker + 1,
                )
            )
        elif what < 0.95:
            event = Tick()
        else:
            changed = record(made, status="paused" if step % 2 else "running", revision=changed.revision + 1)
            event = Changed(changed, Change("pause", "test", "why"))
        log.append((offset, event))
    return [(offset, on_the_wire(event)) for offset, event in log]


def on_the_wire(event: Event, n_features: int = 0) -> Event:
    match event:
        case Rewarded():
            return events.decode(events.REWARDED, event.rows.tobytes())
        case Exposed():
            return events.decode(events.EXPOSED, events.encode(event), n_features)
        case Changed():
            return events.decode(events.CHANGED, events.encode(event))
    return event


def folded(log: Log, live: LiveExperiment | None = None) -> LiveExperiment:
    if live is None:
        first = log[0][1]
        assert isinstance(first, Changed)
        live = LiveExperiment(first)
    for offset, event in log:
        live.apply(offset, event)
    return live


KINDS = [
    ("thompson", BINARY),
    ("thompson", BOUNDED),
    ("thompson", CONTINUOUS),
    ("ucb1", BINARY),
    ("ucb1", BOUNDED),
    ("fixed_split", BINARY),
    ("fixed_split", COUNT),
    ("fixed_split", CONTINUOUS),
    ("thompson", COUNT),
    ("ucb1", CONTINUOUS),
    ("kl_ucb", BINARY),
    ("epsilon_greedy", COUNT),
    ("softmax", CONTINUOUS),
    ("top_two_thompson", BINARY),
    ("top_two_thompson", COUNT),
    ("exp3", BINARY),
    ("exp3", BOUNDED),
]


def assert_captured_once(live: LiveExperiment, rest: list[tuple[Offset, Any]]) -> None:
    """What was captured is packed as it was, whatever is applied before."""
    state, pack = live.state(), live.capture()
    folded(rest, live)
    assert pack() == state


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize(
    ("policy", "objective"), KINDS, ids=lambda value: str(value if isinstance(value, str) else value["kind"])
)
def test_live_replayed_and_restored_states_are_equal_bit_for_bit(
    policy: str, objective: dict[str, Any], missing: str, goal: str
) -> None:
    made = experiment(
        arms=[{"name": name, "payload": {"n": 1}} for name in "abc"],
        metrics=metrics(objective, goal),
        policy={"kind": policy},
        attribution={"window": f"{WINDOW_MS}ms", "missing": missing},
    )
    log = written(made, seed=11)
    assert {type(event) for _, event in log} == {Changed, Exposed, Rewarded, Tick}
    live = folded(log)
    state, shares = live.state(), live.shares()
    assert live.rewards.sum() > 10
    assert (live.policy.counts >= live.rewards).all()
    assert (live.policy.counts.sum() > live.rewards.sum()) == (missing == "zero"), "some decisions closed"
    assert folded(log).state() == state
    for cut in (1, 17, 60, len(log)):
        half = folded(log[:cut])
        restored = LiveExperiment.from_state(half.offset, half.state())
        assert restored.state() == half.state()
        restored = folded(log[cut:], restored)
        assert restored.state() == state
        assert restored.digest() == live.digest()
        assert restored.shares().tobytes() == shares.tobytes()
        assert restored.offset == live.offset
        assert_captured_once(half, log[cut:])


@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize(
    ("policy", "objective"), KINDS, ids=lambda value: str(value if isinstance(value, str) else value["kind"])
)
def test_states_that_forget_are_equal_bit_for_bit_too(
    policy: str, objective: dict[str, Any], missing: str
) -> None:
    made = experiment(
        arms=[{"name": name} for name in "abc"],
        metrics=metrics(objective, "maximize"),
        policy={"kind": policy, "half_life": "3s"},
        attribution={"window": f"{WINDOW_MS}ms", "missing": missing},
    )
    log = written(made, seed=12)
    assert log[-1][0].time_ms - log[0][0].time_ms > 6_000
    live = folded(log)
    assert 0 < live.policy.counts.sum() < 0.5 * live.policy.observed.sum()
    assert live.policy.clock_ms == log[-1][0].time_ms
    assert folded(log).state() == live.state()
    for cut in (1, 17, 60, len(log)):
        half = folded(log[:cut])
        restored = folded(log[cut:], LiveExperiment.from_state(half.offset, half.state()))
        assert restored.state() == live.state()
        assert restored.shares().tobytes() == live.shares().tobytes()


def test_what_was_learned_fades_by_the_logs_time() -> None:
    made = experiment(policy={"kind": "thompson", "half_life": "10s"})
    live = folded([(Offset(1_000, 0), created(made)), (Offset(1_000, 1), Rewarded(rewards(range(8))))])
    assert live.policy.counts.tolist() == [8, 0]
    seen = live.evidence
    live.apply(Offset(11_000, 0), Tick())
    assert live.policy.counts.tolist() == [4, 0]
    assert live.evidence > seen, "what fades moves the shares"
    live.apply(Offset(21_000, 0), Rewarded(rewards([8])))
    assert live.policy.counts.tolist() == [3, 0], "first the time passes, then the entry counts"
    settings = with_policy(made, PolicySpec(kind="thompson", half_life="20s"))
    live.apply(Offset(31_000, 0), Changed(record(settings, revision=2), Change("policy", "test")))
    assert live.policy.counts.tolist() == [1.5, 0]
    live.apply(Offset(51_000, 0), Tick())
    assert live.policy.counts.tolist() == [0.75, 0]
    assert live.policy.observed.tolist() == [9, 0]


def test_a_missing_reward_is_a_zero_to_the_policy_only_when_its_window_has_closed() -> None:
    made = experiment(attribution={"window": "2s", "missing": "zero"})
    live = folded([(Offset(1, 0), created(made))])
    live.apply(Offset(10, 0), exposed(0, [0, 0, 1], [5, 5, 5]))
    live.apply(Offset(20, 0), Rewarded(rewards([1], times_ms=5)))
    assert live.policy.counts.tolist() == [1, 0]
    live.apply(Offset(2_005, 0), Tick())
    assert live.policy.counts.tolist() == [1, 0]
    live.apply(Offset(2_100, 0), Tick())
    assert live.policy.counts.tolist() == [2, 1]
    assert live.policy.means.tolist() == [0.5, 0.0]


def test_a_missing_reward_of_a_minimized_objective_is_the_best_there_is() -> None:
    made = experiment(
        metrics=[{"name": "bounce", "kind": "binary", "goal": "minimize"}],
        attribution={"window": "2s", "missing": "zero"},
    )
    live = folded([(Offset(1, 0), created(made))])
    live.apply(Offset(10, 0), exposed(0, [0, 1], [5, 5]))
    live.apply(Offset(20, 0), Rewarded(rewards([0], times_ms=5, values=1.0)))
    live.apply(Offset(9_000, 0), Tick())
    assert live.policy.means.tolist() == [0.0, 1.0]


def test_pending_decisions_are_reckoned_with_but_not_counted() -> None:
    """Arm 1 has open decisions as old as its rewards were: they weigh as failures before they close."""
    made = experiment(attribution={"window": "2s", "missing": "zero"})
    live = folded([(Offset(1, 0), created(made))])
    live.apply(Offset(10, 0), exposed(0, [0, 1] * 20, [5] * 40))
    live.apply(Offset(20, 0), Rewarded(rewards(range(40), times_ms=5, arms=[0, 1] * 20)))
    even = live.shares()
    live.apply(Offset(30, 0), exposed(40, [1] * 100, [25] * 100))
    live.apply(Offset(1_500, 0), Tick())
    assert live.policy.counts.tolist() == [20, 20]
    assert live.shares()[1] < even[1] - 0.2


def test_a_change_of_policy_keeps_what_was_counted() -> None:
    made = experiment(policy={"kind": "fixed_split"})
    log: Log = [(Offset(1, 0), created(made))]
    log.append((Offset(2, 0), Rewarded(rewards(range(30), values=[1.0, 0.0] * 15, arms=[0, 1] * 15))))
    live = folded(log)
    assert live.shares().tolist() == [0.5, 0.5]
    thompson = with_policy(made, PolicySpec(kind="thompson"))
    change = Changed(record(thompson, revision=2), Change("policy", "test"))
    live.apply(Offset(3, 0), change)
    assert live.policy.kind == "thompson"
    assert live.policy.counts.tolist() == [15, 15]
    assert live.shares()[0] > 0.9
    assert [(entry.revision, entry.what, entry.policy) for entry in live.history] == [
        (1, "create", "fixed_split"),
        (2, "policy", "thompson"),
    ]
    restored = LiveExperiment.from_state(live.offset, live.state())
    assert restored.state() == live.state()
    assert folded([*log, (Offset(3, 0), change)]).state() == live.state()


def test_a_change_of_policy_carries_over_between_policies_that_weigh_and_that_do_not() -> None:
    made = experiment(policy={"kind": "ucb1"})
    live = folded(
        [(Offset(1, 0), created(made)), (Offset(2, 0), Rewarded(rewards(range(4), arms=[0, 0, 1, 0])))]
    )
    for revision, (kind, gain) in enumerate(
        [("exp3", [6.0, 2.0]), ("exp3", [8.0, 2.0]), ("thompson", None)], 2
    ):
        settings = with_policy(made, PolicySpec(kind=kind, min_share=revision / 100))
        live.apply(
            Offset(revision + 1, 0), Changed(record(settings, revision=revision), Change("policy", "test"))
        )
        if revision == 2:
            # The token's propensity, 0.5, weighs the reward.
            live.apply(Offset(4, 0), Rewarded(rewards([9], arms=0)))
            assert live.policy.statistics()["gain"].tolist() == [8.0, 2.0]
        elif gain is not None:
            assert live.policy.statistics()["gain"].tolist() == gain
    assert live.policy.statistics()["total"].tolist() == [4.0, 1.0]
    assert "gain" not in live.policy.statistics()


def test_a_change_that_leaves_the_policy_alone_leaves_its_evidence_alone() -> None:
    made = experiment()
    live = folded([(Offset(1, 0), created(made)), (Offset(2, 0), Rewarded(rewards([1, 2, 3])))])
    before = live.policy.state()["statistics"]
    live.apply(Offset(3, 0), Changed(record(made, status="paused", revision=2), Change("pause", "test")))
    after = live.policy.state()["statistics"]
    assert {name: column.tolist() for name, column in before.items()} == {
        name: column.tolist() for name, column in after.items()
    }
    assert live.record.status == "paused"


def test_only_the_objective_is_learned_from() -> None:
    made = experiment(metrics=[{"name": "click", "kind": "binary"}, {"name": "spend", "kind": "continuous"}])
    live = folded([(Offset(1, 0), created(made))])
    live.apply(Offset(2, 0), Rewarded(rewards([0, 1], values=[50.0, -3.0], metric=1)))
    assert live.policy.counts.tolist() == [0, 0]
    assert live.rewards.tolist() == [0, 0]


def test_evidence_moves_with_what_moves_shares() -> None:
    made = experiment()
    live = folded([(Offset(1, 0), created(made))])
    seen = live.evidence
    live.apply(Offset(2, 0), Tick())
    live.apply(Offset(2, 1), Census("key"))
    assert live.evidence == seen
    live.apply(Offset(3, 0), Rewarded(rewards([0])))
    assert live.evidence > seen


def test_history_is_bounded() -> None:
    made = experiment()
    live = folded([(Offset(1, 0), created(made))])
    for revision in range(2, MAX_HISTORY + 12):
        live.apply(Offset(revision, 0), Changed(record(made, revision=revision), Change("pause", "test")))
    assert len(live.history) == MAX_HISTORY
    assert live.history[-1].revision == MAX_HISTORY + 11


def test_shares_over_eligible_arms_are_the_policys_own() -> None:
    made = experiment(arms=[{"name": name} for name in "abc"])
    live = folded([(Offset(1, 0), created(made))])
    live.apply(Offset(2, 0), Rewarded(rewards(range(9), values=[1, 1, 0] * 3, arms=[0, 1, 2] * 3)))
    eligible = np.array([True, False, True])
    assert live.shares(eligible).tolist() == live.policy.shares(eligible=eligible).tolist()
    assert live.shares(eligible)[1] == 0.0


@pytest.mark.parametrize("state", [b"", b"\x00", b"\xc1", b"\x81\xa1a\xc7\x00\x05"])
def test_what_is_no_snapshot_is_an_error(state: bytes) -> None:
    with pytest.raises(UnreadableEntry):
        LiveExperiment.from_state(Offset(1, 0), state)


def test_a_snapshot_holds_no_objects() -> None:
    made = experiment()
    live = folded([(Offset(1, 0), created(made))])
    live.exposures = np.array([object(), object()])
    with pytest.raises(TypeError, match="numbers"):
        live.state()


def grown(made: Experiment, *names: str, revision: int = 2) -> Changed:
    for name in names:
        made = with_arm(made, Arm(name))
    return Changed(record(made, revision=revision), Change("add_arm", "test", None, names[-1]))


@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize(
    ("policy", "objective"), KINDS, ids=lambda value: str(value if isinstance(value, str) else value["kind"])
)
def test_states_are_equal_bit_for_bit_across_an_arm_that_comes(
    policy: str, objective: dict[str, Any], missing: str
) -> None:
    """Also for what comes late from before: entries of two arms after the third is there."""
    made = experiment(
        metrics=metrics(objective, "maximize"),
        policy={"kind": policy, "half_life": "5s", "warmup": 5, "holdout": 0.1},
        attribution={"window": f"{WINDOW_MS}ms", "missing": missing},
    )
    kept = [entry for entry in written(made, seed=3) if not isinstance(entry[1], Changed)]
    comes = grown(made, "c")
    third = with_arm(made, Arm("c"))
    later = [
        (Offset(offset.time_ms + kept[-1][0].time_ms, offset.sequence), event)
        for offset, event in written(third, seed=4)
        if not isinstance(event, Changed)
    ]
    half = len(kept) // 2
    log: Log = [(Offset(1_000, 0), created(made)), *kept[:half]]
    log += [(Offset(kept[half - 1][0].time_ms, 9), on_the_wire(comes)), *kept[half:], *later]
    live = folded(log)
    assert live.rewards[2] > 0
    assert live.exposures[2] > 0
    assert live.policy.n_arms == len(live.rewards) == 3
    assert live.history[-1].arm == "c"
    for cut in (1, half, half + 1, half + 2, len(kept), len(log)):
        part = folded(log[:cut])
        assert folded(log[cut:], LiveExperiment.from_state(part.offset, part.state())).state() == live.state()
        assert_captured_once(part, log[cut:])


CONTEXT = [{"name": "z", "kind": "numeric"}]
CONTEXTUAL = ["lin_ucb", "lin_ts", "logistic_ts", "squarecb"]


def contextual(kind: str = "lin_ts", **fields: Any) -> Experiment:
    window = {"window": f"{WINDOW_MS}ms", "missing": "zero"}
    return experiment(**{"context": CONTEXT, "policy": {"kind": kind}, "attribution": window, **fields})


def with_x(event: Event, generator: np.random.Generator) -> Event:
    """The same exposures or rewards, with features: an intercept, a number, and that it is not missing."""

    def features(n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.column_stack([np.ones(n), generator.normal(size=n), np.zeros(n)]).astype("<f4")

    match event:
        case Exposed():
            return msgspec.structs.replace(event, x=features(len(event.arms) // 2).tobytes())
        case Rewarded():
            return Rewarded(event.rows, features(len(event.rows)))
    return event


@pytest.mark.parametrize("held_out", [False, True])
def test_with_context_a_missing_reward_is_learned_as_a_zero_when_its_window_has_closed(
    held_out: bool,
) -> None:
    generator = np.random.default_rng(5)
    live = folded([(Offset(1, 0), created(contextual()))])
    shown = with_x(exposed(0, [0, 0, 1], [5, 5, 5]), generator)
    assert isinstance(shown, Exposed)
    if held_out:
        shown = msgspec.structs.replace(shown, held_out=bytes([0b100]))
    live.apply(Offset(10, 0), on_the_wire(shown, live.n_features))
    live.apply(Offset(20, 0), with_x(Rewarded(rewards([1], times_ms=5)), generator))
    assert live.policy.counts.tolist() == [0, 0]
    live.apply(Offset(9_000, 0), Tick())
    assert live.policy.counts.tolist() == [2, 0 if held_out else 1]
    assert live.policy.means[0] == 0.5


@pytest.mark.parametrize(("kind", "then"), [("thompson", "lin_ts"), ("lin_ts", "thompson")])
def test_decisions_that_a_change_of_policy_leaves_open_are_not_learned_from_by_their_rewards_alone(
    kind: str, then: str
) -> None:
    generator = np.random.default_rng(5)
    made = contextual(kind)
    live = folded([(Offset(1, 0), created(made))])
    live.apply(Offset(10, 0), with_x(exposed(0, [0] * 4, [5] * 4), generator))
    changed = Changed(record(with_policy(made, PolicySpec(kind=then)), revision=2), Change("policy", "t"))
    live.apply(Offset(100, 0), changed)
    # What was decided before and is logged after it; then a decision of the new policy.
    live.apply(Offset(110, 0), with_x(exposed(4, [0, 0], [90, 105]), generator))
    live.apply(Offset(120, 0), with_x(Rewarded(rewards([1, 4], times_ms=[5, 90])), generator))
    live.apply(Offset(130, 0), with_x(Rewarded(rewards([5], times_ms=105)), generator))
    restored = LiveExperiment.from_state(live.offset, live.state())
    for fold in (live, restored):
        fold.apply(Offset(9_000, 0), Tick())
        assert fold.policy.counts.tolist() == [1, 0]
        assert fold.policy.means[0] == 1.0
    assert restored.state() == live.state()


def test_with_context_the_current_shares_are_the_mean_of_those_drawn_from() -> None:
    live = folded([(Offset(1, 0), created(contextual()))])
    shown = with_x(exposed(0, [0] * 4_000, [5] * 4_000), np.random.default_rng(6))
    assert isinstance(shown, Exposed)
    live.apply(
        Offset(10, 0),
        msgspec.structs.replace(
            shown,
            vectors=np.array([[0.9, 0.1], [0.7, 0.3]]).tobytes(),
            runs=np.array([1_000, 3_000], "<u4").tobytes(),
        ),
    )
    assert live.current_shares(10).tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize("kind", CONTEXTUAL)
def test_states_with_context_are_equal_bit_for_bit(kind: str, missing: str) -> None:
    """From a snapshot after any entry, across an arm that comes and policies without and with context."""
    made = contextual(
        kind,
        policy={"kind": kind, "half_life": "5s", "warmup": 5, "holdout": 0.1},
        metrics=metrics(BINARY, "maximize"),
        attribution={"window": f"{WINDOW_MS}ms", "missing": missing},
    )
    generator = np.random.default_rng(8)
    log = [(offset, with_x(event, generator)) for offset, event in written(made, seed=7)]
    arm = with_arm(made, Arm("c"))
    plain = with_policy(arm, PolicySpec(kind="thompson", half_life="5s"))
    for at, changed in ((40, arm), (70, plain), (90, arm)):
        log[at] = log[at][0], Changed(record(changed, revision=at), Change("policy", "test"))
    for at in range(41, len(log)):
        event = log[at][1]
        if isinstance(event, Changed) and at not in (70, 90):
            log[at] = log[at][0], Tick()
    live = folded(log)
    assert live.policy.counts.sum() > 0
    assert live.policy.n_arms == 3
    for cut in range(1, len(log)):
        part = folded(log[:cut])
        assert folded(log[cut:], LiveExperiment.from_state(part.offset, part.state())).state() == live.state()
        assert_captured_once(part, log[cut:])


@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize(("kind", "shared"), [("lin_ts", True), ("lin_ucb", False), ("logistic_ts", False)])
def test_an_entry_in_pieces_leaves_the_state_of_one_in_one_piece(
    kind: str, shared: bool, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the pieces, and whoever asks for shares between them."""
    arms = [{"name": name, "features": [float(i)] if shared else None} for i, name in enumerate("ab")]
    made = contextual(
        kind,
        arms=arms,
        policy={"kind": kind, "half_life": "5s"},
        attribution={"window": f"{WINDOW_MS}ms", "missing": missing},
    )
    generator = np.random.default_rng(9)
    log: Log = [(Offset(1, 0), created(made))]
    for i in range(6):
        first, time_ms = 300 * i, 10 + 400 * i
        drawn = generator.integers(0, 2, 300)
        shown = exposed(first, drawn.tolist(), [time_ms] * 300)
        log.append((Offset(time_ms, 0), with_x(shown, generator)))
        counters = range(first, first + 300, 2)
        rows = rewards(counters, values=(generator.random(150) < 0.3).astype(float), times_ms=time_ms)
        rows["arm"] = drawn[::2]
        log.append((Offset(time_ms + 100, 0), with_x(Rewarded(rows), generator)))
    log.append((Offset(900, 0), Tick()))
    log.append((Offset(9_000, 0), Tick()))
    log = sorted(log, key=lambda entry: entry[0])
    monkeypatch.setattr(module, "PIECE_ROWS", 10**9)
    monkeypatch.setattr(module, "PIECE_NUMBERS", 10**12)
    whole = folded(log)
    assert whole.policy.counts.sum() > 0
    pieces = []
    for rows_in_a_piece, numbers in ((1, 1), (7, 100), (PIECE_ROWS, PIECE_NUMBERS)):
        monkeypatch.setattr(module, "PIECE_ROWS", rows_in_a_piece)
        monkeypatch.setattr(module, "PIECE_NUMBERS", numbers)
        live = LiveExperiment(created(made))
        n_pieces = 0
        for offset, event in log:
            for heavy in live.steps(offset, event):
                if heavy is not None:
                    heavy.do()
                n_pieces += 1
                assert live.midway
                with pytest.raises(RuntimeError, match="in the middle of an entry"):
                    live.state()
                if n_pieces % 50 == 0:
                    x = generator.normal(size=live.n_features).astype(np.float32)
                    assert live.shares(x=x).sum() == pytest.approx(1.0)
            assert not live.midway
        assert live.state() == whole.state()
        pieces.append(n_pieces)
    assert pieces[0] > pieces[1] > pieces[2]


@pytest.mark.parametrize("missing", ["zero", "ignore"])
def test_the_holdout_is_counted_and_never_learned_from(missing: str) -> None:
    made = experiment(attribution={"window": "2s", "missing": missing})
    live = folded([(Offset(1, 0), created(made))])
    held_out = np.packbits([0, 1, 0, 1], bitorder="little").tobytes()
    event = msgspec.structs.replace(exposed(0, [0, 0, 1, 1], [5, 5, 5, 5]), held_out=held_out)
    live.apply(Offset(6, 0), on_the_wire(event))
    assert live.exposures.tolist() == [2, 2]
    assert live.held_out.tolist() == [1, 1]
    assert live.decided.tolist() == [1, 1]
    rows = rewards([0, 1], times_ms=5)
    rows["flags"] = [0, HELD_OUT]
    live.apply(Offset(7, 0), Rewarded(rows))
    assert live.rewards.tolist() == [2, 0]
    assert live.policy.counts.tolist() == [1, 0]
    before = live.evidence
    only = rewards([3], times_ms=5, arms=1)
    only["flags"] = HELD_OUT
    live.apply(Offset(8, 0), Rewarded(only))
    assert live.evidence == before
    live.apply(Offset(10_000, 0), Tick())
    assert live.policy.counts.tolist() == ([1, 1] if missing == "zero" else [1, 0])


def test_a_policy_that_weighs_learns_of_decisions_outside_the_holdout_by_their_own_probability() -> None:
    """Arm 0 is drawn with .1 of what is not held out, arm 1 with .9; both always give 1."""
    made = experiment(policy={"kind": "exp3", "holdout": 0.5})
    live = folded([(Offset(1, 0), created(made))])
    arms = [0] * 5 + [1] * 45
    rows = rewards(range(50), arms=arms)
    rows["propensity"] = np.where(rows["arm"] == 0, 0.5 * 0.1 + 0.25, 0.5 * 0.9 + 0.25)
    live.apply(Offset(2, 0), Rewarded(rows))
    assert live.policy.statistics()["gain"].tolist() == pytest.approx([50.0, 50.0])
    seldom = rewards([50], arms=0)
    seldom["propensity"] = 0.01
    live.apply(Offset(3, 0), Rewarded(seldom))
    assert live.policy.statistics()["gain"][0] == pytest.approx(50.0 + 1.0 / 0.01), "of fewer arms than now"


def test_a_warm_up_goes_by_the_policys_own_decisions() -> None:
    live = folded([(Offset(1, 0), created(experiment(policy={"kind": "thompson", "warmup": 2})))])
    live.apply(Offset(2, 0), Rewarded(rewards(range(50), arms=0)))
    assert live.shares().tolist() == [0.5, 0.5]
    before = live.evidence
    live.apply(Offset(3, 0), exposed(0, [0, 0, 1], [2, 2, 2]))
    assert live.evidence > before, "decisions move the shares of a warm-up"
    assert live.shares()[1] == pytest.approx(0.98)
    held_out = msgspec.structs.replace(exposed(3, [1], [3]), held_out=b"\x01")
    live.apply(Offset(4, 0), held_out)
    assert live.shares()[1] == pytest.approx(0.98)
    live.apply(Offset(5, 0), exposed(4, [1], [4]))
    assert live.shares()[1] < 0.1
    before = live.evidence
    live.apply(Offset(6, 0), exposed(5, [1], [5]))
    assert live.evidence == before


def test_a_ramp_overrides_the_floor_and_ends() -> None:
    made = with_arm(experiment(policy={"kind": "fixed_split", "min_share": 0.2}), Arm("c"))
    about = record(made).with_standing(2, Standing("active", Ramp(0.01, "10s"), 1_000))
    live = folded([(Offset(1_000, 0), Changed(about, Change("create", "test")))])
    assert live.shares(now_ms=1_000).tolist() == pytest.approx([0.495, 0.495, 0.01])
    assert live.shares(now_ms=2_000)[2] == pytest.approx(0.109)
    assert live.shares(now_ms=11_000).tolist() == pytest.approx([1 / 3] * 3)


def bad_row(**fields: Any) -> Rewarded:
    rows = rewards([1, 2, 3], times_ms=5)
    for name, value in fields.items():
        rows[name][-1] = value
    return Rewarded(rows)


def bad_change(**fields: Any) -> Changed:
    return Changed(record(experiment(**fields), revision=2), Change("policy", "test"))


def bad_revision(**fields: Any) -> Revised:
    rows = revisions([1, 2], [np.nan, 1.0], [1.0, 0.0], [FIRST, 7], times_ms=5)
    for name, value in fields.items():
        rows[name][-1] = value
    return Revised(rows)


BAD: list[Event] = [
    bad_revision(arm=2),
    bad_revision(metric=1),
    bad_revision(value=0.5),
    bad_revision(former=0.5),
    bad_revision(value=np.inf),
    bad_revision(former=-np.inf),
    bad_revision(former=np.nan, value=np.nan),
    bad_revision(since_ms=FIRST),
    bad_revision(since_ms=-2),
    bad_revision(since_ms=2**60),
    bad_revision(propensity=0.0),
    bad_revision(counter=2**42),
    bad_revision(time_ms=2**60),
    Revised(rewards([1], times_ms=5)),
    Rewarded(revisions([1], np.nan, 1.0)),
    Revised(revisions([1], np.nan, 1.0), np.zeros((1, 2), np.float32)),
    exposed(5, [0, 2], [5, 5], n_arms=3),
    exposed(5, [0, 2], [5, 5]),
    msgspec.structs.replace(exposed(5, [0, 1], [5, 6]), ages_ms=bytes(4)),
    msgspec.structs.replace(exposed(5, [0, 1], [5, 6]), vectors=np.array([0.0, 1.0]).tobytes()),
    msgspec.structs.replace(exposed(5, [0, 1], [5, 6]), held_out=bytes(2)),
    bad_row(arm=2),
    bad_row(metric=1),
    bad_row(value=np.nan),
    bad_row(value=0.5),
    bad_row(value=2.0),
    bad_row(propensity=0.0),
    bad_row(propensity=np.nan),
    bad_row(propensity=1.5),
    bad_row(counter=2**42),
    bad_row(time_ms=2**60),
    Rewarded(rewards([1], times_ms=5), np.zeros((1, 2), np.float32)),
    bad_change(arms=[{"name": "b"}, {"name": "a"}]),
    bad_change(arms=[{"name": "a"}]),
    bad_change(metrics=[{"name": "click", "kind": "continuous"}]),
    bad_change(attribution={"window": "2h", "missing": "ignore"}),
    bad_change(unit="user"),
    bad_change(policy={"kind": "of-a-later-version"}),
    bad_change(policy={"kind": "ucb1", "prior": {"alpha": 1.0}}),
]


@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize("event", BAD, ids=range(len(BAD)))
def test_an_entry_that_does_not_fit_is_an_error_and_changes_nothing(event: Event, missing: str) -> None:
    attribution = {"window": "1h", "missing": missing}
    if isinstance(event, Changed) and event.record.experiment.attribution.window == "1h":
        made = msgspec.structs.replace(
            event.record.experiment, attribution=experiment(attribution=attribution).attribution
        )
        event = Changed(msgspec.structs.replace(event.record, experiment=made), event.change)
    made = experiment(attribution=attribution, policy={"kind": "thompson", "half_life": "1s"})
    live = LiveExperiment(created(made))
    live.apply(Offset(1_000, 0), exposed(0, [0, 1], [5, 6]))
    live.apply(Offset(1_000, 1), Rewarded(rewards([0], times_ms=5)))
    before = live.state()
    # So late that a window would close and much be forgotten.
    with pytest.raises((UnreadableEntry, InvalidInput)):
        live.apply(Offset(9_000_000, 0), event)
    assert live.state() == before
    assert live.offset == Offset(1_000, 1)


@pytest.mark.parametrize("part", ["", "pending", "alarms", "joined"])
def test_a_state_with_a_part_that_is_not_known_is_an_error(part: str) -> None:
    policy = {"kind": "lin_ts"} if part == "joined" else {"kind": "thompson"}
    made = experiment(
        policy=policy,
        attribution={"window": "1h", "missing": "zero"},
        context=[{"name": "x", "kind": "numeric"}] if part == "joined" else [],
    )
    live = folded([(Offset(1_000, 0), created(made))])
    fields = msgpack.unpackb(live.state(), strict_map_key=False)
    (fields[part] if part else fields)["later"] = 1
    with pytest.raises(UnreadableEntry, match="later"):
        LiveExperiment.from_state(live.offset, msgpack.packb(fields))
