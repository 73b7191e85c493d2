"""Two programs take turns: each is a process that answers one JSON line with another.

Neither may import what the other brings (JAX and torch would share threads and memory), so this imports neither.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Self

from ilpjax.errors import BenchError, InputError

SHOWN = 12  # lines of a dead worker's last words


def serve(commands: dict[str, Callable[..., Any]]) -> None:
    """The worker's side: `{"do": name, ...}` in, `{"answer": ...}`, `{"refused": ...}` or `{"error": ...}` out.

    Whatever else is printed goes to stderr, so that a library's chatter cannot spoil an answer.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": commands[request.pop("do")](**request)}
        except InputError as error:
            answer = {"refused": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """A process that `serve`s. Between two requests it waits on a pipe and uses no processor."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]):
        self._name = name
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        """Closes its input, upon which it ends; kills it where it is at work."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (subprocess.TimeoutExpired, OSError):
            self._process.kill()
            self._process.wait()
        self._said.close()

    def ask(self, do: str, **values: Any) -> Any:
        """The worker's answer. Raises InputError where it refuses, BenchError where it fails or dies."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **values}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BenchError(f"{self._name}: died at {do!r}, status {self._process.wait()}; {self._last_words()}")
        reply = json.loads(line)
        if "refused" in reply:
            raise InputError(reply["refused"])
        if "error" in reply:
            raise BenchError(f"{self._name}: {reply['error']}")
        return reply["answer"]

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().splitlines() if line.strip()]
        return "it said: " + " | ".join(lines[-SHOWN:]) if lines else "it said nothing"
