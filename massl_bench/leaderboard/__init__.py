"""Records to tables."""

from massl_bench.leaderboard.rows import Leaderboard, Row, collect
from massl_bench.leaderboard.tables import to_csv, to_json, to_markdown

__all__ = ["Leaderboard", "Row", "collect", "to_csv", "to_json", "to_markdown"]
