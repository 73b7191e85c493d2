"""`ilpjax <job> [CONFIG.yaml] [key=value ...]`, the same as `python tools/<job>.py ...`.

Exit status: 0 done; 2 the user's input is wrong, told in one line; 1 anything else.
"""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ilpjax import config
from ilpjax.errors import BenchError, InputError, TrainingError
from ilpjax.settings import Config, describe


class Job(NamedTuple):
    config: type[Config]
    function: str  # "module:function", imported only when the job runs, so that --help answers at once


JOBS = {
    "convert": Job(config.ConvertJob, "ilpjax.pipeline:run_convert"),
    "prepare": Job(config.PrepareJob, "ilpjax.pipeline:run_prepare"),
    "cpt": Job(config.CPTJob, "ilpjax.pipeline:run_cpt"),
    "sft": Job(config.SFTJob, "ilpjax.pipeline:run_sft"),
    "score": Job(config.ScoreJob, "ilpjax.scoring:run_score"),
    "sample": Job(config.SampleJob, "ilpjax.pipeline:run_sample"),
    "detect": Job(config.DetectJob, "ilpjax.detect:run_detect"),
    "conflicts": Job(config.ConflictsJob, "ilpjax.pipeline:run_conflicts"),
    "report": Job(config.ReportJob, "ilpjax.report:run_report"),
    "diagnose": Job(config.DiagnoseJob, "ilpjax.pipeline:run_diagnose"),
    "prevalence": Job(config.PrevalenceJob, "ilpjax.robust:run_prevalence"),
    "robustness": Job(config.RobustnessJob, "ilpjax.pipeline:run_robustness"),
    "run": Job(config.RunJob, "ilpjax.pipeline:run_and_tell"),
    "plan": Job(config.PlanJob, "ilpjax.plan:run_plan"),
    "world": Job(config.WorldJob, "ilpjax.evaluate:run_world"),
    "demo": Job(config.DemoJob, "ilpjax.evaluate:run_demo"),
    "bench": Job(config.BenchJob, "ilpjax.bench:run_bench"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `ilpjax`; leaves through SystemExit."""
    try:
        try:
            _main(sys.argv[1:] if args is None else args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `ilpjax run --help | head`: nobody reads on, and nothing is to be said of that
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _main(args: Sequence[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0 if args else 2)
    if args[0] not in JOBS:
        _fail(2, f"{args[0]}: no such job; jobs are {', '.join(JOBS)}")
    job = JOBS[args[0]]
    if any(arg in ("-h", "--help") for arg in args[1:]):
        print(_help(args[0], job.config))
        raise SystemExit(0)
    raise SystemExit(_run(job, args[1:]))


def _run(job: Job, args: Sequence[str]) -> int:
    try:
        settings = job.config.from_args(args)
        from ilpjax import parallel  # after the arguments are known to be right: this starts JAX

        parallel.start()
        module, _, function = job.function.partition(":")
        getattr(importlib.import_module(module), function)(settings)
    except InputError as error:
        _fail(2, str(error))
    except (TrainingError, BenchError) as error:
        _fail(1, str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        _fail(1, f"{error.filename or 'writing'}: {error.strerror}; nothing half-written was left")
    except KeyboardInterrupt:
        _fail(1, "interrupted; the same command continues from the last checkpoint")
    return 0


def _fail(status: int, message: str) -> None:
    print(f"ilpjax: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


def _overview() -> str:
    lines = [
        "usage: ilpjax JOB [CONFIG.yaml] [key=value ...]",
        "       ilpjax JOB --help    every key of a job",
        "",
    ]
    lines += [f"  {name:10s} {(job.config.__doc__ or '').splitlines()[0]}" for name, job in JOBS.items()]
    return "\n".join(lines)


def _help(name: str, cls: type[Config]) -> str:
    keys = describe(cls)
    width = max(len(key) for key, *_ in keys)
    lines = [f"usage: ilpjax {name} [CONFIG.yaml] [key=value ...]", "", (cls.__doc__ or "").strip(), ""]
    lines += [f"  {key:{width}s}  {text} ({kind}; {default})" for key, kind, default, text in keys]
    return "\n".join(lines)
