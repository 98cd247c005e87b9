"""Hosts of a test: network namespaces on one bridge, whose links can be cut."""

from __future__ import annotations

import ctypes
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import pytest

Result = TypeVar("Result")
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


class Hosts:
    """Hosts with the given names, of which each has an address `10.213.7.N`; skips the test where none can be made."""

    def __init__(self, *names: str) -> None:
        self._tag = secrets.token_hex(2)
        self._names = names

    def __enter__(self) -> Self:
        if shutil.which("ip") is None:
            pytest.skip("hosts need `ip` (iproute2)")
        made = self._ip("netns", "add", self._space("switch"))
        if made.returncode:
            pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, name: str) -> str:
        return f"10.213.7.{self._names.index(name) + 1}"

    def on(self, name: str, action: Callable[[], Result]) -> Result:
        """Runs an action on a host, and all threads and processes that it starts; returns what it returns."""
        done: list[Result] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                with open(f"/run/netns/{self._space(name)}") as space:
                    if LIBC.setns(space.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                done.append(action())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work, name=f"host-{name}")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def cut(self, name: str) -> None:
        """Cuts a host's link: what is sent is lost without a word, as when a switch fails."""
        self._set_link(name, "down")

    def mend(self, name: str) -> None:
        self._set_link(name, "up")

    def _make(self) -> None:
        switch = self._space("switch")
        self._must("-n", switch, "link", "add", "bridge", "type", "bridge")
        self._must("-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(self._names, 1):
            space, port = self._space(name), f"port{number}"
            self._must("netns", "add", space)
            self._must(
                "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space
            )
            self._must("-n", switch, "link", "set", port, "master", "bridge")
            self._must("-n", switch, "link", "set", port, "up")
            self._must("-n", space, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            self._must("-n", space, "link", "set", "eth0", "up")
            self._must("-n", space, "link", "set", "lo", "up")

    def _set_link(self, name: str, state: str) -> None:
        port = f"port{self._names.index(name) + 1}"
        self._must("-n", self._space("switch"), "link", "set", port, state)

    def _remove(self) -> None:
        for name in (*self._names, "switch"):
            self._ip("netns", "delete", self._space(name))

    def _space(self, name: str) -> str:
        return f"bandit-{self._tag}-{name}"

    def _must(self, *words: str) -> None:
        done = self._ip(*words)
        assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"

    @staticmethod
    def _ip(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
