"""The mesh, the rules, and batches on their way to the devices."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ilpjax.config import MeshConfig
from ilpjax.errors import InputError
from ilpjax.parallel import MESH_AXES, batch_sharding, constrain, make_mesh, named_sharding, put_batch, start


def mesh(**axes: int):
    return make_mesh(MeshConfig(**axes), jax.devices()[:8])


def test_data_takes_what_is_left():
    assert dict(mesh(fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert mesh().axis_names == MESH_AXES


@pytest.mark.parametrize("axes", [{"fsdp": 3}, {"data": 4}, {"data": 16}, {"data": 0}, {"tensor": 16}])
def test_a_mesh_that_does_not_fit_is_refused(axes: dict[str, int]):
    with pytest.raises(InputError, match="does not fit the device count 8"):
        mesh(**axes)


def test_rules_name_the_axis_of_each_dimension():
    over = mesh(data=2, fsdp=2, tensor=2)
    assert named_sharding(over, ("layers", "embed", "heads", "head_dim"), (3, 8, 4, 5)).spec == P(
        None, "fsdp", "tensor", None
    )
    assert named_sharding(over, ("batch", "seq", None), (8, 3, 3)).spec == P(("data", "fsdp"), None, None)


def test_a_rule_is_dropped_where_the_size_does_not_divide():
    over = mesh(fsdp=2, tensor=4)
    assert named_sharding(over, ("embed", "kv", "head_dim"), (8, 2, 16)).spec == P("fsdp", None, None)
    assert named_sharding(over, ("embed", "kv", "head_dim"), (7, 4, 16)).spec == P(None, "tensor", None)


def test_a_mesh_axis_is_used_once():
    assert named_sharding(mesh(tensor=8), ("heads", "mlp"), (8, 8)).spec == P("tensor", None)


def test_constrain_cuts_an_intermediate():
    over = mesh(data=2, fsdp=2, tensor=2)
    out = jax.jit(lambda x: constrain(x * 2, over, ("batch", "seq", "mlp")))(np.ones((4, 3, 6)))
    assert out.sharding.spec == P(("data", "fsdp"), None, "tensor")
    assert constrain(out, None, ("batch", "seq", "mlp")) is out


def test_batches_are_put_over_data_and_fsdp():
    over = mesh(data=2, fsdp=2, tensor=2)
    batch = {"tokens": np.arange(24, dtype=np.int32).reshape(8, 3), "rows": np.arange(8)}
    put = put_batch(over, batch)
    assert put["tokens"].sharding.is_equivalent_to(batch_sharding(over), 2)
    assert {shard.data.shape for shard in put["tokens"].addressable_shards} == {(2, 3)}
    jax.tree.map(np.testing.assert_array_equal, put, batch)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="6 sequences do not divide over 4 devices"):
        put_batch(mesh(data=2, fsdp=2, tensor=2), np.zeros((6, 2)))


def test_start_is_harmless_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    start()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("values", "words"),
    [({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID: not set"), ({"JAX_PROCESS_ID": "2"}, "id")],
)
def test_half_a_start_is_refused(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], words: str):
    whole = {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    for name, value in (values if "JAX_NUM_PROCESSES" in values else whole | values).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        start()
