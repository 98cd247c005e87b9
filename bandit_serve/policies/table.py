"""Table of the parameters of policies in the documents.

`python -m bandit_serve.policies.table docs/policies.md` writes it anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec

from bandit_serve.policies import POLICIES
from bandit_serve.policies.context_free import PseudoHistory
from bandit_serve.policies.parameters import CommonParameters, Declared, declared, spelled_range

PLACE = re.compile(r"(?<=<!-- policies -->\n).*?(?=<!-- /policies -->)", re.DOTALL)


def policies_table() -> str:
    """Markdown, a row a parameter: the kind that takes it, its name, default and values, and what it is."""
    rows = ["| `kind` | parameter | default | values | |", "|---|---|---|---|---|"]
    rows += [
        _row("every kind", field) for name, field in declared(CommonParameters).items() if name != "kind"
    ]
    rows += [_row("without context", field, "pseudo_history.") for field in declared(PseudoHistory).values()]
    for kind, policy in POLICIES.items():
        rows += [_row(f"`{kind}`", field) for field in declared(policy.Parameters).values()]
    return "\n".join(rows) + "\n"


def _row(kind: str, field: Declared, within: str = "") -> str:
    default = "" if field.default is None else f"`{msgspec.json.encode(field.default).decode()}`"
    return f"| {kind} | `{within}{field.name}` | {default} | {_values(field)} | {field.description} |"


def _values(field: Declared) -> str:
    if field.number is not None:
        return spelled_range(field.number)
    schema = msgspec.json.schema(field.type)
    if any(each.get("type") == "string" for each in schema.get("anyOf", [schema])):
        return "a duration"
    return "parts by name" if "properties" in field.schema else "numbers by arm"


def with_policies_table(document: str) -> str:
    """Document with the table as it is now between `<!-- policies -->` and `<!-- /policies -->`."""
    return PLACE.sub(lambda _: policies_table(), document)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_policies_table(path.read_text()))
