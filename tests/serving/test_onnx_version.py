"""Graphs in memory: requests share runs, a row fails alone, a run has a bound, and shadows disturb nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import graphs
import numpy as np
import pytest
from msgspec import structs
from onnx import TensorProto, helper

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.base.threads import in_scoring_thread
from bandit_serve.errors import ContentRefused, InvalidArtifact, InvalidInput, ModelFailed, Overloaded
from bandit_serve.models.onnx import session as session_module
from bandit_serve.models.onnx.rows import Row
from bandit_serve.models.onnx.session import Run, Session, make_session
from bandit_serve.models.onnx.signature import MAX_ROW_BYTES, signature_of
from bandit_serve.serving import onnx_version as module
from bandit_serve.serving.onnx_version import MAX_FAILED_RUNS, MAX_RUN_ROWS, OnnxVersion, onnx_check


def session_of(content: bytes) -> Session:
    made = make_session(content)
    return Session(content, signature_of(made.get_inputs(), made.get_outputs()))


@pytest.fixture(scope="module")
def division() -> Session:
    return session_of(graphs.arithmetic("Div"))


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario())


def request(a: float, b: float) -> ScoreRequest:
    return ScoreRequest(features={"a": a, "b": b})


@pytest.fixture
def sizes(division: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each run of `division`."""
    sizes: list[int] = []

    def counted(rows: Sequence[Row]) -> Run:
        sizes.append(len(rows))
        return Session.run(division, rows)

    monkeypatch.setattr(division, "run", counted)
    return sizes


def test_requests_that_come_together_share_runs_up_to_the_bound(division: Session, sizes: list[int]) -> None:
    async def scenario() -> None:
        version = OnnxVersion(division)
        scores = await asyncio.gather(*(version.score(request(i, 2)) for i in range(150)))
        assert [each["prediction"] for each in scores] == [i / 2 for i in range(150)]
        assert sizes == [MAX_RUN_ROWS, MAX_RUN_ROWS, 150 - 2 * MAX_RUN_ROWS]

    run(scenario)


def test_those_that_come_during_a_run_share_the_next(division: Session, sizes: list[int]) -> None:
    async def scenario() -> None:
        version = OnnxVersion(division)
        first = version.score(request(1, 1))
        await asyncio.sleep(0)
        later = [version.score(request(i, 1)) for i in range(5)]
        assert (await first)["prediction"] == 1.0
        assert [each["prediction"] for each in await asyncio.gather(*later)] == [0, 1, 2, 3, 4]
        assert sizes == [1, 5]

    run(scenario)


def test_a_wide_graph_has_smaller_runs() -> None:
    content = graphs.graph(
        [graphs.helper.make_node("ReduceSum", ["x"], ["score"], keepdims=1)],
        {"x": (1, [None, 10_000])},
        {"score": (1, [None, None])},
    ).SerializeToString()
    assert OnnxVersion(session_of(content))._max_rows == 1


def test_a_row_fails_alone(division: Session) -> None:
    async def scenario() -> None:
        version = OnnxVersion(division)
        asked = [version.score(request(i, i % 2)) for i in range(6)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(answer, ContentRefused) for answer in answers] == [True, False] * 3
        assert answers[5] == {"prediction": 5.0}

    run(scenario)


def test_one_that_goes_away_costs_the_others_nothing(division: Session, sizes: list[int]) -> None:
    async def scenario() -> None:
        version = OnnxVersion(division)
        asked = [version.score(request(i, 1)) for i in range(4)]
        asked[1].cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(answers[1], asyncio.CancelledError)
        assert [answers[i]["prediction"] for i in (0, 2, 3)] == [0, 2, 3]  # type: ignore[index]
        assert sizes == [3]

    run(scenario)


def test_the_queue_has_a_bound(division: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)

    async def scenario() -> None:
        version = OnnxVersion(division)
        asked = [version.score(request(i, 1)) for i in range(3)]
        with pytest.raises(Overloaded):
            version.score(request(9, 1))
        await asyncio.gather(*asked)
        assert (await version.score(request(9, 1)))["prediction"] == 9.0

    run(scenario)


def test_a_run_without_end_is_stopped_and_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_RUN_S", 0.3)
    endless = session_of(graphs.slow(2**40))

    async def scenario() -> None:
        version = OnnxVersion(endless)
        asked = [version.score(ScoreRequest(features={"a": 1.0})) for _ in range(3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, ModelFailed) for answer in answers)
        (tried,) = await version.score_all([ScoreRequest(features={"a": 1.0})])
        assert isinstance(tried.scores, ModelFailed)

    run(scenario)
    finite = session_of(graphs.slow(3))
    assert finite.run([[1.0]]).scores() == [{"prediction": 4.0}]


def test_the_wait_for_the_scoring_thread_is_no_time_of_a_run(
    division: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_RUN_S", 0.2)

    async def scenario() -> None:
        other = asyncio.ensure_future(in_scoring_thread(time.sleep, 0.6))
        await asyncio.sleep(0)
        assert await OnnxVersion(division).score(request(1, 2)) == {"prediction": 0.5}
        assert other.done()

    run(scenario)


def test_rows_without_a_score_are_refused_while_the_graph_scores_another(division: Session) -> None:
    async def scenario() -> None:
        version = OnnxVersion(division)
        assert await version.score(request(1, 2)) == {"prediction": 0.5}
        for _ in range(2 * MAX_FAILED_RUNS):
            with pytest.raises(ContentRefused, match="not finite"):
                await version.score(request(1, 0))
        assert await version.score(request(3, 2)) == {"prediction": 1.5}

    run(scenario)


def test_a_graph_that_never_scored_fails_after_some_runs(division: Session) -> None:
    async def scenario() -> None:
        version = OnnxVersion(division)
        for _ in range(MAX_FAILED_RUNS - 1):
            with pytest.raises(ContentRefused):
                await version.score(request(1, 0))
        for _ in range(3):
            with pytest.raises(ModelFailed):
                await version.score(request(1, 0))
        assert await version.score(request(1, 2)) == {"prediction": 0.5}
        with pytest.raises(ContentRefused):
            await version.score(request(1, 0))

    run(scenario)


def test_a_graph_that_scores_no_more_fails(division: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        version = OnnxVersion(division)
        assert await version.score(request(1, 2)) == {"prediction": 0.5}
        monkeypatch.setattr(Session, "scores", _failing)
        with pytest.raises(ModelFailed):
            await version.score(request(1, 2))

    run(scenario)


def _failing(*_: object) -> None:
    raise ModelFailed("The graph failed.")


def widened(width: int | None) -> bytes:
    """Graph that gives so many ones a row for one number; without `width`, as many as its number says."""
    values = [
        helper.make_tensor("one", TensorProto.FLOAT, [1, 1], [1.0]),
        helper.make_tensor("width", TensorProto.INT64, [1], [width or 1]),
    ]
    nodes = [
        helper.make_node("Shape", ["a"], ["n"], end=1),
        helper.make_node("Concat", ["n", "width"], ["shape"], axis=0),
        helper.make_node("Expand", ["one", "shape"], ["ones"]),
    ]
    if width is None:
        values.pop()
        nodes[:0] = [
            helper.make_node("ReduceMax", ["a"], ["largest"], axes=[0, 1], keepdims=0),
            helper.make_node("Cast", ["largest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["whole", "first"], ["width"]),
        ]
        values.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    return graphs.graph(
        nodes, {"a": (TensorProto.FLOAT, [None, 1])}, {"ones": (TensorProto.FLOAT, [None, width])}, values
    ).SerializeToString()


@pytest.mark.parametrize(("width", "fits"), [(780, True), (900, False), (1_000_000, False)])
def test_a_row_of_an_open_shape_has_a_bound(width: int, fits: bool) -> None:
    async def scenario() -> None:
        version = OnnxVersion(session_of(widened(None)))
        asked = [version.score(ScoreRequest(features={"a": float(size)})) for size in (2, width, 3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        if fits:
            assert answers[1] == {"outputs": {"ones": [1.0] * width}}
        else:
            assert isinstance(answers[1], ContentRefused)
            assert "for a row" in str(answers[1])
            assert answers[0] == {"outputs": {"ones": [1.0] * 2}}, "a row fails alone"

    run(scenario)


@pytest.mark.parametrize(("width", "accepted"), [(18_000, True), (19_000, False), (1_000_000, False)])
def test_a_graph_that_declares_too_much_for_a_row_is_not_admitted(width: int, accepted: bool) -> None:
    made = make_session(widened(width))
    if accepted:
        signature = signature_of(made.get_inputs(), made.get_outputs())
        assert signature.max_row_bytes <= MAX_ROW_BYTES
        assert OnnxVersion(Session(widened(width), signature))._max_rows == 1
    else:
        with pytest.raises(InvalidArtifact, match="for a row"):
            signature_of(made.get_inputs(), made.get_outputs())


def test_what_a_run_breaks_on_reaches_those_who_wait(
    division: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        version = OnnxVersion(division)
        with monkeypatch.context() as patched:
            patched.setattr(Run, "scores", lambda self: 1 / 0)
            answers = await asyncio.gather(
                *(version.score(request(i, 1)) for i in range(3)), return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [ZeroDivisionError] * 3
        assert (await version.score(request(1, 1)))["prediction"] == 1.0

    run(scenario)


def test_many_are_scored_aside_and_those_that_lack_something_fail_alone(division: Session) -> None:
    async def scenario() -> None:
        requests: list[Any] = [request(i, 1) for i in range(100)]
        requests[7] = ScoreRequest(user_id="u", item_id="i")
        requests[8] = ScoreRequest(user_id="u", k=3)
        tried = await OnnxVersion(division).score_all(requests)
        assert [isinstance(each.scores, InvalidInput) for each in tried] == [i in (7, 8) for i in range(100)]
        assert tried[99].scores == {"prediction": 99.0}
        assert all(each.seconds > 0 for i, each in enumerate(tried) if i not in (7, 8))

    run(scenario)


def test_graphs_with_equal_inputs_have_one_check(division: Session) -> None:
    other = structs.replace(session_of(graphs.arithmetic("Sum")).signature, nbytes=12)
    assert onnx_check(division.signature) == onnx_check(other)
    assert onnx_check(division.signature) != onnx_check(
        session_of(graphs.arithmetic(n=3, operator="Sum")).signature
    )


@pytest.mark.parametrize(
    ("dtype", "value", "output"),
    [
        (graphs.TensorProto.STRING, "größer", "größer"),
        (graphs.TensorProto.INT64, 7, 7),
        (graphs.TensorProto.BOOL, True, True),
        (graphs.TensorProto.DOUBLE, 0.1, 0.1),
    ],
)
def test_outputs_have_the_types_of_their_tensors(dtype: int, value: Any, output: Any) -> None:
    content = graphs.graph(
        [
            graphs.helper.make_node("Identity", ["a"], ["b"]),
            graphs.helper.make_node("Identity", ["a"], ["c"]),
        ],
        {"a": (dtype, [None, 1])},
        {"b": (dtype, [None, 1]), "c": (dtype, [None, 1])},
    ).SerializeToString()
    (scores,) = session_of(content).run([[value]]).scores()
    assert scores == {"outputs": {"b": output, "c": output}}


def test_a_graph_of_one_row_is_run_row_by_row() -> None:
    content = graphs.graph(
        [graphs.helper.make_node("ReduceSum", ["x"], ["score"], keepdims=1)],
        {"x": (1, [1, 3])},
        {"score": (1, [1, 1])},
    ).SerializeToString()
    scores = session_of(content).run([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).scores()
    assert scores == [{"prediction": 6.0}, {"prediction": 15.0}]


def test_a_graph_that_gives_other_rows_than_it_took_fails() -> None:
    content = graphs.graph(
        [graphs.helper.make_node("Concat", ["x", "x"], ["score"], axis=0)],
        {"x": (1, [None, 1])},
        {"score": (1, ["n", 1])},
    ).SerializeToString()
    for n in (1, 2):
        failed = session_of(content).run([[1.0]] * n).scores()
        assert [str(each) for each in failed] == ["The graph gave 2 rows for 1."] * n


def test_scores_are_those_of_the_library_in_any_run() -> None:
    exported = graphs.random_forest()
    session = session_of(exported.content)
    for n in (1, 7, 40):
        scores = session.run(exported.features[:n]).scores()
        given = [each["outputs"]["probabilities"] for each in scores]  # type: ignore[index]
        np.testing.assert_allclose(given, exported.probabilities[:n], atol=1e-5, rtol=0)
