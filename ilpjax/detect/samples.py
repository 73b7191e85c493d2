"""What drawn answers say: pass@N and best-of-N of a samples table."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from ilpjax.detect.verdicts import wilson


def sample_summary(path: Path | str, confidence: float = 0.95) -> dict[str, dict[str, float]]:
    """Of a table that `sample` wrote, read in parts: memory does not grow with it.

    pass_at_n: mean over rows of the share of a row's answers that are right: {"n" answers a row, "rows", "mean",
    "low", "high"}, with a normal interval over the rows, whose answers are not independent. best_of_n: how often a
    row's most confident answer is right (of equals the first), as `wilson` gives it.
    """
    rows = answers = best = 0
    total = squares = 0.0
    for _, lines in groupby(_lines(path), key=lambda line: line[0]):
        _, confidences, correct = zip(*lines, strict=True)
        share = sum(correct) / len(correct)
        rows, answers, best = rows + 1, answers + len(correct), best + correct[int(np.argmax(confidences))]
        total, squares = total + share, squares + share**2
    mean = total / max(rows, 1)
    variance = max(squares / max(rows, 1) - mean**2, 0.0) / max(rows - 1, 1)
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * variance**0.5
    low, high = max(0.0, mean - reach), min(1.0, mean + reach)
    shares = {"n": answers / max(rows, 1), "rows": rows, "mean": mean, "low": low, "high": high}
    return {"pass_at_n": shares, "best_of_n": wilson(best, rows, confidence)}


def _lines(path: Path | str) -> Iterator[tuple[str, float, bool]]:
    columns = ["row_id", "confidence", "correct"]
    for batch in pq.ParquetFile(path).iter_batches(columns=columns):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
