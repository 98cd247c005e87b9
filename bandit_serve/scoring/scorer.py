"""Scorer: the answers of a model about chunks of rows, as tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from bandit_serve.api.inference import ITEM, PREDICTION, SCORE, USER
from bandit_serve.base.extras import require
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.export.tables import EXTRA
from bandit_serve.models.model import Model
from bandit_serve.models.onnx.signature import TensorSpec
from bandit_serve.scoring.asked import AskedRows, RowFault, asked_rows
from bandit_serve.scoring.model_source import ModelSource
from bandit_serve.scoring.question import EXCLUDE, FEATURES, BatchQuestion
from bandit_serve.scoring.row_files import Chunk, RowFile
from bandit_serve.serving.onnx_version import OnnxVersion
from bandit_serve.serving.servable import BackgroundScores

CONFIDENCE, RANK, FILE, LINE, OUTPUT = "confidence", "rank", "file", "line", "output_"
PLAIN = LINE, PREDICTION, CONFIDENCE, SCORE
"""Columns of scores and counts, whose values hardly repeat."""


class ScoredChunk(NamedTuple):
    """Arrow table of a chunk's answers, the number of its rows, and the faults of those that have none."""

    table: Any
    n_rows: int
    faults: list[RowFault]


class _Answers(Protocol):
    """Answers of one kind of model to one kind of question.

    `schema` is that of all its tables. `texts` are the features that it does not know as numbers.
    """

    schema: Any
    needs_names: bool
    takes_features: bool
    texts: Collection[str]

    def table(self, asked: AskedRows, refuse: Callable[[int, Exception], None]) -> Any:
        """Table of the answers about n rows; `refuse` gets the place of each row that has none, and why."""
        ...


class Scorer:
    """Scores chunks with a model that is opened once. Raises `UsageError` for what the model can not be asked.

    The numbers are those that the service answers, bit for bit: the same objects compute them.
    """

    def __init__(self, source: ModelSource, question: BatchQuestion) -> None:
        model = source.open()
        if isinstance(model, OnnxVersion) and not question.features:
            question = structs.replace(question, features=model.signature.columns)
        self._question = question
        self._answers = _answers(model, question)
        self.schema = self._answers.schema

    @property
    def needs_names(self) -> bool:
        """Whether each row needs its user, and its item where the question is of pairs."""
        return self._answers.needs_names

    @property
    def columns(self) -> set[str]:
        """Columns that are read where they are there: those of the question, and a graph's features."""
        return self._question.columns

    def chunk_rows(self, files: Sequence[RowFile]) -> int:
        """Rows of a chunk, the same for the same question about the same files."""
        return self._question.chunk_rows(
            with_features=bool(self._question.features) or any(each.has(FEATURES) for each in files),
            with_excluded=any(each.has(EXCLUDE) for each in files),
        )

    def score(self, chunk: Chunk) -> ScoredChunk:
        """Answers about a chunk's rows, in their order."""
        question = self._question
        asked, faults = asked_rows(
            chunk,
            question,
            needs_names=self.needs_names,
            takes_features=self._answers.takes_features,
            texts=self._answers.texts,
        )

        def refuse(place: int, error: Exception) -> None:
            faults.append(RowFault(chunk.file, asked.lines[place], str(error).rstrip(".")))

        table = self._answers.table(asked, refuse)
        faults.sort(key=lambda fault: fault.line)
        return ScoredChunk(table, len(chunk.lines) + len(chunk.faults), faults)


def _answers(model: Model | OnnxVersion, question: BatchQuestion) -> _Answers:
    if isinstance(model, OnnxVersion):
        return _OfGraph(model, question)
    if question.of_pairs:
        return _OfPairs(model, question)
    if question.confidence:
        raise UsageError("--confidence goes with the scores of pairs, not with --k or --items.")
    return _Rankings(model, question) if question.k is not None else _OfAll(model, question)


class _OfFamily:
    needs_names = True

    def __init__(self, model: Model, question: BatchQuestion, fields: list[tuple[str, Any]]) -> None:
        self._pa = pa = require("pyarrow", EXTRA)
        self._model = model
        self._question = question
        self.takes_features = model.takes_features
        self.texts: Collection[str] = set(question.features) - model.numbers_among(question.features)
        if question.features and not model.takes_features:
            raise UsageError(f"--features: the family {model.family} takes no features.")
        self.schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])

    def _features(self, asked: AskedRows) -> list[Any] | None:
        return None if asked.features is None else asked.named_features()

    def _made(self, *columns: Any) -> Any:
        arrays = [
            self._pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)
        ]
        return self._pa.Table.from_arrays(arrays, schema=self.schema)


class _OfPairs(_OfFamily):
    def __init__(self, model: Model, question: BatchQuestion) -> None:
        pa = require("pyarrow", EXTRA)
        fields = [(USER, pa.string()), (ITEM, pa.string()), (PREDICTION, pa.float64())]
        if question.confidence:
            fields.append((CONFIDENCE, pa.float64()))
        super().__init__(model, question, fields)

    def table(self, asked: AskedRows, refuse: Callable[[int, Exception], None]) -> Any:
        assert asked.users is not None
        assert asked.items is not None
        users, items, model = asked.users, asked.items, self._model
        features = self._features(asked)
        if features is None:
            values = model.predict_many(users, items)
            features = [None] * len(users)
        else:
            answers = [
                _or_none(refuse, place, model.predict, *row)
                for place, row in enumerate(zip(users, items, features, strict=True))
            ]
            kept = [place for place, answer in enumerate(answers) if answer is not None]
            users, items, features = ([each[place] for place in kept] for each in (users, items, features))
            values = np.array([answers[place] for place in kept], np.float64)
        if not self._question.confidence:
            return self._made(users, items, values)
        known = [model.confidence(*row) for row in zip(users, items, features, strict=True)]
        return self._made(users, items, values, np.array(known, np.float64))


class _Rankings(_OfFamily):
    def __init__(self, model: Model, question: BatchQuestion) -> None:
        pa = require("pyarrow", EXTRA)
        fields = [(USER, pa.string()), (RANK, pa.int32()), (ITEM, pa.string()), (SCORE, pa.float64())]
        super().__init__(model, question, fields)

    def table(self, asked: AskedRows, refuse: Callable[[int, Exception], None]) -> Any:
        assert asked.users is not None
        k, among, model = self._question.k, self._question.items, self._model
        assert k is not None
        features = self._features(asked)
        if features is None and among is None:
            rankings: list[Any] = model.top_k_many(asked.users, k, asked.excluded)
        else:
            n = len(asked.users)
            excluded: Sequence[Sequence[str]] = asked.excluded or [()] * n
            rows = enumerate(zip(asked.users, excluded, features or [None] * n, strict=True))
            rankings = [
                _or_none(refuse, place, model.top_k, user, k, skipped, own, among) or []
                for place, (user, skipped, own) in rows
            ]
        widths = np.array([len(each) for each in rankings], np.int64)
        users = self._pa.array(asked.users, self._pa.string()).take(
            self._pa.array(np.repeat(np.arange(len(widths)), widths))
        )
        starts = np.repeat(np.cumsum(widths) - widths, widths)
        ranks = (np.arange(widths.sum()) - starts + 1).astype(np.int32)
        items = [item for ranking in rankings for item, _ in ranking]
        scores = np.array([score for ranking in rankings for _, score in ranking], np.float64)
        return self._made(users, ranks, items, scores)


class _OfAll(_OfFamily):
    def __init__(self, model: Model, question: BatchQuestion) -> None:
        pa = require("pyarrow", EXTRA)
        super().__init__(
            model, question, [(USER, pa.string()), (ITEM, pa.string()), (PREDICTION, pa.float64())]
        )
        self._items = list(question.items or ())

    def table(self, asked: AskedRows, refuse: Callable[[int, Exception], None]) -> Any:
        assert asked.users is not None
        model, items = self._model, self._items
        features = self._features(asked) or [None] * len(asked.users)
        answers = [
            _or_none(refuse, place, model.predict_items, user, items, own)
            for place, (user, own) in enumerate(zip(asked.users, features, strict=True))
        ]
        kept = [place for place, answer in enumerate(answers) if answer is not None]
        places = np.repeat(np.array(kept, np.int64), len(items))
        users = self._pa.array(asked.users, self._pa.string()).take(self._pa.array(places))
        values: NDArray[np.float64] = np.concatenate([np.empty(0), *(answers[place] for place in kept)])
        return self._made(users, items * len(kept), values)


def _or_none(
    refuse: Callable[[int, Exception], None], place: int, ask: Callable[..., Any], *about: Any
) -> Any:
    """Answer about a row; None where the row is at fault, which `refuse` gets."""
    try:
        return ask(*about)
    except InvalidInput as error:
        refuse(place, error)
        return None


class _OfGraph:
    """Answers of an ONNX graph, whose rows run together as those of requests do."""

    needs_names = False
    takes_features = True

    def __init__(self, version: OnnxVersion, question: BatchQuestion) -> None:
        pa = self._pa = require("pyarrow", EXTRA)
        if not question.of_pairs or question.confidence:
            raise UsageError(
                "An ONNX graph scores the features of each row: without --k, --items, --confidence."
            )
        self._version = version
        signature = version.signature
        self.texts: Collection[str] = signature.texts
        self._outputs = () if signature.is_regression else signature.outputs
        fields = [
            pa.field(FILE, pa.string(), False),
            pa.field(LINE, pa.int64(), False),
            pa.field(USER, pa.string()),
            pa.field(ITEM, pa.string()),
        ]
        if signature.is_regression:
            fields.append(pa.field(PREDICTION, pa.float64(), False))
        fields += [pa.field(OUTPUT + each.name, _arrow_type(each), False) for each in self._outputs]
        self.schema = pa.schema(fields)

    def table(self, asked: AskedRows, refuse: Callable[[int, Exception], None]) -> Any:
        # A thread of its own, as that of the caller may run a loop, such as a notebook's.
        with ThreadPoolExecutor(1) as thread:
            scoring = self._version.score_all(list(asked.requests()))
            scored = thread.submit(asyncio.run, scoring).result()
        kept = list(_scored(scored, refuse))
        nothing = [None] * len(asked.lines)
        columns: list[Any] = [[asked.file] * len(kept)]
        columns += [
            [column[place] for place, _ in kept]
            for column in (asked.lines, asked.users or nothing, asked.items or nothing)
        ]
        if self._outputs:
            columns += [
                [_value(scores["outputs"][each.name], each) for _, scores in kept] for each in self._outputs
            ]
        else:
            columns.append([scores["prediction"] for _, scores in kept])
        arrays = [
            self._pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)
        ]
        return self._pa.Table.from_arrays(arrays, schema=self.schema)


def _scored(
    scored: list[BackgroundScores], refuse: Callable[[int, Exception], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for place, (scores, _) in enumerate(scored):
        if isinstance(scores, Exception):
            refuse(place, scores)
        else:
            yield place, scores


def _value(value: Any, spec: TensorSpec) -> Any:
    """Output's value as its type has it: one that could have been a list is served as a number."""
    return [value] if len(spec.shape) == 1 and spec.shape != (1,) and not isinstance(value, list) else value


def _arrow_type(spec: TensorSpec) -> Any:
    """Type of an output's values: its tensor's own, a list for each axis beyond rows, a map of scores by class."""
    pa = require("pyarrow", EXTRA)
    if spec.dtype == "mapping":
        return pa.map_(pa.string(), pa.float64())
    kind = pa.string() if spec.dtype == "str" else pa.from_numpy_dtype(np.dtype(spec.dtype))
    for _ in () if spec.shape == (1,) else spec.shape:
        kind = pa.list_(kind)
    return kind
