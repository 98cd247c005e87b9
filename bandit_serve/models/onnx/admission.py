"""Admission of an ONNX file: it is checked in a process of its own, whose memory, time and files are bounded.

    python -m bandit_serve.models.onnx.admission <bytes of memory>     the file comes on stdin, the verdict on stdout

The process reads the file's structure and makes a session as a worker would, but runs nothing. Whatever a hostile file
does there, a crash of ONNX Runtime included, ends in a refusal.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from bandit_serve.base.extras import require
from bandit_serve.errors import BanditServeError, InvalidArtifact
from bandit_serve.models.onnx.file import OnnxFile
from bandit_serve.models.onnx.session import EXTRA, RUNTIME, make_session
from bandit_serve.models.onnx.signature import Signature, signature_of
from bandit_serve.models.onnx.wire import check_structure

MAX_SECONDS = 120
BASE_BYTES = 3 * 2**30
"""Address space of a process with ONNX Runtime and an empty graph, generously."""
BYTES_A_BYTE = 12
"""Address space for each byte of the file: its copies, its parsed form and the session."""


class AdmissionVerdict(Struct):
    """Signature of the graph, or the sentence that refuses it."""

    signature: Signature | None = None
    refusal: str | None = None


def admit_onnx(file: OnnxFile) -> Signature:
    """Signature of a file that may be served.

    Blocks for a quarter of a second or longer. Raises `InvalidArtifact`, and `NotInstalled` without the extra `onnx`.
    """
    require(RUNTIME, EXTRA)
    memory_bytes = BASE_BYTES + BYTES_A_BYTE * file.size
    command = [sys.executable, "-m", __name__, str(memory_bytes)]
    try:
        ended = subprocess.run(
            command, input=file.buffer, capture_output=True, timeout=MAX_SECONDS, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise InvalidArtifact(f"The graph could not be checked within {MAX_SECONDS} s.") from None
    try:
        verdict = msgspec.json.decode(ended.stdout, type=AdmissionVerdict)
    except msgspec.DecodeError:
        refusal = InvalidArtifact(
            "The graph could not be checked: it takes too much memory, or ONNX Runtime broke."
        )
        raise refusal.noted(ended.stderr[-300:].decode("utf-8", "replace").strip()) from None
    if verdict.signature is None:
        raise InvalidArtifact(verdict.refusal or "The graph is not accepted.")
    return verdict.signature


def _environment() -> dict[str, str]:
    """Environment of the process that checks: without our settings, which may hold passwords."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BANDIT_SERVE_")}


def _bound(memory_bytes: int) -> None:
    """Bounds this process. It can not write a file, and none of its bounds can be raised again."""
    for what, bound in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, MAX_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        least = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (least, least))


def _check(content: bytes) -> AdmissionVerdict:
    check_structure(content)
    before = _anonymous_bytes()
    session = make_session(content)
    nbytes = max(len(content), _anonymous_bytes() - before)
    return AdmissionVerdict(signature_of(session.get_inputs(), session.get_outputs(), nbytes))


def _anonymous_bytes() -> int:
    """Memory of this process without what it maps of files; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    match = re.search(r"^RssAnon:\s*(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def main() -> None:
    require(RUNTIME, EXTRA)
    _bound(int(sys.argv[1]))
    try:
        verdict = _check(sys.stdin.buffer.read())
    except BanditServeError as error:
        verdict = AdmissionVerdict(refusal=str(error))
    except MemoryError:
        verdict = AdmissionVerdict(refusal="The graph could not be checked: it takes too much memory.")
    sys.stdout.buffer.write(msgspec.json.encode(verdict))


if __name__ == "__main__":
    main()
