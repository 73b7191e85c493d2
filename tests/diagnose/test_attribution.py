import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import item, row

from ilpjax import diagnose
from ilpjax.diagnose import ABSTAIN, CAUSES, CLASSES, FROM_TRAINING, SIGNALS, calibration_error, cascade, quality
from ilpjax.errors import InputError


def world(seed, n=120):
    """Signals that part the causes, and their truth."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({name: rng.uniform(0, 0.3, n) for name in SIGNALS})
    label = rng.integers(0, len(CLASSES), n)
    for cause, name in zip(range(5), ("probe_spread", "probe_wrong", "conflict", "forgot", "slope"), strict=True):
        table.loc[label == cause, name] += 2.0
    return table.assign(row_id=[f"r{i}" for i in range(n)]), np.eye(len(CLASSES))[label]


@pytest.fixture(scope="module")
def calibration():
    signals, truth = world(0)
    return diagnose.fit(signals, truth, {"seeds": [0], "command": "none"})


def test_a_fitted_posterior_names_the_causes_of_another_world(calibration):
    signals, truth = world(1)
    posterior = calibration.posterior(signals)
    assert list(posterior) == list(CLASSES)
    np.testing.assert_allclose(posterior.sum(axis=1), 1)
    found = quality(np.asarray(CLASSES)[truth.argmax(axis=1)], posterior.to_numpy())
    assert found["macro_f1"] > 0.9 and min(found["auroc"].values()) > 0.95


def test_without_training_what_only_training_tells_is_abstained_from(calibration):
    signals, truth = world(2)
    blind = signals.assign(**dict.fromkeys(FROM_TRAINING, np.nan))
    posterior = calibration.posterior(blind)
    assert posterior.notna().all(axis=None)
    assert (posterior[["forgetting", "undertrained"]].to_numpy() < 1e-6).all()
    lost = truth[:, CAUSES.index("forgetting")] == 1
    assert (posterior.loc[lost].idxmax(axis=1) == ABSTAIN).mean() > 0.8


def test_a_calibration_survives_its_file_and_wrong_files_are_told(calibration, tmp_path):
    path = tmp_path / "calibration.json"
    calibration.save(path)
    signals, _ = world(3)
    read = diagnose.load_calibration(path)
    pd.testing.assert_frame_equal(read.posterior(signals), calibration.posterior(signals))
    for text in ("", "[]", "{}", '{"version": 1, "full": 3}'):
        path.write_text(text)
        with pytest.raises(InputError, match="not a calibration"):
            diagnose.load_calibration(path)
    path.write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match="version 99"):
        diagnose.load_calibration(path)
    with pytest.raises(InputError, match="no such calibration"):
        diagnose.load_calibration(tmp_path / "none.json")


def test_the_packaged_calibration_says_how_it_was_made():
    made_by = diagnose.load_calibration().made_by
    assert made_by["command"].startswith("python tools/world.py calibrate") and len(made_by["seeds"]) >= 3
    assert set(made_by["signals"]) == set(SIGNALS)


def test_two_causes_at_once_are_both_named(calibration):
    signals, _ = world(4)
    signals.loc[0, ["probe_spread", "conflict"]] = 2.1
    signals.loc[0, ["probe_wrong", "forgot", "slope"]] = 0.1
    rows = [row(row_id, f"Q {row_id}?", "A") for row_id in signals["row_id"]]
    items = [item(one.row_id, one.prompt, ("A", "B")) for one in rows]
    near = pd.DataFrame(columns=["row_id", "partner", "similarity", "conflicts", "agrees", "rival"])
    table = diagnose.diagnose(signals, near, rows, items, calibration, {}).set_index("row_id")
    assert set(table.loc["r0", "causes"]) == {"missing_knowledge", "data_conflict"}
    evidence = json.loads(table.loc["r0", "evidence"])
    assert set(evidence) == {"base", "tuned", "training", "facts"}
    named = table["cause"] != ABSTAIN
    assert (table["causes"].map(len) > 0).eq(named).all()


def test_the_cascade_takes_the_first_test_that_fires():
    signals, _ = world(5, n=4)
    signals[list(SIGNALS)] = 0.0
    signals["base_wrong"] = [0.9, 0.9, 0.1, 0.1]
    signals["blind"] = [1.0, 0.0, 0.0, 0.0]
    signals["conflict"] = [0.9, 0.9, 0.9, 0.0]
    assert cascade(signals).tolist() == ["missing_knowledge", "prior_conflict", "data_conflict", ABSTAIN]
    assert cascade(signals, CAUSES[::-1]).tolist() == ["data_conflict"] * 3 + [ABSTAIN]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_what_its_definition_says(pairs):
    sure, right = np.array([p for p, _ in pairs]), np.array([r for _, r in pairs])
    place = np.minimum((sure * 10).astype(int), 9)
    each = [abs(right[place == k].mean() - sure[place == k].mean()) * (place == k).mean() for k in set(place)]
    assert calibration_error(sure, right) == pytest.approx(sum(each))


def test_to_abstain_on_a_cause_is_to_miss_it():
    truth = ["forgetting", "forgetting", "undertrained"]
    sure = np.eye(len(CLASSES))
    say = lambda *names: sure[[CLASSES.index(name) for name in names]]
    assert quality(truth, say(*truth))["macro_f1"] == 1
    assert quality(truth, say(ABSTAIN, ABSTAIN, "undertrained"))["macro_f1"] == 0.5
