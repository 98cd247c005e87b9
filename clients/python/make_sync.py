"""Makes the client for threads out of that for asyncio: the same calls, without `await`.

`python clients/python/make_sync.py` writes `sync_*.py` after a change of their sources.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "bandit_serve_client"
MADE = {
    "client.py": "sync_client.py",
    "experiment_calls.py": "sync_experiment_calls.py",
    "model_calls.py": "sync_model_calls.py",
    "middleware/decisions.py": "middleware/sync_decisions.py",
}
NOTE = "\n\nMade by make_sync.py; changes belong into {source}.\n"
WORDS = {
    r"async def ": "def ",
    r"async with ": "with ",
    r"await ": "",
    r"for asyncio\b": "for threads",
    r", for one event loop\b": ", for any number of threads",
    r"\b__aenter__\b": "__enter__",
    r"\b__aexit__\b": "__exit__",
    r"\basync_(connections|outbox)\b": r"\1",
    r"\bAsync(Connections|Outbox|Iterator|Lock)\b": r"\1",
    r"\basynccontextmanager\b": "contextmanager",
    r"\bAwaitable\[T\]": "T",
    r"\b(Client|ExperimentCalls|ModelCalls|Sending|Decisions)\b": r"Sync\1",
    r"_client\.(client|experiment_calls|model_calls)\b": r"_client.sync_\1",
    r"\basyncio\b": "threading",
}
AWAITABLE = re.compile(r"^from collections\.abc import .*$", re.M)


def made_of(source: str) -> str:
    """Returns the text of the module that is made of `source`, a path in the package."""
    text = (PACKAGE / source).read_text()
    for pattern, replacement in WORDS.items():
        text = re.sub(pattern, replacement, text)
    if not re.search(r"\bAwaitable\b", text.replace("import Awaitable", "")):
        text = AWAITABLE.sub(lambda line: line[0].replace("Awaitable, ", ""), text)
    docstring, rest = text.split('"""\n', 1)
    return formatted(f'{docstring}{NOTE.format(source=source)}"""\n{rest}')


def formatted(text: str) -> str:
    """Sorts imports and lays out lines as everywhere."""
    for command in (["check", "--select", "I", "--fix-only", "--quiet"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(PACKAGE / "made.py"), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> None:
    for source, target in MADE.items():
        (PACKAGE / target).write_text(made_of(source))


if __name__ == "__main__":
    main()
