"""TLS contexts are shared by connections with the same options, and follow their files."""

from __future__ import annotations

import os
from pathlib import Path

from certificates import Authority
from redis.asyncio.connection import RedisSSLContext

from bandit_serve.store.tls_contexts import shared_context


def test_one_context_for_the_same_files_until_they_change(tmp_path: Path) -> None:
    trusted = tmp_path / "ca.crt"
    trusted.write_bytes(Authority().pem)

    def context(check_hostname: bool = True) -> object:
        return shared_context(
            RedisSSLContext(cert_reqs="required", ca_certs=str(trusted), check_hostname=check_hostname)
        )

    first = context()
    assert context() is first
    assert context(check_hostname=False) is not first
    trusted.write_bytes(Authority().pem)
    os.utime(trusted, ns=(1, 1))
    assert context() is not first
