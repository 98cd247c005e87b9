"""Scoring of files: the scores that the service would answer, for rows of Parquet, JSON lines or CSV.

`row_files` reads files in chunks, `asked` checks their rows as the service checks requests, `scorer` asks the model, in
processes that `in_order` keeps, and `batch` writes what they give.
"""

from bandit_serve.scoring.partition import score_table

__all__ = ["score_table"]
