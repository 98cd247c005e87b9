"""ONNX file that was received or stored, of which nothing was read yet but its first bytes."""

from __future__ import annotations

import hashlib
import mmap

from bandit_serve.errors import InvalidArtifact

FAMILY = "onnx"
MAX_BYTES = 2**31 - 1
"""Bytes of a protobuf message."""


class OnnxFile:
    """Content of an ONNX file. Raises `InvalidArtifact` above `MAX_BYTES`."""

    family = FAMILY

    def __init__(self, buffer: bytes | mmap.mmap) -> None:
        if len(buffer) > MAX_BYTES:
            raise InvalidArtifact(
                f"The ONNX file has {len(buffer)} bytes; no more than {MAX_BYTES} are possible."
            )
        self.buffer = buffer
        self.size = len(buffer)

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole content, 64 hexadecimal digits. Reads all of it."""
        return hashlib.sha256(self.buffer).hexdigest()
