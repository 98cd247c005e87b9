"""Tensors as metadata declare them: those that arms have in common, and answers of the declared datatypes and axes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from msgspec import structs

from bandit_serve.api.inference import PREDICTION, TensorMetadata
from bandit_serve.base.turns import Turn
from bandit_serve.server.tensors import VALUES_A_TURN, NamedTensor
from bandit_serve.serving.datatypes import LARGEST, WHOLE, held
from bandit_serve.serving.servable import Described


def common_names(outputs: Sequence[Sequence[TensorMetadata]]) -> list[str]:
    """Names of the outputs that all arms give, in the order of the first."""
    names = [{tensor.name for tensor in each} for each in outputs]
    return [tensor.name for tensor in next(iter(outputs), ()) if all(tensor.name in each for each in names)]


def common_outputs(outputs: Sequence[Sequence[TensorMetadata]]) -> list[TensorMetadata]:
    """Outputs that all arms give, but for those of which no one datatype and number of axes holds for all."""
    by_name = [{tensor.name: tensor for tensor in each} for each in outputs]
    merged = (_merged([each[name] for each in by_name]) for name in common_names(outputs))
    return [tensor for tensor in merged if tensor is not None]


def _merged(tensors: Sequence[TensorMetadata]) -> TensorMetadata | None:
    first = tensors[0]
    datatypes = {tensor.datatype for tensor in tensors}
    is_number = all(datatype in LARGEST or datatype in WHOLE for datatype in datatypes)
    if len({len(tensor.shape) for tensor in tensors}) > 1 or (len(datatypes) > 1 and not is_number):
        return None
    sizes = [set(each) for each in zip(*(tensor.shape for tensor in tensors), strict=True)]
    shape = [each.pop() if len(each) == 1 else -1 for each in sizes]
    return structs.replace(first, datatype=first.datatype if len(datatypes) == 1 else "FP64", shape=shape)


async def as_declared(
    tensors: Iterable[NamedTensor], declared: Iterable[TensorMetadata]
) -> list[NamedTensor]:
    """`tensors` in the datatypes and with the axes that are declared for their names.

    One whose values its datatype does not hold keeps its own, and so does one of other axes.
    """
    by_name = {tensor.name: tensor for tensor in declared}
    return [
        tensor if (about := by_name.get(tensor.name)) is None else await _as_declared(tensor, about)
        for tensor in tensors
    ]


async def _as_declared(tensor: NamedTensor, about: TensorMetadata) -> NamedTensor:
    # One value of a row came without axes of its own.
    axes = about.shape[1:]
    if len(tensor.shape) == 1 and all(size in (-1, 1) for size in axes):
        tensor = tensor._replace(shape=(*tensor.shape, *[1] * len(axes)))
    values = []
    turn = Turn()
    for first in range(0, len(tensor.values), VALUES_A_TURN):
        part = held(tensor.values[first : first + VALUES_A_TURN], about.datatype)
        if part is None:
            return tensor
        values += part
        if turn.over:
            await turn.give_way()
    return tensor._replace(datatype=about.datatype, values=values)


async def own_outputs(
    tensors: Sequence[NamedTensor], about: Described, wanted: Collection[str]
) -> list[NamedTensor]:
    """`tensors` as a version that was asked by its own name declares them.

    Its prediction has its own name. Under `prediction`, as an arm gives it, it is there as well where that is `wanted`.
    """
    own = [each._replace(name=about.prediction) if each.name == PREDICTION else each for each in tensors]
    declared = await as_declared(own, about.outputs)
    if PREDICTION in wanted and about.prediction != PREDICTION:
        declared += [each for each in tensors if each.name == PREDICTION]
    return declared
