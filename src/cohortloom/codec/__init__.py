"""Codec: cohorts to arrays and back."""

from cohortloom.codec.codec import Codec
from cohortloom.codec.columns import QuantileTransform
from cohortloom.codec.tensors import MISSING, RARE, Encoded, Feature, Layout, SequenceArrays, StaticArrays

__all__ = [
    "MISSING",
    "RARE",
    "Codec",
    "Encoded",
    "Feature",
    "Layout",
    "QuantileTransform",
    "SequenceArrays",
    "StaticArrays",
]
