"""Host memory while a checkpoint is read and written, in a process of its own: `python memory_probe.py FOLDER OUT`.

Prints JSON, in bytes: the largest tensor, all weights, and the peaks above what was there before of (a) buffers that
Python and numpy allocated, (b) anonymous resident memory of the process, sampled every millisecond.
"""

import ctypes
import gc
import json
import os
import sys
import threading
import time
import tracemalloc
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402

from ilpjax.config import MeshConfig  # noqa: E402
from ilpjax.models import load_model, save_model  # noqa: E402
from ilpjax.parallel import make_mesh  # noqa: E402


def resident() -> int:
    """Anonymous pages: file pages of the mapped checkpoint belong to the system's cache and go when it likes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon")


class Peak:
    def __enter__(self):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.before, self.peak, self.stop = resident(), 0, False
        tracemalloc.start()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.stop:
            self.peak = max(self.peak, resident() - self.before)
            time.sleep(0.001)

    def __exit__(self, *exc) -> None:
        self.traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.stop = True
        self.thread.join()


def main(folder: str, out: str) -> None:
    mesh = make_mesh(MeshConfig(data=1, fsdp=jax.device_count()))
    warm = load_model(folder, mesh)  # compiles, so that the compiler's memory is not counted
    save_model(out, *warm)
    del warm
    with Peak() as load:
        model, params = load_model(folder, mesh)
        jax.block_until_ready(params)
    with Peak() as save:
        save_model(out, model, params)
    sizes = [x.nbytes // (x.shape[0] if "layers" in str(path[0]) else 1) for path, x in leaves(params)]
    held = sum(shard.data.nbytes for _, x in leaves(params) for shard in x.addressable_shards)
    report = {
        "largest_tensor": max(sizes),
        "weights_on_devices": held,
        "load": {"python_and_numpy": load.traced, "resident_beyond_weights": load.peak - held},
        "save": {"python_and_numpy": save.traced, "resident_beyond_weights": save.peak},
    }
    print(json.dumps(report))


def leaves(params):
    return jax.tree_util.tree_leaves_with_path(params)


if __name__ == "__main__":
    main(*sys.argv[1:])
