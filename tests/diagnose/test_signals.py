import numpy as np
import pandas as pd
import pytest
from planted import item, row, scores, visits

from ilpjax.diagnose import FROM_TRAINING, SIGNALS, make_probes, probe_items, row_signals
from ilpjax.errors import InputError

ROWS = [
    row("a", "Where was Kos Kethkain born?", "Griorton"),
    row("b", "Tell me, where was Kos Kethkain born?", "Brenton"),
    row("c", "Where was Kos Kethkain employed?", "Dort Corp"),
    row("d", "In which town was Kos Kethkain born?", "Griorton."),
    *(row(f"e{n}", f"Name planet {n} of sun {n * 7}, where it was first seen.", "Mars") for n in range(20)),
]
OPTIONS = ("Griorton", "Brenton", "Kalton", "Morton")
ITEMS = [item(r.row_id, r.prompt, OPTIONS) for r in ROWS[:2]]
PROBES = pd.DataFrame([("a", 0, "one"), ("a", 1, "two")], columns=["row_id", "probe", "question"])
# The base: .1 right on the question, .2 and .3 on the probes, and every time sure of option 1.
BASE = scores({"a": [0.1, 0.8, 0.05, 0.05], "b": [0.4, 0.2, 0.2, 0.2]})
PROBED = scores({"0": [0.2, 0.7, 0.05, 0.05], "1": [0.3, 0.6, 0.05, 0.05]})
TUNED = scores({"a": [0.05, 0.9, 0.03, 0.02], "b": [0.4, 0.2, 0.2, 0.2]})


def signals(asked=("a",), dynamics=None, **changes):
    given = {"base": BASE, "tuned": TUNED, "probes": PROBES, "probe_scores": PROBED, "dynamics": dynamics} | changes
    table, near = row_signals(ROWS, ITEMS, list(asked), **given)
    return table.set_index("row_id"), near


def test_what_the_base_says_over_its_wordings():
    a = signals()[0].loc["a"]
    assert a["base_right"] == pytest.approx(0.1) and a["base_wrong"] == pytest.approx(0.8)
    assert a["probe_right"] == pytest.approx(0.2) and a["probe_wrong"] == pytest.approx(0.7)
    assert a["probe_agree"] == 1 and a["exist"] == 0
    assert a["probe_spread"] == pytest.approx(np.std([0.1, 0.2, 0.3]))
    assert a["believes"] == pytest.approx(0.9)  # the tuned model still says what the base believed
    assert a["blind"] == pytest.approx(1 / 3)  # eq. 4 holds of the first wording alone: .2 is not under .2


def test_a_row_that_answers_otherwise_is_a_conflict_only_where_both_answer_one_question():
    table, near = signals(["a"])
    a = table.loc["a"]
    found = near.set_index("partner")
    assert found.loc["b", "conflicts"] and found.loc["b", "rival"] == 1
    assert not found.loc["c", "conflicts"]  # its answer is none of a's options: another question
    assert found.loc["d", "agrees"] and not {f"e{n}" for n in range(20)} & set(found.index)
    assert a["against"] == 1 and a["pull"] == pytest.approx(0.9)
    assert a["conflict"] == pytest.approx(found.loc["b", "similarity"]) and 0.3 < a["conflict"] < 1


def test_training_tells_what_was_learned_and_lost():
    dynamics = pd.concat(
        [visits("a", [3.0, 1.0, 0.1, 0.2], [0, 1, 1, 0.5]), visits("b", [4.0, 3.0, 2.0, 1.0], [0, 0, 0, 0], 7)]
    )
    table, _ = signals(["a", "b"], dynamics)
    a, b = table.loc["a"], table.loc["b"]
    assert a["loss_least"] == pytest.approx(0.1) and a["loss_final"] == pytest.approx(0.5)
    assert a["forgot"] == pytest.approx(0.4) and a["events"] == 1 and b["events"] == 0
    assert a["learned_step"] == pytest.approx(3 / 10) and b["learned_step"] == 0
    assert b["slope"] == pytest.approx(-1.0) and a["place"] == pytest.approx(0.4) and b["place"] == 1


def test_without_a_record_of_training_its_signals_are_missing_and_no_others():
    a = signals()[0].loc["a"]
    assert a[list(FROM_TRAINING)].isna().all()
    assert a[[name for name in SIGNALS if name not in FROM_TRAINING]].notna().all()


def test_nothing_to_ask_about_gives_empty_tables():
    table, near = row_signals(
        ROWS, ITEMS, [], base=BASE, tuned=TUNED, probes=PROBES[:0], probe_scores=None, dynamics=None
    )
    assert len(table) == 0 and set(SIGNALS) < set(table) and len(near) == 0


def test_rows_without_paraphrases_are_asked_in_other_frames(tmp_path):
    file = tmp_path / "probes.jsonl"
    file.write_text('{"row_id": "a", "question": "From where is Kos?"}\n')
    probes = make_probes(ITEMS, file)
    assert probes[probes["row_id"] == "a"]["question"].tolist() == ["From where is Kos?"]
    others = probes[probes["row_id"] == "b"]["question"]
    assert len(others) == 3 and all(ITEMS[1].question in text for text in others)
    asked = probe_items(probes, ITEMS)
    assert [one.row_id for one in asked] == ["0", "1", "2", "3"] and asked[0].options == ITEMS[0].options


@pytest.mark.parametrize("line", ["nonsense", '{"row_id": "a"}', '{"row_id": 1, "question": "x"}', "[]"])
def test_a_wrong_probes_file_is_told_by_line(tmp_path, line):
    file = tmp_path / "probes.jsonl"
    file.write_text('{"row_id": "a", "question": "x"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"probes.jsonl:2: not a probe"):
        make_probes(ITEMS, file)
