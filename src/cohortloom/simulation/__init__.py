"""A cohort without data: from the priors of a schema to patients, visits, records."""

from cohortloom.simulation.simulate import Truth, simulate, simulate_with_truth

__all__ = ["Truth", "simulate", "simulate_with_truth"]
