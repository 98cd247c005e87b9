"""Choosing and learning with every policy, against NumPy's formula, an empty call and other libraries, in one table.

    python benchmarks/policies_table.py [--rounds 15] [--milliseconds 2] [--only thompson] [--json FILE]

Figures are microseconds per call: medians over rounds. Each round measures every cell once, the cells of a row one
after another; a ratio is the median of the rounds' ratios. A cell repeats its call for at least `--milliseconds`; the
warm-up finds the number of repetitions. CPU time of the process is measured, on one thread, so other load on the
machine matters only through the caches. The garbage collector is off, as in `timeit`, which favours libraries that
create cycles. A cell whose call takes more than 50 ms is measured in three rounds only. All learned the same rewards
and see the same features.

Calls: `choose` from a learned state, without an update in between; `update` with one reward; `step`, a choice and
then an update of its arm, as in a simulation; `batch`, a reward of 1,000 learned at once, beside NumPy's update with
one reward, and `bincount`, the same beside NumPy's count of all 1,000. NumPy's formula is vectorised, in float32 and
in float64 where both can be; the faster one counts. A library that is not installed leaves a gap that is named.
`peers.py` has their calls.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
import timeit
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bench_policies import FORMULAS, IN_FLOAT32, formula_names
from peers import ARM, PEERS, Makers, Seen
from threadpoolctl import threadpool_limits

from bandit_serve.policies import POLICIES, _draw

ARMS = (2, 10, 100, 1000)
FEATURES = (16, 64, 128)
CONTEXT_ARMS = 10
BATCH = 1000
SLOW_S, SLOW_ROUNDS = 0.05, 3
EMPTY, OURS = "empty call", "bandit_serve"

# The most that a call may cost beside what it is measured against, by kind, call and K or d (None: at any).
BOUNDS: dict[tuple[str, str, int | None], float] = {
    ("shares", "choose", None): 3.0,
    ("fixed_split", "choose", None): 3.0,
    ("thompson", "choose", 10): 0.06,
    ("thompson", "choose", 1000): 0.65,
    ("ucb1", "choose", 10): 0.05,
    ("ucb1", "choose", 1000): 0.75,
    ("lin_ucb", "choose", 16): 0.25,
    ("lin_ucb", "choose", 64): 0.5,
    ("lin_ucb", "choose", 128): 0.7,
    ("lin_ucb", "update", 16): 0.1,
    ("lin_ucb", "update", 64): 0.15,
    ("lin_ucb", "update", 128): 0.25,
    **{(kind, "update", None): 0.25 for kind, policy in POLICIES.items() if not policy.contextual},
    **{(kind, "batch", None): 0.03 for kind, policy in POLICIES.items() if not policy.contextual},
}
# What is drawn from current shares is measured against an empty call and not against NumPy.
AGAINST_EMPTY = ("shares", "fixed_split")

COUNTING = "total[arm] += reward; n[arm] += 1"
COUNTING_WHOLE = (
    "np.add(total, np.bincount(arms, weights=values, minlength=n.size), out=total); "
    "np.add(n, np.bincount(arms, minlength=n.size), out=n)"
)
WIDTHS = "means = theta @ x; widths = np.sqrt((inverse @ x) @ x); "
CONTEXT_CHOICE = {
    "lin_ucb": "(means + scale * widths).argmax()",
    "lin_ts": "(means + scale * widths * rng.standard_normal(n_arms, dtype)).argmax()",
    "logistic_ts": "(means + scale * widths * rng.standard_normal(n_arms, dtype)).argmax()",
    "squarecb": "scores = means + scale * widths; p = one / (n_arms + gamma * (scores.max() - scores)); "
    "best = scores.argmax(); p[best] += one - p.sum(); p.cumsum().searchsorted(rng.random(dtype=dtype))",
}
RIDGE = (
    "direction = own @ x; "
    "np.subtract(own, np.outer(direction, direction) / (one + x @ direction), out=own); "
    "np.add(moment, reward * x, out=moment); own_theta = own @ moment"
)
# One step of Newton's method from where the coefficients are.
LOGISTIC = (
    "direction = own @ x; p = one / (one + np.exp(-(own_theta @ x))); w = p * (one - p); "
    "np.subtract(own, np.outer(direction, direction) * (w / (one + w * (x @ direction))), out=own); "
    "np.add(own_theta, (reward - p) * (own @ x), out=own_theta)"
)

# Where we are not faster than a library, and why: by kind, call and library.
REASONS: dict[tuple[str, str, str], str] = {}


class Statement(NamedTuple):
    code: str
    names: Mapping[str, Any]
    # How many decisions or rewards one call makes.
    n: int = 1


class Row(NamedTuple):
    """Row of the table: K or d, kind of policy, call; and the statements to measure by name, ours first."""

    size: str
    kind: str
    call: str
    bound: float | None
    cells: dict[str, Statement]


def seen(n_arms: int, n_features: int | None = None) -> Seen:
    rng = np.random.default_rng(0)
    n = 100 * n_arms if n_features is None else 400
    arms, rewards = rng.integers(0, n_arms, n), (rng.random(n) < 0.1).astype(float)
    x = None if n_features is None else rng.standard_normal((n, n_features)).astype(np.float32)
    return Seen(n_arms, arms, rewards, x)


def outcomes() -> Iterator[int]:
    return cycle((np.random.default_rng(2).random(1009) < 0.1).astype(int).tolist())


def learned(kind: str, what: Seen) -> Any:
    if what.x is None:
        policy = POLICIES[kind](what.n_arms, seed=1)
        policy.update_many(what.arms, what.rewards, np.full(what.arms.size, 1.0 / what.n_arms))
    else:
        policy = POLICIES[kind](what.n_arms, what.x.shape[1], seed=1)
        policy.update_many(what.arms, what.rewards, what.x)
    return policy


def of_peers(installed: Mapping[str, Makers], kind: str, call: str, what: Seen) -> dict[str, Statement]:
    statements = {}
    for library, makers in installed.items():
        if kind in makers:
            try:
                peer = makers[kind](what)
            except Exception as error:
                # Another version than this was written for, say: a gap, which is named when it is measured.
                statements[library] = Statement("raise error", {"error": error})
                continue
            code = getattr(peer, call)
            if code is not None:
                statements[library] = Statement(code, {**peer.names, "rewards": outcomes()})
    return statements


def bound_of(kind: str, call: str, size: int) -> float | None:
    return BOUNDS.get((kind, call, size), BOUNDS.get((kind, call, None)))


EMPTY_CALL = Statement("kernel.nothing()", {"kernel": _draw})


def rows_of_shares(n_arms: int) -> Iterator[Row]:
    shares = np.random.default_rng(0).dirichlet(np.ones(n_arms))
    ours = Statement("sampler.choose()", {"sampler": _draw.ShareSampler(shares, seed=1)})
    numpy = Statement(
        "cumulative.searchsorted(rng.random())",
        {"cumulative": shares.cumsum(), "rng": np.random.default_rng(1)},
    )
    cells = {OURS: ours, EMPTY: EMPTY_CALL, "float64": numpy}
    yield Row(f"K = {n_arms}", "shares", "choose", bound_of("shares", "choose", n_arms), cells)


def rows_free(kind: str, n_arms: int, installed: Mapping[str, Makers]) -> Iterator[Row]:
    what = seen(n_arms)
    size = f"K = {n_arms}"
    counts = {"total": np.zeros(n_arms), "n": np.ones(n_arms), "arm": ARM, "reward": 1.0}
    formulas = {
        np.dtype(dtype).name: Statement(
            FORMULAS[kind], {**formula_names(n_arms, dtype), "np": np, "rng": np.random.default_rng(1)}
        )
        for dtype in (np.float64, np.float32)
        if dtype is np.float64 or kind in IN_FLOAT32
    }
    counting = {"float64": Statement(COUNTING, counts)}
    stepping = {
        name: Statement(
            f"{code}\nreward = next(rewards); {COUNTING}", {**names, **counts, "rewards": outcomes()}
        )
        for name, (code, names, _) in formulas.items()
        if name == "float64"
    }
    ours = {
        "choose": ("policy.choose()", formulas),
        "update": (f"policy.update({ARM}, 1.0, 0.5)", counting),
        "step": ("policy.update(policy.choose(), next(rewards), 0.5)", stepping),
    }
    for call, (code, numpy) in ours.items():
        names = {"policy": learned(kind, what), "rewards": outcomes()}
        cells = {OURS: Statement(code, names), EMPTY: EMPTY_CALL, **numpy}
        cells |= of_peers(installed, kind, call, what)
        yield Row(size, kind, call, bound_of(kind, call, n_arms), cells)
    arms, values = (column[:BATCH] for column in (what.arms, what.rewards))
    arms, values = np.resize(arms, BATCH), np.resize(values, BATCH)
    names = {"policy": learned(kind, what), "arms": arms, "values": values, "chances": np.full(BATCH, 0.5)}
    cells = {
        OURS: Statement("policy.update_many(arms, values, chances)", names, BATCH),
        EMPTY: EMPTY_CALL,
        **counting,
    }
    for library, (code, peer_names, _) in of_peers(installed, kind, "batch", what).items():
        cells[library] = Statement(code, {**peer_names, "arms": arms, "values": values}, BATCH)
    yield Row(size, kind, "batch", bound_of(kind, "batch", n_arms), cells)
    if kind == "thompson":
        names = {"policy": learned(kind, what), "arms": arms, "values": values}
        ours_whole = Statement("policy.update_many(arms, values)", names, BATCH)
        whole = Statement(COUNTING_WHOLE, {**counts, "np": np, "arms": arms, "values": values}, BATCH)
        yield Row(size, kind, "bincount", None, {OURS: ours_whole, EMPTY: EMPTY_CALL, "float64": whole})


# Thompson sampling by another posterior than the Beta: NumPy's draw, and what it needs.
POSTERIORS: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "continuous": (
        "(loc + scale * rng.standard_t(df)).argmax()",
        lambda k: {"loc": np.linspace(0.05, 0.15, k), "scale": np.full(k, 0.03), "df": np.full(k, 100.0)},
    ),
    "count": (
        "(rng.standard_gamma(shape) / rate).argmax()",
        lambda k: {"shape": np.linspace(8.0, 12.0, k), "rate": np.full(k, 100.0)},
    ),
}


def rows_of_posterior(objective: str, n_arms: int) -> Iterator[Row]:
    what = seen(n_arms)
    draw, names = POSTERIORS[objective]
    counts = {"total": np.zeros(n_arms), "n": np.ones(n_arms), "arm": ARM, "reward": 1.0}
    ours = {
        "choose": ("policy.choose()", Statement(draw, {**names(n_arms), "rng": np.random.default_rng(1)})),
        "update": (f"policy.update({ARM}, 1.0)", Statement(COUNTING, counts)),
    }
    for call, (code, numpy) in ours.items():
        policy = POLICIES["thompson"](n_arms, objective=objective, seed=1)
        policy.update_many(what.arms, what.rewards)
        cells = {OURS: Statement(code, {"policy": policy}), EMPTY: EMPTY_CALL, "float64": numpy}
        bound = bound_of("thompson", call, n_arms) if call == "update" else None
        yield Row(f"K = {n_arms}", f"thompson, {objective}", call, bound, cells)


def context_formula(kind: str, d: int, dtype: Any, what: Seen) -> dict[str, Statement]:
    """NumPy's statement for each call, in one dtype throughout."""
    rng = np.random.default_rng(0)

    def names() -> dict[str, Any]:
        inverse = np.tile(np.eye(d, dtype=dtype) * dtype(0.1), (CONTEXT_ARMS, 1, 1))
        theta = rng.standard_normal((CONTEXT_ARMS, d)).astype(dtype) * dtype(0.1)
        return {
            "np": np,
            "rng": np.random.default_rng(1),
            "xs": cycle(list(what.x.astype(dtype))),
            "theta": theta,
            "inverse": inverse,
            "own": inverse[ARM].copy(),
            "own_theta": theta[ARM].copy(),
            "moment": np.zeros(d, dtype),
            "scale": dtype(1.0),
            "gamma": dtype(100.0),
            "one": dtype(1.0),
            "n_arms": CONTEXT_ARMS,
            "dtype": dtype,
            "rewards": cycle([dtype(next(values)) for values in [outcomes()] for _ in range(1009)]),
        }

    choose = WIDTHS + CONTEXT_CHOICE[kind]
    update = "reward = next(rewards); " + (LOGISTIC if kind == "logistic_ts" else RIDGE)
    return {
        "choose": Statement("x = next(xs); " + choose, names()),
        "update": Statement("x = next(xs); " + update, names()),
        "step": Statement("x = next(xs); " + choose + "; " + update, names()),
    }


def rows_contextual(kind: str, d: int, installed: Mapping[str, Makers]) -> Iterator[Row]:
    what = seen(CONTEXT_ARMS, d)
    formulas = {
        np.dtype(dtype).name: context_formula(kind, d, dtype, what) for dtype in (np.float32, np.float64)
    }
    ours = {
        "choose": "policy.choose(next(xs))",
        "update": f"policy.update({ARM}, next(rewards), next(xs))",
        "step": "x = next(xs); policy.update(policy.choose(x), next(rewards), x)",
    }
    for call, code in ours.items():
        names = {"policy": learned(kind, what), "xs": cycle(list(what.x)), "rewards": outcomes()}
        cells = {OURS: Statement(code, names), EMPTY: EMPTY_CALL}
        cells |= {name: statements[call] for name, statements in formulas.items()}
        cells |= of_peers(installed, kind, call, what)
        yield Row(f"d = {d}", kind, call, bound_of(kind, call, d), cells)


def all_rows(only: Sequence[str], installed: Mapping[str, Makers]) -> Iterator[Row]:
    for n_arms in ARMS:
        if not only or "shares" in only:
            yield from rows_of_shares(n_arms)
        for kind, policy in POLICIES.items():
            if not policy.contextual and (not only or kind in only):
                yield from rows_free(kind, n_arms, installed)
        if not only or "thompson" in only:
            for objective in POSTERIORS:
                yield from rows_of_posterior(objective, n_arms)
    for d in FEATURES:
        for kind, policy in POLICIES.items():
            if policy.contextual and (not only or kind in only):
                yield from rows_contextual(kind, d, installed)


def import_peers() -> tuple[dict[str, Makers], dict[str, str]]:
    """Imports the libraries; returns those that are installed, and the reasons for the others."""
    installed, missing = {}, {}
    for library, load in PEERS.items():
        try:
            installed[library] = load()
        except Exception as error:
            missing[library] = f"{type(error).__name__}: {error}"
    return installed, missing


class Measured(NamedTuple):
    """Results of a row: microseconds a decision or reward in each round, by cell; `failed`: errors by cell."""

    row: Row
    times: dict[str, list[float]]
    failed: dict[str, str]

    def median(self, name: str) -> float | None:
        return statistics.median(self.times[name]) if self.times.get(name) else None

    def ratio(self, name: str) -> float:
        """Median over rounds of our time over the other's in the same round."""
        pairs = zip(self.times[OURS], self.times[name], strict=False)
        return statistics.median(ours / other for ours, other in pairs)

    @property
    def numpy(self) -> str:
        """The formula's faster dtype."""
        return min((name for name in ("float32", "float64") if name in self.times), key=self.median)

    @property
    def against(self) -> str:
        return EMPTY if self.row.kind in AGAINST_EMPTY and self.row.call == "choose" else self.numpy

    @property
    def missed(self) -> bool:
        return self.row.bound is not None and self.ratio(self.against) > self.row.bound

    def slower_than(self) -> list[str]:
        return [name for name in PEERS if name in self.times and self.ratio(name) >= 1.0]


class Cell(NamedTuple):
    timer: timeit.Timer
    number: int
    per_call: int
    rounds: int


def warm(statement: Statement, least_s: float, rounds: int) -> Cell:
    """Finds how many calls take at least `least_s`."""
    timer = timeit.Timer(statement.code, timer=time.process_time, globals=dict(statement.names))
    if timer.timeit(1) > SLOW_S and timer.timeit(1) > SLOW_S:
        return Cell(timer, 1, statement.n, min(rounds, SLOW_ROUNDS))
    # First calls say nothing of how long the later ones take.
    timer.timeit(3)
    number = 1
    while (took := min(timer.repeat(3, number))) < least_s:
        number = max(2 * number, math.ceil(number * least_s / took * 1.1)) if took > 0.0 else 10 * number
    return Cell(timer, number, statement.n, rounds)


def measure(rows: Sequence[Row], rounds: int, least_s: float, show: Callable[[str], None]) -> list[Measured]:
    measurements = [Measured(row, {}, {}) for row in rows]
    cells: list[dict[str, Cell]] = []
    for i, measured in enumerate(measurements):
        show(f"warming up, row {i + 1} of {len(rows)}: {measured.row.kind}, {measured.row.size}")
        cells.append({})
        for name, statement in measured.row.cells.items():
            try:
                cells[-1][name] = warm(statement, least_s, rounds)
            except Exception as error:
                # Of a peer: an incompatible version, say. The table names it.
                if name not in PEERS:
                    raise
                measured.failed[name] = f"{type(error).__name__}: {error}"
    for round_number in range(rounds):
        show(f"round {round_number + 1} of {rounds}")
        for measured, row_cells in zip(measurements, cells, strict=True):
            for name, cell in row_cells.items():
                if round_number < cell.rounds:
                    took_us = cell.timer.timeit(cell.number) / cell.number / cell.per_call * 1e6
                    measured.times.setdefault(name, []).append(took_us)
    return measurements


def figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 1.0 else f"{value:.3f}"


def line(measured: Measured) -> list[str]:
    row = measured.row
    return [
        row.size,
        row.kind,
        row.call,
        figure(measured.median(OURS)),
        f"{measured.ratio(EMPTY):.1f}" if row.call not in ("batch", "bincount") else "",
        figure(measured.median(measured.numpy)) + (" ³²" if measured.numpy == "float32" else ""),
        f"{measured.ratio(measured.numpy):.3f}",
        "" if row.bound is None else f"{row.bound:g}{' empty' if measured.against == EMPTY else ''}",
        "" if row.bound is None else "missed" if measured.missed else "kept",
        *("failed" if name in measured.failed else figure(measured.median(name)) for name in PEERS),
    ]


HEAD = ["size", "policy", "call", "ours", "/ empty", "NumPy", "/ NumPy", "bound", "", *PEERS]


def table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(entry) for entry in column) for column in zip(*lines, strict=True)]
    drawn = [
        "| " + " | ".join(entry.ljust(width) for entry, width in zip(entries, widths, strict=True)) + " |"
        for entries in lines
    ]
    drawn.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(drawn)


def slower_lines(measurements: Sequence[Measured]) -> list[str]:
    lines = []
    for measured in measurements:
        row = measured.row
        for name in measured.slower_than():
            why = REASONS.get((row.kind, row.call, name), "not explained yet")
            lines.append(
                f"- {row.size}, {row.kind}, {row.call}: {figure(measured.median(OURS))} µs, "
                f"{name} {figure(measured.median(name))} µs. {why}"
            )
    return lines


def what_peers_are(installed: Mapping[str, Makers]) -> list[str]:
    """Lines that say which policy of a library is compared with which of ours."""
    lines = []
    for library, makers in installed.items():
        names = []
        for kind, make in makers.items():
            with contextlib.suppress(Exception):
                what = seen(CONTEXT_ARMS, 4) if POLICIES[kind].contextual else seen(2)
                names.append(f"{kind}: {make(what).what}")
        lines.append(f"- {library} {importlib.metadata.version(library)}: {'; '.join(names)}")
    return lines


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [text.partition(":")[2] for text in cpuinfo.read_text().splitlines() if "model name" in text]
        model = names[0].strip() if names else model
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{os.cpu_count()} × {model}, {platform.system()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}{load}"
    )


def as_json(measurements: Sequence[Measured], missing: Mapping[str, str]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "missing": dict(missing),
        "rows": [
            {
                "size": measured.row.size,
                "kind": measured.row.kind,
                "call": measured.row.call,
                "bound": measured.row.bound,
                "against": measured.against,
                "ratio": measured.ratio(measured.against),
                "numpy": measured.numpy,
                "us": {name: measured.median(name) for name in measured.times},
                "failed": measured.failed,
            }
            for measured in measurements
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--milliseconds", type=float, default=2.0, help="the least that a cell takes in a round"
    )
    parser.add_argument("--only", action="append", default=[], choices=["shares", *POLICIES])
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    # Of the peers, about their dependencies.
    warnings.simplefilter("ignore")

    def show(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    installed, missing = ({}, {}) if given.no_peers else import_peers()
    rows = list(all_rows(given.only, installed))
    with threadpool_limits(1):
        measurements = measure(rows, given.rounds, given.milliseconds / 1e3, show)
    show("")
    print(f"Microseconds a call, medians of {given.rounds} rounds; ³² float32. {machine()}\n")
    print(table([HEAD, *(line(measured) for measured in measurements)]))
    print("\nWhat stands beside ours:\n")
    for lines in what_peers_are(installed):
        print(lines)
    for library, why in missing.items():
        print(f"- {library}: a gap, it could not be imported ({why})")
    failures = {
        (name, text): measured.row for measured in measurements for name, text in measured.failed.items()
    }
    for (name, text), row in failures.items():
        print(f"- {name}: a gap at {row.size}, {row.kind}, {row.call}: {text}")
    print("\nBounds missed:\n")
    misses = [measured for measured in measurements if measured.missed]
    for measured in misses:
        row = measured.row
        print(
            f"- {row.size}, {row.kind}, {row.call}: {measured.ratio(measured.against):.3f}, bound {row.bound:g}"
        )
    if not misses:
        print(f"none of {sum(measured.row.bound is not None for measured in measurements)}")
    print("\nNot faster than a peer, and why:\n")
    print("\n".join(slower_lines(measurements)) or "none")
    if given.json:
        given.json.write_text(json.dumps(as_json(measurements, missing), indent=1))


if __name__ == "__main__":
    main()
