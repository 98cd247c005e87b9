"""Two scikit-learn models in ONNX, served by the service itself, and the better one promoted.

pip install 'bandit-serve[onnx]' scikit-learn skl2onnx
bandit-serve serve --port 8000 --data bandit-serve-data    # in another terminal
python examples/onnx_models.py [--url http://127.0.0.1:8000]
"""

import argparse

from bandit_serve_client import SyncClient
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

EXPERIMENT = {
    "id": "iris",
    "arms": [
        {"name": "stump", "model": "iris", "version": "v1"},
        {"name": "regression", "model": "iris", "version": "v2"},
    ],
    "policy": {"kind": "thompson", "min_share": 0.3},
    "metrics": [{"name": "right", "kind": "binary"}],
    "attribution": {"window": "1h", "missing": "ignore"},
    "stopping": {"min_samples": 50, "expected_samples": 300},
}


def main(url: str) -> None:
    flowers, kinds = load_iris(return_X_y=True)
    seen, unseen, right, answers = train_test_split(
        flowers.astype("float32"), kinds, test_size=0.5, random_state=0
    )
    with SyncClient(url) as client:
        for version, model in [
            ("v1", DecisionTreeClassifier(max_depth=1)),
            ("v2", LogisticRegression(max_iter=1000)),
        ]:
            graph = to_onnx(model.fit(seen, right), seen[:1], options={"zipmap": False})
            client.models.register("iris", graph.SerializeToString(), version=version)
        client.experiments.apply(EXPERIMENT)
        client.experiments.start("iris")
        for _ in range(5):
            for flower, kind in zip(unseen, answers, strict=True):
                answer = client.predict("iris", unit="garden", features=flower.tolist())
                client.reward(answer.decision_id, float(answer.outputs["label"] == kind))
        results = client.experiments.results("iris")
        for arm in results.arms:
            print(f"{arm.name}: {arm.metrics['right'].n} flowers, {arm.metrics['right'].mean:.0%} right")
        print(results.reason)
        if results.winner is not None:
            client.experiments.stop("iris", winner=results.winner)
            print("in production:", client.models.show("iris").production)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    main(parser.parse_args().url)
