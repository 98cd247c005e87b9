"""Two pickled scikit-learn models, and a bandit that finds the one whose answers are right more often.

    bandit-serve serve --port 8000 --data bandit-serve-data    # in another terminal
    python examples/two_models.py [--url http://127.0.0.1:8000]

The models stay in your process: the service says which one a request gets, and learns from how it went.
"""

import argparse
import pickle
import tempfile
from pathlib import Path

from bandit_serve_client import SyncClient
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

EXPERIMENT = {
    "id": "digits",
    "arms": [
        {"name": "tree", "payload": {"file": "tree.pickle"}},
        {"name": "forest", "payload": {"file": "forest.pickle"}},
    ],
    "control": "tree",
    "policy": {"kind": "thompson", "min_share": 0.2},
    "metrics": [{"name": "right", "kind": "binary"}],
    "attribution": {"window": "1h", "missing": "ignore"},
    "stopping": {"expected_samples": 500},
}


def train(folder: Path) -> tuple:
    """Trains two models of digits, pickles them, and returns digits that they have not seen."""
    pixels, digits = load_digits(return_X_y=True)
    seen, unseen, right, answers = train_test_split(pixels, digits, test_size=0.5, random_state=0)
    models = {
        "tree": DecisionTreeClassifier(random_state=0),
        "forest": RandomForestClassifier(random_state=0),
    }
    for name, model in models.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(model.fit(seen, right)))
    return unseen, answers


def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder, SyncClient(url) as client:
        images, answers = train(Path(folder))
        client.experiments.apply(EXPERIMENT)
        client.experiments.start("digits")
        models = {}
        for image, answer in zip(images, answers, strict=True):
            decision = client.decide("digits")
            file = decision.payload["file"]
            if file not in models:
                models[file] = pickle.loads((Path(folder) / file).read_bytes())
            (guess,) = models[file].predict([image])
            client.reward(decision.decision_id, float(guess == answer))
        results = client.experiments.results("digits")
        for arm in results.arms:
            print(f"{arm.name:7} {arm.metrics['right'].n:4} images, {arm.metrics['right'].mean:.1%} right")
        print(results.reason)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    main(parser.parse_args().url)
