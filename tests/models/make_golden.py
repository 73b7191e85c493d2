"""Remakes tests/models/golden/*.npz with torch: `python tests/models/make_golden.py`.

A golden file keeps logits of the peer for weights and tokens that a seed makes, so that the check needs no torch.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from tiny import CASES, case_model, prompt  # noqa: E402

from ilpjax.models import save_model  # noqa: E402

FOLDER = Path(__file__).parent / "golden"
KEPT = slice(7, None, 56)  # positions whose logits are stored: early, late, ten of them


def main() -> None:
    from torch_reference import torch_logits

    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        model, params = case_model(case)
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder) / "model", model, params)
            logits = torch_logits(Path(folder) / "model", prompt())[0]
        np.savez_compressed(
            FOLDER / f"{case}.npz", logits=logits[KEPT], largest=np.abs(logits).max(), argmax=logits.argmax(-1)
        )
        print(case, logits.shape, float(np.abs(logits).max()))


if __name__ == "__main__":
    main()
