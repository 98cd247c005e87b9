"""Assignment of an experiment's units: their hashes, and the arms that these lead to."""

from __future__ import annotations

from hashlib import blake2b

from bandit_serve.experiments.spec import Record
from bandit_serve.folds._assignment import Rendezvous


def rendezvous(record: Record) -> Rendezvous:
    """Assignment with the experiment's own salt: two experiments are independent of each other."""
    salt = blake2b(record.uid.to_bytes(8, "little"), digest_size=16).digest()
    return Rendezvous(salt, record.experiment.arm_names)
