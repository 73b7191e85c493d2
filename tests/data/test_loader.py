"""Epochs that mean what they say, shares that add up, and a resume that goes on exactly."""

import json

import numpy as np
import pytest

from ilpjax.data import Example, Loader
from ilpjax.errors import InputError


def examples(count=50, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        length = int(rng.integers(2, 30))
        mask = np.arange(length) > 0
        made.append(Example(n, rng.integers(1, 99, length).astype(np.int32), mask))
    return made


def loader(rows=None, **changes):
    settings = dict(seq_len=64, batch=4, epochs=2.0, order="shuffle", seed=3) | changes
    return Loader(rows or examples(), **settings)


def visited(batches):
    return [row for batch in batches for row in batch["rows"].ravel().tolist() if row >= 0]


def same(a, b):
    return len(a) == len(b) and all((x[name] == y[name]).all() for x, y in zip(a, b, strict=True) for name in x)


@pytest.mark.parametrize("order", ["shuffle", "file"])
def test_each_epoch_visits_every_row_once(order):
    load = loader(order=order, epochs=3)
    batches = list(load)
    assert len(batches) == load.steps == sum(load.steps_per_epoch)
    for epoch in range(3):
        part = [batch for step, batch in enumerate(batches) if load.epoch_of(step) == epoch]
        assert len(part) == load.steps_per_epoch[epoch]
        assert sorted(visited(part)) == list(range(50))
    shapes = {(name, array.shape) for batch in batches for name, array in batch.items()}
    assert ("tokens", (4, 64)) in shapes and len(shapes) == 7  # static for the run
    assert ("rows", (4, load.slots)) in shapes
    for step, batch in enumerate(batches):
        real = sum(len(examples()[row]) for row in visited([batch]))
        assert load.real_tokens(step) == real
        assert load.real_fraction(step) == real / 256


def test_a_part_of_an_epoch_is_a_prefix():
    whole, part = list(loader(epochs=2)), list(loader(epochs=1.5))
    each = loader(epochs=2).steps_per_epoch
    assert len(part) == each[0] + round(each[1] / 2)
    assert same([{"tokens": b["tokens"]} for b in part], [{"tokens": b["tokens"]} for b in whole[: len(part)]])
    assert loader(epochs=0.01).steps == 1


@pytest.mark.parametrize("processes", [2, 4])
def test_the_processes_shares_are_the_batches_of_one(processes):
    alone = list(loader())
    shares = [list(loader(process_index=n, process_count=processes)) for n in range(processes)]
    together = [
        {name: np.concatenate([share[step][name] for share in shares]) for name in batch}
        for step, batch in enumerate(alone)
    ]
    assert same(alone, together)
    with pytest.raises(InputError, match="4 sequences cannot be shared by 3 processes"):
        loader(process_count=3)


@pytest.mark.parametrize("at", [0, 1, 5])
def test_resume_goes_on_exactly(at):
    whole = list(loader())
    first = loader()
    for _ in range(at):
        next(first)
    assert first.step == at
    state = json.loads(json.dumps(first.state()))
    second = loader()
    next(second)  # a position of its own, which restoring replaces
    second.restore(state)
    assert same(list(second), whole[at:])
    assert same(list(loader(start_step=at)), whole[at:])
    # Also by other processes than those that saved.
    third = loader(process_index=1, process_count=2)
    third.restore(state)
    assert same(list(third), [{name: array[2:] for name, array in batch.items()} for batch in whole[at:]])
    first.close()


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"epochs": 1.0}, {"batch": 2}, {"seq_len": 80}, {"rows": examples(51)}]
)
def test_a_state_of_another_run_is_refused(change):
    state = loader().state()
    with pytest.raises(InputError, match="other rows, or another seed"):
        loader(**change).restore(state)


def test_steps_are_even():
    load = loader(rows=[Example(n, np.ones(60, np.int32), np.ones(60, bool)) for n in range(17)], batch=16, epochs=1)
    assert [len(visited([batch])) for batch in load] == [8, 9]


def test_blocks_get_all_their_epochs_one_after_another():
    blocks = [n % 3 for n in range(50)]
    load = loader(order="blocks", epochs=2, blocks=blocks)
    batches = list(load)
    seen = visited(batches)
    assert [blocks[row] for row in seen] == sorted(blocks * 2)
    assert all(seen.count(row) == 2 for row in range(50))
    epochs = [load.epoch_of(step) for step in range(load.steps)]
    assert [a for a, b in zip(epochs, [*epochs[1:], None], strict=True) if a != b] == [0, 1] * 3
    again = loader(order="blocks", epochs=2, blocks=blocks)
    again.restore(json.loads(json.dumps({**load.state(), "batches": {"next_index": 3}})))
    assert same(list(again), batches[3:])
