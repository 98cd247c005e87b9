"""Audience of an experiment: a rule on what a request says of itself, and the function that it is compiled to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.names import Name
from bandit_serve.errors import FieldError
from bandit_serve.policies.context import MAX_VALUE_CHARS, ContextField

MAX_DEPTH = 8
MAX_RULES = 100
"""Rules in an audience, those that have others in them included."""
MAX_LISTED_VALUES = 1_000
"""Values in all lists of an audience."""
MAX_NUMBER = 2.0**53

Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Listed = Number | Annotated[str, Meta(max_length=MAX_VALUE_CHARS)] | bool
Matches = Callable[[Mapping[str, Any]], bool]
"""Whether a context fits. Its values are numbers, texts, truth values or None, which counts as missing."""


class AudienceRule(Struct, frozen=True, forbid_unknown_fields=True, rename={"negated": "not", "among": "in"}):
    """Rule that a request fits or not: `all` or `any` of several, `not` another one, or operators on one `field`.

    Several operators on a field have to hold together. A field that is missing, or null, fits no operator but
    `exists: false`; a value of another type than the operator's is not equal to it, and neither less nor greater.
    """

    all: Annotated[tuple[AudienceRule, ...], Meta(min_length=1, max_length=MAX_RULES)] | UnsetType = UNSET
    any: Annotated[tuple[AudienceRule, ...], Meta(min_length=1, max_length=MAX_RULES)] | UnsetType = UNSET
    negated: AudienceRule | UnsetType = UNSET
    field: Name | UnsetType = UNSET
    among: Annotated[tuple[Listed, ...], Meta(min_length=1, max_length=MAX_LISTED_VALUES)] | UnsetType = UNSET
    eq: Listed | UnsetType = UNSET
    ne: Listed | UnsetType = UNSET
    lt: Number | UnsetType = UNSET
    le: Number | UnsetType = UNSET
    gt: Number | UnsetType = UNSET
    ge: Number | UnsetType = UNSET
    exists: bool | UnsetType = UNSET


FORMS = {"all": "all", "any": "any", "negated": "not", "field": "field"}
OPERATORS = {"among": "in", **{name: name for name in ("eq", "ne", "lt", "le", "gt", "ge", "exists")}}
ORDERING = ("lt", "le", "gt", "ge")
NUMBERS = (float, int)


def fields_of(rule: AudienceRule) -> frozenset[str]:
    """Names of the fields that a rule asks for."""
    return frozenset(each.field for each, _, _ in _walk(rule, "", 1) if each.field is not UNSET)


def audience_errors(
    rule: AudienceRule, context: Sequence[ContextField], at: str = "audience"
) -> list[FieldError]:
    """Errors of an audience, beyond what its types check: its form, its size, and values of a context field's type."""
    kinds = {field.name: field.kind for field in context}
    errors, n_rules, n_listed = [], 0, 0
    for each, here, depth in _walk(rule, at, 1):
        n_rules += 1
        n_listed += 0 if each.among is UNSET else len(each.among)
        if depth > MAX_DEPTH:
            errors.append(
                FieldError(here, f"expected rules within each other to a depth of at most {MAX_DEPTH}")
            )
        errors += _form_errors(each, here)
        errors += _value_errors(each, here, kinds.get("" if each.field is UNSET else each.field))
    if n_rules > MAX_RULES:
        errors.append(FieldError(at, f"expected at most {MAX_RULES} rules in all"))
    if n_listed > MAX_LISTED_VALUES:
        errors.append(FieldError(at, f"expected at most {MAX_LISTED_VALUES} values in all lists"))
    return errors


def _walk(rule: AudienceRule, at: str, depth: int) -> Iterator[tuple[AudienceRule, str, int]]:
    """Yields a rule and those in it, each with its path and its depth; none below a rule that is too deep."""
    yield rule, at, depth
    if depth > MAX_DEPTH:
        return
    for name, within in (("all", rule.all), ("any", rule.any)):
        for i, each in enumerate(() if within is UNSET else within):
            yield from _walk(each, f"{at}.{name}[{i}]", depth + 1)
    if rule.negated is not UNSET:
        yield from _walk(rule.negated, f"{at}.not", depth + 1)


def _operators(rule: AudienceRule) -> list[str]:
    return [name for name in OPERATORS if getattr(rule, name) is not UNSET]


def _form_errors(rule: AudienceRule, at: str) -> list[FieldError]:
    forms = [FORMS[name] for name in FORMS if getattr(rule, name) is not UNSET]
    operators = [OPERATORS[name] for name in _operators(rule)]
    if len(forms) != 1:
        given = f", not {' and '.join(forms)} together" if forms else ""
        return [FieldError(at, f"expected one of all, any, not and field{given}")]
    if forms != ["field"] and operators:
        return [FieldError(f"{at}.{operators[0]}", f"goes with field, not with {forms[0]}")]
    if forms == ["field"] and not operators:
        return [FieldError(at, f"expected an operator on the field: {', '.join(OPERATORS.values())}")]
    if rule.exists is not UNSET and len(operators) > 1:
        return [FieldError(f"{at}.exists", "stands alone: other operators ask for a value that is there")]
    return []


def _value_errors(rule: AudienceRule, at: str, kind: str | None) -> list[FieldError]:
    """Errors of a rule's values. kind: that of the context field, if the experiment has one of this name."""
    if kind is None:
        return []
    if kind == "categorical":
        detail = f"orders numbers, and the context field {rule.field} is categorical"
        return [FieldError(f"{at}.{name}", detail) for name in ORDERING if getattr(rule, name) is not UNSET]
    values = [(f"{at}.{name}", getattr(rule, name)) for name in ("eq", "ne")]
    values += [(f"{at}.in[{i}]", value) for i, value in enumerate(() if rule.among is UNSET else rule.among)]
    detail = f"expected a number: the context field {rule.field} is numeric"
    return [FieldError(here, detail) for here, value in values if isinstance(value, str)]


def matcher(rule: AudienceRule) -> Matches:
    """Compiles a rule without errors, once; what it returns does no I/O and keeps nothing."""
    if rule.all is not UNSET:
        return _every([matcher(each) for each in rule.all])
    if rule.any is not UNSET:
        return _some([matcher(each) for each in rule.any])
    if rule.negated is not UNSET:
        inner = matcher(rule.negated)
        return lambda context: not inner(context)
    assert rule.field is not UNSET
    return _every([_on_field(rule.field, name, getattr(rule, name)) for name in _operators(rule)])


def _every(rules: Sequence[Matches]) -> Matches:
    if len(rules) == 1:
        return rules[0]

    def every(context: Mapping[str, Any]) -> bool:
        for matches in rules:  # noqa: SIM110 (a generator costs as much as the rules)
            if not matches(context):
                return False
        return True

    return every


def _some(rules: Sequence[Matches]) -> Matches:
    if len(rules) == 1:
        return rules[0]

    def some(context: Mapping[str, Any]) -> bool:
        for matches in rules:  # noqa: SIM110
            if matches(context):
                return True
        return False

    return some


def _on_field(field: str, operator: str, value: Any) -> Matches:
    match operator:
        case "among":
            return _one_of(field, value)
        case "eq":
            return _one_of(field, (value,))
        case "ne":
            equal = _one_of(field, (value,))
            return lambda context: context.get(field) is not None and not equal(context)
        case "exists":
            return lambda context: (context.get(field) is not None) is value
        case _:
            return _ordered(field, operator, float(value))


def _one_of(field: str, values: Sequence[Any]) -> Matches:
    """Whether a field has one of some values. Truth values are no numbers: 1 is not true."""
    texts = frozenset(value for value in values if isinstance(value, str))
    truths = [value for value in values if isinstance(value, bool)]
    numbers = frozenset(value for value in values if not isinstance(value, str | bool))
    if not numbers and not truths and len(texts) == 1:
        (only,) = texts
        return lambda context: bool(context.get(field) == only)
    others = texts | numbers

    def one_of(context: Mapping[str, Any]) -> bool:
        value = context.get(field)
        if value is True or value is False:
            return value in truths
        try:
            return value in others
        except TypeError:  # a list, in a column of several values
            return False

    return one_of


def _ordered(field: str, operator: str, bound: float) -> Matches:
    """Comparison with a number; texts and truth values are neither less nor greater."""

    def lt(context: Mapping[str, Any]) -> bool:
        value = context.get(field)
        return value.__class__ in NUMBERS and value < bound

    def le(context: Mapping[str, Any]) -> bool:
        value = context.get(field)
        return value.__class__ in NUMBERS and value <= bound

    def gt(context: Mapping[str, Any]) -> bool:
        value = context.get(field)
        return value.__class__ in NUMBERS and value > bound

    def ge(context: Mapping[str, Any]) -> bool:
        value = context.get(field)
        return value.__class__ in NUMBERS and value >= bound

    return {"lt": lt, "le": le, "gt": gt, "ge": ge}[operator]
