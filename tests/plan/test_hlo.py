"""What a program moves: from text recorded off a TPU compile, and from live programs whose collectives are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ilpjax import parallel
from ilpjax.config import MeshConfig
from ilpjax.plan import Program
from ilpjax.plan.hlo import device_groups, in_hbm, size_of

# Cut down from a v5e program: no trip counts in it, an all-gather whose steps lie in three fusions of two loops, a
# permute in a loop of stride 2, a slice of a stack inside two fusions, and memory on the chip, S(1).
RECORDED = """
HloModule jit_step, is_scheduled=true

%condition.1 (p.1: (s32[], bf16[8,64,128])) -> pred[] {
  %constant.24 = s32[]{:T(128)} constant(24)
  %p.1 = (s32[]{:T(128)}, bf16[8,64,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %constant.24), direction=LT
}

%condition.2 (p.2: (u32[], bf16[64,128])) -> pred[] {
  %constant.4 = u32[]{:T(128)} constant(5)
  %p.2 = (u32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.2 = u32[]{:T(128)} get-tuple-element(%p.2), index=0
  ROOT %lt.2 = pred[]{:T(512)} compare(%i.2, %constant.4), direction=LT
}

%async_collective_fusion.1 (q.1: bf16[8,128]) -> bf16[64,128] {
  %q.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.7 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%q.1), channel_id=51, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={async_collective_name="all-gather-start"}
}

%slicing (s.1: bf16[8,64,128], s.2: s32[]) -> bf16[64,128] {
  %s.1 = bf16[8,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %s.2 = s32[]{:T(128)} parameter(1)
  %slice.1 = bf16[1,64,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%s.1, %s.2), dynamic_slice_sizes={1,64,128}
  ROOT %flat.1 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} bitcast(%slice.1)
}

%around (r.1: bf16[8,64,128], r.2: s32[]) -> bf16[64,128] {
  %r.1 = bf16[8,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %r.2 = s32[]{:T(128)} parameter(1)
  %within = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%r.1, %r.2), kind=kLoop, calls=%slicing
  ROOT %negative = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} negate(%within)
}

%inner (p.3: (u32[], bf16[64,128])) -> (u32[], bf16[64,128]) {
  %p.3 = (u32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.3 = u32[]{:T(128)} get-tuple-element(%p.3), index=0
  %two = u32[]{:T(128)} constant(2)
  %next.3 = u32[]{:T(128)S(6)} add(%i.3, %two)
  %x.3 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p.3), index=1
  %fusion.91 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%x.3), kind=kCustom, calls=%async_collective_fusion.1
  %collective-permute-start.1 = (bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x.3), channel_id=3, source_target_pairs={{0,7},{1,0},{2,1},{3,2},{4,3},{5,4},{6,5},{7,6}}
  %collective-permute-done.1 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} collective-permute-done(%collective-permute-start.1)
  ROOT %t.3 = (u32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) tuple(%next.3, %collective-permute-done.1)
}

%body (p.4: (s32[], bf16[8,64,128])) -> (s32[], bf16[8,64,128]) {
  %p.4 = (s32[]{:T(128)}, bf16[8,64,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i.4 = s32[]{:T(128)} get-tuple-element(%p.4), index=0
  %stack = bf16[8,64,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p.4), index=1
  %one = s32[]{:T(128)} constant(1)
  %next.4 = s32[]{:T(128)} add(%i.4, %one)
  %fusion.90 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%stack), kind=kCustom, calls=%async_collective_fusion.1
  %weights = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%stack, %i.4), kind=kOutput, calls=%around
  %first = u32[]{:T(128)} constant(1)
  %again = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} collective-permute(%weights), channel_id=4, source_target_pairs={{0,7},{1,0},{2,1},{3,2},{4,3},{5,4},{6,5},{7,6}}
  %more = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} collective-permute(%again), channel_id=5, source_target_pairs={{0,7},{1,0},{2,1},{3,2},{4,3},{5,4},{6,5},{7,6}}
  %start = (u32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) tuple(%first, %weights)
  %while.2 = (u32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) while(%start), condition=%condition.2, body=%inner
  ROOT %t.4 = (s32[]{:T(128)}, bf16[8,64,128]{2,1,0:T(8,128)(2,1)}) tuple(%next.4, %stack)
}

ENTRY %main.58_spmd (a.1: bf16[8,64,128]) -> bf16[8,64,128] {
  %a.1 = bf16[8,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %zero.1 = s32[]{:T(128)} constant(0)
  %t.1 = (s32[]{:T(128)}, bf16[8,64,128]{2,1,0:T(8,128)(2,1)}) tuple(%zero.1, %a.1)
  %while.1 = (s32[]{:T(128)}, bf16[8,64,128]{2,1,0:T(8,128)(2,1)}) while(%t.1), condition=%condition.1, body=%body
  ROOT %out = bf16[8,64,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501
TILE = 64 * 128 * 2  # bytes


def test_recorded_program():
    gather, hidden, exposed = sorted(Program(RECORDED).collectives(), key=lambda one: (one.kind, not one.hidden))
    # 24 turns; the gather's step in the inner loop is the same gather.
    assert (gather.kind, gather.bytes, gather.count, gather.hidden) == ("all-gather", TILE, 24, True)
    assert gather.groups == (tuple(range(8)),)
    # From 1 to 5 in steps of 2: 2 turns each.
    assert (hidden.kind, hidden.bytes, hidden.count, hidden.hidden) == ("collective-permute", TILE, 48, True)
    # Two equal ones, nothing beside them.
    assert (exposed.kind, exposed.bytes, exposed.count, exposed.hidden) == ("collective-permute", TILE, 48, False)


def test_recorded_bytes():
    # A turn: the gather reads the whole stack once, the slice one tile of it. Everything else stays on the chip, but
    # for scalars: 4 bytes read or written by an add, a compare, an index.
    scalars = 3 * 4 + (4 + 4 + 1) + 4 + 3 * (2 * 4) + 3 * (4 + 4 + 1)
    assert Program(RECORDED).hbm_bytes() == pytest.approx(24 * (8 * TILE + TILE), abs=24 * 2 * scalars)


def test_sizes_and_memory_spaces():
    assert size_of("(f32[2,3]{1,0}, s8[4], pred[5])") == 24 + 4 + 5
    assert size_of("f8e4m3fn[16]") == 16 and size_of("s4[16]{0}") == 8 and size_of("u32[]") == 4
    assert in_hbm("(bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, f32[8]{0:T(8)})") == 32


@pytest.mark.parametrize(
    "text",
    [
        "replica_groups={{0,2},{1,3}}, x",
        "replica_groups=[2,2]<=[2,2]T(1,0), x",
        "replica_groups=mesh['a'=2,'b'=2] {'a'}, x",
        "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x",
        "source_target_pairs={{0,2},{1,3}}, x",
    ],
)
def test_groups_however_written(text):
    assert device_groups(text) == ((0, 2), (1, 3))


def test_not_a_program():
    with pytest.raises(ValueError, match="not the text of a compiled program"):
        Program("hello")


def compiled(function, x, mesh, spec):
    shape = jax.ShapeDtypeStruct(x, jnp.float32, sharding=NamedSharding(mesh, spec))
    return jax.jit(function).lower(shape).compile()


def test_collectives_of_a_live_program_loops_included():
    mesh = parallel.make_mesh(MeshConfig(data=2, fsdp=4))

    def local(x):
        def turn(x, _):
            whole = jax.lax.all_gather(x, "fsdp", tiled=True)  # [32, 128]
            return x + jax.lax.psum_scatter(jnp.sin(whole), "fsdp", tiled=True), None

        x, _ = jax.lax.scan(turn, x, None, length=7)
        return jax.lax.psum(x.sum(0), ("data", "fsdp")), jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])

    both = PartitionSpec(("data", "fsdp"))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=both, out_specs=(PartitionSpec(), both))
    found = Program(compiled(mapped, (64, 128), mesh, both).as_text()).collectives()
    by_kind = {one.kind: (one.bytes, one.count, len(one.groups[0]) if one.groups else 8) for one in found}
    assert by_kind == {
        "all-gather": (32 * 128 * 4, 7, 4),
        "reduce-scatter": (32 * 128 * 4, 7, 4),
        "all-reduce": (128 * 4, 1, 8),
        "collective-permute": (8 * 128 * 4, 1, 2),
    }


def test_bytes_of_a_live_program_count_its_loop():
    mesh = parallel.make_mesh(MeshConfig(data=8))
    body = lambda x, _: (jnp.sin(x) @ x, None)
    run = lambda length: lambda x: jax.lax.scan(body, x, None, length=length)[0]
    moved = [Program(compiled(run(n), (128, 128), mesh, PartitionSpec()).as_text()).hbm_bytes() for n in (10, 20)]
    # A turn reads x, writes sin(x), reads both and writes the product, and may copy: 5 to 8 matrices.
    assert 5 <= (moved[1] - moved[0]) / (10 * 128 * 128 * 4) <= 8


def test_a_loop_of_unknown_length_turns_as_often_as_is_said():
    mesh = parallel.make_mesh(MeshConfig(data=8))
    spec = PartitionSpec("data")

    def local(x):
        # The condition needs a sum over devices, so every turn has an all-reduce.
        return jax.lax.while_loop(lambda x: jax.lax.psum(x.sum(), "data") < 9.0, lambda x: x * 2, x)

    mapped = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)
    program = Program(compiled(mapped, (8, 128), mesh, spec).as_text())
    assert [program.trips(where, one) for where, one, _ in program.run() if one.opcode == "while"] == [None]
    assert [sum(one.count for one in program.collectives(turns)) for turns in (1, 50)] == [1, 50]
