"""Files in TOML, JSON or YAML. The language follows from the end of the name, or else from the content."""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bandit_serve.base.nesting import TOO_DEEP, nesting_error, nesting_error_of_json
from bandit_serve.errors import FieldError, InvalidInput, UsageError

STDIN = Path("-")


class Language(NamedTuple):
    """Language of files. `read` parses all documents of a text; raises ValueError or RecursionError."""

    name: str
    read: Callable[[str], list[Any]]


def once(keys: Iterable[str], where: str = "") -> None:
    """Raises ValueError where a key is given twice, as one of its values would be lost."""
    met: set[str] = set()
    for key in keys:
        if key in met:
            raise ValueError(f"it gives the key {key!r} twice{where}")
        met.add(key)


def _read_yaml(text: str) -> list[Any]:
    # Imported here: most commands read none.
    from bandit_serve.cli.yaml_documents import read_yaml

    return read_yaml(text)


def _read_json(text: str) -> list[Any]:
    """Parses JSON documents one after another, with any space between them."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
    documents, at = [], 0
    text = text.rstrip()
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        document, at = decoder.raw_decode(text, at)
        documents.append(document)
        if at == len(text):
            return documents


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    once(key for key, _ in pairs)
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


JSON = Language("JSON", _read_json)
TOML = Language("TOML", lambda text: [tomllib.loads(text)])
YAML = Language("YAML", _read_yaml)
LANGUAGES: Mapping[str, Language] = {".toml": TOML, ".json": JSON, ".yaml": YAML, ".yml": YAML}


def read_described(path: Path) -> Any:
    """Reads a file with one document. Raises `UsageError` if it can not be read, `InvalidInput` for its content."""
    documents = read_documents(path)
    if len(documents) > 1:
        raise InvalidInput(f"The file {path} holds {len(documents)} documents: expected one.")
    return documents[0]


def read_documents(path: Path) -> list[Any]:
    """Reads all documents of a file, or of the standard input; raises as `read_described` does."""
    if path == STDIN:
        return _read_any(_text(path, sys.stdin.buffer.read()))
    language = LANGUAGES.get(path.suffix.lower())
    if language is None:
        raise UsageError(f"The file {path} must end in {', '.join(LANGUAGES)}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The file {path} can not be read: {error.strerror}.") from None
    try:
        return _read(language, _text(path, content), f"The file {path}")
    except ValueError as error:
        raise InvalidInput(f"The file {path} is not {language.name}: {_one_line(error)}.") from None


def read_listed(path: Path, under: str) -> list[tuple[str, Any]]:
    """Reads what a file lists, each with its place in it: documents, lists of them, or lists under the key `under`."""
    contents = read_documents(path)
    if len(contents) == 1:
        return _listed(path, contents[0], under)
    listed = []
    for i, content in enumerate(contents, 1):
        listed += [(joined(f"document {i}", at), document) for at, document in _listed(path, content, under)]
    return listed


def _listed(path: Path, content: Any, under: str) -> list[tuple[str, Any]]:
    if isinstance(content, dict) and under in content:
        other = [name for name in content if name != under]
        if other:
            raise InvalidInput(f"The file {path} has {other[0]!r} beside {under}: expected nothing else.")
        documents = content[under]
        if not isinstance(documents, list):
            raise InvalidInput(f"{under}: expected a list, in {path}.")
        return [(f"{under}[{i}]", document) for i, document in enumerate(documents)]
    if isinstance(content, list):
        return [(f"[{i}]", document) for i, document in enumerate(content)]
    return [("", content)]


def joined(outer: str, inner: str) -> str:
    """Place of what is inside of another place."""
    return f"{outer}.{inner}" if outer and inner else outer or inner


def within(at: str, error: InvalidInput) -> list[FieldError]:
    """Mistakes of a document that stands at the place `at`."""
    if not error.errors:
        return [FieldError(at, str(error).rstrip("."))]
    return [FieldError(joined(at, each.at), each.detail) for each in error.errors]


def as_json(document: Any) -> bytes:
    """JSON of a document, as it would come over HTTP: TOML and YAML have kinds of values that JSON does not.

    Raises `InvalidInput` for numbers that are not finite, and for what JSON can not say.
    """
    errors = [FieldError(path, "expected a finite number") for path in _not_finite(document, "")]
    if errors:
        raise InvalidInput("The file has numbers that are not finite.", errors)
    try:
        return msgspec.json.encode(document)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"{error}.") from None


def _not_finite(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield at
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _not_finite(each, f"{at}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _not_finite(each, f"{at}[{i}]")


def _read_any(text: str) -> list[Any]:
    """Parses a text in the first language that accepts it. YAML comes last, as it accepts most texts."""
    refusals = []
    for language in (JSON, TOML, YAML):
        try:
            return _read(language, text, "The standard input")
        except ValueError as error:
            refusals.append(f"not {language.name} ({_one_line(error)})")
    raise InvalidInput(f"The standard input is {', '.join(refusals)}.")


def _read(language: Language, text: str, named: str) -> list[Any]:
    """Reads all documents of a text. Raises `InvalidInput` for one that is nested too deep for what is done with it."""
    too_deep: FieldError | None
    try:
        documents = language.read(text)
        too_deep = next(filter(None, map(nesting_error, documents)), None)
    except RecursionError:
        too_deep = nesting_error_of_json(text.encode()) or FieldError("", TOO_DEEP)
    if too_deep is not None:
        where = f" at {too_deep.at}" if too_deep.at else ""
        raise InvalidInput(f"{named} is nested too deep{where}: {TOO_DEEP}.", [too_deep])
    return documents


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8: {error}.") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
