"""Headers for upstreams: their values, from where the registry says that they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from bandit_serve.base.secrets import know_secrets
from bandit_serve.errors import UpstreamFailed

MAX_VALUE_BYTES = 16_384

# Visible characters and spaces between them: no line can be ended, so no header smuggled in.
_value = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


def header_values(sources: Mapping[str, str], whose: str) -> dict[str, str]:
    """Values of headers by name. They are secrets from now on.

    `whose` names the version. Raises `UpstreamFailed` for a value that is missing or can not be sent; the sentence
    names the header and the place, never the value. Reads files: to be called in a thread.
    """
    values = {}
    for name, source in sources.items():
        kind, _, place = source.partition(":")
        try:
            content = os.environb[place.encode()] if kind == "env" else _content(place)
        except KeyError:
            raise UpstreamFailed(f"The header {name} of {whose} has no value here.").noted(
                f"the variable {place} is not set"
            ) from None
        except OSError as error:
            raise UpstreamFailed(f"The header {name} of {whose} has no value here.").noted(
                f"the file {place} can not be read: {error.strerror}"
            ) from None
        if len(content) > MAX_VALUE_BYTES or not _value.fullmatch(content):
            raise UpstreamFailed(f"The header {name} of {whose} can not be sent.").noted(
                f"{source}: expected one line of 1 to {MAX_VALUE_BYTES} visible ASCII characters"
            )
        values[name] = content.decode("ascii")
    know_secrets(*values.values())
    return values


def _content(path: str) -> bytes:
    """First bytes of a file, without the line's end that editors leave."""
    with open(path, "rb") as file:
        content = file.read(MAX_VALUE_BYTES + 3)
    return content.removesuffix(b"\n").removesuffix(b"\r")
