"""Servable: the protocol of all kinds of versions, so that no way of a request knows one by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.api.inference import TensorMetadata

Scores = dict[str, Any]
"""Fields of an answer: `prediction`, `predictions`, `items` or `outputs`; alone, also `confidence` and `cached`."""

Check = Callable[[ScoreRequest], None]
"""Raises `InvalidInput` for a request that a version can not score. Known without the version in memory."""


class BackgroundScores(NamedTuple):
    """Scores of a request that nobody waits for, or the error instead of them, and the seconds that they took."""

    scores: Scores | Exception
    seconds: float


class Servable(Protocol):
    """Version in memory that scores requests: a family's model, or whatever else a kind gives.

    A kind is a module of this package, and a line in each function of `kinds.py`. `VersionOpener` opens a version (in a
    thread). The other functions need the registry's record alone, as they are asked before an arm is drawn, for all
    active arms, so that no refusal depends on the draw: `check_of` is the kind's `Check`, `outputs_as_arm` names the
    outputs, `list_inputs` the inputs of several columns, `max_output_bytes` bounds the outputs and `patience_s` the
    time. Checks are equal (`==`) where they ask the same: an experiment makes each once.

    Four kinds of errors leave a servable. `InvalidInput` is the request's own: the caller gets it, and no arm suffers.
    `ContentRefused` is of this request and this version: the request is drawn anew among the other arms, and the arm
    stays. So it does with `Overloaded`, where the request was not begun as too many are. Every other exception is a
    failure of the version: its arm is ejected and the request is drawn anew. Where no other arm is left, the caller
    gets the error, so it has to be a `BanditServeError` where it is to be understood.
    """

    @property
    def nbytes(self) -> int:
        """Bytes that the version holds or maps in this process."""
        ...

    async def warm(self) -> None:
        """Makes the first request as fast as later ones. Awaited once, before the version is given to anybody.

        Raises `ModelLost` for a version that can not serve at present: it is tried again while it has live traffic.
        """
        ...

    async def check_ready(self) -> None:
        """Raises `Unavailable` unless a request would be scored now."""
        ...

    def score(self, request: ScoreRequest, alone: bool = False) -> Scores | Awaitable[Scores]:
        """Fields of the answer, or an awaitable of them if they would delay the loop by more than half a millisecond.

        Work for an awaitable may begin before it is awaited, so requests that are scored one after the other can share
        a run. `request` has passed the version's check. alone: the request was sent to this version and to no
        experiment. What the version does not take is refused then, and the fields are those of `Scored`.
        """
        ...

    async def score_all(self, requests: Sequence[ScoreRequest]) -> list[BackgroundScores]:
        """Trials of n requests, one each, in the background. The requests may lack what the check asks for."""
        ...

    async def close(self) -> None:
        """Releases what the version holds. Requests that got it before may still ask it."""
        ...


@runtime_checkable
class Described(Protocol):
    """Servable that knows the tensors by which it can be asked (Open Inference v2)."""

    @property
    def inputs(self) -> Sequence[TensorMetadata]:
        """Tensors that it takes, one value or list of values a row."""
        ...

    @property
    def outputs(self) -> Sequence[TensorMetadata]:
        """Tensors that it gives to those who ask it by its own name."""
        ...

    @property
    def outputs_as_arm(self) -> Sequence[TensorMetadata]:
        """Tensors that it gives as an arm: numbers in the datatypes that arms have in common, and a `prediction`."""
        ...

    @property
    def prediction(self) -> str:
        """Name among `outputs` of the tensor that is the `prediction` of scores."""
        ...

    @property
    def features(self) -> Collection[str]:
        """Names among `inputs` that are features, though one be called as a user, an item or a unit is."""
        ...

    def lacks(self, names: Collection[str]) -> list[str]:
        """Inputs that are needed and not among `names`, but for those that the version's check names."""
        ...


def described(servable: object) -> Described | None:
    """Servable that knows its tensors; None for another one."""
    return servable if isinstance(servable, Described) and (servable.inputs or servable.outputs) else None
