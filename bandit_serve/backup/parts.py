"""Parts of a backup, in the order of the file.

`Header`; then for each namespace `OfNamespace` and its logs: of each `OfLog`, then `Marks`, `LoggedEntries` and pieces
of snapshots in any order and as often as it takes, and its `EndOfLog`. A log may come again, as it goes on where it was
left: entries follow, a mark replaces the one of before. Then `TokenKeys`, `AgreementSums`, `Told`, `Waiting` and pieces
of model files, and at the end of all `End`.
"""

from __future__ import annotations

from msgspec import Struct

MAX_PIECE_BYTES = 2**20

# Any field of these is written by its place: a further one changes the version of the format.


class Header(Struct, frozen=True, tag="h", forbid_unknown_fields=True):
    """Origin of a backup. `began_ms` is the log's time when it began, Unix."""

    version: int
    build: str
    namespace: str
    began_ms: int


class OfNamespace(Struct, frozen=True, array_like=True, tag="n"):
    """Beginning of a namespace: `below` is the tenant's name, empty for the service itself, which comes first."""

    below: str


class TokenKeys(Struct, frozen=True, array_like=True, tag="k"):
    """Keys that sign decisions. Secrets."""

    keys: dict[int, bytes]


class OfLog(Struct, frozen=True, array_like=True, tag="l"):
    """Beginning of what there is of one log, or of more of it."""

    owner: str


class LoggedEntries(Struct, frozen=True, array_like=True, tag="e"):
    """LoggedEntries in the log's order: offset, kind and data of each."""

    entries: list[tuple[str, bytes, bytes]]


class Marks(Struct, frozen=True, array_like=True, tag="m"):
    """Marks: name, time at which each may go, and a string, or fields and values of a hash in turn."""

    marks: list[tuple[str, int | None, bytes | list[bytes]]]


class SnapshotPiece(Struct, frozen=True, array_like=True, tag="s"):
    """Piece of a snapshot, from the first on; `left` bytes of it follow in further pieces."""

    fold: str
    offset: str
    piece: bytes
    left: int


class EndOfLog(Struct, frozen=True, array_like=True, tag="z"):
    """Facts of the log at the moment that its part of the backup is of."""

    last: str
    trimmed: str
    head: str


class AgreementSums(Struct, frozen=True, array_like=True, tag="a"):
    """Sums of how a shadow version agrees, by worker, kept on for `lifetime_ms`."""

    model: str
    version: str
    sums: dict[bytes, bytes]
    lifetime_ms: int


class Told(Struct, frozen=True, array_like=True, tag="t"):
    """Names of notices that webhooks were told of, and the log time from which each may be told again."""

    names: list[tuple[str, float]]


class Waiting(Struct, frozen=True, array_like=True, tag="w"):
    """Notices that webhooks still waited for, by id. They come behind all of `Told`, so none is told and not here."""

    notices: dict[str, bytes]


class FilePiece(Struct, frozen=True, array_like=True, tag="f"):
    """Piece of a model file, from the first on; `left` bytes of it follow in further pieces."""

    sha256: str
    piece: bytes
    left: int


class End(Struct, frozen=True, array_like=True, tag="."):
    """End of a backup. `ended_ms` is the log's time then. `missing`: model files that were not to be found."""

    ended_ms: int
    missing: list[str]


Part = (
    OfNamespace
    | TokenKeys
    | OfLog
    | LoggedEntries
    | Marks
    | SnapshotPiece
    | EndOfLog
    | AgreementSums
    | Told
    | Waiting
    | FilePiece
    | End
)
