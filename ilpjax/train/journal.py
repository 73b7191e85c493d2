"""Everything a run says about itself, read from the device one step late so that it never waits."""

import math
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ilpjax.config import TrainConfig
from ilpjax.data import Loader
from ilpjax.errors import TrainingError
from ilpjax.models import Model, compute_dtype
from ilpjax.rundir import RunDir
from ilpjax.train.dynamics import Parts, merge_dynamics, merge_log, visits
from ilpjax.train.progress import Progress, TensorBoard
from ilpjax.train.step import NLL, Metrics

SHOWN = 8  # rows named in an error


class Journal:
    """Tables, TensorBoard and progress of one run. Every process reads the metrics; process 0 writes."""

    def __init__(
        self, out: RunDir, name: str, cfg: TrainConfig, model: Model, names: Sequence[str], loader: Loader, done: int
    ):
        self._out, self._cfg, self._names, self._loader = out, cfg, names, loader
        self._pending: tuple[int, Metrics] | None = None
        self._then = time.monotonic()
        folder = out / "checkpoints" / name
        self._dynamics, self._log = Parts(folder / "dynamics"), Parts(folder / "log")
        self._tensorboard: TensorBoard | None = None
        self._writes = jax.process_index() == 0
        if self._writes:
            self._dynamics.discard_after(done)
            self._log.discard_after(done)
            self._tensorboard = TensorBoard(out / "tb", name, done)
        # Peaks are known for bf16; a float32 run has no MFU to compare.
        bf16 = compute_dtype(cfg.dtype) == jnp.bfloat16
        flops = model.spec.flops_per_token(cfg.seq_len) * cfg.batch * cfg.seq_len if bf16 else None
        self._progress = Progress(name, loader.steps, done, flops)

    def tell(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step just dispatched, and reads those of the step before it."""
        earlier, self._pending = self._pending, (step, metrics)
        if earlier is not None:
            self._read(*earlier)

    def flush(self, step: int) -> None:
        """Reads what is pending and writes the parts that end with `step`. Call it before the step is saved."""
        if self._pending is not None:
            self._read(*self._pending)
            self._pending = None
        if self._writes:
            self._dynamics.flush(step)
            self._log.flush(step)

    def merge(self) -> None:
        """OUT/train_log.parquet and OUT/dynamics.parquet."""
        if self._writes:
            merge_log(self._log, self._out / "train_log.parquet")
            if self._cfg.dynamics:
                merge_dynamics(self._dynamics, self._names, self._out / "dynamics.parquet")

    def close(self) -> None:
        self._progress.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _read(self, step: int, metrics: Metrics) -> None:
        metrics = jax.device_get(metrics)
        if not (np.isfinite(metrics.loss) and np.isfinite(metrics.grad_norm)):
            raise TrainingError(not_finite(step, metrics, self._names))
        now = time.monotonic()
        line = {
            "loss": float(metrics.loss),
            "lr": float(metrics.lr),
            "grad_norm": float(metrics.grad_norm),
            "targets": float(metrics.targets),
            "tokens": self._loader.real_tokens(step - 1),
            "real_fraction": self._loader.real_fraction(step - 1),
            "seconds": now - self._then,
        }
        self._then = now
        rates = self._progress.step(step, line["loss"], int(line["tokens"]), line["real_fraction"])
        if not self._writes:
            return
        epoch = self._loader.epoch_of(step - 1)
        self._log.add(pd.DataFrame([{"step": step, "epoch": epoch, **line}]))
        if self._tensorboard is not None:
            self._tensorboard.scalars(step, line | rates)
        if metrics.row_sums is not None:
            self._dynamics.add(visits(step, epoch, np.asarray(metrics.rows), np.asarray(metrics.row_sums)))


def not_finite(step: int, metrics: Metrics, names: Sequence[str]) -> str:
    """The message: the rows whose own loss is no number, or all rows of the step when that tells nothing."""
    rows, guilty = np.asarray(metrics.rows), None
    if metrics.row_sums is not None:
        guilty = rows[(rows >= 0) & ~np.isfinite(metrics.row_sums[..., NLL])]
    rows = guilty if guilty is not None and len(guilty) else rows[rows >= 0]
    ids = [names[row] for row in dict.fromkeys(rows.tolist())]
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    what = "loss" if not math.isfinite(metrics.loss) else "gradient norm"
    value = metrics.loss if what == "loss" else metrics.grad_norm
    return (
        f"step {step}: the {what} is {float(value)}; rows in it: {', '.join(ids[:SHOWN])}{more}; "
        "a lower lr or a look at these rows may help; the same command continues from the last checkpoint"
    )
