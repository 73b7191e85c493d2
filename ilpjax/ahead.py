"""An iterator that runs ahead in a thread, so that a device does not wait for what Python prepares."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(source: Iterator[T], count: int) -> Iterator[T]:
    """The values of `source`, up to `count` of them made before they are asked for. What it raises is raised here."""
    ready: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(count)  # a value, or the end and its cause
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(source, ready, stop), name="ahead", daemon=True)
    thread.start()
    try:
        while (step := ready.get())[0]:
            yield step[0][0]
        if step[1] is not None:
            raise step[1]
    finally:
        stop.set()
        thread.join()


def _run(source: Iterator[T], ready: queue.Queue, stop: threading.Event) -> None:
    def put(value: list[T], error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put((value, error), timeout=0.2)
            except queue.Full:
                continue

    try:
        for value in source:
            put([value], None)
            if stop.is_set():
                return
        put([], None)
    except BaseException as error:  # raised again where the values are used
        put([], error)
