"""Bandit policies without a server: from rewards to shares, and from shares or posterior draws to an arm.

`POLICIES` is the table of all: a policy is one file here and one row there, and the contract suite
(tests/test_policies_contract.py) then tests it.
"""

from bandit_serve.policies.fixed_split import FixedSplit
from bandit_serve.policies.policy import Policy
from bandit_serve.policies.thompson import Thompson
from bandit_serve.policies.ucb1 import UCB1

POLICIES: dict[str, type[Policy]] = {policy.kind: policy for policy in (FixedSplit, Thompson, UCB1)}

__all__ = ["POLICIES", "UCB1", "FixedSplit", "Policy", "Thompson"]
