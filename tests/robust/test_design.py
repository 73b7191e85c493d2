"""Which protocols are in the grid."""

from dataclasses import replace
from itertools import combinations, product

import pytest

from ilpjax.config import RobustnessJob, RunJob
from ilpjax.errors import InputError
from ilpjax.robust import FACTORS, Protocol, design, own_protocol, pass_of

SCORES = [{}, {"normalise": "pmi"}, {"protocol": "letter"}, {"protocol": "letter", "orders": 3}]
LEVELS = ("scorings", "decodings", "orders", "sources", "counts", "wordings", "dtypes")


def made(score, **keys):
    run = RunJob.make({"base": "b", "rows": "r", "out": "o", "score": score})
    job = RobustnessJob.make({"run": "o", **keys})
    return run, job, design(run, job, "float32")


def pairs(one):
    return set(combinations([(name, getattr(one, name)) for name in FACTORS], 2))


@pytest.mark.parametrize("score", SCORES)
def test_some_seventy_protocols_of_some_fifteen_passes_with_the_runs_own_first(score):
    run, job, protocols = made(score)
    own = own_protocol(run, "float32")
    assert protocols[0] == own and len({one.name for one in protocols}) == len(protocols)
    assert 40 <= len(protocols) <= 80
    assert 8 <= len({pass_of(one, own, run, job) for one in protocols}) <= 20


@pytest.mark.parametrize("score", SCORES)
def test_each_factor_moves_alone_and_all_pairs_of_levels_meet_on_the_passes_there_are(score):
    run, job, protocols = made(score)
    own = protocols[0]
    there = {pass_of(one, own, run, job) for one in protocols}
    kinds = [one for one in job.scorings if not one.startswith("free") and one != "control"]
    levels = (kinds, job.decodings[:-1], job.orders, job.sources, job.counts, job.wordings, job.dtypes)
    free_of_cost = [Protocol(*values) for values in product(*levels)]
    meant = [one for one in free_of_cost if one.order == "own" or one.scoring.startswith("letter")]
    covered = set().union(*map(pairs, protocols))
    assert all(pairs(one) <= covered for one in meant if pass_of(one, own, run, job) in there)
    for name, values in zip(FACTORS, levels, strict=True):
        alone = [replace(own, **{name: value}) for value in values]
        assert {one for one in alone if one in meant} <= set(protocols)


def test_levels_that_a_user_leaves_out_are_nowhere_but_in_the_runs_own():
    _, job, protocols = made({}, decodings=["greedy"], scorings=["letter", "free-em"], wordings=["w2"], dtypes=[])
    assert {one.decoding for one in protocols[1:]} <= {"greedy"}
    assert {one.scoring for one in protocols[1:]} <= {"letter", "free-em"}
    assert protocols[0].name == "cloze-raw/t1/own/own/all/train/float32"
    _, _, alone = made({}, **{name: [] for name in LEVELS})
    assert [one.name for one in alone] == ["cloze-raw/t1/own/own/all/train/float32"]


def test_a_level_that_is_none_is_told():
    with pytest.raises(InputError, match=r"decodings\.1: input should be 'greedy'.*got 'hot'"):
        RobustnessJob.make({"run": "o", "decodings": ["greedy", "hot"]})
