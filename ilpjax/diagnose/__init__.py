"""Why a row was not learned. So far stage 0: faults of the pipe."""

from ilpjax.diagnose.plumbing import check_plumbing

__all__ = ["check_plumbing"]
