"""Templates of the pages. All text is escaped; what is markup says so (`Markup`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bandit_serve.dashboard.assets import assets
from bandit_serve.dashboard.numbers import text_of
from bandit_serve.pictures.style import look

ASSETS = "/login/"
"""Where assets are: beside the one page that everybody may see, which needs them."""

DURATIONS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))
SIZES = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1))


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("bandit_serve.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals["asset"] = lambda name: ASSETS + assets()[name].name
    made.globals["look"] = look
    made.globals["short"] = short_text
    made.filters["time"] = time_element
    made.filters["age"] = age_element
    made.filters["count"] = count_element
    made.filters["duration"] = duration_text
    made.filters["days"] = days_text
    made.filters["bytes"] = bytes_text
    made.filters["tojson_text"] = json_text
    made.filters["commands"] = with_commands
    # Our own pictures, which have escaped what others wrote.
    made.filters["picture"] = Markup
    return made


def rendered(template: str, **content: Any) -> Markup:
    """HTML of a template of this package."""
    return Markup(environment().get_template(template).render(**content))


def time_element(at: str | None) -> Markup:
    """Element with a time of the API, RFC 3339 in UTC. The page's script shows it in the reader's zone."""
    if not at:
        return Markup("–")
    return _time(at, "")


def age_element(at: str | None) -> Markup:
    """Element with a time, of which the page's script shows how long it is ago."""
    return _time(at, "age") if at else Markup("–")


def _time(at: str, kind: str) -> Markup:
    shown, whole = f"{at[:10]} {at[11:16]}", at[:19].replace("T", " ")
    return Markup('<time class="{}" datetime="{}" title="{} UTC">{}</time>').format(kind, at, whole, shown)


def count_element(count: int) -> Markup:
    """Element with a number that no answer of the API has as it is."""
    return Markup('<data value="{}">{}</data>').format(count, text_of(count))


def duration_text(ms: float) -> str:
    """Length of time in its largest unit."""
    name, size_ms = next((unit for unit in DURATIONS if ms >= unit[1]), DURATIONS[-1])
    return f"{ms / size_ms:.0f} {name}"


def days_text(days: float) -> str:
    if days < 1.0:
        return duration_text(days * 86_400_000)
    return "1 day" if round(days) == 1 else f"{days:,.0f} days"


def bytes_text(nbytes: float) -> str:
    name, size = next((unit for unit in SIZES if nbytes >= unit[1]), SIZES[-1])
    return f"{nbytes / size:.3g} {name}"


def short_text(value: Any) -> Markup:
    """Value of any kind that somebody gave, with its numbers rounded."""
    if value is None or isinstance(value, str | int | float):
        return text_of(value)
    return escape(json_text(value))


def with_commands(sentence: str) -> Markup:
    """A sentence with the commands in it, which stand between backticks, set as such."""
    parts = sentence.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def json_text(content: Any, indent: int = 0) -> str:
    """JSON of something that the API shows, for people to read."""
    encoded = msgspec.json.encode(content)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
