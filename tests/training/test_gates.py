import math
import operator as op
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.training.gate_tokens import COMPARISONS
from bandit_serve.training.gates import Gate

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ndcg@10 > 0", False),
        ("not ndcg@10 > 0", False),
        ("not not ndcg@10 > 0", False),
        ("not (ndcg@10 > 0 and rmse < 1)", False),
        ("not (ndcg@10 > 0 and rmse > 1)", True),
        ("not (ndcg@10 > 0 or rmse > 1)", False),
        ("ndcg@10 > 0 or rmse < 1", True),
        ("ndcg@10 > 0 and rmse < 1", False),
    ],
)
def test_a_strict_gate_does_not_open_for_want_of_a_value(text, expected):
    assert Gate(text).check(METRICS, "rmse", CURRENT, strict=True).open is expected


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
    assert gate.check({"rmse": 0.79}, "rmse", {"mae": 0.7}) == (
        True,
        "rmse 0.79 is <= 0.8; the current version has no value to be worse than",
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
        "rmse < mae < 1",
        "!rmse < 1",
        "rmse % 2 < 1",
        "abs(rmse) < 1",
        "rmse < '1'",
        "[1, 2].all(x, x < 3)",
        "rmse.matches('a') == 1",
        "rmse < ()",
        "rmse < 1 (mae < 1)",
        "true",
        "(rmse < 1) == (mae < 1)",
        "(rmse < 1 ? 1 : 2) < 1",
        "(" * 40 + "rmse" + ")" * 40 + " < 1",
        " and ".join(["rmse < 1"] * 1_000),
    ],
)
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(InvalidInput):
        Gate(text)


COMPARE = {"<=": op.le, "<": op.lt, ">=": op.ge, ">": op.gt, "==": op.eq, "!=": op.ne}
NAMES = ("rmse", "recall@10", "current.rmse", "time.ndcg@5", "p-value", "true", "in", "worse", "aé")
KNOWN = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e-7]))


class Old:
    """What a gate of the grammar before CEL said: its text, and its truth among values, None if that is unknown."""

    def __init__(self, text, truth):
        self.text, self.truth = text, truth


def value_of(token, known):
    factor, _, name = token.rpartition(" * ")
    found = known.get(name) if name in NAMES else float(name)
    return None if found is None else float(factor or 1) * found


def compared(left, symbol, right):
    def truth(known, strict, metric, current):
        values = [value_of(side, known) for side in (left, right)]
        if None in values:
            return None if strict else False
        return COMPARE[symbol](*values)

    return Old(f"{left} {symbol} {right}", truth)


def not_worse(known, strict, metric, current):
    if current is None or metric not in current:
        return True
    if metric not in known:
        return None if strict else False
    return known[metric] <= current[metric] if metric == "rmse" else known[metric] >= current[metric]


def first(decisive, parts):
    def truth(*facts):
        found = [part.truth(*facts) for part in parts]
        if decisive in found:
            return decisive
        return None if None in found else not decisive

    return truth


def negated(part):
    def truth(*facts):
        found = part.truth(*facts)
        return None if found is None else not found

    return truth


numbers = st.sampled_from(
    ["0", "1", "2", "007", "0.5", "1e0", "5E-1", "1.0", "1e-7", "10000000000000000000000", "1e400"]
)
operands = st.one_of(
    st.sampled_from(NAMES),
    numbers,
    st.builds("{} * {}".format, numbers.filter(lambda number: number != "1e400"), st.sampled_from(NAMES)),
)
ones = st.one_of(
    st.builds(compared, operands, st.sampled_from(sorted(COMPARE)), operands),
    st.just(Old("not worse than the current one", not_worse)),
)


def grouped(inner):
    several = st.lists(inner, min_size=1, max_size=3)
    joined = several.map(lambda parts: Old(" and ".join(part.text for part in parts), first(False, parts)))
    anys = st.lists(joined, min_size=1, max_size=3).map(
        lambda parts: Old("(" + " or ".join(part.text for part in parts) + ")", first(True, parts))
    )
    return st.one_of(anys, inner.map(lambda part: Old(f"not {part.text}", negated(part))))


OLD = st.recursive(ones, grouped, max_leaves=10)


@settings(deadline=None)
@given(
    OLD,
    KNOWN,
    st.booleans(),
    st.sampled_from(["rmse", "recall@10"]),
    st.sampled_from([None, "rmse", "recall@10"]),
)
@example(Old("(" * 49 + "rmse < 1" + ")" * 49, lambda *_: True), {"rmse": 0.5}, True, "rmse", None)
@example(Old("not " * 49 + "rmse < 1", lambda *_: False), {"rmse": 0.5}, True, "rmse", None)
def test_it_means_what_it_meant_before_cel(old, known, strict, metric, has):
    current = None if has is None else {has: 0.5}
    own = {name: value for name, value in known.items() if not name.startswith("current.")}
    among = own if current is None else own | {f"current.{has}": 0.5}
    verdict = Gate(old.text).check(own, metric, current, strict=strict)
    assert verdict.open is (old.truth(among, strict, metric, current) is True)
    assert verdict.reason
    assert Gate("\n".join(old.text.split(" "))).check(own, metric, current, strict=strict) == verdict


@given(st.text(alphabet="abc<>=!()1.@ andornt", max_size=30))
def test_any_text_is_a_gate_or_refused(text):
    try:
        gate = Gate(text)
    except InvalidInput:
        return
    assert isinstance(gate.check({}, "rmse", None).open, bool)


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("rmse <= 0.8 && !(rmse > 1)", True),
        ("rmse > 1 || time.rmse < 1.0 && rmse < 1", True),
        ("!(rmse < 1 || time.rmse < 1)", False),
        ("!!(rmse < 1)", True),
        ("!not rmse < 1", True),
        ("(baseline.rmse - rmse) / baseline.rmse >= 0.08", True),
        ("(baseline.rmse - rmse) / baseline.rmse >= 0.09", False),
        ("rmse - baseline.rmse < -.05", True),
        ("rmse < 1 && not worse than the current one", True),
        ("2 * rmse - 0.79 * 2 == 0", True),
        ("1 / 2 == 0.5", True),
    ],
)
def test_a_gate_in_cel(text, is_open):
    assert Gate(text).check(METRICS, "rmse", CURRENT).open is is_open


def test_a_reason_has_the_arithmetic():
    assert Gate("(current.rmse - rmse) / current.rmse >= 0.02").check(METRICS, "rmse", CURRENT) == (
        False,
        "(current.rmse 0.8 - rmse 0.79) / current.rmse 0.8 is not >= 0.02",
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("symbol", sorted(COMPARISONS))
@pytest.mark.parametrize(
    "text", ["a {} 1", "not a {} 1", "1 {} a", "b / b {} 1", "!(b / b {} 1)", "not a - a {} a"]
)
def test_what_is_not_a_number_opens_no_gate(text, symbol, strict):
    verdict = Gate(text.format(symbol)).check({"a": math.nan, "b": 0.0}, "rmse", None, strict=strict)
    assert verdict.open is False
    assert "is not a number" in verdict.reason


@pytest.mark.parametrize(("now", "before"), [(math.nan, 0.5), (0.5, math.nan)])
@pytest.mark.parametrize("text", ["not worse than the current one", "not not worse than the current one"])
def test_a_metric_that_is_not_a_number_is_not_compared_with_the_current_one(text, now, before):
    assert Gate(text).check({"rmse": now}, "rmse", {"rmse": before}).open is False


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("rmse < 1 rmse", "at 'rmse', character 10"),
        ("rmse < 1 and (mae >  2) or or mae < 1", "at 'or', character 27"),
        ("rmse < 1 and (mae < 2 and)", "at ')', character 26"),
        ("rmse < 1 and !mae < 2", "at '!', character 14"),
        ("rmse < 1 and mae * * 2 < 2", "at '*', character 20"),
        ("rmse < 1 and", "ends too early"),
        ("rmse < 1 and (mae < 2", "parenthesis of character 14"),
        ("rmse < 1 and mae < max(1, 2)", "from ', 2)' on"),
        ("rmse < 1 and mae < floor(2)", "undeclared reference to 'floor'"),
    ],
)
def test_a_refusal_has_the_place(text, place):
    with pytest.raises(InvalidInput) as refused:
        Gate(text)
    assert place in str(refused.value)


def test_names_that_no_metric_has_are_refused_before_the_gate_is_asked():
    gate = Gate("rmse < 1 and current.auc > 0.5")
    gate.require_known({"rmse"}, any_current=True)
    with pytest.raises(
        InvalidInput, match=r"at 'current.auc', character 14: expected a metric such as rmse\."
    ):
        gate.require_known({"rmse"})
    with pytest.raises(InvalidInput, match="a blank before a minus"):
        Gate("current.rmse-rmse > 0").require_known({"rmse", "current.rmse"})


def test_gates_of_two_threads_do_not_meet():
    gate = Gate("not (a < 1 or b < 1) and (a > 2 or b > 2)")

    def ask(number):
        return gate.check({"a": number % 4, "b": 3.0}, "", None).open

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(200))) == [number % 4 >= 1 for number in range(200)]


def test_the_language_is_loaded_with_the_first_gate():
    code = """
import sys
import bandit_serve.training.plan, bandit_serve.promotions.plan_checks, bandit_serve.cli.learn
assert not [name for name in sys.modules if name.startswith("cel_expr_python")]
bandit_serve.training.plan.Plan().gate("staging")
assert "cel_expr_python.cel" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_factor_is_a_number_before_a_metric():
    gate = Gate("rmse < baseline.rmse and not ndcg@10 < 0.5 * baseline.ndcg@10")
    known = {"rmse": 0.8, "baseline.rmse": 0.9, "baseline.ndcg@10": 0.1}
    assert gate.check({**known, "ndcg@10": 0.05}, "rmse", None).open
    refused = gate.check({**known, "ndcg@10": 0.04}, "rmse", None)
    assert refused == (False, "rmse 0.8 is < baseline.rmse 0.9; ndcg@10 0.04 is < 0.5 × baseline.ndcg@10 0.1")
    assert gate.check(known, "rmse", None).open, "what was not measured is not worse"
    assert Gate("2 * 0.3 <= rmse").check({"rmse": 0.6}, "rmse", None).open
    for wrong in ("rmse < 2 *", "rmse < 2 * * 3", "* rmse < 2"):
        with pytest.raises(InvalidInput, match="gate"):
            Gate(wrong)
