from typing_extensions import disjoint_base

@disjoint_base
class Follower:
    def grow(self, n_arms: int) -> None: ...
