"""Bandit policies without a server: from rewards to shares, and from shares or posterior draws to an arm.

`POLICIES` is the table of all: a policy is one file here and one row there, and the contract suite
(tests/test_policies_contract.py) then tests it.
"""

from bandit_serve.policies.epsilon_greedy import EpsilonGreedy
from bandit_serve.policies.exp3 import Exp3
from bandit_serve.policies.fixed_split import FixedSplit
from bandit_serve.policies.kl_ucb import KLUCB
from bandit_serve.policies.policy import Policy
from bandit_serve.policies.softmax import Softmax
from bandit_serve.policies.thompson import Thompson
from bandit_serve.policies.top_two_thompson import TopTwoThompson
from bandit_serve.policies.ucb1 import UCB1

POLICIES: dict[str, type[Policy]] = {
    policy.kind: policy
    for policy in (FixedSplit, EpsilonGreedy, Softmax, UCB1, KLUCB, Thompson, TopTwoThompson, Exp3)
}

__all__ = [
    "KLUCB",
    "POLICIES",
    "UCB1",
    "EpsilonGreedy",
    "Exp3",
    "FixedSplit",
    "Policy",
    "Softmax",
    "Thompson",
    "TopTwoThompson",
]
