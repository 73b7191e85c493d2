"""What a world plants, before anything is trained."""

from collections import Counter

import pytest

from ilpjax.config import WorldJob
from ilpjax.diagnose import CAUSES
from ilpjax.worlds.world import labels, make_rows


@pytest.fixture(scope="module")
def world():
    rows, corpus = make_rows(WorldJob(out="unused", seed=3))
    return rows, corpus, {row.row_id: row for row in rows.twins}


def told(corpus, row):
    """Statements that hold the row's person and one of its options."""
    person = rows_person(row)
    return [text for text in corpus if person in text]


def rows_person(row):
    return " ".join(row.row_id.split("-")[1:3])


def of(rows, cause):
    return [row for row in rows.planted if row.planted == cause]


def test_every_cause_is_planted_each_row_has_its_twin_and_ids_are_unique(world):
    rows, _, twins = world
    counts = Counter(row.planted for row in rows.planted)
    assert all(counts[cause] >= 24 for cause in CAUSES) and counts["decoy"] and counts["clean"]
    for arm in (rows.planted, rows.twins):
        assert len({row.row_id for row in arm}) == len(arm)
    for row in rows.planted:
        is_plant = row.planted.split("+")[0] in CAUSES
        assert bool(row.twin_id) == is_plant and (not is_plant or row.twin_id in twins), row
        assert len(set(row.options)) == 4 or row.dose == "option_equals_answer"


def test_the_arms_are_as_long_and_a_twin_has_the_same_form(world):
    rows, _, twins = world
    assert len(rows.planted) == len(rows.twins)
    for row in rows.planted:
        if row.twin_id and "missing_knowledge" not in row.planted:
            assert twins[row.twin_id].question == row.question


def test_missing_people_are_told_as_often_as_their_dose_says_and_twins_are_known(world):
    rows, corpus, twins = world
    for row in of(rows, "missing_knowledge"):
        assert len(told(corpus, row)) == 4 * int(row.dose.split("=")[1])
        answer = twins[row.twin_id].response
        assert any(answer in text for text in corpus)


def test_a_prior_conflict_contradicts_the_corpus_and_its_twin_agrees(world):
    rows, corpus, twins = world
    for row in of(rows, "prior_conflict"):
        said = " ".join(told(corpus, row))
        assert row.response not in said
        assert twins[row.twin_id].response in said


def test_contradicted_rows_have_as_many_rows_against_them_as_the_dose_says_and_none_in_the_twin_arm(world):
    rows, _, twins = world
    for row in of(rows, "data_conflict"):
        against = [other for other in rows.planted if other.row_id.startswith(f"{row.row_id}-against")]
        assert len(against) == int(row.dose.split("=")[1])
        assert all(other.response != row.response and other.response in row.options for other in against)
        assert all(twins[other.row_id].response == row.response for other in against)


def test_forgotten_rows_come_first_and_their_twins_anywhere(world):
    rows, _, twins = world
    assert {row.block for row in of(rows, "forgetting")} == {0}
    assert {twins[row.twin_id].block for row in of(rows, "forgetting")} == {1}
    others = [row for row in rows.planted if row.planted in ("clean", "prior_conflict", "missing_knowledge")]
    assert {row.block for row in others} == {0, 1}  # the place alone tells no cause


def test_undertrained_rows_are_asked_more_often_in_the_twin_arm(world):
    rows, _, twins = world
    for row in of(rows, "undertrained"):
        count = lambda arm, row=row: sum(1 for other in arm if other.row_id.startswith(f"{row.row_id}-again"))
        same = [other for other in rows.planted if other.row_id.startswith(row.row_id) and other.planted != "clean"]
        assert len(same) == int(row.dose.split("=")[1])
        assert count(rows.twins) == 5


def test_the_seed_decides_everything():
    a, b, c = (make_rows(WorldJob(out="unused", seed=seed)) for seed in (3, 3, 4))
    assert a[0].planted == b[0].planted and a[0].twins == b[0].twins and a[1] == b[1]
    assert a[0].planted != c[0].planted and a[1] != c[1]


def test_probes_ask_the_same_in_other_words(world):
    rows, _, _ = world
    for row in rows.planted:
        assert row.question not in row.probes
        if row.planted in CAUSES:
            assert len(row.probes) >= 4 and all(rows_person(row) in probe for probe in row.probes)


def test_a_plant_counts_only_when_it_failed_and_its_twin_did_not(world):
    rows, _, _ = world
    plants = [row for row in rows.planted if row.twin_id][:4]
    wrong = dict(zip((row.row_id for row in plants), (1.0, 1.0, 0.0, 0.5), strict=True))
    twin = dict(zip((row.twin_id for row in plants), (0.0, 1.0, 0.0, 0.0), strict=True))
    assert [label["counts"] for label in labels(plants, wrong, twin)] == [True, False, False, False]
