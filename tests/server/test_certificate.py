"""Certificate files: what is taken, what is refused and how that is said."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import DAY, Authority, Pair
from services import clean_environment

from bandit_serve.errors import UsageError
from bandit_serve.server.certificate import Certificate, CertificateFiles, certificate_files
from bandit_serve.settings import Settings

AUTHORITY = Authority()


def files(folder: Path, pair: Pair) -> CertificateFiles:
    _, cert, _, key = pair.write(folder)
    return CertificateFiles(cert, key)


def test_a_pair_is_loaded_with_its_expiry(tmp_path: Path) -> None:
    taken = Certificate.load(files(tmp_path, AUTHORITY.make(life=3 * DAY)))
    until = datetime.datetime.now(datetime.UTC) + 3 * DAY
    assert abs(taken.expires_s - until.timestamp()) < 60
    assert taken.context.minimum_version.name == "TLSv1_2"


def test_a_chain_behind_the_certificate_is_taken(tmp_path: Path) -> None:
    pair = AUTHORITY.make()
    Certificate.load(files(tmp_path, pair._replace(cert=pair.cert + AUTHORITY.pem)))


def _missing(folder: Path) -> None:
    (folder / "tls.key").unlink()


def _folder(folder: Path) -> None:
    (folder / "tls.crt").unlink()
    (folder / "tls.crt").mkdir()


def _fifo(folder: Path) -> None:
    (folder / "tls.key").unlink()
    os.mkfifo(folder / "tls.key", 0o600)


def _huge(folder: Path) -> None:
    with (folder / "tls.crt").open("ab") as file:
        file.write(b"\n" * 2**20)


def _no_pem(folder: Path) -> None:
    (folder / "tls.crt").write_bytes(b"0\x82\x03\x01")


def _damaged(folder: Path) -> None:
    path = folder / "tls.crt"
    path.write_bytes(path.read_bytes().replace(b"M", b"N", 1))


def _swapped(folder: Path) -> None:
    (folder / "tls.key").write_bytes(AUTHORITY.make().key)


WRONG: dict[str, tuple[Pair, Callable[[Path], object], str]] = {
    "missing": (AUTHORITY.make(), _missing, r"tls_key: .*tls\.key can not be read: No such file"),
    "folder": (AUTHORITY.make(), _folder, r"tls_cert: .* is not a file"),
    "fifo": (AUTHORITY.make(), _fifo, r"tls_key: .* is not a file"),
    "huge": (AUTHORITY.make(), _huge, r"tls_cert: .* of 1 MiB at most"),
    "no PEM": (AUTHORITY.make(), _no_pem, r"tls_cert: .* expected a certificate"),
    "damaged": (AUTHORITY.make(), _damaged, r"tls_cert and tls_key: .* can not be used"),
    "key of another": (AUTHORITY.make(), _swapped, r"tls_key: .* is not the key of the certificate"),
    "passphrase": (AUTHORITY.make(passphrase=b"open"), lambda folder: None, r"tls_key: .* has a passphrase"),
    "expired": (AUTHORITY.make(life=-DAY), lambda folder: None, r"tls_cert: .* has expired"),
    "of a client": (
        AUTHORITY.make(for_servers=False),
        lambda folder: None,
        r"tls_cert: .* not one for a server",
    ),
    "readable by its group": (
        AUTHORITY.make(),
        lambda folder: (folder / "tls.key").chmod(0o640),
        r"tls_key: .* can be read or written by its group; .*chmod 600",
    ),
    "readable by others": (
        AUTHORITY.make(),
        lambda folder: (folder / "tls.key").chmod(0o604),
        r"tls_key: .* can be read or written by others",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_used_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    pair, spoil, said = WRONG[name]
    wrong = files(tmp_path, pair)
    spoil(tmp_path)
    with pytest.raises(UsageError, match=said) as refused:
        Certificate.load(wrong)
    assert re.fullmatch(r"[^\n]*\.", str(refused.value))
    assert "PRIVATE KEY" not in str(refused.value)


def test_a_group_may_read_the_key_that_root_gives_to_a_user() -> None:
    """So are the files of a Kubernetes secret for a pod with a group of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to others")
    program = (
        "import os, sys, _strptime; from bandit_serve.server.certificate import *;"
        "os.setgroups([]); os.setgid(65533); os.setuid(65534);"
        "Certificate.load(CertificateFiles(*sys.argv[1:])); print('taken')"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        loaded = files(Path(folder), AUTHORITY.make())
        for path in loaded:
            os.chown(path, 0, 65_533)
            os.chmod(path, 0o440)
        done = subprocess.run(
            [sys.executable, "-c", program, *loaded], capture_output=True, text=True, env=clean_environment()
        )
    assert done.stdout == "taken\n", done.stderr


def test_one_file_without_the_other_is_refused() -> None:
    with pytest.raises(UsageError, match="tls_cert and tls_key belong together"):
        certificate_files(Settings(tls_cert="a.pem"))
    with pytest.raises(UsageError, match="tls_cert and tls_key belong together"):
        certificate_files(Settings(tls_key="a.pem"))
    assert certificate_files(Settings()) is None


def test_the_service_says_it_before_anything_starts(tmp_path: Path) -> None:
    flags = AUTHORITY.make(life=-DAY).write(tmp_path)
    command = [sys.executable, "-m", "bandit_serve", "serve", "--data", str(tmp_path / "data"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert "has expired" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()
