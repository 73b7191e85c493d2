"""Every row once an epoch, none split, and the arrays say what the tree rule needs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.data import Example, pack, plan_epoch
from ilpjax.errors import InputError

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=120)


def make(lengths, seed=0):
    rng = np.random.default_rng(seed)
    examples = []
    for n, length in enumerate(lengths):
        mask = rng.random(length) < 0.6
        mask[0] = False
        mask[-1] = True
        examples.append(Example(n, rng.integers(1, 1000, length).astype(np.int32), mask))
    return examples


@given(lengths=LENGTHS, seq_len=st.integers(40, 90), seed=st.integers(0, 9), order=st.sampled_from(["shuffle", "file"]))
def test_every_row_once_and_none_too_long(lengths, seq_len, seed, order):
    plan = plan_epoch(np.array(lengths), seed=seed, epoch=1, seq_len=seq_len, order=order)
    flat = [row for sequence in plan for row in sequence]
    assert sorted(flat) == list(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in sequence) <= seq_len for sequence in plan)
    if order == "file":
        assert flat == list(range(len(lengths)))
    assert plan == plan_epoch(np.array(lengths), seed=seed, epoch=1, seq_len=seq_len, order=order)
    # Two sequences that would fit in one do not stand open at the end of best fit.
    if order == "shuffle":
        fill = sorted(sum(lengths[row] for row in sequence) for sequence in plan)
        assert len(fill) < 2 or fill[0] + fill[1] > seq_len


def test_shuffles_differ_by_seed_and_epoch_and_fill_well():
    lengths = np.random.default_rng(0).integers(5, 200, 9000)
    plans = [plan_epoch(lengths, seed=s, epoch=e, seq_len=512) for s, e in [(0, 0), (0, 1), (1, 0)]]
    firsts = [np.concatenate(plan)[:200].tolist() for plan in plans]
    assert firsts[0] != firsts[1] != firsts[2] != firsts[0]
    assert all(lengths.sum() / (len(plan) * 512) > 0.97 for plan in plans)
    # A global shuffle: where a row stands in the epoch tells nothing of where it stands in the file, or of its length.
    at = np.empty(9000)
    at[np.concatenate(plans[0])] = np.arange(9000)
    assert abs(np.corrcoef(at, np.arange(9000))[0, 1]) < 0.05
    assert abs(np.corrcoef(at, lengths)[0, 1]) < 0.05


@given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_arrays(lengths, seed):
    seq_len, examples = 64, make(lengths, seed)
    for rows in plan_epoch(np.array(lengths), seed=seed, epoch=0, seq_len=seq_len):
        batch = pack(rows, examples, seq_len, slots=len(rows) + 2)
        kinds = {name: array.dtype for name, array in batch.items()}
        assert kinds.pop("weights") == np.float32 and set(kinds.values()) == {np.dtype(np.int32)}
        k, q = np.arange(seq_len)[None, :], np.arange(seq_len)[:, None]
        visible = (k <= q) & (q < batch["subtree_end"][None, :])
        owner = np.full(seq_len, -1)
        at = 0
        for slot, row in enumerate(rows):
            example = examples[row]
            span = slice(at, at + len(example))
            owner[span] = row
            assert (batch["tokens"][span] == example.tokens).all()
            assert (batch["positions"][span] == np.arange(len(example))).all()
            # The token at i + 1 is predicted at i, exactly where the mask says so.
            assert (batch["weights"][span][:-1] == example.target_mask[1:]).all() and batch["weights"][span][-1] == 0
            loss = batch["weights"][span] == 1
            assert (batch["targets"][span][loss] == example.tokens[example.target_mask]).all()
            assert (batch["slots"][span] == np.where(loss, slot, -1)).all()
            assert batch["rows"][slot] == row
            at = span.stop
        real = owner >= 0
        same = (owner[:, None] == owner[None, :]) & real[:, None]
        assert (visible == ((same & (k <= q)) | (k == q))).all()
        assert (batch["rows"][len(rows) :] == -1).all()
        for name, padding in (("weights", 0), ("targets", 0), ("slots", -1), ("tokens", 0)):
            assert (batch[name][~real] == padding).all()


def test_what_is_refused():
    with pytest.raises(InputError, match="row 1 .* has 9 tokens, and a packed sequence holds seq_len=8"):
        plan_epoch(np.array([3, 9, 10])[:2], seed=0, epoch=0, seq_len=8)
    with pytest.raises(InputError, match="no row"):
        plan_epoch(np.array([], int), seed=0, epoch=0, seq_len=8)
    with pytest.raises(ValueError, match="more than 8 tokens"):
        pack([0, 1], make([5, 5]), 8, 2)
