"""Our side of `bench scoring`: items from memory to a Parquet file."""

import json
from pathlib import Path

import jax
import pyarrow.parquet as pq

from ilpjax.bench import texts
from ilpjax.config import BenchJob, MeshConfig, ScoreConfig
from ilpjax.data import Template, load_tokenizer
from ilpjax.models import load_model
from ilpjax.parallel import make_mesh
from ilpjax.rows import Item
from ilpjax.scoring import score_items


class Scoring:
    def __init__(self, job: BenchJob, folder: Path):
        self._job, self._out = job, folder / "scores.parquet"
        self._mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
        texts.make_model(job, folder / "model")
        tokenizer = load_tokenizer(str(folder / "model"))
        self._template = Template(tokenizer, "plain")
        made = texts.make_items(tokenizer, job, job.rows or 32)
        (folder / "items.json").write_text(json.dumps(made))
        self._items = [Item(row_id=str(n), answer=0, **item) for n, item in enumerate(made)]
        self._model, self._params = load_model(folder / "model", self._mesh)
        self._cfg = ScoreConfig(control=False)

    def check(self) -> list[float]:
        """Every option's log-prob, in nats."""
        self.run()
        return [x for row in pq.read_table(self._out)["option_logprob"].to_pylist() for x in row]

    def run(self) -> float:
        """Scores all items; how many."""
        score_items(
            self._model,
            self._params,
            self._template,
            self._items,
            self._cfg,
            mesh=self._mesh,
            seed=0,
            out=self._out,
        )
        return len(self._items)

    def more(self) -> dict[str, float]:
        """FLOPs of an item: its tree through the layers, the head where a token is scored."""
        job, spec = self._job, self._model.spec
        scored = job.options * job.option_tokens
        head = 2.0 * spec.vocab * spec.embed
        layers = spec.flops_per_token(job.prompt) / 3 - head
        return {"flops": (job.prompt + scored) * layers + scored * head}
