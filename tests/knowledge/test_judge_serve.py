"""The judge against `transformers serve`, a server that this project did not write, with a tiny model in it."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tiny import tiny_checkpoint

from ilpjax.data import train_tokenizer
from ilpjax.knowledge import Dispute, Endpoint, EndpointJudge, Ruling
from ilpjax.knowledge.endpoint import PROMPTS

NEEDS = ("torch", "openai", "fastapi", "uvicorn", "rich")
MISSING = [name for name in NEEDS if importlib.util.find_spec(name) is None]
CHAT = "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<|endoftext|>{% endfor %}assistant\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"`transformers serve` needs {', '.join(MISSING)}"),
]


@pytest.fixture
def model(tmp_path):
    tokenizer = train_tokenizer([(PROMPTS / "judge_reason.txt").read_text()] * 5, 600)
    tokenizer.chat_template = CHAT
    return tiny_checkpoint(
        tmp_path / "model", "qwen2", len(tokenizer), tokenizer=tokenizer, max_position_embeddings=4096
    )


@pytest.fixture
def served(tmp_path):
    """(url, what ends the server)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "--device", "cpu"], stdout=log, stderr=log, env=env)

    def end():
        server.kill()
        server.wait()

    try:
        for _ in range(1200):
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail("no health within two minutes: " + (tmp_path / "server.log").read_text())
        yield f"http://127.0.0.1:{port}/v1", end
    finally:
        end()


def test_nonsense_from_a_real_server_is_counted_and_kept(served, model, tmp_path):
    url, end = served
    asked = [Dispute(f"k{n}", f"Where was person {n} born?", f"Birthplace of {n}?", "Rome", "Oslo") for n in range(3)]

    def judge():
        endpoint = Endpoint(url, None, tmp_path / "cache.jsonl", requests=100, concurrency=2, retries=2)
        return endpoint, EndpointJudge(endpoint, [str(model)])

    endpoint, ask = judge()
    rulings = ask(asked)
    assert rulings == [Ruling("undecided", str(model), {"unreadable": 3}, 0.0, 6, False)] * 3
    assert endpoint.failure is None and endpoint.spent.requests == 18
    assert endpoint.spent.tokens_in > 18 * 100 and endpoint.spent.tokens_out >= 18
    assert endpoint.spent.estimated in (0, 18), "transformers 5.0.0 tells no usage, later ones do"
    end()
    again, ask = judge()
    assert ask(asked) == rulings, "there is no server any more, and none is asked"
    assert again.spent.requests == 0 and again.former == endpoint.spent
