"""Scalings: the size of a network's output, of its initial weights and of a step, by width."""

from ntkbook.scaling.initial import InitialScale
from ntkbook.scaling.networks import AbcMLP, abc_mlp
from ntkbook.scaling.outputs import Antisymmetric, Scaled, centred
from ntkbook.scaling.parametrisation import MEAN_FIELD, MUP, NTK, STANDARD, Parametrisation

__all__ = [
    "MEAN_FIELD",
    "MUP",
    "NTK",
    "STANDARD",
    "AbcMLP",
    "Antisymmetric",
    "InitialScale",
    "Parametrisation",
    "Scaled",
    "abc_mlp",
    "centred",
]
