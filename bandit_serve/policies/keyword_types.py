"""Types of the keywords that constructors of policies take, for type checkers and editors.

`python -m bandit_serve.policies.keyword_types` writes `keywords.py` anew from `Terms` and the kinds' `Parameters`.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin

from msgspec import inspect

from bandit_serve.base.names import Name
from bandit_serve.policies import POLICIES
from bandit_serve.policies.context_free import ContextFreePolicy
from bandit_serve.policies.contextual import ContextualPolicy
from bandit_serve.policies.parameters import Declared, alternatives_of, declared, unannotated
from bandit_serve.policies.policy import Policy, Terms

KEYWORDS = Path(__file__).parent / "keywords.py"
HEAD = '''"""Keywords that constructors of policies take. Written by `keyword_types` from the declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from numpy.typing import ArrayLike

from bandit_serve.policies.numbers import ByArm
'''
BASES: dict[type[Policy], str] = {
    ContextFreePolicy: "ContextFreeKeywords",
    ContextualPolicy: "ContextualKeywords",
}


def keywords_module() -> str:
    """Source of `keywords.py`: a TypedDict for `Terms`, one for each base of policies, and one for each kind."""
    parts = [
        HEAD,
        _typed_dict("TermsKeywords", "TypedDict", {field.name: field.type for field in fields(Terms)}),
    ]
    for base, name in BASES.items():
        annotations = vars(base)["__init__"].__annotations__
        parts.append(_typed_dict(name, "TermsKeywords", {extra: annotations[extra] for extra in base.extras}))
    for policy in POLICIES.values():
        own = {name: _type(field) for name, field in declared(policy.Parameters).items()}
        parts.append(_typed_dict(f"{policy.__name__}Keywords", _base(policy), own))
    return "\n\n".join(parts)


def _base(policy: type[Policy]) -> str:
    return next(name for base, name in BASES.items() if issubclass(policy, base))


def _typed_dict(name: str, base: str, types: dict[str, Any]) -> str:
    body = "".join(f"    {keyword}: {each}\n" for keyword, each in types.items()) or "    pass\n"
    return f"class {name}({base}, total=False):\n{body}"


def _type(field: Declared) -> str:
    """Type of a parameter in a call: with the indices of arms, or an array of them all, in place of their names."""
    if field.number is not None:
        known = "int" if isinstance(field.number, inspect.IntType) else "float"
    else:
        (mapping,) = (
            each for each in map(unannotated, alternatives_of(field.type)) if get_origin(each) is dict
        )
        by_arm = get_args(mapping)[0] == Name
        known = "ByArm" if by_arm else "Mapping[str, ByArm | None]"
    return f"{known} | None" if field.nullable else known


if __name__ == "__main__":
    KEYWORDS.write_text(keywords_module())
