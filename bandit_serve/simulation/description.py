"""Description of a simulation: environment, delays, policies, horizon and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bandit_serve.base.validation import field_error
from bandit_serve.errors import BanditServeError, FieldError, InvalidInput
from bandit_serve.simulation.contender import Contender, all_that_fit
from bandit_serve.simulation.delay import Delay
from bandit_serve.simulation.worlds.bernoulli import Bernoulli
from bandit_serve.simulation.worlds.environment import Environment, require_that
from bandit_serve.simulation.worlds.gaussian import Gaussian
from bandit_serve.simulation.worlds.linear import Linear
from bandit_serve.simulation.worlds.logistic import Logistic
from bandit_serve.simulation.worlds.poisson import Poisson
from bandit_serve.simulation.worlds.supervised import Supervised

ENVIRONMENTS: dict[str, type[Environment]] = {
    each.kind: each for each in (Bernoulli, Gaussian, Poisson, Linear, Logistic, Supervised)
}
HORIZON = 10_000
SEEDS = 20
MAX_DECISIONS = 10**9
MAX_SEEDS = 100_000

Horizon = Annotated[int, Meta(ge=1, le=MAX_DECISIONS)]


class Document(Struct, frozen=True, forbid_unknown_fields=True):
    """Description as it stands in a file."""

    environment: dict[str, Any]
    policies: list[Any] = []
    delay: Delay | None = None
    horizon: Horizon | None = None
    seeds: Annotated[int, Meta(ge=1, le=MAX_SEEDS)] = SEEDS
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class Simulation(Struct, frozen=True):
    """Valid description: `seeds` runs of `horizon` decisions for each contender. Another `seed` changes all runs."""

    environment: Environment
    contenders: tuple[Contender, ...]
    delay: Delay | None
    horizon: int
    seeds: int
    seed: int

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Simulation:
        """Checks a description; raises `InvalidInput`. Without policies, all that fit the environment take part."""
        given = _converted(document, Document, "")
        kind = given.environment.get("kind")
        if kind not in ENVIRONMENTS:
            raise InvalidInput(f"environment.kind: expected one of {', '.join(ENVIRONMENTS)}, not {kind!r}.")
        of_kind = {name: value for name, value in given.environment.items() if name != "kind"}
        environment = _converted(of_kind, ENVIRONMENTS[kind], "environment")
        contenders = tuple(map(Contender.of, given.policies)) or tuple(
            all_that_fit(environment, late=given.delay is not None)
        )
        simulation = cls(
            environment,
            contenders,
            given.delay,
            given.horizon or environment.one_pass or HORIZON,
            given.seeds,
            given.seed,
        )
        simulation._check()
        return simulation

    def _check(self) -> None:
        names = [contender.name for contender in self.contenders]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        require_that(twice is None, f"The policy {twice} is listed twice: give one of them another name=….")
        late = [at for at in self.environment.change_points if at >= self.horizon]
        require_that(
            not late, f"The change at {late[:1]} would come after the last of {self.horizon:,} decisions."
        )
        if self.delay is not None:
            self.delay.check(self.environment)
        for contender in self.contenders:
            require_that(
                self.delay is None or not contender.contextual,
                f"{contender.name}: delays are simulated for policies without context only.",
            )
            contender.policy(self.environment, seed=0)

    def summary(self) -> str:
        """Few words for a title."""
        delay = "" if self.delay is None else f"; {self.delay.summary()}"
        return f"{self.environment.summary()}{delay}"


def _converted(document: Any, kind: Any, at: str) -> Any:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        field = field_error(error, at)
        raise InvalidInput(f"{field.at or 'The description'}: {field.detail}.", [field]) from None
    except BanditServeError as error:
        raise InvalidInput(
            f"{at or 'delay'}: {str(error).rstrip('.')}.", [FieldError(at, str(error))]
        ) from None
