"""Memory does not grow with the number of items."""

import json
import os
import subprocess
import sys

import pytest
from conftest import WORDS

from ilpjax.models import save_model

CODE = """
import resource, sys
import ilpjax.scoring.score as score
from ilpjax.config import ScoreJob
score.SHARD = 1 << 15
score.run_score(ScoreJob.from_args(sys.argv[1:]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_as_many_items_as_one_likes(tmp_path, make_model, tokenizer):
    save_model(tmp_path / "model", *make_model(num_hidden_layers=1), tokenizer=tokenizer)

    def peak(count):
        """MiB that scoring `count` items takes, each with an id of 8 kB."""
        path = tmp_path / "items.jsonl"
        with path.open("w") as file:
            for n in range(count):
                record = {"id": f"{n:08192d}", "question": f"where {n}?", "options": WORDS[:2], "answer": n % 2}
                file.write(json.dumps(record) + "\n")
        keys = [f"model={tmp_path / 'model'}", f"items={path}", f"out={tmp_path / 'out.parquet'}", "control=false"]
        # One arena: what threads leave unused in theirs would hide what is looked for.
        env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "MALLOC_ARENA_MAX": "1"}
        done = subprocess.run([sys.executable, "-c", CODE, *keys], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    few, many = peak(2_000), peak(12_000)
    assert many - few < 40  # the ids of 10,000 items are 80 MiB
