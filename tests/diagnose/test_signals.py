import numpy as np
import pandas as pd
import pytest
from planted import item, probed, row, scores, visits

from ilpjax.diagnose import FROM_TRAINING, SIGNALS, make_probes, probe_items, row_signals
from ilpjax.errors import InputError
from ilpjax.knowledge import Triple

ROWS = [
    row("a", "Where was Kos Kethkain born?", "Griorton"),
    row("b", "Tell me, where was Kos Kethkain born?", "Brenton"),
    row("c", "Where was Kos Kethkain employed?", "Dort Corp"),
    row("d", "In which town was Kos Kethkain born?", "Griorton."),
    *(row(f"e{n}", f"Name planet {n} of sun {n * 7}, where it was first seen.", "Mars") for n in range(20)),
]
OPTIONS = ("Griorton", "Brenton", "Kalton", "Morton")
ITEMS = [item(r.row_id, r.prompt, OPTIONS) for r in ROWS[:2]]
COLUMNS = ["row_id", "kind", "number", "question", "options", "answer"]
PROBES = pd.DataFrame([("a", "wording", n, f"in words {n}", list(OPTIONS), 0) for n in range(3)], columns=COLUMNS)
FLAT = [0.25, 0.25, 0.25, 0.25]
# The base: .1 right on the question, .2 and .3 in other words, and every time surest of option 1.
BASE = scores({"a": [0.1, 0.8, 0.05, 0.05], "b": [0.4, 0.2, 0.2, 0.2]})
SAID = ([0.1, 0.8, 0.05, 0.05], [0.2, 0.7, 0.05, 0.05], [0.3, 0.6, 0.05, 0.05])
PROBED = probed([(p, FLAT) for p in SAID])
TUNED = scores({"a": [0.05, 0.9, 0.03, 0.02], "b": [0.4, 0.2, 0.2, 0.2]})


def signals(asked=("a",), dynamics=None, **changes):
    given = {"base": BASE, "tuned": TUNED, "probes": PROBES, "probe_scores": PROBED, "dynamics": dynamics} | changes
    if "b" in asked:
        more = PROBES[:1].assign(row_id="b")
        given["probes"] = pd.concat([PROBES, more], ignore_index=True)
        given["probe_scores"] = probed([(p, FLAT) for p in (*SAID, FLAT)])
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


def test_what_the_options_alone_give_is_no_belief():
    """A base that prefers short options says so with and without the question."""
    a = signals(probe_scores=probed([(p, list(p)) for p in SAID]))[0].loc["a"]
    assert a["probe_right"] == pytest.approx(0.25) and a["probe_wrong"] == pytest.approx(0.25)
    assert a["probe_spread"] == pytest.approx(0)


def test_blind_counts_triples_where_they_could_be_asked():
    fact = pd.DataFrame([("a", "fact", 0, "Kos birthplace", ["Griorton", "x"], 0)], columns=COLUMNS)
    probes = pd.concat([PROBES, fact, fact.assign(number=1)], ignore_index=True)
    known = [(p, FLAT) for p in SAID] + [([0.9, 0.1], [0.5, 0.5])]
    for last, share in (([0.8, 0.2], 0.0), ([0.01, 0.99], 0.5)):
        said = probed([*known, (last, [0.5, 0.5])])
        assert signals(probes=probes, probe_scores=said)[0].loc["a", "blind"] == share


def test_probes_of_other_rows_are_told():
    with pytest.raises(InputError, match="row_id b is none of the rows asked"):
        signals(probes=PROBES.assign(row_id="b"))


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
    probes = make_probes(ITEMS, file, {})
    assert probes[probes["row_id"] == "a"]["question"].tolist() == [ITEMS[0].question, "From where is Kos?"]
    others = probes[probes["row_id"] == "b"]["question"]
    assert len(others) == 4 and all(ITEMS[1].question in text for text in others)
    asked = probe_items(probes)
    assert [one.row_id for one in asked] == [str(n) for n in range(6)] and asked[0].options == ITEMS[0].options


def test_a_triple_is_asked_against_what_others_have_for_its_relation():
    triple = lambda *parts: Triple(*parts, source="sentence")
    facts = {
        "a": [triple("Kos", "birthplace", "Griorton"), triple("Kos", "plays", "chess"), triple("Kos", "eats", "rye")],
        "b": [triple("Dor", "Plays", "go"), triple("Dor", "plays", "Chess.")],
    }
    probes = make_probes(ITEMS[:1], None, facts)
    asked = probes[probes["kind"] == "fact"].set_index("number")
    assert asked.loc[0, "options"] == list(OPTIONS) and asked.loc[0, "answer"] == 0  # its object is the answer
    assert asked.loc[1, "options"] == ["chess", "go"] and asked.loc[1, "question"] == "Kos plays"
    assert 2 not in asked.index  # nobody else eats: nothing to choose from


@pytest.mark.parametrize("line", ["nonsense", '{"row_id": "a"}', '{"row_id": 1, "question": "x"}', "[]"])
def test_a_wrong_probes_file_is_told_by_line(tmp_path, line):
    file = tmp_path / "probes.jsonl"
    file.write_text('{"row_id": "a", "question": "x"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"probes.jsonl:2: not a probe"):
        make_probes(ITEMS, file, {})
