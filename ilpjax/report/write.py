"""The stage: a run directory's tables -> report.html and report.json."""

from ilpjax.config import ReportJob
from ilpjax.report.frame import judged_rows
from ilpjax.report.numbers import summarise
from ilpjax.report.page import render
from ilpjax.report.tables import load_tables
from ilpjax.rundir import RunDir, write_json, write_text


def write_report(run: RunDir, title: str) -> None:
    """Writes report.html (one file, no network) and report.json (see `numbers.summarise`) into the run directory.

    Raises InputError naming the table that is missing, corrupt or made from other rows, and the job to run.
    """
    tables = load_tables(run)
    judged = judged_rows(tables)
    numbers = summarise(title, tables, judged)
    html = render(numbers, tables, judged)
    write_json(run / "report.json", numbers)
    write_text(run / "report.html", html)


def run_report(job: ReportJob) -> None:
    write_report(RunDir(job.run), job.title)
