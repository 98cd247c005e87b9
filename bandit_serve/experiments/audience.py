"""Audience of an experiment: a rule on what a request says of itself, and the condition that it is compiled to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.names import Name
from bandit_serve.errors import FieldError
from bandit_serve.experiments._audience import Condition, Equality, Every, Negation, Ordering, Presence, Some
from bandit_serve.policies.context import MAX_VALUE_CHARS, ContextField

MAX_DEPTH = 8
MAX_RULES = 100
"""Rules in an audience, those that have others in them included."""
MAX_LISTED_VALUES = 1_000
"""Values in all lists of an audience."""
MAX_NUMBER = 2.0**53

Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Listed = Number | Annotated[str, Meta(max_length=MAX_VALUE_CHARS)] | bool


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


def condition(rule: AudienceRule) -> Condition:
    """Compiles a rule without errors, once. A condition is asked of contexts, does no I/O and keeps nothing."""
    if rule.all is not UNSET:
        return _every([condition(each) for each in rule.all])
    if rule.any is not UNSET:
        return Some([condition(each) for each in rule.any])
    if rule.negated is not UNSET:
        return Negation(condition(rule.negated))
    assert rule.field is not UNSET
    return _every([_on_field(rule.field, name, getattr(rule, name)) for name in _operators(rule)])


def _every(parts: Sequence[Condition]) -> Condition:
    return parts[0] if len(parts) == 1 else Every(parts)


def _on_field(field: str, operator: str, value: Any) -> Condition:
    match operator:
        case "among":
            return Equality(field, value)
        case "eq":
            return Equality(field, (value,))
        case "ne":
            return Equality(field, (value,), wanted=False)
        case "exists":
            return Presence(field, value)
        case _:
            return Ordering(field, operator, value)
