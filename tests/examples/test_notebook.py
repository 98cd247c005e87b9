"""Notebook of the examples: each cell runs and prints what is stored below it."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

from documents import ROOT

NOTEBOOK = json.loads((ROOT / "examples" / "policies.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_cells_print_what_is_stored() -> None:
    space: dict[str, Any] = {}
    stored, printed = [], []
    for cell in CODE:
        stored.append("".join(text for output in cell["outputs"] for text in output["text"]))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec("".join(cell["source"]), space)
        printed.append(said.getvalue())
    assert sum(map(bool, stored)) >= 4
    assert printed == stored


def test_it_is_short() -> None:
    assert sum(len(cell["source"]) for cell in CODE) < 80
