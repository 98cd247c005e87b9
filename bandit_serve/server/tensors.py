"""Tensors of Open Inference v2 on the wire: JSON, and binary data behind it (the binary tensor data extension)."""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from aiohttp import web

from bandit_serve.api.inference import (
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    Datatype,
    InferenceInput,
    InferenceOutput,
    InferenceRequest,
    InferenceResponse,
)
from bandit_serve.base.turns import Turn
from bandit_serve.errors import FieldError, InvalidInput, TooLarge, UnsupportedMedia
from bandit_serve.server.wire import MAX_ANSWER_BYTES, encode_json
from bandit_serve.server.wire_form import JSON, essence
from bandit_serve.serving.datatypes import wire_dtype

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
SIZE, AS_BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
TEXTS_A_TURN = 500

VALUES_A_TURN = 4_000


class NamedTensor(NamedTuple):
    """Tensor with its values in row-major order: texts, truth values or numbers."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    values: list[Any]


def check_media(headers: Mapping[str, str]) -> None:
    """Raises `UnsupportedMedia` for a body that is neither JSON nor has binary data; clients need not say which."""
    content_type = headers.get("Content-Type", "")
    if essence(content_type) not in ("", JSON, BINARY):
        raise UnsupportedMedia(f"Expected a Content-Type of {JSON} or {BINARY}, not {content_type[:80]!r}.")


def split(header_length: str | None, body: bytes) -> tuple[bytes, bytes]:
    """JSON and binary data of a body, by the header that says how long the JSON is; without it, all is JSON."""
    if header_length is None:
        return body, b""
    length = int(header_length) if header_length.isascii() and header_length.isdigit() else -1
    if not 0 <= length <= len(body):
        detail = f"expected the bytes of JSON in the body, 0 to {len(body)}"
        raise InvalidInput(f"{HEADER_LENGTH}: {detail}.", [FieldError(HEADER_LENGTH, detail)])
    return body[:length], body[length:]


async def read_tensors(request: InferenceRequest, binary: bytes) -> dict[str, NamedTensor]:
    """Inputs of a request by name. Raises `InvalidInput`, which names the input."""
    check_sizes(request.inputs, len(binary))
    tensors: dict[str, NamedTensor] = {}
    end = 0
    for i, given in enumerate(request.inputs):
        at = f"inputs[{i}]"
        if given.name in tensors:
            raise _mistake(f"{at}.name", f"expected each name once, not {given.name[:128]!r} again")
        size = _binary_size(given, at)
        if size is None:
            values = _from_json(given, at)
        else:
            start, end = end, end + size
            values = await _from_binary(given, binary[start:end], at)
        tensors[given.name] = NamedTensor(given.name, given.datatype, tuple(given.shape), values)
    return tensors


def check_sizes(inputs: Sequence[InferenceInput], n_bytes: int) -> None:
    """Raises `InvalidInput` unless the shapes are not too large and the binary data as long as the inputs say."""
    elements = total = 0
    for i, given in enumerate(inputs):
        elements += math.prod(given.shape)
        total += _binary_size(given, f"inputs[{i}]") or 0
    if elements > MAX_ELEMENTS:
        raise TooLarge(f"The inputs have more than {MAX_ELEMENTS} values; send fewer rows at once.")
    if total != n_bytes:
        raise InvalidInput(f"The inputs have {total} bytes of binary data, but {n_bytes} follow the JSON.")


def _binary_size(given: InferenceInput, at: str) -> int | None:
    """Bytes of an input behind the JSON; None where its data are in the JSON."""
    parameters = given.parameters or {}
    if any(name.startswith("shared_memory") for name in parameters):
        raise _mistake(f"{at}.parameters", "shared memory is not taken here")
    size = parameters.get(SIZE)
    if size is None:
        if given.data is msgspec.UNSET:
            raise _mistake(at, f"expected data, or {SIZE}, for the input {given.name[:128]!r}")
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _mistake(f"{at}.parameters.{SIZE}", "expected a number of bytes")
    if given.data is not msgspec.UNSET:
        raise _mistake(at, f"expected either data or {SIZE}")
    return size


def _from_json(given: InferenceInput, at: str) -> list[Any]:
    assert not isinstance(given.data, msgspec.UnsetType)
    values, depth = given.data, 1
    while values and isinstance(values[0], list):
        depth += 1
        if depth > MAX_DIMENSIONS or not all(isinstance(row, list) for row in values):
            raise _mistake(f"{at}.data", "expected numbers or texts, flat or nested as the shape says")
        values = [value for row in values for value in row]
    count = math.prod(given.shape)
    if len(values) != count:
        raise _mistake(
            f"{at}.data", f"expected {count} values for the shape {given.shape}, not {len(values)}"
        )
    return _of_datatype(values, given.datatype, at)


def _of_datatype(values: list[Any], datatype: Datatype, at: str) -> list[Any]:
    """Values as the datatype holds them."""
    kind: Any = {"BYTES": str, "BOOL": bool}.get(datatype, float if datatype.startswith("FP") else int)
    try:
        checked: list[Any] = msgspec.convert(values, list[kind])
        if datatype in ("BYTES", "BOOL"):
            return checked
        return _finite(np.array(checked, wire_dtype(datatype)), at)
    except (msgspec.ValidationError, OverflowError):
        raise _mistake(f"{at}.data", f"expected values of {datatype}") from None


def _finite(array: np.ndarray[Any, Any], at: str) -> list[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _mistake(at, "expected finite numbers")
    values: list[Any] = array.tolist()
    return values


async def _from_binary(given: InferenceInput, data: bytes, at: str) -> list[Any]:
    count = math.prod(given.shape)
    if given.datatype == "BYTES":
        return await _texts(data, count, at)
    dtype = wire_dtype(given.datatype)
    if len(data) != count * dtype.itemsize:
        expected = f"{count * dtype.itemsize} bytes for {given.datatype} of the shape {given.shape}"
        raise _mistake(at, f"expected {expected}, not {len(data)}")
    if given.datatype == "BOOL" and data.strip(b"\0\1"):
        raise _mistake(at, "expected bytes of 0 or 1")
    return _finite(np.frombuffer(data, dtype), at)


async def _texts(data: bytes, count: int, at: str) -> list[str]:
    """Texts of BYTES, each behind its length as uint32."""
    texts: list[str] = []
    place, turn = 0, Turn()
    for _ in range(count):
        end = place + 4
        if end > len(data):
            raise _mistake(at, f"expected {count} lengths with their bytes, not {len(texts)}")
        place, end = end, end + struct.unpack_from("<I", data, place)[0]
        if end > len(data):
            raise _mistake(at, f"the length of element {len(texts)} goes beyond the {len(data)} bytes")
        try:
            texts.append(data[place:end].decode())
        except UnicodeDecodeError:
            raise _mistake(at, f"expected UTF-8 in element {len(texts)}") from None
        place = end
        if len(texts) % TEXTS_A_TURN == 0 and turn.over:
            await turn.give_way()
    if place != len(data):
        raise _mistake(at, f"expected {place} bytes for {count} elements, not {len(data)}")
    return texts


def wanted_outputs(
    request: InferenceRequest, outputs: Sequence[NamedTensor]
) -> list[tuple[NamedTensor, bool]]:
    """Outputs that a request wants and that are there, and whether in binary."""
    all_binary = _flag(request.parameters, ALL_BINARY, "parameters", default=False)
    if not request.outputs:
        return [(output, all_binary) for output in outputs]
    by_name = {output.name: output for output in outputs}
    return [
        (by_name[asked.name], _flag(asked.parameters, AS_BINARY, f"outputs[{i}].parameters", all_binary))
        for i, asked in enumerate(request.outputs)
        if asked.name in by_name
    ]


def check_names(request: InferenceRequest, names: Sequence[str] | None) -> None:
    """Raises `InvalidInput` for an output that is not one of `names`, unless those are not known, or comes twice."""
    seen: set[str] = set()
    for i, asked in enumerate(request.outputs or ()):
        if names is not None and asked.name not in names:
            raise _mistake(
                f"outputs[{i}].name", f"expected one of {', '.join(names)}, not {asked.name[:128]!r}"
            )
        if asked.name in seen:
            raise _mistake(f"outputs[{i}].name", f"expected each name once, not {asked.name[:128]!r} again")
        seen.add(asked.name)


def check_forms(request: InferenceRequest) -> None:
    """Raises `InvalidInput` for an output that is wanted in a form that nobody here knows."""
    _flag(request.parameters, ALL_BINARY, "parameters", default=False)
    for i, asked in enumerate(request.outputs or ()):
        for name in ("classification", "shared_memory_region"):
            if name in (asked.parameters or {}):
                raise _mistake(f"outputs[{i}].parameters", f"{name} is not given here")
        _flag(asked.parameters, AS_BINARY, f"outputs[{i}].parameters", default=False)


def _flag(parameters: dict[str, Any] | None, name: str, at: str, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise _mistake(f"{at}.{name}", "expected true or false")
    return value


async def respond(response: InferenceResponse, outputs: Sequence[tuple[NamedTensor, bool]]) -> web.Response:
    """Answer with outputs, each in JSON or, where its flag says so, in binary behind it."""
    parts: list[bytes] = []
    tensors = []
    for output, as_binary in outputs:
        about: dict[str, Any]
        if as_binary:
            parts.append(b"".join([part async for part in _in_turns(output, _binary)]))
            about = {"parameters": {SIZE: len(parts[-1])}}
        else:
            data = b",".join([part async for part in _in_turns(output, _json)])
            about = {"data": msgspec.Raw(b"[" + data + b"]")}
        tensors.append(InferenceOutput(output.name, output.datatype, list(output.shape), **about))
    head = encode_json(msgspec.structs.replace(response, outputs=tensors))
    if len(head) + sum(map(len, parts)) > MAX_ANSWER_BYTES:
        raise TooLarge(f"The answer is larger than {MAX_ANSWER_BYTES} bytes; send fewer rows at once.")
    if not any(as_binary for _, as_binary in outputs):
        return web.Response(body=head, headers={"Content-Type": JSON})
    headers = {"Content-Type": BINARY, HEADER_LENGTH: str(len(head))}
    return web.Response(body=b"".join([head, *parts]), headers=headers)


async def _in_turns(
    output: NamedTensor, encode: Callable[[Datatype, list[Any]], bytes]
) -> AsyncIterator[bytes]:
    """Values of an output, encoded a part at a time, with turns for other requests in between."""
    turn = Turn()
    for first in range(0, len(output.values), VALUES_A_TURN):
        yield encode(output.datatype, output.values[first : first + VALUES_A_TURN])
        if turn.over:
            await turn.give_way()


def _json(datatype: Datatype, values: list[Any]) -> bytes:
    return encode_json(values)[1:-1]


def _binary(datatype: Datatype, values: list[Any]) -> bytes:
    if datatype != "BYTES":
        return np.array(values, wire_dtype(datatype)).tobytes()
    texts = [value.encode() for value in values]
    return b"".join([part for text in texts for part in (struct.pack("<I", len(text)), text)])


def _mistake(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
