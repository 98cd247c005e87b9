"""Processes with a wall clock that a test sets, by libfaketime; their monotonic clocks run on."""

from __future__ import annotations

from pathlib import Path

import pytest

LIBRARY = next(
    (
        path
        for directory in (Path("/usr/lib"), Path("/usr/local/lib"))
        for path in sorted(directory.glob("**/faketime/libfaketime.so.1"))
    ),
    None,
)
needs_faketime = pytest.mark.skipif(
    LIBRARY is None, reason="libfaketime is not installed (apt install faketime)"
)


class WallClock:
    """Wall clock of processes that are started with `environment`; `step` sets it while they run."""

    def __init__(self, directory: Path, step_s: int = 0) -> None:
        self._file = directory / "wall-clock"
        self.step(step_s)

    def step(self, seconds: int) -> None:
        """Sets the clock to the true time plus `seconds`."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{seconds:+d}\n")
        written.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else every wait for Python's lock ends at once, and two threads take a thousand times as long.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def wrapped(self, binary: Path) -> Path:
        """Path of a script that runs `binary` with this clock."""
        script = self._file.with_name(f"{binary.name}-stepped")
        settings = " ".join(f"{name}='{value}'" for name, value in self.environment.items())
        script.write_text(f"#!/bin/sh\nexec env {settings} '{binary}' \"$@\"\n")
        script.chmod(0o700)
        return script
