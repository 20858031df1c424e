"""From a request to planned cells: everything that can be known before work starts, and nothing written."""

from massl_bench.planning.planner import Planner, timed
from massl_bench.planning.request import CellPlan, PlannedCell, PlannedTask, RunRequest

__all__ = ["CellPlan", "PlannedCell", "PlannedTask", "Planner", "RunRequest", "timed"]
