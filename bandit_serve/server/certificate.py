"""Certificate that the service shows its callers (TLS), and its renewal while the service runs."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bandit_serve.base.clock import rfc3339
from bandit_serve.base.troubles import Troubles
from bandit_serve.errors import UsageError, in_full
from bandit_serve.server.assignment import SAID_EVERY_S
from bandit_serve.settings import Settings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
MAX_PEM_BYTES = 2**20
TROUBLE = "tls_certificate"
EXPIRED, NOT_YET_VALID = 10, 9
"""OpenSSL's numbers of what a verification found."""


class CertificateFiles(NamedTuple):
    """Paths of a certificate with its chain, and of its private key; both in PEM."""

    cert: str
    key: str

    def state(self) -> tuple[tuple[int, ...], ...]:
        """Numbers that change when the files do, or what their links lead to. Raises OSError."""
        return tuple(
            (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_mode)
            for each in map(os.stat, self)
        )


def certificate_files(settings: Settings) -> CertificateFiles | None:
    """Files of the settings; None for a service without TLS. Raises `UsageError` for one without the other."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise UsageError("tls_cert and tls_key belong together; expected both or neither.")
    return CertificateFiles(settings.tls_cert, settings.tls_key)


class Certificate(NamedTuple):
    """Certificate and key, ready for handshakes. `expires_s` is a time in seconds since 1970."""

    context: ssl.SSLContext
    expires_s: float

    @classmethod
    def load(cls, files: CertificateFiles) -> Certificate:
        """Loads the files and tries them in a handshake.

        Raises `UsageError` for a file that can not be read or is of another kind, a key that others may read, has a
        passphrase or belongs to another certificate, and a certificate that is not valid now or not for servers.
        """
        chain = _read("tls_cert", files.cert, b"-----BEGIN CERTIFICATE-----")
        _read("tls_key", files.key, b"PRIVATE KEY-----")
        _require_private(files.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(files.cert, files.key, password=lambda: _refuse_passphrase(files.key))
        except ssl.SSLError as error:
            raise _unusable(files, error) from None
        except OSError as error:
            raise UsageError(
                f"The files of tls_cert and tls_key can not be read: {error.strerror}."
            ) from None
        return cls(context, _expiry_s(context, chain, files.cert))


class FollowedCertificate:
    """Certificate of now: read again when its files change, as certbot and Kubernetes renew them.

    A renewal that can not be used leaves the former certificate in place, and is a trouble. `tell` gets the time at
    which the certificate in use expires, whenever that is another.
    """

    def __init__(self, files: CertificateFiles, troubles: Troubles, tell: Callable[[float], None]) -> None:
        self._files = files
        self._troubles = troubles
        self._tell = tell
        self._state: tuple[tuple[int, ...], ...] | None = None
        self._certificate: Certificate | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """Context for the next handshake; only after `load`."""
        assert self._certificate is not None
        return self._certificate.context

    async def load(self) -> None:
        """Returns when there is a certificate. The supervisor refuses one that can not be used, so that a worker waits
        for one only where it was started after a renewal that failed.
        """
        said_s = -SAID_EVERY_S
        while self._certificate is None:
            error = await self._renew()
            if error is not None:
                now_s = time.monotonic()
                if now_s - said_s >= SAID_EVERY_S:
                    said_s = now_s
                    log.error("this worker accepts nothing until it has a certificate: %s", in_full(error))
                await asyncio.sleep(LOOK_EVERY_S)

    async def follow(self) -> None:
        """Reads the files again whenever they change. What fails once may be half of a renewal: it fails twice."""
        failed = False
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._watch_expiry()
            if not failed and self._state_now() == self._state:
                continue
            error = await self._renew()
            if error is None:
                self._troubles.end(TROUBLE)
                log.info("the certificate was renewed and is valid until %s", self._until())
            elif failed:
                detail = f"The renewed certificate can not be used, and the former goes on: {error}"
                self._troubles.begin(TROUBLE, detail)
            failed = error is not None

    async def _renew(self) -> UsageError | None:
        state = self._state_now()
        try:
            certificate = await asyncio.to_thread(Certificate.load, self._files)
        except UsageError as error:
            return error
        self._state, self._certificate = state, certificate
        self._tell(certificate.expires_s)
        return None

    def _state_now(self) -> tuple[tuple[int, ...], ...] | None:
        try:
            return self._files.state()
        except OSError:
            return None

    def _watch_expiry(self) -> None:
        assert self._certificate is not None
        if time.time() >= self._certificate.expires_s:
            self._troubles.begin(
                TROUBLE, f"The certificate of {self._files.cert} expired at {self._until()}."
            )

    def _until(self) -> str:
        assert self._certificate is not None
        return rfc3339(round(self._certificate.expires_s * 1000))


def _read(setting: str, path: str, kind: bytes) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{setting}: {path} is not a file.")
        with open(path, "rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{setting}: {path} can not be read: {error.strerror}.") from None
    if kind not in content or len(content) > MAX_PEM_BYTES:
        what = "a private key" if setting == "tls_key" else "a certificate, and behind it its chain,"
        raise UsageError(f"{setting}: {path} has no such thing; expected {what} in PEM, of 1 MiB at most.")
    return content.decode("ascii", "replace")


def _require_private(key: str) -> None:
    """Refuses a key that others may read. A group may read one that root gives to this user, as Kubernetes does."""
    status = os.stat(key)
    given = status.st_uid == 0 != os.geteuid()
    if status.st_mode & (stat.S_IRWXO | (stat.S_IWGRP if given else stat.S_IRWXG)):
        others = "others" if status.st_mode & stat.S_IRWXO else "its group"
        raise UsageError(
            f"tls_key: {key} can be read or written by {others}; "
            f"make it private with `chmod 600 {Path(key).resolve()}`."
        )


def _refuse_passphrase(key: str) -> str:
    raise UsageError(f"tls_key: {key} has a passphrase; expected a key without one.")


def _unusable(files: CertificateFiles, error: ssl.SSLError) -> UsageError:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return UsageError(f"tls_key: {files.key} is not the key of the certificate in {files.cert}.")
    why = (error.reason or str(error)).replace("_", " ").lower()
    return UsageError(f"tls_cert and tls_key: {files.cert} and {files.key} can not be used: {why}.")


def _expiry_s(context: ssl.SSLContext, chain: str, cert: str) -> float:
    """Time at which the certificate expires, from a handshake with a client in memory that trusts it and no other."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        trusting.load_verify_locations(cadata=chain)
        client = trusting.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        when = {EXPIRED: "has expired", NOT_YET_VALID: "is not valid yet"}
        said = when.get(error.verify_code, f"is not one for a server: {error.verify_message}")
        raise UsageError(f"tls_cert: the certificate in {cert} {said}.") from None
    except ssl.SSLError as error:
        raise UsageError(f"tls_cert: {cert} can not be used: {error.reason or error}.") from None
    shown = client.getpeercert()
    assert shown is not None
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _shake_hands(*sides: ssl.SSLObject) -> None:
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
