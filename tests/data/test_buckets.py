import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ilpjax.data import Example, Loader, buckets, colour, together
from ilpjax.errors import InputError


@st.composite
def graphs(draw):
    rows = draw(st.integers(2, 40))
    some = st.tuples(st.integers(0, rows - 1), st.integers(0, rows - 1)).filter(lambda edge: edge[0] != edge[1])
    lengths = draw(st.lists(st.integers(1, 16), min_size=rows, max_size=rows))
    return rows, draw(st.lists(some, max_size=60)), np.array(lengths)


def loader(lengths, edges, **keys):
    made = [Example(n, np.ones(size, np.int32), np.arange(size) > 0) for n, size in enumerate(lengths)]
    settings = {"seq_len": 16, "batch": 4, "epochs": 2.0, "seed": 3} | keys
    return Loader(made, edges=edges, **settings)


@given(graphs())
def test_no_step_holds_both_ends_and_every_row_comes_once_an_epoch(graph):
    rows, edges, lengths = graph
    made = loader(lengths, edges)
    batches = [sorted(n for n in batch["rows"].ravel().tolist() if n >= 0) for batch in made]
    made.close()
    assert made.together(edges) == [] == together(batches, edges)
    first = sum(batches[: made.steps_per_epoch[0]], [])
    assert sorted(first) == list(range(rows)) and len(batches) == sum(made.steps_per_epoch)
    again = loader(lengths, edges)
    assert [sorted(n for n in batch["rows"].ravel().tolist() if n >= 0) for batch in again] == batches
    again.close()


@given(graphs())
def test_colours_part_the_ends_with_no_more_than_one_beyond_the_most_edges(graph):
    rows, edges, _ = graph
    colours = colour(rows, edges)
    assert all(colours[a] != colours[b] for a, b in edges)
    degree = np.bincount(np.array([*{tuple(sorted(e)) for e in edges}], int).ravel(), minlength=rows)
    assert ((colours < 0) == (degree == 0)).all() and colours.max(initial=-1) <= degree.max(initial=-1)


def test_free_rows_fill_the_buckets_evenly_and_not_alike_in_each_epoch():
    lengths = np.ones(1000, int)
    colours = colour(1000, [(0, 1), (0, 2), (1, 2), (0, 3), (0, 4)])
    made = [buckets(colours, lengths, seed=0, epoch=epoch) for epoch in (0, 1)]
    assert [len(bucket) for bucket in made[0]] == pytest.approx([333] * 3, abs=3)
    assert any(set(a) != set(b) for a, b in zip(*made, strict=True))
    heavy = np.where(colours == 0, 5000, 1)  # one bucket has more than its share already
    sizes = [heavy[bucket].sum() for bucket in buckets(colours, heavy, seed=0, epoch=0)]
    assert sizes[0] == 5000 and sizes[1] == pytest.approx(sizes[2], abs=2)


@pytest.mark.parametrize("members", [2, 18])
def test_many_buckets_cost_at_most_a_sequence_each_not_a_step(members):
    lengths = np.random.default_rng(0).integers(1, 16, 600)
    edges = [(a, b) for b in range(members) for a in range(b)]
    plain, apart = loader(lengths, (), batch=16), loader(lengths, edges, batch=16)
    assert apart.buckets == members and plain.steps_per_epoch[0] > members
    assert apart.steps_per_epoch[0] <= plain.steps_per_epoch[0] + members // 16 + 1
    plain.close(), apart.close()


@given(graphs(), st.sampled_from([2, 4]))
def test_it_holds_for_what_all_processes_together_hold(graph, processes):
    rows, edges, lengths = graph
    shares = [loader(lengths, edges, process_index=n, process_count=processes) for n in range(processes)]
    steps = [np.concatenate([batch["rows"].ravel() for batch in parts]) for parts in zip(*shares, strict=True)]
    assert together([[n for n in step.tolist() if n >= 0] for step in steps], edges) == []
    assert sorted(n for step in steps for n in step.tolist() if n >= 0) == sorted([*range(rows)] * 2)
    for share in shares:
        share.close()


def test_the_checker_sees_what_is_wrong():
    assert together([[1, 2, 3], [4]], [(1, 4), (3, 2)]) == [(0, 3, 2)]


def test_without_edges_the_plan_is_what_it_was():
    lengths = np.random.default_rng(0).integers(1, 16, 50)
    plain, none = loader(lengths, ()), loader(lengths, [])
    assert plain.state()["plan"] == none.state()["plan"] and plain.buckets == 1
    plain.close(), none.close()


def test_only_a_shuffled_order_has_buckets():
    with pytest.raises(InputError, match="order=shuffle is right"):
        loader(np.ones(4, int), [(0, 1)], order="file")


def test_a_resumed_run_goes_on_with_the_same_batches():
    lengths = np.random.default_rng(1).integers(1, 16, 60)
    edges = [(n, n + 1) for n in range(0, 40, 2)] + [(0, 2), (1, 2)]
    whole = loader(lengths, edges)
    batches = [next(whole)["rows"] for _ in range(3)]
    state = whole.state()
    rest = [batch["rows"] for batch in whole]
    later = loader(lengths, edges)
    later.restore(state)
    for batch, other in zip(later, rest, strict=True):
        np.testing.assert_array_equal(batch["rows"], other)
    assert len(batches) + len(rest) == whole.steps
    with pytest.raises(InputError, match="other rows"):
        loader(lengths, edges[:-1]).restore(state)
    whole.close(), later.close()
