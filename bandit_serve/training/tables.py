"""Tables as people have them: text of many habits, gzipped or not, Parquet, and directories of their parts."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol, cast

from bandit_serve.base.extras import require
from bandit_serve.errors import InvalidInput, NotFound

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
PARQUET_ENDINGS = frozenset({".parquet", ".pq", ".parq"})
UTF_16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
MOVIELENS_SEPARATOR = "::"
CHUNK_BYTES = 2**20


# The number of its line in a text, of the row in Parquet, both counted from 1; and the cells.
Row = tuple[int, Sequence[Any]]


class Table(Protocol):
    """One file. `head` is the first line, or the names of the columns where they are `named` for certain."""

    name: str
    head: list[str]
    named: bool

    def rows(self, places: Sequence[int], *, skip_head: bool) -> Iterator[Row]:
        """Cells of these columns, two or more; `skip_head`: the first line has names."""
        ...

    def fault(self, number: int, what: str) -> InvalidInput:
        """Error with its place."""
        ...


def tables(path: str | os.PathLike[str]) -> list[Table]:
    """Table in a file, or those in a directory and below it, by name.

    Files of a directory that begin with a dot or an underscore, or are empty, are passed over. Raises `NotFound`, and
    `InvalidInput` for what is no table.
    """
    place = Path(path)
    if place.is_dir():
        parts = [each for each in sorted(place.rglob("*")) if _is_part(each, place)]
        if not parts:
            raise InvalidInput(f"{os.fspath(path)!r} is a directory without a file that has anything in it.")
        return [_table(part, f"{place.name}/{part.relative_to(place)}") for part in parts]
    if not place.exists():
        raise NotFound(f"There is no file {os.fspath(path)!r}.")
    if not place.is_file():
        raise InvalidInput(f"{os.fspath(path)!r} is not a plain file.")
    return [_table(place, place.name)]


def _is_part(file: Path, folder: Path) -> bool:
    names = file.relative_to(folder).parts
    return (
        not any(name.startswith((".", "_")) for name in names) and file.is_file() and file.stat().st_size > 0
    )


def _table(path: Path, name: str) -> Table:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InvalidInput(f"{name} can not be read: {error.strerror}.") from None
    if path.suffix.lower() in PARQUET_ENDINGS or start == PARQUET:
        return ParquetTable(path, name)
    return TextTable(path, name, zipped=start[:2] == GZIP)


class TextTable:
    """Fields separated by commas, semicolons, tabs, bars or MovieLens' `::`, in UTF-8, UTF-16 or Latin-1.

    Which it is, the first line and the bytes say; a text that has both UTF-8 and other bytes is refused.
    """

    named = False

    def __init__(self, path: Path, name: str, *, zipped: bool) -> None:
        self.name = name
        self._path = path
        self._zipped = zipped
        self.encoding = self._find_encoding()
        self.separator, self.head = self._find_head()

    def fault(self, number: int, what: str) -> InvalidInput:
        return InvalidInput(f"{self.name}, line {number}: {what}.")

    def rows(self, places: Sequence[int], *, skip_head: bool) -> Iterator[Row]:
        records, width, chosen = self.records(), len(self.head), itemgetter(*places)
        if skip_head:
            next(records)
        for number, fields in records:
            if len(fields) != width:
                raise self.fault(number, f"expected {width} fields, not {len(fields)}")
            yield number, chosen(fields)

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self._path)) if self._zipped else self._path.open("rb")

    def _find_encoding(self) -> str:
        try:
            with self._open() as file:
                if file.read(2) in UTF_16:
                    return "utf-16"
            with self._open() as file:
                if _is_utf8(iter(lambda: file.read(CHUNK_BYTES), b"")):
                    return "utf-8-sig"
            with self._open() as file:
                other = [
                    (number, _is_utf8([line])) for number, line in enumerate(file, 1) if not line.isascii()
                ]
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self._refuse_gzip()
        if any(valid for _, valid in other):
            number = next(number for number, valid in other if not valid)
            raise self.fault(number, "it is not UTF-8, as other lines are")
        return "latin-1"

    def _find_head(self) -> tuple[str, list[str]]:
        with self._text() as text:
            first = next((line for line in self._lines(text) if line.strip()), "")
        if first.count(MOVIELENS_SEPARATOR) >= 2:
            separator = MOVIELENS_SEPARATOR
        else:
            separator = max("\t", ";", ",", key=first.count)
            if separator not in first and "|" in first:
                separator = "|"
        self.separator = separator
        return separator, next(self.records(), (1, []))[1]

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(self._open(), self.encoding, newline="")

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        try:
            yield from text
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self._refuse_gzip()
        except UnicodeDecodeError:
            raise InvalidInput(f"{self.name} is not whole as UTF-16 text.") from None

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Number of its first line and the fields of each record; empty lines are passed over."""
        with self._text() as text:
            lines = self._lines(text)
            if self.separator == MOVIELENS_SEPARATOR:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield number, line.rstrip("\r\n").split(MOVIELENS_SEPARATOR)
                return
            reader, number = csv.reader(lines, delimiter=self.separator, strict=True), 1
            try:
                for fields in reader:
                    if fields:
                        yield number, fields
                    number = reader.line_num + 1
            except csv.Error:
                raise self.fault(number, "a quote is not closed or a field is too long") from None

    def _refuse_gzip(self) -> NoReturn:
        raise InvalidInput(f"{self.name} is not a whole gzip file.") from None


def _is_utf8(chunks: Iterable[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in chunks:
            decoder.decode(chunk)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


class ParquetTable:
    """Parquet file. Times are whole seconds since 1970, rounded; those without a zone are UTC."""

    named = True

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._arrow = require("pyarrow", "train")
        parquet = require("pyarrow.parquet", "train")
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow's errors have no common class but ValueError and OSError
            self._refuse(error)
        self.head: list[str] = self._file.schema_arrow.names

    def fault(self, number: int, what: str) -> InvalidInput:
        return InvalidInput(f"{self.name}, row {number}: {what}.")

    def rows(self, places: Sequence[int], *, skip_head: bool) -> Iterator[Row]:
        names = [self.head[place] for place in places]
        number = 0
        try:
            for batch in self._file.iter_batches(columns=sorted(set(names))):
                columns = {name: self._cells(batch.column(name)) for name in set(names)}
                for cells in zip(*(columns[name] for name in names), strict=True):
                    number += 1
                    yield number, cells
        except Exception as error:
            self._refuse(error)

    def _cells(self, column: Any) -> list[Any]:
        types = self._arrow.types
        if types.is_date(column.type):
            column = column.cast(self._arrow.date32()).cast(self._arrow.timestamp("s"))
        elif types.is_timestamp(column.type):
            # What Python has for nanoseconds is pandas', which need not be there.
            column = column.cast(self._arrow.timestamp("s", tz=column.type.tz), safe=False)
        else:
            cells: list[Any] = column.to_pylist()
            return cells
        whole: list[Any] = column.cast(self._arrow.int64()).to_pylist()
        return whole

    def _refuse(self, error: Exception) -> NoReturn:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(f"{self.name} can not be read as Parquet: {reason}") from None
