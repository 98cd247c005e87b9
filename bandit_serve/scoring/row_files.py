"""Files with rows to score, on this machine or wherever fsspec finds them, read in chunks."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from bandit_serve.base.extras import require
from bandit_serve.base.secrets import know_secrets_of, shown_place
from bandit_serve.errors import FilesUnavailable, InvalidInput, NotFound, UsageError
from bandit_serve.export.tables import EXTRA
from bandit_serve.training.json_lines import JSON_ENDINGS, json_rows
from bandit_serve.training.tables import GZIP, PARQUET, PARQUET_ENDINGS


class Chunk(NamedTuple):
    """Rows of a file: the line of each, in Parquet its row, counted from 1; and their cells, by column.

    `cells` are lists as long as `lines`, or an Arrow stream of one batch, which other processes can read. `faults` are
    the lines that are no rows, with what was expected. `untyped`: each cell is a text, or None where it is empty.
    """

    file: str
    lines: Sequence[int]
    cells: dict[str, list[Any]] | bytes
    faults: list[tuple[int, str]]
    untyped: bool = False

    def columns(self) -> dict[str, Any]:
        """Lists, or Arrow arrays, by name."""
        if isinstance(self.cells, dict):
            return self.cells
        with require("pyarrow", EXTRA).ipc.open_stream(self.cells) as stream:
            batch = stream.read_next_batch()
        return dict(zip(batch.schema.names, batch.columns, strict=True))


class RowFile:
    """File of rows. `names` are its columns; None where each row has its own."""

    def __init__(
        self,
        name: str,
        names: Sequence[str] | None,
        chunks: Callable[[int, Sequence[str]], Iterator[Chunk]],
    ) -> None:
        self.name = name
        self.names = names
        self._chunks = chunks

    def has(self, column: str) -> bool:
        """Whether rows may have this column."""
        return self.names is None or column in self.names

    def chunks(self, n: int, wanted: Collection[str]) -> Iterator[Chunk]:
        """Chunks of up to n rows, with the columns that are both `wanted` and there. Raises `InvalidInput`."""
        names = sorted(wanted) if self.names is None else [name for name in self.names if name in wanted]
        if not names:
            raise InvalidInput(f"{self.name} has none of the columns {', '.join(sorted(wanted)[:20])}.")
        return self._chunks(n, names)


def row_files(place: str) -> list[RowFile]:
    """Files that a path or a URL names: one, or those of a folder and below it, by name.

    Files of a folder that begin with a dot or an underscore, or are empty, are passed over. Raises `NotFound`, and
    `InvalidInput` for what has no rows.
    """
    fsspec, shown = require("fsspec", EXTRA), shown_place(place)
    know_secrets_of(place)
    try:
        files, root = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise UsageError(f"The URL {shown} can not be used: {error}.") from None
    with _translated(shown):
        if not files.exists(root):
            raise NotFound(f"There is no file {shown!r}.")
        if not files.isdir(root):
            return [_opened(files, root, PurePosixPath(root).name)]
        found = files.find(root, detail=True)
        folder = PurePosixPath(root)
        paths = {path: str(PurePosixPath(path).relative_to(folder)) for path in sorted(found)}
        parts = [
            _opened(files, path, name)
            for path, name in paths.items()
            if found[path]["size"] and not any(part[0] in "._" for part in PurePosixPath(name).parts)
        ]
    if not parts:
        raise InvalidInput(f"{shown!r} is a folder without a file that has anything in it.")
    return parts


@contextlib.contextmanager
def _translated(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FilesUnavailable(f"The files at {place} can not be read: {error.strerror or error}.") from None


def _opened(files: Any, path: str, name: str) -> RowFile:
    def opened() -> BinaryIO:
        return cast(BinaryIO, files.open(path, "rb"))

    with opened() as file:
        start = file.read(4)
    endings = {ending.lower() for ending in PurePosixPath(path).suffixes[-2:]}
    if PARQUET_ENDINGS & endings or start == PARQUET:
        parquet = _ParquetRows(opened, name)
        return RowFile(name, parquet.names, parquet.chunks)
    if start[:2] == GZIP:

        def plain() -> BinaryIO:
            return cast(BinaryIO, gzip.GzipFile(fileobj=opened()))
    else:
        plain = opened
    if JSON_ENDINGS & endings or _first(plain, name) == b"{":
        return RowFile(name, None, _JsonRows(plain, name).chunks)
    text = _CsvRows(plain, name)
    return RowFile(name, text.names, text.chunks)


def _first(opened: Callable[[], BinaryIO], name: str) -> bytes:
    try:
        with opened() as file:
            return file.read(1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InvalidInput(f"{name} is not a whole gzip file.") from None


class _ParquetRows:
    """Rows of a Parquet file, which is open while its names or its chunks are read: a folder may have thousands."""

    def __init__(self, opened: Callable[[], BinaryIO], name: str) -> None:
        self._pa = require("pyarrow", EXTRA)
        self._opened = opened
        self._name = name
        with opened() as file:
            self.names: list[str] = self._read(file).schema_arrow.names

    def chunks(self, n: int, names: Sequence[str]) -> Iterator[Chunk]:
        first = 1
        with self._opened() as file:
            batches = self._read(file).iter_batches(batch_size=n, columns=list(names))
            while (batch := self._next(batches)) is not None:
                sink = self._pa.BufferOutputStream()
                with self._pa.ipc.new_stream(sink, batch.schema) as stream:
                    stream.write_batch(batch)
                yield Chunk(
                    self._name, range(first, first + batch.num_rows), sink.getvalue().to_pybytes(), []
                )
                first += batch.num_rows

    def _read(self, file: BinaryIO) -> Any:
        try:
            return require("pyarrow.parquet", EXTRA).ParquetFile(file)
        except Exception as error:  # pyarrow's errors have no common class but ValueError and OSError
            raise self._fault(error) from None

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except Exception as error:
            raise self._fault(error) from None

    def _fault(self, error: Exception) -> InvalidInput:
        reason = " ".join(str(error).split())[:200]
        return InvalidInput(f"{self._name} can not be read as Parquet: {reason}")


class _JsonRows:
    def __init__(self, opened: Callable[[], BinaryIO], name: str) -> None:
        self._opened = opened
        self._name = name

    def chunks(self, n: int, names: Sequence[str]) -> Iterator[Chunk]:
        with self._opened() as file:
            numbered = json_rows(file, self._name)
            while part := list(islice(numbered, n)):
                rows = [(line, row) for line, row in part if not isinstance(row, str)]
                yield Chunk(
                    self._name,
                    [line for line, _ in rows],
                    {name: [row.get(name) for _, row in rows] for name in names},
                    [(line, row) for line, row in part if isinstance(row, str)],
                )


class _CsvRows:
    """Fields separated by commas, in UTF-8, below a line with their names. An empty field is nothing."""

    def __init__(self, opened: Callable[[], BinaryIO], name: str) -> None:
        self._opened = opened
        self._name = name
        with contextlib.closing(self._records()) as records:
            _, self.names = next(records, (1, []))
        repeated = next((each for each in self.names if self.names.count(each) > 1), None)
        if repeated is not None:
            raise InvalidInput(f"{name} has {self.names.count(repeated)} columns {repeated!r}; expected one.")

    def chunks(self, n: int, names: Sequence[str]) -> Iterator[Chunk]:
        width, places = len(self.names), [self.names.index(name) for name in names]
        with contextlib.closing(self._records()) as records:
            next(records, None)
            while part := list(islice(records, n)):
                rows = [(line, fields) for line, fields in part if len(fields) == width]
                yield Chunk(
                    self._name,
                    [line for line, _ in rows],
                    {
                        name: [fields[place] or None for _, fields in rows]
                        for name, place in zip(names, places, strict=True)
                    },
                    [
                        (line, f"expected {width} fields, not {len(fields)}")
                        for line, fields in part
                        if len(fields) != width
                    ],
                    untyped=True,
                )

    def _records(self) -> Generator[tuple[int, list[str]]]:
        """First line and fields of each record; empty lines are passed over. Bytes that are no UTF-8 stay bytes."""
        # A name with such bytes is refused where it is, as a row of its own.
        with io.TextIOWrapper(self._opened(), "utf-8-sig", "surrogateescape", newline="") as text:
            reader, line = csv.reader(text, strict=True), 1
            try:
                for fields in reader:
                    if fields:
                        yield line, fields
                    line = reader.line_num + 1
            except csv.Error:
                raise InvalidInput(
                    f"{self._name}, line {line}: a quote is not closed or a field is too long."
                ) from None
            except (EOFError, zlib.error, gzip.BadGzipFile):
                raise InvalidInput(f"{self._name} is not a whole gzip file.") from None
