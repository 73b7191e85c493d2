"""Tables -> one self-contained HTML file, and a JSON file with the same numbers."""

from ilpjax.report.write import run_report, write_report

__all__ = ["run_report", "write_report"]
