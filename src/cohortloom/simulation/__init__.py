"""A cohort without data: from the priors of a schema to patients, visits, records."""

from cohortloom.simulation.simulate import Truth, problems_of_priors, simulate, simulate_with_truth

__all__ = ["Truth", "problems_of_priors", "simulate", "simulate_with_truth"]
