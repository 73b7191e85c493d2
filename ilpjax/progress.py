"""A progress bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import jax
from tqdm import tqdm

EVERY = 10.0  # seconds between plain lines


class Advance(Protocol):
    def __call__(self, count: int, /) -> object: ...


@contextmanager
def progress(what: str, total: int | None, unit: str = "items", *, done: int = 0) -> Iterator[Advance]:
    """Yields a function to call with the number done since last time. The first process reports, others are silent.

    `done`: what an earlier run has done of `total`; it does not count for the rate.
    """
    if jax.process_index() != 0:
        yield lambda count: None
    elif sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=what, unit=f" {unit}", dynamic_ncols=True) as bar:
            yield bar.update
    else:
        yield _Lines(what, total, unit, done)


class _Lines:
    def __init__(self, what: str, total: int | None, unit: str, done: int):
        self._what, self._total, self._unit = what, total, unit
        self._before = self._done = done
        self._start = time.monotonic()
        self._said = self._start

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if self._done != self._total and now - self._said < EVERY:
            return
        self._said = now
        rate = (self._done - self._before) / max(now - self._start, 1e-9)
        text = f"{self._what}: {self._done:,}{f' of {self._total:,}' if self._total else ''} {self._unit}, {rate:.1f}/s"
        if self._total and self._total > self._done:
            text += f", {tqdm.format_interval((self._total - self._done) / rate)} left"
        print(text, file=sys.stderr, flush=True)
