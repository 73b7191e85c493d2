"""Our side of `bench sft`: packed rows through the train step, metrics read one step late as `fit` does."""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ilpjax.bench import texts
from ilpjax.bench.ratio import paired_ratio
from ilpjax.config import BenchJob, MeshConfig, TrainConfig
from ilpjax.data import Example, Loader, Order
from ilpjax.models import load_model, read_spec
from ilpjax.parallel import make_mesh, put_batch
from ilpjax.train import State, init_state, make_optimizer, make_step, state_shardings

PAIRS = 15  # of steps with and without dynamics


class SFT:
    def __init__(self, job: BenchJob, folder: Path):
        self._mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
        self._folder = folder / "model"
        texts.make_model(job, self._folder)
        self._spec = read_spec(self._folder)
        made = texts.make_rows(self._spec.vocab, job)
        (folder / "rows.json").write_text(json.dumps(made))
        self._curve, self._rows = ([_example(n, row) for n, row in enumerate(rows)] for rows in made)
        cpu = jax.default_backend() == "cpu"
        self._cfg = TrainConfig(
            epochs=1,
            seq_len=job.seq_len,
            batch=job.batch,
            lr=1e-12,  # so that every round trains the same model
            final_lr=1,
            warmup=0,
            # What a user of this device would choose: a host has memory to spare, and no appetite for large chunks.
            remat=not cpu,
            loss_chunk=512 if cpu else 1024,
        )
        self._step, self._state = self._start(self._cfg)

    def _start(self, cfg: TrainConfig) -> tuple[Any, State]:
        model, params = load_model(self._folder, self._mesh)
        optimizer = make_optimizer(cfg, 1)
        shardings = state_shardings(model, self._mesh, params, optimizer)
        return make_step(model, cfg, 1, self._mesh, shardings), init_state(params, optimizer, shardings)

    def _loader(self, rows: list[Example], batch: int, order: Order) -> Loader:
        return Loader(rows, seq_len=self._cfg.seq_len, batch=batch, epochs=1, order=order, seed=0)

    def _epoch(self, step: Any, state: State, loader: Loader) -> tuple[State, list[Any], int]:
        """The state after it, each step's (loss, targets), the tokens that are not padding."""
        told: list[Any] = []
        tokens, metrics = 0, None
        with closing(loader):
            for n, batch in enumerate(loader):
                earlier, (state, metrics) = metrics, step(state, put_batch(self._mesh, batch))
                told += [jax.device_get(earlier)] if earlier is not None else []
                tokens += loader.real_tokens(n)
        told.append(jax.device_get(metrics))
        return state, [(float(m.loss), float(m.targets)) for m in told], tokens

    def check(self) -> list[float]:
        """The loss of every step on rows that fill a sequence each, and the mean loss of rows packed together."""
        batch = texts.CURVE_BATCH
        step, state = self._start(self._cfg.model_copy(update={"lr": texts.CURVE_LR, "batch": batch}))
        _, curve, _ = self._epoch(step, state, self._loader(self._curve, batch, "file"))
        self._state, packed, _ = self._epoch(self._step, self._state, self._packed())
        mean = sum(loss * targets for loss, targets in packed) / sum(targets for _, targets in packed)
        return [*(loss for loss, _ in curve), mean]

    def run(self) -> int:
        """Trains an epoch; its tokens without padding."""
        self._state, _, tokens = self._epoch(self._step, self._state, self._packed())
        return tokens

    def _packed(self) -> Loader:
        return self._loader(self._rows, self._cfg.batch, "shuffle")

    def more(self) -> dict[str, Any]:
        """FLOPs a token, the head's counted only where there is a target; what the rows' dynamics cost."""
        spec, lengths = self._spec, np.array([len(row) for row in self._rows])
        head, none = 6.0 * spec.vocab * spec.embed, spec.flops_per_token(0)
        attention = np.sum([len(row) * (spec.flops_per_token(len(row)) - none) for row in self._rows])
        targets = sum(int(row.target_mask.sum()) for row in self._rows)
        flops = (none - head) * lengths.sum() + attention + head * targets
        return {"flops": float(flops / lengths.sum()), "dynamics": self._dynamics()}

    def _dynamics(self) -> list[float]:
        """Seconds of a step with every row's dynamics over those without: the median of pairs, low, high."""
        with closing(self._packed()) as loader:
            batch = put_batch(self._mesh, next(loader))
        step, state = self._start(self._cfg.model_copy(update={"dynamics": False}))
        sides = [[step, state, []], [self._step, self._state, []]]
        for n in range(PAIRS + 1):
            for side in sides if n % 2 else sides[::-1]:  # whoever comes second finds warm caches
                start = time.perf_counter()
                side[1], metrics = side[0](side[1], batch)
                jax.device_get(metrics)
                side[2] += [time.perf_counter() - start] if n else []
        self._state = sides[1][1]
        return list(paired_ratio(sides[1][2], sides[0][2]))


def _example(n: int, row: dict[str, Any]) -> Example:
    return Example(n, np.asarray(row["tokens"], np.int32), np.arange(len(row["tokens"])) >= row["prompt"])
