"""A policy that takes part: its kind and its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from bandit_serve.errors import BanditServeError, InvalidInput
from bandit_serve.experiments.policy import default_floor
from bandit_serve.policies import POLICIES
from bandit_serve.simulation.worlds.environment import Environment, require

MOST_NAME = 60


class Contender(Struct, frozen=True):
    """`parameters` are those of the policy's class, by keyword; `name` is what tables and plots call it.

    Without a `min_share` it has the one that it would be served with.
    """

    kind: str
    parameters: dict[str, Any]
    name: str

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Of `kind` or `kind:parameter=value,…`.

        A value is JSON, or else a text (`half_life=24h`); `prior.alpha=2` sets a part of a parameter.
        """
        kind, _, rest = text.partition(":")
        document: dict[str, Any] = {}
        for piece in _pieces(rest):
            name, equals, value = piece.partition("=")
            require(bool(equals and name.strip() and value.strip()), _expected(text))
            *outer, last = name.strip().split(".")
            place = document
            for part in outer:
                place = place.setdefault(part, {})
                require(isinstance(place, dict), _expected(text))
            require(last not in place, f"The policy {text!r} gives {name.strip()} twice.")
            place[last] = _value(value.strip())
        document.setdefault("name", text.strip())
        return cls.of({**document, "kind": kind.strip()})

    @classmethod
    def of(cls, document: Any) -> Contender:
        """Of what a file says: such a text, or a mapping of `kind`, parameters and perhaps a `name`."""
        if isinstance(document, str):
            return cls.parse(document)
        if not isinstance(document, Mapping) or not isinstance(document.get("kind"), str):
            raise InvalidInput(f'A policy must be a text or have a "kind", not {document!r}.')
        parameters = {each: value for each, value in document.items() if each not in ("kind", "name")}
        kind = document["kind"]
        if kind not in POLICIES:
            raise InvalidInput(f"There is no policy {kind!r}; there are {', '.join(POLICIES)}.")
        spelled = ",".join(f"{each}={_text(value)}" for each, value in parameters.items())
        name = document.get("name", f"{kind}:{spelled}" if spelled else kind)
        require(
            isinstance(name, str) and name.isprintable(), f"A policy's name must be a text, not {name!r}."
        )
        require("seed" not in parameters, "The seed of a policy is given by the simulation.")
        return cls(kind, parameters, name if len(name) <= MOST_NAME else f"{name[: MOST_NAME - 1]}…")

    @property
    def contextual(self) -> bool:
        return POLICIES[self.kind].contextual

    @property
    def learns(self) -> bool:
        return POLICIES[self.kind].learns

    @property
    def forgets(self) -> bool:
        return self.parameters.get("half_life") is not None

    def min_share(self, environment: Environment) -> Any:
        return self.parameters.get("min_share", default_floor(self.kind, environment.n_arms))

    def policy(self, environment: Environment, seed: int) -> Any:
        """A fresh policy for the environment's arms; InvalidInput, naming this one, where there can be none."""
        if self.contextual and not environment.n_features:
            raise InvalidInput(
                f"{self.name}: {self.kind} needs a context, and a {environment.kind} environment has none."
            )
        sizes = (environment.n_arms, environment.n_features) if self.contextual else (environment.n_arms,)
        made: Any = POLICIES[self.kind]
        common = {"objective": environment.objective, "min_share": self.min_share(environment)}
        try:
            return made(*sizes, **{**common, **self.parameters, "seed": seed})
        except BanditServeError as error:
            raise InvalidInput(f"{self.name}: {str(error).rstrip('.')}.") from None
        except TypeError:
            raise InvalidInput(f"{self.name}: {self.kind} has no such parameter or value.") from None

    def summary(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.parameters}


def all_that_fit(environment: Environment, *, late: bool) -> list[Contender]:
    """Each kind of policy, with its defaults, that can be run there; `late` where rewards are."""
    in_context = bool(environment.n_features) and not late
    return [
        Contender(kind, {}, kind)
        for kind, policy in POLICIES.items()
        if environment.objective in policy.objectives and (in_context or not policy.contextual)
    ]


def _pieces(text: str) -> Iterator[str]:
    """What commas outside of brackets and quotes divide."""
    depth, quoted, piece = 0, False, ""
    for character in text:
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0 and not quoted:
            yield piece
            piece = ""
        else:
            piece += character
    if piece.strip():
        yield piece


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        pass
    try:
        return float(text)  # .05 is no JSON
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _expected(text: str) -> str:
    return f"A policy must be like thompson or epsilon_greedy:epsilon=0.1, not {text!r}."
