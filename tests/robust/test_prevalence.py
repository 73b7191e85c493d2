"""How many rows are not learned: shares and intervals by hand, over data sets and runs, and the job's refusals."""

import json

import numpy as np
import pandas as pd
import pytest
from fake_grid import OWN, make_run, protocols
from statsmodels.stats.proportion import proportion_confint

from ilpjax import cli
from ilpjax.robust import agreement_of_runs, over_datasets, over_runs, prevalence, read_run
from ilpjax.robust.prevalence import _differ
from ilpjax.rundir import read_table, write_table

DESIGNS = protocols({"wording": ("train", "w1")})


def flags(rows, share, seed=0):
    """The first protocol flags `share` of the rows, the second all."""
    own = np.arange(rows) < share * rows
    return np.stack([np.random.default_rng(seed).permutation(own), np.ones(rows)], axis=1).astype(float)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        make_run(folder / f"seed{seed}", flags(60, 0.3, seed), DESIGNS, seed=seed)
    make_run(folder / "other", flags(40, 0.5), DESIGNS, base="another/base", first=500)
    return folder


def runs(folder, *names, protocols=False):
    from ilpjax.rundir import RunDir

    return [read_run(RunDir(folder / name), protocols) for name in names]


def test_a_line_a_data_set_and_rule_with_wilson_intervals(folder):
    (run,) = runs(folder, "seed0")
    table = prevalence([run], 0.9)
    assert table[["dataset", "rule"]].to_numpy().tolist() == [
        [dataset, rule] for dataset in ("set 0", "set 1") for rule in ("paper", "corrected")
    ]
    verdicts = read_table(folder / "seed0" / "verdicts.parquet")
    for line in table.to_dict("records"):
        own = verdicts[verdicts["dataset"] == line["dataset"]]["unlearned"]
        assert (line["n"], line["flagged"], line["share"]) == (30, own.sum(), own.mean())
        assert (line["low"], line["high"]) == pytest.approx(
            proportion_confint(own.sum(), 30, alpha=0.1, method="wilson")
        )


def test_by_protocol_adds_the_grid_and_the_core(folder):
    table = prevalence(runs(folder, "seed0", protocols=True))
    shares = table[table["dataset"] == "set 0"].set_index("rule")["share"]
    assert shares.index.tolist() == ["paper", "corrected", "core", *("/".join(one.values()) for one in DESIGNS)]
    assert shares.iloc[-1] == 1 and shares["core"] == shares["paper"] == shares.iloc[-2]


def test_rows_without_a_verdict_do_not_count(tmp_path):
    run = make_run(tmp_path / "run", flags(20, 0.5), DESIGNS)
    table = read_table(run / "verdicts.parquet")
    for name in ("unlearned", "unlearned_corrected"):
        table[name] = table[name].astype("boolean").mask(table["row_id"] == "r0")
    write_table(run / "verdicts.parquet", table)
    counted = prevalence(runs(tmp_path, "run"))
    assert counted["n"].tolist() == [9, 9, 10, 10]


def test_mean_sd_and_se_over_data_sets_by_hand():
    shares = {"a": 0.1, "b": 0.2, "c": 0.6}
    lines = [{"model": "m", "rule": "paper", "dataset": name, "share": s, "n": 100} for name, s in shares.items()]
    lines += [
        lines[0] | {"share": 0.3, "n": 90},
        {"model": "m2", "rule": "paper", "dataset": "a", "share": 0.5, "n": 7},
    ]
    told = over_datasets(pd.DataFrame(lines)).to_dict("records")
    sets = [0.2, 0.2, 0.6]  # of `a`, the mean over its two runs
    assert (told[0]["datasets"], told[0]["n"], told[0]["mean"]) == (3, 300, pytest.approx(np.mean(sets)))
    assert told[0]["sd"] == pytest.approx(np.std(sets, ddof=1))
    assert told[0]["se"] == pytest.approx(np.std(sets, ddof=1) / np.sqrt(3))
    assert 0.2 <= told[0]["low"] < told[0]["mean"] < told[0]["high"] <= 0.6
    assert (told[1]["datasets"], told[1]["mean"]) == (1, 0.5) and pd.isna([told[1]["sd"], told[1]["low"]]).all()


def test_seeds_are_found_and_compared_and_another_base_is_not(folder):
    judged = runs(folder, "seed0", "seed1", "seed2", "other")
    (group,) = agreement_of_runs(judged)
    assert len(group["runs"]) == 3 and group["differ"] == ["seed"] and group["base"] == "tiny/base"
    assert [rule["protocol"] for rule in group["rules"]] == ["paper", "corrected"]
    assert group["rules"][0]["n"] == 60 and abs(group["rules"][0]["kappa"]) < 0.5  # flags were drawn anew
    between = over_runs(prevalence(judged))
    assert between["runs"].tolist() == [3] * 4 and set(between["base"]) == {"tiny/base"}
    own = [prevalence([run])["share"].iloc[0] for run in judged[:3]]
    assert between["sd"].iloc[0] == pytest.approx(np.std(own, ddof=1))


def test_rows_numbered_alike_that_ask_other_things_are_not_the_same(tmp_path):
    for name in ("one", "two"):
        make_run(tmp_path / name, flags(20, 0.5), DESIGNS)
    table = read_table(tmp_path / "two" / "verdicts.parquet")
    table["prompt"] = [prompt if n < 5 else f"other {n}" for n, prompt in enumerate(table["prompt"])]
    write_table(tmp_path / "two" / "verdicts.parquet", table)
    (group,) = agreement_of_runs(runs(tmp_path, "one", "two"))
    assert group["rules"][0]["n"] == group["pairs"][0]["shared"] == 5 and group["pairs"][0]["only_a"] == 15
    write_table(tmp_path / "two" / "verdicts.parquet", table.assign(prompt="another"))
    assert agreement_of_runs(runs(tmp_path, "one", "two")) == []


def call(capsys, *args):
    with pytest.raises(SystemExit) as left:
        cli.main(["prevalence", *map(str, args)])
    return left.value.code, capsys.readouterr()


def test_the_job_prints_and_writes(folder, tmp_path, capsys):
    names = ",".join(str(folder / name) for name in ("seed0", "seed1", "other"))
    status, said = call(capsys, f"runs={names}", f"out={tmp_path / 'all.json'}", "json=true")
    assert status == 0 and json.loads(said.out) == json.loads((tmp_path / "all.json").read_text())
    for ending, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        status, said = call(capsys, f"runs=[{names}]", f"out={tmp_path / 'table'}.{ending}", "by=protocol")
        assert status == 0 and len(read(tmp_path / f"table.{ending}")) == 3 * 2 * 5
    for text in ("set 0", "between runs of the same base", "which differ in seed", "95 % intervals", "another/base"):
        assert text in said.out, text


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["runs=nowhere"], "nowhere holds no verdicts.parquet; a run directory that `run` made would be right"),
        (["runs={run}", "out=table.xls"], "out: table.xls has no known ending; .json, .csv or .parquet would be right"),
        (["runs={run}", "by=cause"], "by: input should be 'rule' or 'protocol'"),
        (["runs={bare}", "by=protocol"], "holds no robustness.parquet; run robustness first"),
    ],
)
def test_wrong_input_is_one_line(folder, tmp_path, capsys, args, line):
    bare = make_run(tmp_path / "bare", flags(10, 0.5), DESIGNS)
    (bare / "robustness.parquet").unlink()
    status, said = call(capsys, *(arg.format(run=folder / "seed0", bare=bare.path) for arg in args))
    told = [text for text in said.err.splitlines() if text.startswith("ilpjax: ")]
    assert status == 2 and len(told) == 1 and line in told[0]


def test_no_row_with_a_verdict_and_a_config_that_is_none(tmp_path, capsys):
    run = make_run(tmp_path / "run", flags(4, 0.5), [OWN, OWN | {"wording": "w1"}])
    table = read_table(run / "verdicts.parquet")
    none = pd.array([pd.NA] * 4, dtype="boolean")
    write_table(run / "verdicts.parquet", table.assign(unlearned=none, unlearned_corrected=none))
    status, said = call(capsys, f"runs={run.path}")
    assert status == 2 and "no row of" in said.err and "has a verdict" in said.err
    (run / "config.yaml").write_text("- 1")
    status, said = call(capsys, f"runs={run.path}")
    assert status == 2 and "not a mapping of keys to values" in said.err


def test_a_key_that_an_older_run_does_not_have_is_no_difference():
    older, newer = {"seed": 0, "sft": {"lr": 1.0}}, {"seed": 1, "sft": {"lr": 1.0, "conflicts": "x"}}
    assert _differ([older, newer, {}]) == _differ([newer, older]) == ["seed"]
