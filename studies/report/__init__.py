"""What a study's results say: the comparison, the error budgets, one page, and tables for other programs."""

from .experiments import ExperimentReport
from .files import write_files
from .loading import load_report
from .page import write_page
from .summary import Comparison, Report
from .texts import as_csv, as_json, as_latex, as_tables

__all__ = [
    "Comparison",
    "ExperimentReport",
    "Report",
    "as_csv",
    "as_json",
    "as_latex",
    "as_tables",
    "load_report",
    "write_files",
    "write_page",
]
