import logging
import re

import jax
import numpy as np
import pandas as pd
import pytest
import small
from small import model_on, one_device, rows, some_lengths, table_of

from ilpjax.data import Loader
from ilpjax.errors import InputError, TrainingError
from ilpjax.rundir import RunDir
from ilpjax.train import fit
from ilpjax.train.journal import not_finite
from ilpjax.train.step import NLL, Metrics

LENGTHS = some_lengths(50)


def settings(**changes):
    return small.settings(**{"batch": 4, **changes})  # eight steps of LENGTHS


def train(out, cfg, lengths=LENGTHS, params=None, mesh=None, seed=0):
    mesh = mesh or one_device()
    model, fresh = model_on(mesh)
    examples = rows(lengths)
    ids = [f"row-{n}" for n in range(len(examples))]
    found = fit(model, params or fresh, examples, ids, cfg, mesh=mesh, seed=seed, out=RunDir(out), name="sft")
    return jax.device_get(found)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run, looked at by several tests: parameters, folder, lines that the compiler logged."""
    out, lines = tmp_path_factory.mktemp("run"), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("jax").addHandler(handler)
    with jax.log_compiles():
        params = train(out, settings())
    logging.getLogger("jax").removeHandler(handler)
    return params, out, lines


def test_the_step_is_compiled_once(finished):
    _, out, lines = finished
    assert len(table_of(out, "train_log")) == 8
    assert len([line for line in lines if re.match(r"Compiling jit\(step\)", line)]) == 1


def test_dynamics_have_every_row_once_an_epoch(finished):
    _, out, _ = finished
    table = table_of(out, "dynamics")
    assert list(table) == ["row_id", "step", "epoch", "loss", "p_right", "greedy", "tokens"]
    for _, visits in table.groupby("epoch"):
        assert sorted(visits["row_id"]) == sorted(f"row-{n}" for n in range(len(LENGTHS)))
    targets = {f"row-{n}": int(e.target_mask.sum()) for n, e in enumerate(rows(LENGTHS))}
    assert table["tokens"].tolist() == [targets[row_id] for row_id in table["row_id"]]
    assert table["step"].is_monotonic_increasing and table["step"].min() == 1
    assert ((table["p_right"] > 0) & (table["p_right"] <= 1)).all()
    assert (np.exp(-table["loss"]) <= table["p_right"] + 1e-6).all()  # Jensen


def test_dynamics_add_up_to_the_logged_loss(finished):
    _, out, _ = finished
    table, log = table_of(out, "dynamics"), table_of(out, "train_log").set_index("step")
    nats = (table["loss"] * table["tokens"]).groupby(table["step"]).sum()
    np.testing.assert_allclose(nats / log["targets"], log["loss"], rtol=1e-5)
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    assert log["tokens"].groupby(log["epoch"]).sum().tolist() == [sum(LENGTHS)] * 2


def test_tensorboard_has_every_step(finished):
    from tensorboardX.proto import event_pb2  # noqa: PLC0415

    _, out, _ = finished
    steps, log = set(), table_of(out, "train_log")
    for file in (out / "tb").iterdir():
        content, at = file.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            steps |= {event.step for value in event.summary.value if value.tag == "loss"}
            at += 16 + size
    assert steps == set(log["step"])


def test_a_finished_run_is_not_trained_again(finished):
    params, out, _ = finished
    before = table_of(out, "dynamics")
    assert same(params, train(out, settings()))
    pd.testing.assert_frame_equal(before, table_of(out, "dynamics"))


def test_an_error_in_the_middle_and_a_rerun(finished, tmp_path, monkeypatch):
    params, out, _ = finished
    real = Loader.__next__

    def breaks(self):
        if self.step == 6:
            raise OSError("the power went")
        return real(self)

    monkeypatch.setattr(Loader, "__next__", breaks)
    with pytest.raises(OSError, match="power"):
        train(tmp_path, settings())
    monkeypatch.setattr(Loader, "__next__", real)
    assert not (tmp_path / "dynamics.parquet").exists()
    assert same(params, train(tmp_path, settings()))
    pd.testing.assert_frame_equal(table_of(out, "dynamics"), table_of(tmp_path, "dynamics"))
    told = ["step", "epoch", "loss", "lr", "grad_norm", "targets", "tokens"]
    pd.testing.assert_frame_equal(table_of(out, "train_log")[told], table_of(tmp_path, "train_log")[told])


@pytest.mark.slow
def test_checkpoints_of_something_else_are_removed_and_told(finished, tmp_path, capfd):
    params, _, _ = finished
    train(tmp_path, settings(epochs=1, lr=5e-3))
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints" / "sft" / "state").iterdir())
    assert len(kept) <= settings().keep
    capfd.readouterr()
    assert same(params, train(tmp_path, settings()))
    assert "checkpoints of other inputs or settings, removed" in capfd.readouterr().err


def test_without_dynamics_no_table(tmp_path, finished):
    params, _, _ = finished
    found = train(tmp_path, settings(dynamics=False))
    assert not (tmp_path / "dynamics.parquet").exists()
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_learns_a_handful_of_rows(tmp_path):
    train(tmp_path, settings(epochs=120, lr=1e-2, batch=2, save_every=1000), lengths=[20, 30, 12, 25])
    table = table_of(tmp_path, "dynamics")
    last = table[table["epoch"] == table["epoch"].max()]
    assert len(last) == 4
    assert last["loss"].max() < 0.1 and last["p_right"].min() > 0.9 and last["greedy"].min() == 1
    assert table["loss"].iloc[0] > 3


def test_stops_on_nan_and_names_the_step_and_the_rows(tmp_path, monkeypatch):
    real = Loader.__next__

    def poisoned(self):
        batch = real(self)
        if self.step == 3:  # one target of one row
            slots, weights = batch["slots"], batch["weights"].copy()
            at = np.argwhere(slots == 0)[0]
            weights[tuple(at)] = np.nan
            poisoned.row = batch["rows"][at[0], 0]
            batch = batch | {"weights": weights}
        return batch

    monkeypatch.setattr(Loader, "__next__", poisoned)
    with pytest.raises(TrainingError, match=r"^step 3: the loss is nan; rows in it: row-") as error:
        train(tmp_path, settings(save_every=1))
    assert "\n" not in str(error.value)
    assert f"row-{poisoned.row}" in str(error.value) or "more" in str(error.value)
    state = tmp_path / "checkpoints" / "sft" / "state"
    assert max(int(p.name) for p in state.iterdir() if p.name.isdigit()) == 2  # nothing broken was saved
    assert not (tmp_path / "train_log.parquet").exists()


def test_names_only_the_rows_that_are_not_numbers():
    sums = np.ones((1, 4, 4), np.float32)
    sums[0, 1, NLL] = np.nan
    told = dict(grad_norm=np.float32(1), lr=0, targets=4, rows=np.array([[5, 9, 3, -1]]))
    names = [f"row-{n}" for n in range(10)]
    message = not_finite(4, Metrics(loss=np.float32(np.nan), row_sums=sums, **told), names)
    assert message.startswith("step 4: the loss is nan; rows in it: row-9; ")
    message = not_finite(4, Metrics(loss=np.float32(np.inf), row_sums=None, **told), names)
    assert message.startswith("step 4: the loss is inf; rows in it: row-5, row-9, row-3; ")
    many = told | dict(rows=np.arange(10)[None], grad_norm=np.float32(np.inf))
    message = not_finite(4, Metrics(loss=np.float32(1), row_sums=None, **many), names)
    assert message.startswith("step 4: the gradient norm is inf; rows in it: row-0, ")
    assert " and 2 more; " in message


def test_a_huge_learning_rate_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"^step \d+: the (loss|gradient norm) is (nan|inf); rows in it: row-"):
        train(tmp_path, settings(lr=1e38, warmup=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 6, "micro_batches": 4}, r"batch: 6 sequences cannot be cut into 4 micro-batches .* multiple of 4"),
        ({"seq_len": 16}, "row .* has .* tokens"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(tmp_path, settings(**changes))
    assert not list(tmp_path.iterdir())


def test_a_batch_smaller_than_the_mesh_is_refused(tmp_path):
    from ilpjax.config import MeshConfig  # noqa: PLC0415
    from ilpjax.parallel import make_mesh  # noqa: PLC0415

    with pytest.raises(InputError, match="batch: 4 sequences .* over 8 devices"):
        train(tmp_path, settings(batch=4), mesh=make_mesh(MeshConfig()))
