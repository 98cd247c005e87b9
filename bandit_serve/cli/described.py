"""Files that describe something: TOML, JSON or YAML, by how their names end."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import msgspec.yaml

from bandit_serve.errors import InvalidInput, UsageError

READERS: Mapping[str, tuple[str, Callable[[bytes], Any]]] = {
    ".toml": ("TOML", lambda content: tomllib.loads(content.decode())),
    ".json": ("JSON", msgspec.json.decode),
    ".yaml": ("YAML", msgspec.yaml.decode),
    ".yml": ("YAML", msgspec.yaml.decode),
}


def read_described(path: Path) -> Any:
    """What the file holds; UsageError where it can not be read, InvalidInput where it is not what it is named."""
    try:
        language, read = READERS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"The file {path} must end in {', '.join(READERS)}.") from None
    try:
        return read(path.read_bytes())
    except OSError as error:
        raise UsageError(f"The file {path} can not be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # DecodeError, TOMLDecodeError and UnicodeDecodeError are
        told = " ".join(str(error).split()).rstrip(".")
        raise InvalidInput(f"The file {path} is not {language}: {told}.") from None
