"""Cohorts: tables and signals of a set of subjects."""

from cohortloom.cohort.cohort import Cohort
from cohortloom.cohort.origin import Origin
from cohortloom.cohort.signals import SignalSet
from cohortloom.cohort.split import Splits

__all__ = ["Cohort", "Origin", "SignalSet", "Splits"]
