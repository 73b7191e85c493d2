import pytest
import yaml

from ilpjax.config import CPTJob, DetectJob, DiagnoseJob, RunJob, WorldJob
from ilpjax.errors import InputError
from ilpjax.settings import describe

GIVEN = ["base=b", "rows=r.jsonl", "out=o"]


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"base": "b", "rows": "r", "out": "o", "sft": {"epochs": 7, "lr": 1e-4}}))
    job = RunJob.from_args([str(path), "sft.epochs=2", "data.limit=5"])
    assert (job.sft.epochs, job.sft.lr, job.sft.batch, job.data.limit) == (2, 1e-4, 16, 5)


def test_a_section_given_in_part_keeps_the_jobs_own_defaults():
    job = CPTJob.from_args(["text=t", "out=o", "cpt.epochs=3"])
    assert (job.cpt.epochs, job.cpt.lr, job.cpt.weight_decay) == (3, 3e-4, 0.1)


def test_the_world_job_takes_a_word_first_and_seeds_as_a_list():
    job = WorldJob.from_args(["evaluate", "seeds=1,2,3", "out=o", "json=true"])
    assert (job.what, job.seeds, job.json_) == ("evaluate", [1, 2, 3], True)
    assert WorldJob.from_args(["seeds=4", "out=o"]).seeds == [4]
    assert WorldJob.from_args(["out=o", "seed=5"]).what == "make"
    with pytest.raises(InputError, match="seeds"):
        WorldJob.from_args(["evaluate", "seeds=one", "out=o"])
    with pytest.raises(InputError, match="judge: no such config file"):
        WorldJob.from_args(["judge", "out=o"])


def test_lists_and_exponents_on_the_command_line():
    job = RunJob.from_args([*GIVEN[:1], "rows=[a.jsonl, b.jsonl]", "out=o", "sft.lr=3e-5"])
    assert job.rows == ["a.jsonl", "b.jsonl"]
    assert job.sft.lr == 3e-5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*GIVEN, "sft.epoch=3"], "sft.epoch: no such key; did you mean sft.epochs?"),
        (["sft.epoch=3"], "sft.epoch: no such key; did you mean sft.epochs?"),
        ([*GIVEN, "epochs=3"], "epochs: no such key; did you mean sft.epochs?"),
        ([*GIVEN, "sft.epochs=many"], "sft.epochs: .* got 'many'"),
        ([*GIVEN, "sft.epochs=-1"], "sft.epochs: .* greater than 0"),
        ([*GIVEN, "score.protocol=text"], "score.protocol: .* 'cloze' or 'letter'"),
        (["base=b"], "rows: required"),
        (["missing.yaml"], "missing.yaml: no such config file"),
        ([*GIVEN, "more"], "more: not understood"),
        ([*GIVEN, "out.x=1"], "out.x: out is a value, not a section"),
        ([*GIVEN, "rows=[a"], "rows: .* not a YAML value"),
    ],
)
def test_wrong_input_is_one_clear_line(args, message):
    with pytest.raises(InputError, match=message) as caught:
        RunJob.from_args(args)
    assert "\n" not in str(caught.value)


def test_a_broken_yaml_file_names_its_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("base: b\nrows: [a\nout: o\n")
    with pytest.raises(InputError, match=r"run.yaml, line \d: not YAML"):
        RunJob.from_args([str(path)])


def test_help_describes_every_key():
    for job in (RunJob, CPTJob, DetectJob, WorldJob, DiagnoseJob):
        for key, kind, default, text in describe(job):
            assert key and kind and default and text, key
