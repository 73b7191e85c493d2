"""What a job needs on a TPU slice, compiled ahead of time on any machine."""

from ilpjax.plan.chips import CHIPS, Chip, Slice, find_slice
from ilpjax.plan.estimate import Cost, Memory, TooLarge, cost, network_seconds
from ilpjax.plan.hlo import Collective, Program
from ilpjax.plan.job import make_plan, run_plan
from ilpjax.plan.search import Largest, largest
from ilpjax.plan.work import Part, Work, find_work, forward_flops

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "Cost",
    "Largest",
    "Memory",
    "Part",
    "Program",
    "Slice",
    "TooLarge",
    "Work",
    "cost",
    "find_slice",
    "find_work",
    "forward_flops",
    "largest",
    "make_plan",
    "network_seconds",
    "run_plan",
]
