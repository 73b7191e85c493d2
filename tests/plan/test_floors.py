"""FLOPs by hand for a small model, and the arithmetic of floors."""

from types import SimpleNamespace

import pytest
from tiny import tiny_spec

from ilpjax.models import ModelSpec
from ilpjax.plan import CHIPS, Collective, Cost, Memory, Slice, forward_flops, network_seconds

SPEC = ModelSpec.from_config(
    dict(model_type="llama", hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=2, head_dim=6, vocab_size=100)
)  # fmt: skip


def test_forward_flops_by_hand():
    q, k, v, o, mlp = 8 * 24, 8 * 12, 8 * 12, 24 * 8, 3 * 8 * 16
    layer = 2 * (q + k + v + o + mlp)
    scores = 2 * 4 * 6  # a pair of query and key: 6 products in each of 4 heads, once for the score, once for the value
    assert forward_flops(SPEC, tokens=5, pairs=15, logits=2) == 3 * 5 * layer + 3 * 15 * 2 * scores + 2 * 2 * 8 * 100


def test_training_is_three_forward_passes():
    seq = 32
    forward = forward_flops(SPEC, seq, seq * seq / 2, seq)
    assert SPEC.flops_per_token(seq) * seq == pytest.approx(3 * forward)


def slice_of(kind, *shape):
    coords = [()]
    for size in shape:
        coords = [(*at, n) for at in coords for n in range(size)]
    coords = [(*at, 0, 0)[:3] for at in coords]
    return Slice(kind, CHIPS[kind], shape, [SimpleNamespace(coords=at) for at in coords])


V = 1 << 30


def seconds(kind, where, groups):
    return network_seconds(Collective(kind, V, 1, groups, False), where, where.devices)


def test_a_ring_of_four():
    where = slice_of("v5p", 4, 4, 4)
    axis = (tuple(range(4)),)  # along the last axis, a closed ring: both directions of one link pair
    one_axis = 2 * 90e9
    assert seconds("all-gather", where, axis) == pytest.approx(V * 3 / 4 / one_axis)
    assert seconds("reduce-scatter", where, axis) == pytest.approx(V * 3 / 4 / one_axis)
    assert seconds("all-reduce", where, axis) == pytest.approx(2 * V * 3 / 4 / one_axis)
    assert seconds("all-to-all", where, axis) == pytest.approx(V / 4 / one_axis)
    assert seconds("collective-permute", where, ((0, 1), (1, 0))) == pytest.approx(V / one_axis)
    # All 64 chips use three axes; no groups means all.
    assert seconds("all-gather", where, ()) == pytest.approx(V * 63 / 64 / (3 * one_axis))


def test_an_axis_that_is_no_ring_gives_half():
    where = slice_of("v5e", 2, 4)
    assert seconds("all-gather", where, (tuple(range(4)),)) == pytest.approx(V * 3 / 4 / (45e9))
    assert seconds("all-gather", where, ()) == pytest.approx(V * 7 / 8 / (2 * 45e9))


def test_alone_there_is_nothing_to_exchange():
    assert seconds("all-reduce", slice_of("v5e", 2, 4), ((0,),)) == 0


@pytest.mark.parametrize(
    ("compute", "memory", "network", "exposed", "expected", "bound"),
    [
        (5.0, 2.0, 3.0, 1.0, 6.0, "compute"),
        (1.0, 4.0, 3.0, 0.5, 4.5, "memory"),
        (1.0, 2.0, 9.0, 1.0, 9.0, "network"),
        (1.0, 2.0, 9.0, 9.0, 11.0, "network"),
    ],
)
def test_the_estimate(compute, memory, network, exposed, expected, bound):
    cost = Cost("step", 1, Memory(3, 1, 2, 4, 0.5), 1, 0, 1, [], compute, memory, network, exposed)
    assert cost.seconds == expected and cost.bound == bound
    assert cost.memory.peak == 8.5


def test_what_a_device_has_of_a_chip():
    where = Slice("tpu7x:1x1x1", CHIPS["tpu7x"], (1, 1, 1), [SimpleNamespace(coords=(0, 0, 0))] * 2)
    assert where.chips == 1 and where.share == 0.5


@pytest.mark.parametrize("family", ["qwen", "qwen2", "llama", "olmo2"])
def test_every_family_counts(family):
    spec = tiny_spec(family)
    assert forward_flops(spec, 7, 0, 7) == pytest.approx(7 * spec.flops_per_token(0) / 3)
