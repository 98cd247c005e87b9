"""Configuration of a policy of any kind: one flat object with the parameters of all kinds."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bandit_serve.policies import POLICIES
from bandit_serve.policies.context_free import PseudoHistory
from bandit_serve.policies.parameters import (
    CommonParameters,
    PartsByName,
    as_configured,
    declared,
    parts_schema,
)

PSEUDO_HISTORY: Any = (
    Annotated[
        PartsByName,
        Meta(
            description="what to start with as if it had been observed: `n`, `mean`, and without bounds `std`",
            extra_json_schema={"required": ["n", "mean"], **parts_schema(PseudoHistory, by_arm=True)},
        ),
    ]
    | None
)


def _of_all_kinds() -> dict[str, Any]:
    """Parameters that single kinds declare, by name, with their types.

    What is by arm comes before a pseudo-history, as it does in logs, and numbers after it. No range is among the types:
    it is of a kind, and the same name may have another one elsewhere.
    """
    types: dict[str, Any] = {}
    for kind, policy in POLICIES.items():
        for name, field in declared(policy.Parameters).items():
            configured = as_configured(field.type)
            if types.setdefault(name, configured) != configured or name in CommonParameters.__struct_fields__:
                raise TypeError(f"the parameter {name} of {kind} is of another type elsewhere")
    by_arm = {name: each for name, each in types.items() if name in _mappings()}
    return {**by_arm, "pseudo_history": PSEUDO_HISTORY, **types}


def _mappings() -> set[str]:
    return {
        name
        for policy in POLICIES.values()
        for name, field in declared(policy.Parameters).items()
        if field.number is None
    }


_WithAllKinds: Any = msgspec.defstruct(
    "_WithAllKinds",
    [(name, configured, None) for name, configured in _of_all_kinds().items()],
    bases=(CommonParameters,),
    frozen=True,
    kw_only=True,
)


class PolicySpec(
    _WithAllKinds,  # type: ignore[misc]
    CommonParameters,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Policy by which traffic is shared. `kind` selects it; each kind takes parameters of its own."""


OWN = tuple(name for name in _of_all_kinds() if name != "pseudo_history")
"""The parameters that not every kind takes."""
