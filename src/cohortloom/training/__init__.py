"""One training loop for every network of the library."""

from cohortloom.training.history import History
from cohortloom.training.loop import train
from cohortloom.training.phase import Objective, Phase
from cohortloom.training.settings import Training
from cohortloom.training.streams import drawing_from, few_threads
from cohortloom.training.subjects import hold_out

__all__ = ["History", "Objective", "Phase", "Training", "drawing_from", "few_threads", "hold_out", "train"]
