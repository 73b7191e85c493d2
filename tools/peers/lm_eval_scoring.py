"""lm-evaluation-harness scoring text requests with its `hf` backend; a worker of `tools/bench.py scoring`."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from ilpjax.bench.worker import serve

FEW = 32  # requests of a trial run


class Scoring:
    def prepare(self, job: dict[str, Any], folder: str, device: str) -> dict[str, str]:
        dtype = "float32" if device == "cpu" else "bfloat16"
        self.lm = HFLM(pretrained=f"{folder}/model", device=device, dtype=dtype, batch_size=8)
        self.requests = []
        for item in json.loads(Path(folder, "items.json").read_text()):
            pairs = [(item["question"], " " + option) for option in item["options"]]
            self.requests.append([Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)])
        return {name: version(name) for name in ("lm_eval", "transformers", "torch")}

    def check(self) -> list[float]:
        return self.scores(self.requests)

    def scores(self, items: list[list[Instance]]) -> list[float]:
        requests = [request for item in items for request in item]
        return [logprob for logprob, _ in self.lm.loglikelihood(requests, disable_tqdm=True)]

    def run(self, threads: int, batch: int, few: bool = False) -> dict[str, float]:
        torch.set_num_threads(threads)
        self.lm.batch_size_per_gpu = batch
        items = self.requests[: -(-FEW // len(self.requests[0]))] if few else self.requests
        start = time.perf_counter()
        self.scores(items)
        return {"work": len(items), "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    side = Scoring()
    serve({"prepare": side.prepare, "check": side.check, "run": side.run})
