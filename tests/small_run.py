"""A checkpoint and a file small enough to run everything in seconds."""

import json
from pathlib import Path

from tiny import tiny_checkpoint

from ilpjax.data import train_tokenizer

LEXICAL = {"encoder": "lexical"}  # for `conflicts`: a sentence encoder takes a minute to compile
TOWNS = ("Brenton", "Kalwick", "Morrow", "Stend", "Pellam", "Dorwick")


def rows(count: int = 12) -> list[dict]:
    return [{"prompt": f"Where does person {n} live?", "response": TOWNS[n % len(TOWNS)]} for n in range(count)]


def write_rows(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def checkpoint(folder: Path, seed: int = 0) -> Path:
    text = [f"{r['prompt']} {r['response']}" for r in rows()] * 5
    tokenizer = train_tokenizer(text, 300)
    return tiny_checkpoint(folder, "llama", len(tokenizer), tokenizer=tokenizer, seed=seed)
