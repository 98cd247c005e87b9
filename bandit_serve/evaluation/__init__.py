"""Evaluation: what other policies would have earned, from a log or an export of one.

`decisions` collects what was logged, `candidates` says how others would have chosen, and `evaluation` estimates.
"""
