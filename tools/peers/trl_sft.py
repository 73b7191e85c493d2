"""TRL's SFTTrainer with packing; a worker of `tools/bench.py sft`."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ilpjax.bench.worker import serve

CURVE_BATCH, CURVE_LR = 2, 1e-4  # as in ilpjax/bench/texts.py


class Watch(TrainerCallback):
    """From the first batch's fetching to the end of the last step."""

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = time.perf_counter()


class Recorded(SFTTrainer):
    """Keeps each part's share of its step's loss, which the log would round."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.parts = [*getattr(self, "parts", []), float(loss)]
        return loss


class SFT:
    def prepare(self, job: dict[str, Any], folder: str, device: str) -> dict[str, str]:
        self.job, self.folder, self.device = job, folder, device
        made = json.loads(Path(folder, "rows.json").read_text())
        self.curve, self.rows = (Dataset.from_list([self.row(row) for row in rows]) for rows in made)
        self.tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
        self.trainers: dict[Any, SFTTrainer] = {}
        return {name: version(name) for name in ("trl", "transformers", "torch")}

    @staticmethod
    def row(row: dict[str, Any]) -> dict[str, list[int]]:
        tokens, prompt = row["tokens"], row["prompt"]
        return {"input_ids": tokens, "labels": [-100] * prompt + tokens[prompt:]}

    def trainer(self, rows: Dataset, batch: int, kind: Any = SFTTrainer, **changes: Any) -> SFTTrainer:
        """`batch` sequences at a time, joined into one; as many times as make a step."""
        model = AutoModelForCausalLM.from_pretrained(f"{self.folder}/model", dtype=torch.float32)
        settings: dict[str, Any] = dict(
            output_dir=f"{self.folder}/trl",
            packing=True,
            max_length=self.job["seq_len"],
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=self.job["batch"] // batch,
            num_train_epochs=1,
            learning_rate=1e-12,  # so that every round trains the same model
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            max_grad_norm=1.0,
            gradient_checkpointing=False,
            bf16=self.device == "cuda",
            use_cpu=self.device == "cpu",
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=self.device == "cuda",
        )
        arguments = SFTConfig(**settings | changes)
        return kind(
            model=model,
            args=arguments,
            train_dataset=rows,
            processing_class=self.tokenizer,
            callbacks=[Watch()],
        )

    def check(self) -> list[float]:
        """The loss of every step on rows that fill a sequence each, and the mean loss of rows packed together."""
        curve = self.trainer(self.curve, 1, Recorded, learning_rate=CURVE_LR, gradient_accumulation_steps=CURVE_BATCH)
        curve.train()
        losses = [sum(curve.parts[n : n + CURVE_BATCH]) for n in range(0, len(curve.parts), CURVE_BATCH)]
        size = self.job["batch"]
        packed = self.trainer(self.rows, 1, Recorded)
        packed.train()
        targets = [self.targets(row) for row in packed.train_dataset]
        steps = [sum(targets[n : n + size]) for n in range(0, len(targets), size)]
        nats = sum(sum(packed.parts[n * size : (n + 1) * size]) * count for n, count in enumerate(steps))
        return [*losses, nats / sum(steps)]

    @staticmethod
    def targets(sequence: dict[str, Any]) -> int:
        """Tokens that count; the first of a row has nothing to be predicted from (and is the prompt's)."""
        return sum(label != -100 for label in sequence["labels"])

    def run(self, threads: int, batch: int, few: bool = False) -> dict[str, float]:
        torch.set_num_threads(threads)
        key = batch, few
        if key not in self.trainers:
            changes: dict[str, Any] = {"max_steps": 1} if few else {}
            self.trainers = {key: self.trainer(self.rows, batch, **changes)}
        trainer = self.trainers[key]
        trainer.train()
        watch = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Watch))
        sequences = trainer.train_dataset
        if few:
            sequences = sequences.select(range(min(self.job["batch"], len(sequences))))
        return {"work": sum(map(len, sequences["input_ids"])), "seconds": watch.ended - watch.begun}


if __name__ == "__main__":
    side = SFT()
    serve({"prepare": side.prepare, "check": side.check, "run": side.run})
