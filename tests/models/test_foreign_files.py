"""Files of other tools, as these write them: each is recognised, and nothing of it is run."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import graphs
import joblib
import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models import MatrixFactorization, Popularity
from bandit_serve.models.artifact import MAX_HEADER_BYTES, Artifact
from bandit_serve.models.foreign_files import foreign_folder_sentence, foreign_sentence
from bandit_serve.models.model_file import read_model_file
from bandit_serve.models.onnx.file import OnnxFile

X = np.arange(40, dtype=np.float32).reshape(20, 2)
Y = np.arange(20) % 2


def zip_of(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)
    return content.getvalue()


def saved(save: Any, path: Path) -> bytes:
    save(path)
    return path.read_bytes()


def written(tmp_path: Path) -> dict[str, bytes]:
    """Files by the words that their sentences have."""
    forest = LogisticRegression().fit(X, Y)
    boosted = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(X, Y)
    light = lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1, min_child_samples=1).fit(X, Y)
    return {
        "a pickle of scikit-learn": pickle.dumps(forest),
        "a pickle of scikit-learn (or of joblib)": saved(lambda p: joblib.dump(forest, p), tmp_path / "a"),
        "a compressed file, as joblib": saved(lambda p: joblib.dump(forest, p, 3), tmp_path / "b"),
        "a pickle of an XGBoost": pickle.dumps(boosted),
        "a pickle of a LightGBM": pickle.dumps(light),
        "a pickle, which": pickle.dumps({"a": [1, 2]}, protocol=2),
        "an XGBoost file": saved(boosted.save_model, tmp_path / "x.json"),
        "an XGBoost file, which": saved(boosted.save_model, tmp_path / "x.ubj"),
        "a LightGBM file": saved(light.booster_.save_model, tmp_path / "l.txt"),
        "a PyTorch file": zip_of("archive/data.pkl", "archive/version"),
        "a PyTorch file, which": pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"\x80\x02M\xe9\x03.",
        "a Keras file": zip_of("metadata.json", "config.json", "model.weights.h5"),
        "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "a zip of a TensorFlow SavedModel": zip_of("m/saved_model.pb", "m/variables/variables.index"),
        "a TensorFlow SavedModel": b"\x08\x01\x12\x90\x02" + bytes(100),
        "a zip of an MLflow model": zip_of("MLmodel", "model.pkl"),
        "an MLflow model's description": b"artifact_path: model\nflavors:\n  python_function:\n",
        "a zip file": zip_of("readme.txt"),
        "a CoreML file": b"\x08\x04\x12\x7d\x0a\x10\x0a\x05input" + bytes(100),
        "a TensorFlow Lite file": b"\x1c\x00\x00\x00TFL3" + bytes(100),
        "a NumPy file": saved(lambda p: np.save(p, X), tmp_path / "a.npy"),
    }


def test_each_is_recognised_and_refused(tmp_path: Path) -> None:
    for words, content in written(tmp_path).items():
        sentence = foreign_sentence(content)
        assert sentence is not None, words
        assert sentence.startswith(f"This is {words}"), (words, sentence)
        assert sentence.endswith(".")
        with pytest.raises(InvalidArtifact, match="not loaded"):
            read_model_file(content)


def test_no_pickle_is_opened() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("it was loaded",))

    with pytest.raises(InvalidArtifact, match="pickles run code"):
        read_model_file(pickle.dumps(Trap()))


def test_ours_are_not_taken_for_others(tmp_path: Path) -> None:
    ours = saved(Popularity().fit(["u"], ["i"], [1.0]).save, tmp_path / "m")
    assert foreign_sentence(ours) is None
    assert isinstance(read_model_file(ours), Artifact)
    for make in graphs.CLASSIFIERS.values():
        content = make().content
        assert foreign_sentence(content) is None
        assert isinstance(read_model_file(content), OnnxFile)


def test_no_length_of_a_header_is_taken_for_the_mark_of_another(tmp_path: Path) -> None:
    # 376 begins as zlib's files do, 640, 896, 1152 and 1408 as pickles.
    for length in range(8, MAX_HEADER_BYTES + 1, 8):
        assert foreign_sentence(length.to_bytes(8, "little") + b"{}") is None, length
    ours = saved(MatrixFactorization().fit([1, 2, 3], [1, 2, 3], [1.0, 2.0, 3.0]).save, tmp_path / "m")
    assert int.from_bytes(ours[:8], "little") == 1152
    assert isinstance(read_model_file(ours), Artifact)


def test_folders(tmp_path: Path) -> None:
    assert "one model file" in foreign_folder_sentence(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    assert "tf2onnx" in foreign_folder_sentence(tmp_path)
    (tmp_path / "MLmodel").touch()
    assert "models import" in foreign_folder_sentence(tmp_path)
