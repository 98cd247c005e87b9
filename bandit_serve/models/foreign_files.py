"""Model files of other tools, recognised by their content. None is loaded; each is refused with what to do instead."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bandit_serve.models.artifact import begins_with_header

HEAD_BYTES = 65_536
PICKLED = "pickles run code when they are loaded, so none is"
SKLEARN = (
    "`from skl2onnx import to_onnx; "
    "open('model.onnx', 'wb').write(to_onnx(model, X[:1].astype('float32')).SerializeToString())`"
)
XGBOOST = (
    "`from onnxmltools import convert_xgboost; from onnxmltools.convert.common.data_types import FloatTensorType; "
    "open('model.onnx', 'wb').write(convert_xgboost(model, initial_types=[('X', FloatTensorType([None, d]))])"
    ".SerializeToString())` with d columns"
)
LIGHTGBM = XGBOOST.replace("xgboost", "lightgbm")
TORCH = (
    "`torch.onnx.export(model, (example,), 'model.onnx', input_names=['x'], dynamic_axes={'x': {0: 'n'}}, "
    "external_data=False)`"
)
TENSORFLOW = "`python -m tf2onnx.convert --saved-model FOLDER --output model.onnx`"
KERAS = "`model.export('model.onnx', format='onnx')`"
CATBOOST = "`model.save_model('model.onnx', format='onnx')`"
MLFLOW = "`bandit-serve models import NAME@ALIAS --tracking URI` takes a version whose model is ONNX"


class ForeignKind(NamedTuple):
    """Kind of file: its name with its article, how it is told by its first bytes and its last, and what to do."""

    name: str
    matches: Callable[[bytes, bytes], bool]
    advice: str


def _begins(*marks: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, tail: head.startswith(marks)


def _is_pickle(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _pickle_of(*modules: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, tail: _is_pickle(head) and any(module in head for module in modules)


def _zip_with(*names: bytes) -> Callable[[bytes, bytes], bool]:
    """A zip file has its entries' names before each, and all of them at its end."""
    return lambda head, tail: (
        head.startswith(b"PK\x03\x04") and any(name in part for name in names for part in (head, tail))
    )


def _is_coreml(head: bytes, tail: bytes) -> bool:
    """`Model`: specificationVersion, then a description, which is a message and no text as ONNX's producer_name."""
    return (
        head[:1] == b"\x08"
        and head[2:3] == b"\x12"
        and head[4:5] in (b"\x0a", b"\x52")
        and head[1:2] < b"\x20"
    )


# In the order in which they are tried: what is more particular comes first.
KINDS = (
    ForeignKind(
        "a PyTorch file", _begins(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), f"export it with {TORCH}"
    ),
    ForeignKind(
        "a pickle of an XGBoost model", _pickle_of(b"xgboost."), f"{PICKLED}; export it with {XGBOOST}"
    ),
    ForeignKind(
        "a pickle of a LightGBM model", _pickle_of(b"lightgbm."), f"{PICKLED}; export it with {LIGHTGBM}"
    ),
    ForeignKind(
        "a pickle of a CatBoost model", _pickle_of(b"catboost."), f"{PICKLED}; export it with {CATBOOST}"
    ),
    ForeignKind("a pickle of a PyTorch model", _pickle_of(b"torch."), f"{PICKLED}; export it with {TORCH}"),
    ForeignKind(
        "a pickle of scikit-learn (or of joblib)",
        _pickle_of(b"sklearn.", b"joblib."),
        f"{PICKLED}; export the model with {SKLEARN}",
    ),
    ForeignKind(
        "a pickle",
        lambda head, tail: _is_pickle(head),
        f"{PICKLED}; of scikit-learn, export it with {SKLEARN}",
    ),
    ForeignKind(
        "a compressed file, as joblib writes them",
        _begins(
            b"\x1f\x8b",
            b"BZh",
            b"\xfd7zXZ\x00",
            b"x\x9c",
            b"x\x01",
            b"x\x5e",
            b"x\xda",
            b"\x04\x22\x4d\x18",
            b"\x28\xb5\x2f\xfd",
        ),
        f"{PICKLED}, compressed or not; of scikit-learn, export the model with {SKLEARN}",
    ),
    ForeignKind("a Keras file", _zip_with(b"model.weights.h5"), f"export the model with {KERAS}"),
    ForeignKind(
        "a zip of a TensorFlow SavedModel", _zip_with(b"saved_model.pb"), f"convert it with {TENSORFLOW}"
    ),
    ForeignKind("a zip of an MLflow model", _zip_with(b"MLmodel"), MLFLOW),
    ForeignKind("a PyTorch file", _zip_with(b"data.pkl", b"/byteorder"), f"export the model with {TORCH}"),
    ForeignKind("a CoreML package", _zip_with(b".mlmodel"), "export the model that it was made of to ONNX"),
    ForeignKind("a zip file", _begins(b"PK\x03\x04", b"PK\x05\x06"), "send one model file, not an archive"),
    ForeignKind(
        "a tar file", lambda head, tail: head[257:262] == b"ustar", "send one model file, not an archive"
    ),
    ForeignKind(
        "an HDF5 file, as Keras writes them", _begins(b"\x89HDF\r\n\x1a\n"), f"export the model with {KERAS}"
    ),
    ForeignKind(
        "a TensorFlow SavedModel",
        _begins(b"\x08\x01\x12", b"\x08\x02\x12"),
        f"convert its folder with {TENSORFLOW}",
    ),
    ForeignKind(
        "an MLflow model's description",
        lambda head, tail: (
            b"flavors:" in head and head.lstrip().startswith((b"artifact_path:", b"flavors:", b"mlflow"))
        ),
        MLFLOW,
    ),
    ForeignKind(
        "an XGBoost file",
        lambda head, tail: (
            head.startswith((b"{L\x00\x00", b"binf")) or (head[:1] == b"{" and b'"learner"' in head[:4096])
        ),
        f"load it with XGBoost and export it with {XGBOOST}",
    ),
    ForeignKind(
        "a LightGBM file",
        _begins(b"tree\nversion=", b"tree\r\nversion="),
        f"load it with LightGBM and export it with {LIGHTGBM}",
    ),
    ForeignKind("a CatBoost file", _begins(b"CBM1"), f"load it with CatBoost and export it with {CATBOOST}"),
    ForeignKind("a CoreML file", _is_coreml, "export the model that it was made of to ONNX"),
    ForeignKind(
        "a TensorFlow Lite file",
        lambda head, tail: head[4:8] == b"TFL3",
        "convert it with `python -m tf2onnx.convert --tflite FILE --output model.onnx`",
    ),
    ForeignKind(
        "a file in ONNX Runtime's own format",
        lambda head, tail: head[4:8] == b"ORTM",
        "send the .onnx file that it was made of",
    ),
    ForeignKind("a NumPy file", _begins(b"\x93NUMPY"), "send a model, not its arrays"),
    ForeignKind(
        "a GGUF file", _begins(b"GGUF"), "serve language models elsewhere and register their address"
    ),
    ForeignKind(
        "a PMML file", lambda head, tail: b"<PMML" in head[:4096], "export the model to ONNX instead"
    ),
)


def foreign_sentence(buffer: bytes | mmap.mmap) -> str | None:
    """Sentence that refuses a file of another tool; None for one that is not recognised."""
    head, tail = bytes(buffer[:HEAD_BYTES]), bytes(buffer[-HEAD_BYTES:])
    if begins_with_header(head):
        return None
    for kind in KINDS:
        if kind.matches(head, tail):
            return f"This is {kind.name}, which is not loaded: {kind.advice}."
    return None


def foreign_folder_sentence(folder: Path) -> str:
    """Sentence that refuses a folder where a model file is expected."""
    if (folder / "MLmodel").exists():
        return f"This is an MLflow model's folder: {MLFLOW}, or name the .onnx file in it."
    if (folder / "saved_model.pb").exists():
        return f"This is a TensorFlow SavedModel, which is not loaded: convert it with {TENSORFLOW}."
    return "This is a folder: expected one model file."
