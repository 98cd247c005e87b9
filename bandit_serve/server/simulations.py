"""Simulations that a page asks for: each is `bandit-serve simulate` in a process of its own, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from bandit_serve.errors import Overloaded, Unavailable
from bandit_serve.processes.child import LAUNCHER
from bandit_serve.simulation.report import SimulationReport

MAX_WAITING = 4
PATIENCE_S = 45.0
NICER = 5
"""What is added to the niceness of the worker: requests come first."""
AGAIN_S = 5.0


class Simulations:
    """Runs what was bounded before (`simulation/cost.py`), for all tenants of a worker in turn."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def run(self, document: bytes) -> SimulationReport:
        """Report of a description in JSON; raises `Overloaded` where too many wait, `Unavailable` if it takes long."""
        if self._waiting >= MAX_WAITING:
            raise Overloaded("Others wait for simulations already; try again in a while.", AGAIN_S)
        self._waiting += 1
        try:
            async with self._turn:
                return await _run(document)
        finally:
            self._waiting -= 1


async def _run(document: bytes) -> SimulationReport:
    with tempfile.TemporaryDirectory(prefix="bandit-serve-simulate-") as folder:
        described, printed = Path(folder, "world.json"), Path(folder, "report.json")
        described.write_bytes(document)
        command = [
            sys.executable,
            "-P",
            "-m",
            "bandit_serve",
            "simulate",
            str(described),
            "--json",
            "--jobs",
            "1",
        ]
        with printed.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICER)
            async with asyncio.timeout(PATIENCE_S):
                status = await process.wait()
        except TimeoutError:
            raise Unavailable(
                f"The simulation took longer than {PATIENCE_S:g} s and was ended: this machine is busy."
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status != 0:
            raise Unavailable(f"The simulation ended with status {status}; bandit-serve simulate says why.")
        return msgspec.json.decode(printed.read_bytes(), type=SimulationReport)
