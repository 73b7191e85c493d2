"""Training: the step, the loop, checkpoints, per-row dynamics; SFT and pre-training as stages."""

from ilpjax.train.jobs import check_conflicts, run_cpt, run_sft
from ilpjax.train.loop import check_batch, fit
from ilpjax.train.optimizer import decay_mask, make_optimizer, schedule
from ilpjax.train.progress import Progress, peak_flops
from ilpjax.train.step import State, abstract_state, init_state, loss_and_grads, make_step, state_shardings

__all__ = [
    "Progress",
    "State",
    "abstract_state",
    "check_batch",
    "check_conflicts",
    "decay_mask",
    "fit",
    "init_state",
    "loss_and_grads",
    "make_optimizer",
    "make_step",
    "peak_flops",
    "run_cpt",
    "run_sft",
    "schedule",
    "state_shardings",
]
