import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.training.gates import COMPARISONS, Gate

METRICS = {"rmse": 0.79, "recall@10": 0.2, "time.rmse": 0.9, "baseline.rmse": 0.86}
CURRENT = {"rmse": 0.8, "recall@10": 0.3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rmse <= 1.0", True),
        ("rmse<=.5e0".replace(".5", "0.5"), False),
        ("rmse <= 0.8 and not worse than the current one", True),
        ("rmse <= 0.8 and not worse than the current one and recall@10 > 0.5", False),
        ("rmse < baseline.rmse", True),
        ("rmse < current.rmse", True),
        ("recall@10 >= current.recall@10", False),
        ("not rmse > 1", True),
        ("not not rmse > 1", False),
        ("not (rmse > 1 or time.rmse > 1)", True),
        ("rmse > 1 or rmse < 1 and recall@10 == 0.2", True),
        ("(rmse > 1 or rmse < 1) and recall@10 != 0.2", False),
        ("1 < 2", True),
        ("ndcg@10 > 0", False),
        ("not ndcg@10 > 0", True),
    ],
)
def test_what_a_gate_says(text, expected):
    verdict = Gate(text).check(METRICS, "rmse", CURRENT)
    assert verdict.open is expected
    assert verdict.reason


def test_a_reason_has_the_figures():
    gate = Gate("rmse <= 0.8 and not worse than the current one")
    assert gate.check(METRICS, "rmse", CURRENT).reason == (
        "rmse 0.79 is <= 0.8; rmse 0.79 is not worse than the current 0.8"
    )
    assert gate.check({"rmse": 0.9}, "rmse", CURRENT) == (False, "rmse 0.9 is not <= 0.8")
    assert gate.check({"rmse": 0.79}, "rmse", {"rmse": 0.7}).open is False
    assert gate.check({"rmse": 0.79}, "rmse", None) == (
        True,
        "rmse 0.79 is <= 0.8; there is no current version to be worse than",
    )
    assert Gate("ndcg@10 > 0").check(METRICS, "rmse", None).reason == "there is no ndcg@10"


@pytest.mark.parametrize(
    ("metric", "now", "is_open"), [("rmse", 0.9, False), ("ndcg@10", 0.9, True), ("mae", 0.5, True)]
)
def test_worse_depends_on_the_metric(metric, now, is_open):
    gate = Gate("not worse than the current one")
    assert gate.check({metric: now}, metric, {metric: 0.5}).open is is_open


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "rmse",
        "rmse <",
        "rmse < 1 and",
        "rmse < 1 rmse",
        "and",
        "(rmse < 1",
        "rmse < 1)",
        "rmse < < 1",
        "not",
        "rmse = 1",
        "rmse < 1; import os",
        "__import__('os')",
        "rmse < 1 or not worse than",
        "(" * 100 + "rmse < 1" + ")" * 100,
        "not " * 100 + "rmse < 1",
    ],
)
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(InvalidInput):
        Gate(text)


conditions = st.recursive(
    st.builds(
        lambda left, symbol, right: f"{left} {symbol} {right}",
        st.sampled_from(["a", "b"]),
        st.sampled_from(sorted(COMPARISONS)),
        st.integers(0, 3).map(str),
    ),
    lambda inner: st.one_of(
        st.builds(lambda x, y: f"({x}) and ({y})", inner, inner),
        st.builds(lambda x, y: f"({x}) or ({y})", inner, inner),
        st.builds(lambda x: f"not ({x})", inner),
    ),
    max_leaves=12,
)


@given(conditions, st.integers(0, 3), st.integers(0, 3))
def test_it_means_what_python_means(text, a, b):
    assert Gate(text).check({"a": a, "b": b}, "rmse", None).open is eval(text, {"a": a, "b": b})


@given(st.text(alphabet="abc<>=!()1.@ andornt", max_size=30))
def test_any_text_is_a_gate_or_refused(text):
    try:
        gate = Gate(text)
    except InvalidInput:
        return
    assert isinstance(gate.check({}, "rmse", None).open, bool)


def test_a_factor_is_a_number_before_a_metric():
    gate = Gate("rmse < baseline.rmse and not ndcg@10 < 0.5 * baseline.ndcg@10")
    known = {"rmse": 0.8, "baseline.rmse": 0.9, "baseline.ndcg@10": 0.1}
    assert gate.check({**known, "ndcg@10": 0.05}, "rmse", None).open
    refused = gate.check({**known, "ndcg@10": 0.04}, "rmse", None)
    assert refused == (False, "rmse 0.8 is < baseline.rmse 0.9; ndcg@10 0.04 is < 0.5 × baseline.ndcg@10 0.1")
    assert gate.check(known, "rmse", None).open, "what was not measured is not worse"
    assert Gate("2 * 0.3 <= rmse").check({"rmse": 0.6}, "rmse", None).open
    for wrong in ("rmse < rmse * 2", "rmse < 2 *", "rmse < 2 * * 3", "* rmse < 2", "rmse < 2 * 3 * rmse"):
        with pytest.raises(InvalidInput, match="gate"):
            Gate(wrong)
