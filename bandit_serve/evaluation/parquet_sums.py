"""Sums over a Parquet export by DuckDB: what estimates of policies that never change are made of, in bounded memory.

The export is read twice. The first reading counts the chances that arms had, by revision, and adds up the outcomes of
each arm and fold, from which the model of outcomes follows. The second has the terms of every estimator
(`results/off_policy/estimators.py`) decision by decision, and keeps their moments.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from bandit_serve.base.extras import require
from bandit_serve.errors import InvalidInput
from bandit_serve.evaluation.decision_folds import fold_in_sql
from bandit_serve.evaluation.sources import ParquetExport
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.reading import TimeSpan
from bandit_serve.results.off_policy.estimate import Moments
from bandit_serve.results.sequence import Floats

EXTRA = "duckdb"
DEFAULT_MEMORY = "1GB"
MAX_TERMS = 4_000
"""Arms times policies of one question: each is a column of the query."""
TERMS = ("ips", "dr", "switch", "dros", "d", "w")
"""Columns of moments: of estimators, of the model's answer `d` and of the weight `w`."""
N_SQUARES = 5


class SumsOptions(Struct, frozen=True, kw_only=True):
    """Options of the reading. memory: the most that DuckDB holds, such as "1GB", of each part that is read at once;
    threads: None for all cores. scheduler: the address of a dask cluster's, for the engine `dask`.
    """

    engine: Literal["duckdb", "dask"] = "duckdb"
    memory: str = DEFAULT_MEMORY
    threads: int | None = None
    scheduler: str | None = None


class FilesRead(NamedTuple):
    """Files of an experiment's export that are read, in the order of time; of several parts by unit, part `number`.

    The files are named once: an export that grows meanwhile is read as it was.
    """

    experiment: Experiment
    files: Sequence[str]
    number: int = 0
    n_parts: int = 1

    @classmethod
    def of(cls, export: ParquetExport, engine: str) -> FilesRead:
        """All of an export. Raises `InvalidInput` for one that is not in files here."""
        if not export.is_local:
            raise InvalidInput(f"--engine {engine}: expected an export in a directory of this machine.")
        return cls(export.experiment, [os.path.abspath(file) for file in export.files])

    def parts(self, most: int) -> list[FilesRead]:
        """Parts of them, `most` at most. Where the unit is a request, no file is read twice."""
        if self.experiment.unit == "user":
            return [self._replace(number=number, n_parts=most) for number in range(most)]
        n = min(most, len(self.files))
        return [self._replace(files=self.files[number::n]) for number in range(n)]


class TargetsAsked(NamedTuple):
    """Policies with these probabilities (K,), by outcomes (folds, K) and values around a centre.

    withheld: by arm, the revisions that withheld it. ranges: whether the ends of terms are wanted.
    """

    targets: Sequence[Floats]
    withheld: Sequence[Sequence[int]]
    outcomes: Floats
    centre: float
    tau: float
    ranges: bool


class ArmSums(NamedTuple):
    """Decisions of a revision, a fold and an arm: their number, the sum of their values and their times.

    `given` and `denied` (K,): of how many each arm had a chance, and of how many it had none and was there.
    """

    revision: int
    fold: int
    arm: int
    n: int
    total: float
    first_ms: int
    last_ms: int
    given: Sequence[int]
    denied: Sequence[int]


class TargetSums(NamedTuple):
    """Sums over the decisions in which a policy could choose an arm.

    `shares` and `untried` (K,): sums of its probabilities, and of those that the log gave no chance. `moments` by term.
    `squares`, of the weights w and the distances d of the values from the centre: the sums of w, w d, w², w² d and
    w² d². Only with ranges there are the ends of terms but the weight's, `reach`, the largest weight that an arm might
    have had, and `folds`, how many decisions each fold has.
    """

    n: int
    shares: Sequence[float]
    untried: Sequence[float]
    moments: Mapping[str, Moments]
    squares: Sequence[float]
    reach: float
    folds: Sequence[int]


class PolicySums(NamedTuple):
    """Sums of all policies. `values`: moments of the values. `closed` (K,): where nobody could choose an arm."""

    values: Moments
    closed: Sequence[int]
    targets: Sequence[TargetSums]


class ParquetSums:
    """Decisions in an export's files that results analyse on one metric, as queries of DuckDB."""

    def __init__(
        self, read: FilesRead, metric: Metric, span: TimeSpan, seed: int, options: SumsOptions
    ) -> None:
        self._error = require("duckdb", EXTRA).Error
        self._spilled = tempfile.TemporaryDirectory(prefix="bandit-serve-evaluate.")
        settings: dict[str, Any] = {
            "memory_limit": options.memory,
            "temp_directory": self._spilled.name,
            "preserve_insertion_order": False,
        }
        if options.threads is not None:
            settings["threads"] = options.threads
        try:
            self._database = require("duckdb", EXTRA).connect(config=settings)
        except self._error as error:
            self._spilled.cleanup()
            raise InvalidInput(f"--memory: {str(error).splitlines()[0]}") from None
        self._arms = read.experiment.arm_names
        self._decisions = fold_in_sql(_decisions(read, metric, span), seed)

    def close(self) -> None:
        self._database.close()
        self._spilled.cleanup()

    def __enter__(self) -> ParquetSums:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def of_arms(self) -> list[ArmSums]:
        """Sums by revision, fold and arm. Raises `InvalidInput` for propensities that are none."""
        places = range(len(self._arms))
        given = [_count(f"shares[{k + 1}] > 0") for k in places]
        denied = [_count(f"len(shares) > {k} AND shares[{k + 1}] = 0") for k in places]
        found = self._rows(
            f"SELECT revision, fold, arm, count(*), fsum(value), min(decided_ms), max(decided_ms), "
            f"{_count('NOT (propensity > 0 AND propensity <= 1)')}, {', '.join([*given, *denied])} "
            f"FROM ({self._decisions}) GROUP BY ALL ORDER BY ALL"
        )
        if any(row[7] for row in found):
            raise InvalidInput("propensity: expected numbers above 0 and at most 1.")
        middle = 8 + len(self._arms)
        return [ArmSums._make((*row[:7], row[8:middle], row[middle:])) for row in found]

    def of_targets(self, asked: TargetsAsked) -> PolicySums:
        targets, withheld, outcomes, centre, tau, ranges = asked
        n_arms, n_folds = len(self._arms), len(outcomes)
        if n_arms * len(targets) > MAX_TERMS:
            raise InvalidInput(
                f"--engine: {len(targets)} policies of {n_arms} arms are too many; ask for fewer at once."
            )
        self._put_outcomes(outcomes)
        rows = f"SELECT * FROM ({self._decisions}) JOIN outcomes USING (fold)"
        opened = self._opened(range(n_arms), withheld)
        flags = ", ".join(f"({one})::INTEGER AS o{k}" for k, one in enumerate(opened))
        rows = f"SELECT *, {_case('q{}', range(n_arms))} AS q, {flags} FROM ({rows})"
        sums = [_moments_of("value", "count(*)", ranges), *(_count(f"o{k} = 0") for k in range(n_arms))]
        stages: list[list[str]] = [[], [], [], []]
        for c, target in enumerate(targets):
            arms = [k for k in range(n_arms) if target[k] > 0.0]
            chances = {k: f"{float(target[k])!r} * o{k}" for k in arms}
            stages[0].append(f"{' + '.join(chances.values())} AS mass{c}")
            for k in arms:
                stages[1].append(f"{chances[k]} / nullif(mass{c}, 0) AS u{c}_{k}")
            own = {k: f"u{c}_{k}" for k in arms}
            direct = " + ".join(f"{own[k]} * q{k}" for k in arms)
            reach = [
                f"CASE WHEN {own[k]} > 0 THEN CASE WHEN shares[{k + 1}] > 0 THEN {own[k]} / shares[{k + 1}] "
                "WHEN shares IS NOT NULL THEN 'inf'::DOUBLE END END"
                for k in arms
            ]
            stages[2] += [
                f"CASE WHEN mass{c} > 0 THEN {_case(f'u{c}_{{}}', arms)} / propensity END AS w{c}",
                f"{direct} AS d{c}",
                f"{_largest(reach)} AS reach{c}",
            ]
            stages[3] += [f"{term} AS {name}{c}" for name, term in _terms(c, tau).items()]
            sums += _sums(c, own, n_folds, centre, ranges)
        for stage in stages:
            rows = f"SELECT *, {', '.join(stage)} FROM ({rows})"
        found = iter(self._one(f"SELECT {', '.join(sums)} FROM ({rows})"))
        values, closed = _moments(found), [next(found) for _ in range(n_arms)]
        return PolicySums(values, closed, [_target_sums(found, target, n_folds) for target in targets])

    def _opened(self, arms: Sequence[int], withheld: Sequence[Sequence[int]]) -> list[str]:
        """Conditions that an arm had a chance, or was withheld, or that it is not known."""
        conditions = []
        for k in arms:
            said = f"shares IS NULL OR shares[{k + 1}] > 0"
            if withheld[k]:
                said += f" OR (len(shares) > {k} AND revision IN ({', '.join(map(str, withheld[k]))}))"
            conditions.append(f"coalesce({said}, false)")
        return conditions

    def _put_outcomes(self, outcomes: Floats) -> None:
        rows = [
            f"({fold}, {', '.join(f'{float(each)!r}::DOUBLE' for each in of_arms)})"
            for fold, of_arms in enumerate(outcomes)
        ]
        names = ", ".join(f"q{k}" for k in range(outcomes.shape[1]))
        self._rows(
            f"CREATE OR REPLACE TEMP TABLE outcomes AS SELECT * FROM (VALUES {', '.join(rows)}) AS t(fold, {names})"
        )

    def _one(self, query: str) -> tuple[Any, ...]:
        (found,) = self._rows(query)
        return found

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        try:
            rows: list[tuple[Any, ...]] = self._database.execute(query).fetchall()
        except self._error as error:
            raise InvalidInput(f"DuckDB can not read the export: {str(error).splitlines()[0]}") from None
        return rows


def _decisions(read: FilesRead, metric: Metric, span: TimeSpan) -> str:
    """Query of the decisions that results analyse; the rules are those of `DecisionCollector`."""
    experiment = read.experiment
    by_unit, zero = experiment.unit == "user", experiment.missing == "zero"
    arm = (
        "CASE arm "
        + " ".join(f"WHEN {_quoted(name)} THEN {k}" for k, name in enumerate(experiment.arm_names))
        + " END"
    )
    files = ", ".join(map(_quoted, read.files))
    reward = f'"reward_{metric.name}"'
    place = ""
    if by_unit:
        order = (
            "CASE filename "
            + " ".join(f"WHEN {_quoted(f)} THEN {i}" for i, f in enumerate(read.files))
            + " END"
        )
        place = f", unit, ({order})::BIGINT * {2**40} + file_row_number AS place"
    rows = (
        f"SELECT {arm} AS arm, propensity, shares, CASE WHEN isnan({reward}) THEN NULL ELSE {reward} END AS value, "
        f"revision, incarnation::VARCHAR AS incarnation, number, epoch_ms(decided_at) AS decided_ms, closed{place} "
        f"FROM read_parquet([{files}], union_by_name = true, hive_partitioning = false"
        f"{', filename = true, file_row_number = true' if by_unit else ''})"
    )
    conditions = []
    if span.since_ms is not None:
        conditions.append(f"decided_ms >= {span.since_ms}")
    if span.until_ms is not None:
        conditions.append(f"decided_ms < {span.until_ms}")
    if read.n_parts > 1:
        # Not `hash`, which may be another in another version of DuckDB.
        conditions.append(f"md5_number_lower(unit) % {read.n_parts} = {read.number}")
    within = " AND ".join(conditions) or "true"
    if not by_unit:
        counted, value = ("closed", "coalesce(value, 0)") if zero else ("value IS NOT NULL", "value")
        return (
            f"SELECT * EXCLUDE (closed) REPLACE ({value} AS value) FROM ({rows}) WHERE {within} AND {counted}"
        )
    of_unit = "max" if metric.kind == "binary" else "fsum"
    rows = f"SELECT * FROM ({rows}) WHERE {within}"
    units = f"SELECT min(place) AS place, {of_unit}(value) AS of_unit, count(value) AS n FROM ({rows}) GROUP BY unit"
    counted = "closed" if zero else "n > 0"
    return (
        "SELECT * EXCLUDE (closed, place, unit, of_unit, n) REPLACE (coalesce(of_unit, 0) AS value) "
        f"FROM ({rows}) JOIN ({units}) USING (place) WHERE {counted}"
    )


def _terms(c: int, tau: float) -> dict[str, str]:
    """Terms of a policy's estimators, as `results/off_policy/estimators.py` has them."""
    w, d, residual = f"w{c}", f"d{c}", "(value - q)"
    return {
        "ips": f"{w} * value",
        "dr": f"{d} + {w} * {residual}",
        "switch": f"{d} + CASE WHEN {w} <= {tau!r} THEN {w} ELSE 0 END * {residual}",
        "dros": f"{d} + {w} * ({tau**2!r} / ({w} * {w} + {tau**2!r})) * {residual}",
    }


def _sums(c: int, own: Mapping[int, str], n_folds: int, centre: float, ranges: bool) -> list[str]:
    """Sums of one policy, in the order in which `_target_sums` takes them."""
    w, off, is_open = f"w{c}", f"(value - {centre!r})", f"mass{c} > 0"
    squares = [w, f"{w} * {off}", f"{w} * {w}", f"{w} * {w} * {off}", f"{w} * {w} * {off} * {off}"]
    return [
        _count(is_open),
        *(f"fsum({u})" for u in own.values()),
        *(
            f"fsum(CASE WHEN shares[{k + 1}] > 0 OR shares IS NULL THEN 0 ELSE {u} END)"
            for k, u in own.items()
        ),
        *(_moments_of(f"{name}{c}", _count(is_open), ranges or name == "w") for name in TERMS),
        *(f"fsum({square})" for square in squares),
        f"max(reach{c})" if ranges else "NULL",
        *(_count(f"{is_open} AND fold = {fold}") if ranges else "NULL" for fold in range(n_folds)),
    ]


def _moments(found: Iterator[Any]) -> Moments:
    n, mean, variance, least, most = (next(found) for _ in Moments._fields)
    return Moments(n, *(0.0 if each is None else each for each in (mean, variance, least, most)))


def _target_sums(found: Iterator[Any], target: Floats, n_folds: int) -> TargetSums:
    arms = [k for k in range(len(target)) if target[k] > 0.0]

    def of_arms() -> list[float]:
        sums = [0.0] * len(target)
        for k in arms:
            sums[k] = float(next(found) or 0.0)
        return sums

    n = int(next(found))
    shares, untried = of_arms(), of_arms()
    moments = {name: _moments(found) for name in TERMS}
    squares = [float(next(found) or 0.0) for _ in range(N_SQUARES)]
    reach = float(next(found) or 0.0)
    return TargetSums(n, shares, untried, moments, squares, reach, [next(found) for _ in range(n_folds)])


def _count(condition: str) -> str:
    return f"count(*) FILTER (WHERE {condition})"


def _moments_of(term: str, count: str, ends: bool) -> str:
    return f"{count}, favg({term}), var_samp({term}), " + (
        f"min({term}), max({term})" if ends else "NULL, NULL"
    )


def _case(name: str, arms: Sequence[int]) -> str:
    """Expression of the column that a decision's arm has, 0 for other arms."""
    return "CASE arm " + " ".join(f"WHEN {k} THEN {name.format(k)}" for k in arms) + " ELSE 0 END"


def _largest(expressions: Sequence[str]) -> str:
    return f"greatest({', '.join(expressions)})" if len(expressions) > 1 else expressions[0]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
