"""How far a run is: a bar on a terminal, plain lines elsewhere, TensorBoard beside it."""

import sys
import time
from collections import deque
from pathlib import Path

import jax
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tqdm import tqdm

from ilpjax.train.disk import disk_errors

# Dense bf16 FLOP/s of one jax device, by the start of its kind; the longest that fits counts. From vendors' sheets.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}
LINE_EVERY = 10.0  # seconds between two lines where there is no terminal


def peak_flops(kind: str) -> float | None:
    """bf16 FLOP/s of a `jax.Device.device_kind`; None where it is not known."""
    names = [name for name in PEAK if kind == name or kind.startswith((name + " ", name + "-"))]
    return PEAK[max(names, key=len)] if names else None


class Progress:
    """A line about each step. `flops`: FLOPs of one step over all devices, None to leave MFU out."""

    def __init__(self, name: str, steps: int, done: int, flops: float | None):
        peak = peak_flops(jax.devices()[0].device_kind)
        self._mfu = flops / (peak * jax.device_count()) if flops and peak else None
        self._name, self._steps = name, steps
        self._times: deque[tuple[float, int]] = deque(maxlen=20)  # the first step compiles: rates forget it
        self._tokens, self._printed = 0, 0.0
        self._bar = None
        if jax.process_index() == 0 and sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=done, desc=name, unit="step", dynamic_ncols=True)

    def step(self, step: int, loss: float, tokens: int, real_fraction: float) -> dict[str, float]:
        """Tells of a finished step; returns its rates: tokens_per_second (real ones) and mfu, once known."""
        now = time.monotonic()
        self._tokens += tokens
        self._times.append((now, self._tokens))
        rates = self._rates()
        if jax.process_index() == 0:
            shown = {"loss": f"{loss:.4f}", "real": f"{real_fraction:.0%}"}
            if rates:
                shown["tokens/s"] = f"{rates['tokens_per_second']:.0f}"
            if "mfu" in rates:
                shown["mfu"] = f"{rates['mfu']:.1%}"
            self._show(step, shown, now)
        return rates

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _rates(self) -> dict[str, float]:
        (then, tokens), (now, all_tokens) = self._times[0], self._times[-1]
        if now <= then:
            return {}
        rates = {"tokens_per_second": (all_tokens - tokens) / (now - then)}
        if self._mfu is not None:
            rates["mfu"] = self._mfu * (len(self._times) - 1) / (now - then)
        return rates

    def _show(self, step: int, shown: dict[str, str], now: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._printed >= LINE_EVERY or step == self._steps:
            self._printed = now
            seconds = now - self._times[0][0]
            if seconds > 0:
                left = (self._steps - step) * seconds / (len(self._times) - 1)
                shown["left"] = tqdm.format_interval(left)
            text = "  ".join(f"{key} {value}" for key, value in shown.items())
            print(f"{self._name}: step {step}/{self._steps}  {text}", file=sys.stderr, flush=True)


class TensorBoard:
    """Scalars under a folder, written at once.

    tensorboardX's SummaryWriter hands events to a thread through a bounded queue: on a full disk the thread dies and
    the training loop waits for ever. Its file writer raises instead.
    """

    def __init__(self, folder: Path, name: str, step: int):
        self._folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{name}")
        self._flushed = time.monotonic()
        # What an earlier, killed run wrote beyond its last checkpoint is not shown twice.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(session_log=start, step=step + 1))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self._write(event_pb2.Event(summary=summary.scalar(tag, value), step=step))
        if time.monotonic() - self._flushed > LINE_EVERY:
            self._flushed = time.monotonic()
            with disk_errors(self._folder):
                self._writer.flush()

    def close(self) -> None:
        with disk_errors(self._folder):
            self._writer.close()

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        with disk_errors(self._folder):
            self._writer.write_event(event)
