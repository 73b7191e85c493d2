"""Why a row was not learned: faults of the pipe first, then five causes, each with its evidence."""

from ilpjax.diagnose.attribute import (
    ABSTAIN,
    CAUSES,
    CLASSES,
    LEAST,
    OF_TRAINING,
    Calibration,
    fit,
    load_calibration,
    named_causes,
)
from ilpjax.diagnose.cascade import cascade
from ilpjax.diagnose.plumbing import check_plumbing
from ilpjax.diagnose.probes import make_probes, probe_items, read_probes, wordings
from ilpjax.diagnose.quality import calibration_bins, calibration_error, interval, quality
from ilpjax.diagnose.signals import FROM_TRAINING, SIGNALS, row_signals
from ilpjax.diagnose.stage import OUTPUTS, check_settings, run_stage, stage_inputs
from ilpjax.diagnose.verdicts import WHAT_TO_DO, diagnose

__all__ = [
    "ABSTAIN",
    "CAUSES",
    "CLASSES",
    "FROM_TRAINING",
    "LEAST",
    "OF_TRAINING",
    "OUTPUTS",
    "SIGNALS",
    "WHAT_TO_DO",
    "Calibration",
    "calibration_bins",
    "calibration_error",
    "cascade",
    "check_plumbing",
    "check_settings",
    "diagnose",
    "fit",
    "interval",
    "load_calibration",
    "make_probes",
    "named_causes",
    "probe_items",
    "quality",
    "read_probes",
    "row_signals",
    "run_stage",
    "stage_inputs",
    "wordings",
]
