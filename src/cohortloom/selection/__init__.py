"""Choosing a generator for a cohort by what comes out of it."""

from cohortloom.selection.comparison import CANDIDATES, Candidate, Choice, choose

__all__ = ["CANDIDATES", "Candidate", "Choice", "choose"]
