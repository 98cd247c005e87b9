"""Listening socket that all workers accept from: bound once, and closed without resetting a connection."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import logging
import socket
import struct
import sys
import time
from typing import NoReturn

from bandit_serve.errors import UsageError

log = logging.getLogger(__name__)

BACKLOG = 2_048
BIND_PATIENCE_S = 5.0
BIND_POLL_S = 0.05
HANDSHAKE_S = 0.05
"""Time after `turn_away` in which a handshake that was under way may still bring a connection."""

_SO_ATTACH_FILTER = 26
# The flags of a TCP segment: those with SYN and without ACK open a connection.
_LOAD_FLAGS = (0x30, 0, 0, 13)
_ONLY_SYN_AND_ACK = (0x54, 0, 0, 0x12)
_UNLESS_SYN_SKIP = (0x15, 0, 1, 0x02)
_DROP = (0x06, 0, 0, 0)
_KEEP = (0x06, 0, 0, 0xFFFF_FFFF)
_FILTER = (_LOAD_FLAGS, _ONLY_SYN_AND_ACK, _UNLESS_SYN_SKIP, _DROP, _KEEP)


def is_reachable_by_others(host: str) -> bool:
    """Whether other machines can reach a service bound to this host. Raises `UsageError` for an unknown one."""
    try:
        addresses = socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        raise UsageError(f"The host {host!r} is unknown: {error.strerror}.") from None
    return not all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in addresses)


def require_keys(host: str) -> NoReturn:
    """Raises `UsageError` for a service without keys that other machines could reach."""
    raise UsageError(
        f"{host} can be reached from other machines and no keys are configured: make one with "
        "`bandit-serve keys create --scope admin`, bind a loopback address, or give --insecure."
    )


def bind(host: str, port: int) -> socket.socket:
    """Binds and listens; waits a little while another process leaves the port. Raises `UsageError` if it stays."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    until_s = time.monotonic() + BIND_PATIENCE_S
    warned = False
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until_s:
                raise UsageError(f"{host}:{port} can not be bound: {error.strerror}.") from None
        if not warned:
            log.warning("%s:%d is in use; waiting up to %g s for it", host, port, BIND_PATIENCE_S)
            warned = True
        time.sleep(BIND_POLL_S)


def turn_away(listener: socket.socket) -> None:
    """Drops all packets that open a connection, so that callers try again by themselves.

    What was connected before stays in the socket's queue. A caller that comes between the last accept and the close
    would be connected and then reset. Linux only; elsewhere that gap remains.
    """
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
    program = struct.pack("HP", len(_FILTER), ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError as error:
        log.warning("callers that connect while the socket closes may be reset: %s", error)
        return
    time.sleep(HANDSHAKE_S)
