"""Promotions: ways of versions into production, step after step, each with its evidence.

`plan_checks` says which plans are possible, `promoting` makes the changes, `offline`, `shadow` and `ramp` judge the
steps, and `promoter` goes through them in the worker with the lease.
"""
