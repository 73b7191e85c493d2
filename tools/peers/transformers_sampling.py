"""transformers drawing N samples a prompt with `generate`; a worker of `tools/bench.py sampling`."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ilpjax.bench.worker import serve


class Sampling:
    def prepare(self, job: dict[str, Any], folder: str, device: str) -> dict[str, str]:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=dtype)
        self.job = job
        self.model: Any = model.eval()
        self.model.to(device)
        self.prompts = torch.tensor(json.loads(Path(folder, "prompts.json").read_text()), device=device)
        return {name: version(name) for name in ("transformers", "torch")}

    def generate(self, prompts: torch.Tensor, **settings: Any) -> Any:
        new = self.job["new_tokens"]
        everywhere = torch.ones_like(prompts)
        with torch.inference_mode():
            return self.model.generate(
                prompts, attention_mask=everywhere, min_new_tokens=new, max_new_tokens=new, pad_token_id=0, **settings
            )

    def check(self) -> list[float]:
        """float32: the greedy tokens. bfloat16, where a near tie may fall either way: the first one's log-prob."""
        # min_new_tokens bars the end of text: no token may be barred here, as none is on our side.
        self.model.generation_config.eos_token_id = None
        out = self.generate(self.prompts, do_sample=False, output_logits=True, return_dict_in_generate=True)
        if self.prompts.device.type != "cpu":
            return torch.log_softmax(out.logits[0].float(), -1).amax(-1).tolist()
        return out.sequences[:, self.prompts.shape[1] :].flatten().tolist()

    def run(self, threads: int, batch: int, few: bool = False) -> dict[str, float]:
        torch.set_num_threads(threads)
        prompts = self.prompts[:batch] if few else self.prompts
        start = time.perf_counter()
        drawn = 0
        for part in prompts.split(batch):
            # top_k=0: all tokens may be drawn, as on our side.
            out = self.generate(part, do_sample=True, top_k=0, num_return_sequences=self.job["samples"])
            drawn += out[:, part.shape[1] :].numel()
        if prompts.device.type == "cuda":
            torch.cuda.synchronize()
        return {"work": drawn, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    side = Sampling()
    serve({"prepare": side.prepare, "check": side.check, "run": side.run})
