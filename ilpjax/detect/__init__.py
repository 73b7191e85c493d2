"""Verdicts: pass@N, best-of-N, closed form, the corrected mode."""

from ilpjax.detect.closed_form import (
    best_of_n,
    count_distribution,
    error_consistency,
    expected_pass,
    flag_count,
    flag_probability,
    jsd,
    pass_interval,
)
from ilpjax.detect.samples import sample_summary
from ilpjax.detect.table import option_means, question_lift
from ilpjax.detect.verdicts import detect, run_detect, severe_set, shift, summarise, wilson

__all__ = [
    "best_of_n",
    "count_distribution",
    "detect",
    "error_consistency",
    "expected_pass",
    "flag_count",
    "flag_probability",
    "jsd",
    "option_means",
    "pass_interval",
    "question_lift",
    "run_detect",
    "sample_summary",
    "severe_set",
    "shift",
    "summarise",
    "wilson",
]
