"""Bandit policies without a server: from rewards to shares, and from shares or posterior draws to an arm.

`POLICIES` is the table of all: a policy is one file here, with its parameters, and one row there. Configuration, API
and documents follow from what the file declares, and the contract suites test it (`test_policies_contract.py`, and
`test_contextual_contract.py` for those that are `contextual`). `policy.py` says what a policy is made of.
"""

from typing import TypeAlias

from bandit_serve.policies.context import ContextField
from bandit_serve.policies.context_free import ContextFreePolicy
from bandit_serve.policies.contextual import ContextualPolicy
from bandit_serve.policies.epsilon_greedy import EpsilonGreedy
from bandit_serve.policies.exp3 import Exp3
from bandit_serve.policies.features import Features
from bandit_serve.policies.fixed_split import FixedSplit
from bandit_serve.policies.kl_ucb import KLUCB
from bandit_serve.policies.lin_ts import LinTS
from bandit_serve.policies.lin_ucb import LinUCB
from bandit_serve.policies.logistic_ts import LogisticTS
from bandit_serve.policies.policy import Policy
from bandit_serve.policies.softmax import Softmax
from bandit_serve.policies.squarecb import SquareCB
from bandit_serve.policies.thompson import Thompson
from bandit_serve.policies.top_two_thompson import TopTwoThompson
from bandit_serve.policies.ucb1 import UCB1

AnyPolicy: TypeAlias = ContextFreePolicy | ContextualPolicy

POLICIES: dict[str, type[ContextFreePolicy] | type[ContextualPolicy]] = {
    policy.kind: policy
    for policy in (
        FixedSplit,
        EpsilonGreedy,
        Softmax,
        UCB1,
        KLUCB,
        Thompson,
        TopTwoThompson,
        Exp3,
        LinUCB,
        LinTS,
        LogisticTS,
        SquareCB,
    )
}

__all__ = [
    "KLUCB",
    "POLICIES",
    "UCB1",
    "AnyPolicy",
    "ContextField",
    "ContextFreePolicy",
    "ContextualPolicy",
    "EpsilonGreedy",
    "Exp3",
    "Features",
    "FixedSplit",
    "LinTS",
    "LinUCB",
    "LogisticTS",
    "Policy",
    "Softmax",
    "SquareCB",
    "Thompson",
    "TopTwoThompson",
]
