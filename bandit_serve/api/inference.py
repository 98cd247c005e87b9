"""Bodies of Open Inference v2 (the KServe predict protocol, version 2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_TENSORS = 1_000
MAX_DIMENSIONS = 8
MAX_PARAMETERS = 1_000
MAX_ELEMENTS = 200_000
"""Over all inputs of a request."""

PLATFORM = "bandit_serve"
USER, ITEM, UNIT, PREDICTION, SCORE = "user_id", "item_id", "unit", "prediction", "score"
"""Names of tensors that are not a model's own."""
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "BYTES",
]  # fmt: skip
Parameters = Annotated[dict[str, Any], Meta(max_length=MAX_PARAMETERS)]
Shape = Annotated[
    list[Annotated[int, Meta(ge=0, le=MAX_ELEMENTS)]], Meta(min_length=1, max_length=MAX_DIMENSIONS)
]


class InferenceInput(Struct, frozen=True):
    """Either `data`, in row-major order, flat or nested; or bytes behind the JSON, and in `parameters` their
    `binary_data_size`.
    """

    name: str
    shape: Shape
    datatype: Datatype
    parameters: Parameters | None = None
    data: Annotated[list[Any], Meta(max_length=MAX_ELEMENTS)] | UnsetType = UNSET


class OutputRequest(Struct, frozen=True):
    """Output that is wanted; with `binary_data` in `parameters`, as bytes behind the JSON."""

    name: str
    parameters: Parameters | None = None


class InferenceRequest(Struct, frozen=True):
    """Inputs of n rows. Without `outputs`, all are wanted."""

    inputs: Annotated[list[InferenceInput], Meta(max_length=MAX_TENSORS)]
    id: str | UnsetType = UNSET
    parameters: Parameters | None = None
    outputs: Annotated[list[OutputRequest], Meta(max_length=MAX_TENSORS)] | None = None


class InferenceOutput(Struct, frozen=True):
    name: str
    datatype: Datatype
    shape: list[int]
    parameters: Parameters | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class InferenceResponse(Struct, frozen=True):
    """Outputs of n rows.

    Where `model_name` is an experiment, `parameters` have `decision_ids`, `arms` and `propensities` of the rows in
    order; for one row `decision_id`, `arm` and `propensity` as well. While nothing is drawn there are no ids.
    """

    model_name: str
    outputs: list[InferenceOutput]
    model_version: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET


class TensorMetadata(Struct, frozen=True):
    """Tensor that a model takes or gives; −1 in its shape is any number."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(Struct, frozen=True):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Struct, frozen=True):
    name: str
    version: str
    extensions: list[str]


class ServerLive(Struct, frozen=True):
    live: bool


class ServerReady(Struct, frozen=True):
    ready: bool


class ModelReady(Struct, frozen=True):
    name: str
    ready: bool


class IndexRequest(Struct, frozen=True):
    """`ready`: only what could be asked now."""

    ready: bool = False


class IndexEntry(Struct, frozen=True):
    """Version of a model, or an experiment, which has none."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str
