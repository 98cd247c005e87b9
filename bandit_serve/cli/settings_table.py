"""Table of the settings in the documents.

`python -m bandit_serve.cli.settings_table docs/settings.md` writes it anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bandit_serve.settings import Setting, declared_settings

PLACE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)
KINDS = {bool: "on or off", int: "number", float: "share", str: "text"}
BINARY = {2**30: "GiB", 2**20: "MiB", 2**10: "KiB"}


def settings_table() -> str:
    """Makes a Markdown table of the settings: name, default, valid values, help."""
    rows = ["| setting | default | values | |", "|---|---|---|---|"]
    for setting in declared_settings().values():
        kind = "" if setting.choices else setting.unit or KINDS[setting.kind]
        values = ", ".join(filter(None, (kind, setting.range)))
        rows.append(f"| `{setting.name}` | {_default(setting)} | {values} | {setting.help} |")
    return "\n".join(rows) + "\n"


def _default(setting: Setting) -> str:
    if setting.default is None:
        return setting.unset
    if setting.kind is bool:
        return "on" if setting.default else "off"
    return f"`{setting.default}`" + (f" ({_binary(int(setting.default))})" if setting.unit == "bytes" else "")


def _binary(n_bytes: int) -> str:
    size = next((size for size in BINARY if n_bytes % size == 0), 1)
    return f"{n_bytes // size} {BINARY.get(size, 'bytes')}"


def with_settings_table(document: str) -> str:
    """Returns a document with a new table between `<!-- settings -->` and `<!-- /settings -->`."""
    return PLACE.sub(lambda _: settings_table(), document)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_settings_table(path.read_text()))
