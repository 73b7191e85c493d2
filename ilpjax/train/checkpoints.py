"""Checkpoints of a run in progress: Orbax, asynchronous, restored straight to their shardings."""

import contextlib
import errno
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ilpjax.rundir import write_text
from ilpjax.train.disk import Quiet, disk_errors
from ilpjax.train.step import State


class Checkpoints:
    """The last `keep` checkpoints of one run: state and loader state, keyed by the number of steps done.

    `made_from` is a fingerprint of everything the run depends on. Checkpoints made from something else cannot be
    continued: they are removed, and a line says so.
    """

    def __init__(self, folder: Path, made_from: str, keep: int):
        if jax.process_index() == 0:
            _claim(folder, made_from)
        sync("checkpoints")
        self.folder = folder
        self._quiet = Quiet()
        logging.getLogger("absl").addFilter(self._quiet)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, create=True)
        with disk_errors(folder):
            self._manager = ocp.CheckpointManager(
                (folder / "state").resolve(), options=options, item_names=("state", "loader")
            )

    @property
    def latest(self) -> int | None:
        """Steps done at the last finished checkpoint; None when there is none."""
        return self._manager.latest_step()

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """The last checkpoint. `like`: ShapeDtypeStructs with shardings; each device reads its own part."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), loader=ocp.args.JsonRestore())
        restored = self._manager.restore(self.latest, args=args)
        return restored.state, restored.loader

    def save(self, step: int, state: State, loader: dict[str, Any]) -> None:
        """Copies the state to the host, then writes in the background.

        Raises OSError on a full disk, and what an earlier write ran into.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), loader=ocp.args.JsonSave(loader))
        with disk_errors(self.folder):
            # Told before Orbax's threads find out, each with a traceback of its own.
            if shutil.disk_usage(self.folder).free < sum(x.nbytes for x in jax.tree.leaves(state)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Until everything is on disk. Raises OSError when the disk is full."""
        with disk_errors(self.folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits too, but a write's failure stays quiet: another error is already on its way."""
        with contextlib.suppress(Exception):
            self._manager.close()
        logging.getLogger("absl").removeFilter(self._quiet)


def sync(name: str) -> None:
    """All processes meet here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _claim(folder: Path, made_from: str) -> None:
    stamp = folder / "made_from"
    if folder.exists() and not (stamp.is_file() and stamp.read_text() == made_from):
        print(f"{folder}: checkpoints of other inputs or settings, removed; training starts anew", file=sys.stderr)
        shutil.rmtree(folder)
    write_text(stamp, made_from)
