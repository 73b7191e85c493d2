"""Is "unlearned" a fact about the model or about the test? The same rows under many protocols."""

from ilpjax.robust.agreement import agreement, core_and_rim
from ilpjax.robust.design import COLUMNS, FACTORS, Pass, Protocol, design, own_protocol, pass_of
from ilpjax.robust.grid import check_run, run_grid
from ilpjax.robust.prevalence import agreement_of_runs, over_datasets, over_runs, prevalence, read_run, run_prevalence
from ilpjax.robust.retest import across_runs, retest
from ilpjax.robust.summary import summarise, tell
from ilpjax.robust.variance import variance
from ilpjax.robust.votes import Votes, votes

__all__ = [
    "COLUMNS",
    "FACTORS",
    "Pass",
    "Protocol",
    "Votes",
    "across_runs",
    "agreement",
    "agreement_of_runs",
    "check_run",
    "core_and_rim",
    "design",
    "over_datasets",
    "over_runs",
    "own_protocol",
    "pass_of",
    "prevalence",
    "read_run",
    "retest",
    "run_grid",
    "run_prevalence",
    "summarise",
    "tell",
    "variance",
    "votes",
]
