"""Contender: a policy that takes part in a simulation, with its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from bandit_serve.base.nesting import TOO_DEEP, nesting_error
from bandit_serve.errors import BanditServeError, InvalidInput
from bandit_serve.experiments.policy import default_floor
from bandit_serve.policies import POLICIES
from bandit_serve.simulation.worlds.environment import Environment, require_that

MAX_NAME_CHARS = 60


class Contender(Struct, frozen=True):
    """Kind of policy and keyword arguments of its class; `name` is its name in tables and plots.

    Without `min_share` in `parameters` it has the floor that it would be served with.
    """

    kind: str
    parameters: dict[str, Any]
    name: str

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Parses `kind` or `kind:parameter=value,…`; raises `InvalidInput`.

        A value is JSON, or else a text (`half_life=24h`); `prior.alpha=2` sets a part of a parameter.
        """
        kind, _, rest = text.partition(":")
        document: dict[str, Any] = {}
        for piece in _pieces(rest):
            name, equals, value = piece.partition("=")
            require_that(bool(equals and name.strip() and value.strip()), _expected(text))
            *outer, last = name.strip().split(".")
            place = document
            for part in outer:
                place = place.setdefault(part, {})
                require_that(isinstance(place, dict), _expected(text))
            require_that(last not in place, f"The policy {text!r} gives {name.strip()} twice.")
            place[last] = _value(value.strip())
        require_that(nesting_error(document) is None, _too_deep(text))
        document.setdefault("name", text.strip())
        return cls.of({**document, "kind": kind.strip()})

    @classmethod
    def of(cls, document: Any) -> Contender:
        """Reads a file's entry: a text as in `parse`, or a mapping of `kind`, parameters and an optional `name`."""
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
        require_that(
            isinstance(name, str) and name.isprintable(), f"A policy's name must be a text, not {name!r}."
        )
        require_that("seed" not in parameters, "The seed of a policy is given by the simulation.")
        return cls(
            kind, parameters, name if len(name) <= MAX_NAME_CHARS else f"{name[: MAX_NAME_CHARS - 1]}…"
        )

    @property
    def contextual(self) -> bool:
        return POLICIES[self.kind].contextual

    @property
    def learns(self) -> bool:
        return POLICIES[self.kind].learns

    @property
    def forgets(self) -> bool:
        """Whether old rewards lose weight with time, so that the policy needs to know the time."""
        return self.parameters.get("half_life") is not None

    def min_share(self, environment: Environment) -> Any:
        """Floor under each arm's share in this environment."""
        return self.parameters.get("min_share", default_floor(self.kind, environment.n_arms))

    def policy(self, environment: Environment, seed: int) -> Any:
        """Makes a new policy for the environment's arms. Raises `InvalidInput` that names this contender."""
        if self.contextual and not environment.n_features:
            raise InvalidInput(
                f"{self.name}: {self.kind} needs a context, and a {environment.kind} environment has none."
            )
        sizes = (environment.n_arms, environment.n_features) if self.contextual else (environment.n_arms,)
        policy_class: Any = POLICIES[self.kind]
        common = {"objective": environment.objective, "min_share": self.min_share(environment)}
        try:
            return policy_class(*sizes, **{**common, **self.parameters, "seed": seed})
        except BanditServeError as error:
            raise InvalidInput(f"{self.name}: {str(error).rstrip('.')}.") from None
        except TypeError:
            raise InvalidInput(f"{self.name}: {self.kind} has no such parameter or value.") from None

    def summary(self) -> dict[str, Any]:
        """Kind and given parameters, for the report."""
        return {"kind": self.kind, **self.parameters}


def all_that_fit(environment: Environment, *, late: bool) -> list[Contender]:
    """Contenders with defaults, one for each kind of policy that can run there; `late`: rewards are delayed."""
    in_context = bool(environment.n_features) and not late
    return [
        Contender(kind, {}, kind)
        for kind, policy in POLICIES.items()
        if environment.objective in policy.objectives and (in_context or not policy.contextual)
    ]


def _pieces(text: str) -> Iterator[str]:
    """Splits at commas outside of brackets and quotes."""
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
    except RecursionError:
        raise InvalidInput(_too_deep(text)) from None
    try:
        return float(text)  # .05 is no JSON
    except ValueError:
        return text


def _too_deep(text: str) -> str:
    return f"The policy {text[:MAX_NAME_CHARS]!r} is nested too deep: {TOO_DEEP}."


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _expected(text: str) -> str:
    return f"A policy must be like thompson or epsilon_greedy:epsilon=0.1, not {text!r}."
