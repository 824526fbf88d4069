"""Reports: scores with floor and anchors, figures, verdict."""

from cohortloom.report.report import CheckFailed, Figure, Report
from cohortloom.report.score import Goal, Score

__all__ = ["CheckFailed", "Figure", "Goal", "Report", "Score"]
