"""Our side of `bench sampling`: N answers a prompt, none of which may end early."""

import json
from pathlib import Path

import jax
import numpy as np

from ilpjax.bench import texts
from ilpjax.config import BenchJob, MeshConfig, SampleConfig
from ilpjax.data import load_tokenizer
from ilpjax.models import load_model
from ilpjax.parallel import make_mesh
from ilpjax.scoring import Prompt, Sampler


class Sampling:
    """Token ids in, token ids out: the peer is not asked to decode text either."""

    def __init__(self, job: BenchJob, folder: Path):
        mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
        texts.make_model(job, folder / "model")
        tokens = texts.make_prompts(load_tokenizer(str(folder / "model")), job, job.rows or 8)
        (folder / "prompts.json").write_text(json.dumps(tokens))
        model, params = load_model(folder / "model", mesh)
        self._job, self._spec = job, model.spec
        self._sampler, self._greedy = (
            Sampler(model, params, mesh, SampleConfig(samples=job.samples, new_tokens=job.new_tokens, decode=decode))
            for decode in ("sample", "greedy")
        )
        ids = [np.asarray(line, np.int32) for line in tokens]
        self._prompts = [Prompt(str(n), line, tuple(range(job.samples))) for n, line in enumerate(ids)]
        self._once = [Prompt(str(n), line, (0,)) for n, line in enumerate(ids)]

    def check(self) -> list[float]:
        """float32: the greedy tokens. bfloat16, where a near tie may fall either way: the first one's log-prob."""
        self.run()  # compiles
        answers = [answer for (answer,) in self._greedy(self._once)]
        if jax.default_backend() != "cpu":
            return [float(answer.logprobs[0]) for answer in answers]
        return [float(token) for answer in answers for token in answer.tokens]

    def run(self) -> int:
        """Samples for all prompts; the tokens drawn."""
        answers = self._sampler(self._prompts)
        return sum(len(answer.tokens) for row in answers for answer in row)

    def more(self) -> dict[str, float]:
        """Bytes a token drawn: a decode step reads the weights once, a prompt's keys and values once for its samples,
        and each sample's own."""
        job, spec, width = self._job, self._spec, 4 if jax.default_backend() == "cpu" else 2
        slots = min(len(self._prompts), SampleConfig().batch)
        kv = 2 * spec.layers * spec.kv_heads * spec.head_dim
        read = spec.num_params + slots * kv * (job.prompt + job.samples * job.new_tokens / 2)
        return {"bytes": width * read / (slots * job.samples)}
