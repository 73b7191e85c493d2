"""What a run tells while it trains: each row's visits and each step's numbers, in parts that a kill cannot tear."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ilpjax.rundir import replacing, write_table
from ilpjax.train.step import GREEDY, NLL, P_RIGHT, TOKENS

DYNAMICS = pa.schema(
    {
        "row_id": pa.string(),
        "step": pa.int64(),
        "epoch": pa.int32(),
        "loss": pa.float32(),
        "p_right": pa.float32(),
        "greedy": pa.float32(),
        "tokens": pa.int32(),
    }
)


class Parts:
    """A table written in parts, one between two checkpoints, so that it can be cut back to any of them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lines: list[pd.DataFrame] = []

    def add(self, lines: pd.DataFrame) -> None:
        self._lines.append(lines)

    def flush(self, step: int) -> None:
        """Writes what was added since the last flush, as the part that ends with `step`."""
        if self._lines:
            write_table(self.folder / f"{step:09d}.parquet", pd.concat(self._lines, ignore_index=True))
            self._lines = []

    def discard_after(self, step: int) -> None:
        """Forgets the parts that the checkpoint of `step` knows nothing of; they will be made again."""
        for path in self._paths():
            if int(path.stem) > step:
                path.unlink()

    def read(self) -> Iterator[pd.DataFrame]:
        """The parts in order."""
        return (pd.read_parquet(path) for path in self._paths())

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))


def visits(step: int, epoch: int, rows: np.ndarray, sums: np.ndarray) -> pd.DataFrame:
    """A line for each row in a batch. rows: int32[batch, slots], -1 for none; sums: float32[batch, slots, 4]."""
    here = (rows >= 0) & (sums[..., TOKENS] > 0)
    rows, sums = rows[here], sums[here]
    tokens = sums[:, TOKENS]
    return pd.DataFrame(
        {
            "row": rows,
            "step": np.full(len(rows), step, np.int64),
            "epoch": np.full(len(rows), epoch, np.int32),
            "loss": sums[:, NLL] / tokens,
            "p_right": sums[:, P_RIGHT] / tokens,
            "greedy": sums[:, GREEDY] / tokens,
            "tokens": tokens.astype(np.int32),
        }
    )


def merge_dynamics(parts: Parts, names: Sequence[str], path: Path) -> None:
    """All visits as one table, part by part: row_id, step, epoch, loss, p_right, greedy, tokens.

    `names[row]` is the row_id. `step` counts from 1, `epoch` from 0. `loss`: nats a target token; `p_right`:
    probability of the right token; `greedy`: share of targets that are the argmax; all measured before the step's
    update, as means over the row's `tokens` targets. A document that was cut has a line a piece.
    """
    ids = np.asarray(names, dtype=object)
    with replacing(path) as part, pq.ParquetWriter(part, DYNAMICS) as writer:
        for lines in parts.read():
            table = lines.assign(row_id=ids[lines["row"].to_numpy()])[DYNAMICS.names]
            writer.write_table(pa.Table.from_pandas(table, DYNAMICS, preserve_index=False))


def merge_log(parts: Parts, path: Path) -> None:
    """All steps as one table."""
    lines = list(parts.read())
    if lines:
        write_table(path, pd.concat(lines, ignore_index=True))
