"""The scores table as arrays: checked once, with one clear line for a bad file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from scipy.special import softmax

from ilpjax.errors import InputError

REQUIRED = ("row_id", "order", "p", "answer")
CONTROL = ("control_p", "control_logprob")  # either; control_p is normalised for length as p is
SUM_TOLERANCE = 1e-3
CHUNK = 1 << 16  # items whose padded arrays exist at a time


@dataclass(frozen=True)
class Scores:
    """Every (item, order) in item-major order, options flat: bounded memory, then padded a chunk at a time."""

    row_ids: np.ndarray
    orders: int
    options: Int[np.ndarray, "item"]
    answer: Int[np.ndarray, "item"]
    p: Float[np.ndarray, "flat"]
    control: Float[np.ndarray, "flat"] | None

    def take(self, items: Int[np.ndarray, "n"]) -> "Scores":
        """These items only, in this order."""
        widths = self.options * self.orders
        starts = np.cumsum(widths) - widths
        flat = np.repeat(starts[items], widths[items]) + _ramp(widths[items])
        control = None if self.control is None else self.control[flat]
        return Scores(self.row_ids[items], self.orders, self.options[items], self.answer[items], self.p[flat], control)

    def chunks(self) -> Iterator["Chunk"]:
        """Whole items, each padded to the widest of its chunk with probability 0."""
        ends = np.cumsum(self.options * self.orders)
        for start in range(0, len(self.row_ids), CHUNK):
            items = slice(start, min(start + CHUNK, len(self.row_ids)))
            flat = slice(ends[items.start] - self.options[items.start] * self.orders, ends[items.stop - 1])
            options = self.options[items]
            shape = (len(options), self.orders, options.max())
            filled = np.broadcast_to(np.arange(shape[2]) < options[:, None, None], shape)
            control = None if self.control is None else _pad(self.control[flat], filled)
            yield Chunk(options, self.answer[items], _pad(self.p[flat], filled), control)


@dataclass(frozen=True)
class Chunk:
    options: Int[np.ndarray, "item"]
    answer: Int[np.ndarray, "item"]
    p: Float[np.ndarray, "item order option"]
    control: Float[np.ndarray, "item order option"] | None


def read_scores(path: Path | str) -> pd.DataFrame:
    """The columns detection needs of a file that score wrote, lists kept in Arrow. Raises InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such table")
    try:
        names = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in REQUIRED + CONTROL if name in names])
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: not a Parquet table ({str(error).splitlines()[0]})") from None
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def parse_scores(table: pd.DataFrame) -> Scores:
    """Raises InputError naming the row: a column that is missing, ragged lists, p that is no distribution,
    a (row_id, order) that is repeated or missing."""
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise InputError(f"scores: no column {', '.join(missing)}; score writes {', '.join(REQUIRED)}")
    if not len(table):
        raise InputError("scores: the table has no rows; score at least one item")
    if table[list(REQUIRED)].isna().to_numpy().any():
        bad = table[list(REQUIRED)].isna().any(axis=1).to_numpy()
        raise InputError(f"scores: {_name(table, bad)} has an empty field; every row needs {', '.join(REQUIRED)}")
    codes, row_ids = pd.factorize(table["row_id"])
    order = _integers(table, "order")
    place = np.lexsort((order, codes))
    if not np.array_equal(place, np.arange(len(place))):
        table, codes, order = table.iloc[place], codes[place], order[place]
    orders = _count_orders(table, codes, order)
    p, lengths = _lists(table, "p")
    _check_distributions(table, p, lengths)
    options = _one_per_item(table, lengths, orders, "number of options")
    answer = _one_per_item(table, _integers(table, "answer"), orders, "answer")
    if np.any(bad := (answer < 0) | (answer >= options)):
        where = _name(table, np.repeat(bad, orders))
        raise InputError(f"scores: {where} has an answer outside its options; it is a 0-based index")
    if np.any(bad := options < 2):
        where = _name(table, np.repeat(bad, orders))
        raise InputError(f"scores: {where} has a single option; an item needs at least 2")
    p /= np.repeat(_sums(p, lengths), lengths)
    return Scores(np.asarray(row_ids), orders, options, answer, p, _control(table, lengths))


def _count_orders(table: pd.DataFrame, codes: np.ndarray, order: np.ndarray) -> int:
    repeated = np.r_[False, (codes[1:] == codes[:-1]) & (order[1:] == order[:-1])]
    if repeated.any():
        n = order[np.argmax(repeated)]
        raise InputError(f"scores: {_name(table, repeated)}, order {n} is there twice; each (row_id, order) comes once")
    counts = np.bincount(codes)
    if np.any(odd := counts != counts[0]):
        where = _name(table, odd[codes])
        raise InputError(
            f"scores: {where} has {counts[odd][0]} order(s), others {counts[0]}; score all items with the same orders"
        )
    return int(counts[0])


def _integers(table: pd.DataFrame, column: str) -> Int[np.ndarray, "row"]:
    try:
        values = table[column].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"scores: column {column} holds something that is not a number; integers are needed") from None
    if np.any(bad := values != np.floor(values)):
        raise InputError(f"scores: {_name(table, bad)}: {column} is {values[bad][0]}; an integer is needed")
    return values.astype(np.int64)


def _lists(table: pd.DataFrame, column: str) -> tuple[Float[np.ndarray, "flat"], Int[np.ndarray, "row"]]:
    try:
        lists = pa.array(table[column], type=pa.list_(pa.float64()), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        raise InputError(f"scores: column {column} holds something that is not a list of numbers") from None
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    return lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64), lengths.astype(np.int64)


def _sums(flat: Float[np.ndarray, "flat"], lengths: Int[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
    return np.add.reduceat(flat, np.cumsum(lengths) - lengths)


def _check_distributions(table: pd.DataFrame, p: np.ndarray, lengths: np.ndarray) -> None:
    if np.any(bad := lengths == 0):
        raise InputError(f"scores: {_name(table, bad)} has no options in p")
    bad = np.repeat(np.arange(len(lengths)), lengths)[~(p >= 0)]
    if len(bad):
        where = _name(table, np.arange(len(lengths)) == bad[0])
        raise InputError(f"scores: {where} has a p that is negative or not a number; p is a distribution over options")
    total = _sums(p, lengths)
    if np.any(off := np.abs(total - 1) > SUM_TOLERANCE):
        raise InputError(f"scores: {_name(table, off)} has p that sums to {total[off][0]:.4g}; it must sum to 1")


def _one_per_item(table: pd.DataFrame, values: np.ndarray, orders: int, what: str) -> Int[np.ndarray, "item"]:
    grid = values.reshape(-1, orders)
    if np.any(bad := (grid != grid[:, :1]).any(axis=1)):
        where = _name(table, np.repeat(bad, orders))
        raise InputError(f"scores: {where} has another {what} under another order; p keeps the item's own option order")
    return grid[:, 0]


def _control(table: pd.DataFrame, lengths: np.ndarray) -> Float[np.ndarray, "flat"] | None:
    """The option distribution without the question; None where it was not scored."""
    column = next((name for name in CONTROL if name in table.columns and not table[name].isna().any()), None)
    if column is None:
        return None
    control, widths = _lists(table, column)
    if np.any(bad := widths != lengths):
        raise InputError(f"scores: {_name(table, bad)} has lists of different lengths in p and {column}")
    starts, row = np.cumsum(lengths) - lengths, np.repeat(np.arange(len(lengths)), lengths)
    if not np.isfinite(control).all():
        where = _name(table, np.arange(len(lengths)) == row[~np.isfinite(control)][0])
        raise InputError(f"scores: {where} has a {column} that is not a finite number")
    if column == "control_logprob":
        control = np.exp(control - np.maximum.reduceat(control, starts)[row])
    return control / _sums(control, lengths)[row]


def _ramp(lengths: np.ndarray) -> np.ndarray:
    """0 .. n-1 for each n, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _pad(flat: np.ndarray, filled: np.ndarray) -> np.ndarray:
    padded = np.zeros(filled.shape)
    padded[filled] = flat
    return padded


def _name(table: pd.DataFrame, bad: np.ndarray) -> str:
    return f"row_id {table['row_id'].iloc[int(np.argmax(bad))]}"


def option_means(table: pd.DataFrame) -> tuple[np.ndarray, Float[np.ndarray, "item option"], Int[np.ndarray, "item"]]:
    """(row_ids, p averaged over option orders and padded with 0, the index of the right option).

    Raises what `parse_scores` does.
    """
    scores = parse_scores(table)
    means = [chunk.p.mean(axis=1) for chunk in scores.chunks()]
    widest = max(mean.shape[1] for mean in means)
    padded = [np.pad(mean, ((0, 0), (0, widest - mean.shape[1]))) for mean in means]
    return scores.row_ids, np.concatenate(padded), scores.answer


def question_lift(table: pd.DataFrame) -> pd.DataFrame:
    """The table with another p: softmax(option_logprob - control_logprob), what the question adds to each option.

    Whatever makes an option likely by itself (its length, its frequency) cancels: a model that ignores the question
    gives every option the same. Needs a table that was scored with the choices-only control.
    """
    lifts = zip(table["option_logprob"], table["control_logprob"], strict=True)
    return table.assign(p=[softmax(np.asarray(own, float) - np.asarray(control, float)) for own, control in lifts])
