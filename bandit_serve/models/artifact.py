"""Model files: safetensors, mapped into memory, named by the SHA-256 of their content.

The format (https://huggingface.co/docs/safetensors): 8 bytes, little-endian, the length of a JSON header; the
header, `{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}`; the tensors'
bytes without holes. Ours carry one metadata entry, `bandit_serve`, which is JSON: `{"family",
"format_version", "parameters"}`. It is one entry because the library writes several in random order, and
equal models are to be equal files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from bandit_serve.base.private_files import own_folder, translating_disk_full
from bandit_serve.errors import BanditServeError, InvalidArtifact, InvalidInput, NotFound, TooLarge
from bandit_serve.models.remote import Remote

METADATA_KEY = "bandit_serve"
FORMAT_VERSION = 1
MAX_BYTES = 4 * 2**30
MAX_HEADER_BYTES = 2**20
MAX_TENSORS = 64
CHUNK_BYTES = 2**20
PUT, SENT = ".put-", ".sent-"
IS_SHA256 = re.compile(r"[0-9a-f]{64}")
ABANDONED_AFTER_S = 86_400
MARK = "user.bandit_serve.checked"

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Place of one tensor: `begin` and `end` are bytes from the start of the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


class Artifact:
    """Checked model file. Its tensors are read-only views of `buffer`, which lives as long as they do.

    Raises `InvalidArtifact` with the reason when `buffer` is not a file of ours.
    """

    def __init__(self, buffer: bytes | mmap.mmap) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        header, data_begin = _header(buffer)
        about = _about(header.pop("__metadata__", None))
        self.family: str = about["family"]
        self.parameters: dict[str, Any] = about["parameters"]
        self.tensors = _tensors(header, data_begin, self.size)

    @classmethod
    def map(cls, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Artifact:
        """Maps a file. Besides `InvalidArtifact`: `NotFound`, and `TooLarge` above `max_bytes`."""
        return cls(map_file(path, max_bytes))

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole content, 64 hexadecimal digits. Reads all of it."""
        return hashlib.sha256(self.buffer).hexdigest()

    def tensor(self, name: str, dtype: str, shape: Sequence[int | None]) -> NDArray[Any]:
        """Tensor as a read-only array without a copy.

        `dtype` is the format's name ("F32") and `shape` what the family needs (None: any length); another one
        is refused with `InvalidArtifact`.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise InvalidArtifact(f"The artifact has no tensor {name}, which the family {self.family} needs.")
        fits = len(tensor.shape) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
        )
        if tensor.dtype != DTYPES[dtype] or not fits:
            wanted = ", ".join("any" if want is None else str(want) for want in shape)
            raise InvalidArtifact(f"The tensor {name} must be {dtype} of shape ({wanted}).")
        count = (tensor.end - tensor.begin) // tensor.dtype.itemsize
        array: NDArray[Any] = np.frombuffer(self.buffer, tensor.dtype, count, tensor.begin).reshape(
            tensor.shape
        )
        return array


def write(
    path: str | os.PathLike[str],
    family: str,
    parameters: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
) -> None:
    """Writes a model file, whole or not at all. `parameters` must be JSON."""
    about = {"family": family, "format_version": FORMAT_VERSION, "parameters": dict(parameters)}
    metadata = {METADATA_KEY: json.dumps(about, sort_keys=True, allow_nan=False)}
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with translating_disk_full():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(temporary, flags, 0o600))
            _save(temporary, dict(tensors), metadata)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _save(path: Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Library errors that stand for one of the system's, with its number in the text."""
    try:
        safetensors.numpy.save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


class StoredFile(Protocol):
    """File of one of the formats that are kept. Its content was recognised, and it says what it is."""

    family: str
    size: int

    @property
    def sha256(self) -> str: ...


class Received:
    """Checked file in an `ArtifactStore` that has no name yet. `place` gives it its name, `withdraw` takes it back.

    `findings` is what its check returned.

    It is known by its copy, a file `.put-<sha256>-…`, or `.sent-…` once it was sent to the remote. Where a process dies
    before it has taken the copy away, the copy says what may have to be taken back.
    """

    def __init__(self, sha256: str, size: int, family: str, copy: Path, findings: Any = None) -> None:
        self.sha256 = sha256
        self.size = size
        self.family = family
        self.copy = copy
        self.findings = findings
        self.was_placed = False

    @property
    def was_sent(self) -> bool:
        return self.copy.name.startswith(SENT)


class ArtifactStore:
    """Model files in one local directory, each named `<sha256>.safetensors` and never changed.

    The name is a key alone: `read` recognises the format by the content. With a `remote`, every file is there too, and
    one that is not here is fetched from there once.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        max_bytes: int = MAX_BYTES,
        remote: Remote | None = None,
        read: Callable[[mmap.mmap], StoredFile] = Artifact,
    ) -> None:
        self._read = read
        self.root = own_folder(Path(root))
        self.max_bytes = max_bytes
        self.remote = remote

    def put(
        self,
        source: BinaryIO | bytes | str | os.PathLike[str],
        *,
        check: Callable[[Any], object] | None = None,
    ) -> tuple[str, int]:
        """Stores a file on disk; returns (sha256, size in bytes). Putting it again changes nothing.

        As `receive` and `place`.
        """
        received = self.receive(source, check=check)
        try:
            self.place(received)
        finally:
            self.forget(received)
        return received.sha256, received.size

    def receive(
        self,
        source: BinaryIO | bytes | str | os.PathLike[str],
        *,
        check: Callable[[Any], object] | None = None,
    ) -> Received:
        """Copies a file and checks it; who receives it also calls `forget`.

        `source` is a binary stream (read to its end), the content, or a path. `check` is called with the file as
        `read` gives it, and refuses it by raising. Raises `InvalidArtifact`, `DiskFull`, and `TooLarge` above
        `max_bytes`.
        """
        if isinstance(source, str | os.PathLike):
            try:
                with open(source, "rb") as stream:
                    return self.receive(stream, check=check)
            except FileNotFoundError:
                raise NotFound(f"There is no file {os.fspath(source)!r}.") from None
        chunks = iter([source]) if isinstance(source, bytes) else iter(lambda: source.read(CHUNK_BYTES), b"")
        temporary = self._temporary()
        try:
            with translating_disk_full(), open(temporary, "wb") as copy:
                sha256, size = self._copy(chunks, copy)
            file = self._read(map_file(temporary, self.max_bytes))
            if file.sha256 != sha256:
                raise InvalidArtifact("What was written to disk is not what was received.")
            findings = None if check is None else check(file)
            _write_mark(temporary)
            temporary.chmod(0o400)
            received = Received(sha256, size, file.family, temporary, findings)
            self._rename(received, PUT)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return received

    def place(self, received: Received) -> None:
        """Gives a file its name, here and in the remote, where it is not there already and whole."""
        if self.remote is not None and not self.remote.has(received.sha256):
            self._rename(received, SENT)
            self.remote.send(received.sha256, received.copy)
        path = self.path(received.sha256)
        if not self._is_whole(path, received.sha256):
            with translating_disk_full():
                second = self._temporary()
                second.unlink()
                try:
                    try:
                        os.link(received.copy, second)
                    except OSError:  # a file system without links
                        _duplicate(received.copy, second)
                    second.replace(path)
                    received.was_placed = True
                    _sync_directory(self.root)
                finally:
                    second.unlink(missing_ok=True)

    def withdraw(self, received: Received) -> None:
        """Takes back what `place` did, and nothing that was there before it."""
        if received.was_sent and self.remote is not None:
            self.remote.delete(received.sha256)
        path = self.path(received.sha256)
        with contextlib.suppress(FileNotFoundError):
            if received.was_placed or path.samefile(received.copy):
                path.unlink()

    def forget(self, received: Received) -> None:
        """Removes the copy: what became of the file is settled."""
        received.copy.unlink(missing_ok=True)

    def left(self) -> list[Received]:
        """Files that a process received and left, a day ago or longer. Spoiled copies are removed."""
        abandoned = []
        for copy in [*self.root.glob(f"{PUT}*"), *self.root.glob(f"{SENT}*")]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - copy.stat().st_mtime < ABANDONED_AFTER_S:
                    continue
                sha256 = copy.name.removeprefix(PUT).removeprefix(SENT)[:64]
                if IS_SHA256.fullmatch(sha256):
                    abandoned.append(Received(sha256, copy.stat().st_size, "", copy))
                else:
                    copy.unlink()
        return abandoned

    def open(self, sha256: str) -> StoredFile:
        """Maps a stored file whose content was checked against its name.

        It is checked again when it is not the file that was checked last, by inode, size and time of change: a
        gigabyte takes half a second to hash and none to map. Raises `NotFound`, and `InvalidArtifact` when the
        content is not what was put.
        """
        path = self.path(sha256)
        if self.remote is not None and not path.exists():
            self._fetch(sha256, self.remote)
        artifact_map = map_file(path, self.max_bytes)
        if _read_mark(path) != _mark_of(path):
            if hashlib.sha256(artifact_map).hexdigest() != sha256:
                raise InvalidArtifact(f"The content of artifact {sha256} does not match its SHA-256.")
            _write_mark(path)
        return self._read(artifact_map)

    def _fetch(self, sha256: str, remote: Remote) -> None:
        """Takes a file from the remote; `InvalidArtifact` when it is another, nothing when it is not there."""
        temporary = self._temporary()
        try:
            with translating_disk_full(), open(temporary, "wb") as file:
                if not remote.fetch(sha256, file):
                    return
                file.flush()
                os.fsync(file.fileno())
            if self._read(map_file(temporary, self.max_bytes)).sha256 != sha256:
                raise InvalidArtifact(f"The remote content of artifact {sha256} does not match its SHA-256.")
            _write_mark(temporary)
            temporary.chmod(0o400)
            temporary.replace(self.path(sha256))
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, sha256: str) -> None:
        """Removes a file, here and from the remote; models that have it mapped keep it. Raises `NotFound`."""
        if self.remote is not None:
            self.remote.delete(sha256)
        try:
            self.path(sha256).unlink()
        except FileNotFoundError:
            raise NotFound(f"There is no artifact {sha256}.") from None
        _sync_directory(self.root)

    def path(self, sha256: str) -> Path:
        """Path of the file, whether it exists or not. `InvalidInput` for what is not a SHA-256."""
        if not IS_SHA256.fullmatch(sha256):
            raise InvalidInput("An artifact is named by a SHA-256 of 64 lower-case hexadecimal digits.")
        return self.root / f"{sha256}.safetensors"

    def _temporary(self) -> Path:
        """File of a name that nobody has, for this user alone."""
        with translating_disk_full():
            descriptor, name = tempfile.mkstemp(prefix=PUT, dir=self.root)
        os.close(descriptor)
        return Path(name)

    def _rename(self, received: Received, prefix: str) -> None:
        renamed = self.root / f"{prefix}{received.sha256}-{secrets.token_hex(8)}"
        received.copy.rename(renamed)
        received.copy = renamed

    def _is_whole(self, path: Path, sha256: str) -> bool:
        """Return whether the file exists with the content of this SHA-256; if not it is put anew."""
        try:
            if _read_mark(path) == _mark_of(path):
                return True
            return hashlib.sha256(map_file(path, self.max_bytes)).hexdigest() == sha256
        except (BanditServeError, OSError):
            return False

    def _copy(self, chunks: Iterator[bytes], file: BinaryIO) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            size += len(chunk)
            if size > self.max_bytes:
                raise TooLarge(f"The artifact is larger than {self.max_bytes} bytes.")
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        return digest.hexdigest(), size


def _duplicate(path: Path, to: Path) -> None:
    """Checked file once more, also on the disk."""
    shutil.copyfile(path, to)
    with open(to, "rb") as file:
        os.fsync(file.fileno())
    _write_mark(to)
    to.chmod(0o400)


def _mark_of(path: Path) -> bytes:
    """Marks of a file that change with its content, unless somebody forges them."""
    status = path.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}".encode()


def _read_mark(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, MARK)
    except (OSError, AttributeError):
        return None


def _write_mark(path: Path) -> None:
    """Says in the file's extended attributes that it was checked; where there are none, it is checked each time."""
    with contextlib.suppress(OSError, AttributeError):
        # A write within the clock's grain would leave the time of change as it is, were it not set back.
        earlier_ns = time.time_ns() - 10**9
        os.utime(path, ns=(earlier_ns, earlier_ns))
        os.setxattr(path, MARK, _mark_of(path))


def map_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> mmap.mmap:
    """Maps a file. Raises `NotFound`, `TooLarge`, and `InvalidArtifact` for what is no plain file with content."""
    try:
        # Not blocking: opening a FIFO would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("The artifact is not there.").noted(os.fspath(path)) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArtifact("The artifact is not a regular file.")
        if status.st_size > max_bytes:
            raise TooLarge(
                f"The artifact has {status.st_size} bytes, more than the {max_bytes} that are allowed."
            )
        if status.st_size == 0:
            raise InvalidArtifact("The artifact is empty.")
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    """A new name is on disk once its directory is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begins_with_header(head: bytes) -> bool:
    """Whether a file with these first bytes begins as safetensors do, whatever mark the header's length looks like."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def _header(buffer: bytes | mmap.mmap) -> tuple[dict[str, Any], int]:
    """JSON header and where the tensors' bytes begin."""
    if len(buffer) < 8:
        raise InvalidArtifact("The artifact ends before the length of its header.")
    length = int.from_bytes(buffer[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise InvalidArtifact(f"The artifact's header claims {length} bytes, more than {MAX_HEADER_BYTES}.")
    if length > len(buffer) - 8:
        raise InvalidArtifact(f"The artifact ends before its header does, which claims {length} bytes.")
    header = _json(bytes(buffer[8 : 8 + length]), "header")
    return header, 8 + length


def _json(content: bytes, what: str) -> dict[str, Any]:
    def refuse_constant(name: str) -> NoReturn:
        raise InvalidArtifact(f"The artifact's {what} has the number {name}.")

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise InvalidArtifact(f"The artifact's {what} has a key twice.")
        return entries

    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=without_duplicates, parse_constant=refuse_constant
        )
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise InvalidArtifact(f"The artifact's {what} is not JSON.") from None
    if not isinstance(value, dict):
        raise InvalidArtifact(f"The artifact's {what} is not a JSON object.")
    return value


def _about(metadata: object) -> dict[str, Any]:
    """Reads our metadata entry: family, format_version, parameters."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get(METADATA_KEY), str):
        raise InvalidArtifact(
            f"The artifact was not written by bandit_serve: its metadata has no {METADATA_KEY}."
        )
    text: str = metadata[METADATA_KEY]
    about = _json(text.encode("utf-8", "surrogatepass"), "metadata")
    if set(about) != {"family", "format_version", "parameters"}:
        raise InvalidArtifact("The artifact's metadata must be family, format_version and parameters.")
    if not _is_count(about["format_version"]) or about["format_version"] != FORMAT_VERSION:
        raise InvalidArtifact(f"The artifact's format_version is not {FORMAT_VERSION}.")
    if not isinstance(about["family"], str) or not isinstance(about["parameters"], dict):
        raise InvalidArtifact("The artifact's family must be a string and its parameters an object.")
    return about


def _tensors(header: dict[str, Any], data_begin: int, size: int) -> dict[str, Tensor]:
    """Tensors of a header, which together are every byte from `data_begin` to `size`, each once."""
    if len(header) > MAX_TENSORS:
        raise InvalidArtifact(f"The artifact has more than {MAX_TENSORS} tensors.")
    tensors = {name: _tensor(_quoted(name), entry, data_begin, size) for name, entry in header.items()}
    end = data_begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            how = "overlaps" if tensor.begin < end else "leaves a hole after"
            raise InvalidArtifact(f"The tensor {_quoted(name)} {how} the one before it.")
        end = tensor.end
    if end != size:
        raise InvalidArtifact(f"The artifact has {size - end} bytes after its last tensor.")
    return tensors


def _tensor(name: str, entry: object, data_begin: int, size: int) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InvalidArtifact(f"The tensor {name} must have dtype, shape and data_offsets.")
    dtype_name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(dtype_name) if isinstance(dtype_name, str) else None
    if dtype is None:
        raise InvalidArtifact(f"The dtype of tensor {name} must be one of {', '.join(DTYPES)}.")
    if not isinstance(shape, list) or len(shape) > 4 or not all(map(_is_count, shape)):
        raise InvalidArtifact(f"The shape of tensor {name} must be at most 4 whole numbers.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise InvalidArtifact(f"The data_offsets of tensor {name} must be two whole numbers.")
    begin, end = data_begin + offsets[0], data_begin + offsets[1]
    if not begin <= end <= size:
        raise InvalidArtifact(f"The data_offsets of tensor {name} are outside the file.")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise InvalidArtifact(f"The data_offsets of tensor {name} do not fit its dtype and shape.")
    if begin % dtype.itemsize:
        raise InvalidArtifact(f"The tensor {name} is not aligned to its dtype.")
    return Tensor(dtype, tuple(shape), begin, end)


def _is_count(value: object) -> bool:
    """Whole number from 0 (JSON's true is an int in Python)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _quoted(text: str) -> str:
    """Text for an error: bounded, and printable."""
    return ascii(text[:60])
