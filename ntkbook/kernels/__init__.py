"""Kernels: functions (x1, x2) -> matrix of k(x, x'), finite and infinite, one type."""

from ntkbook.kernels.devices import ShardedKernel, on_devices
from ntkbook.kernels.empirical import EmpiricalNTK, empirical_ntk
from ntkbook.kernels.infinite import InfiniteKernel, nngp, ntk
from ntkbook.kernels.protocol import Kernel
from ntkbook.kernels.pseudo import ReadoutLaw, pseudo_ntk, readout_law, relative_error
from ntkbook.kernels.streaming import stream

__all__ = [
    "EmpiricalNTK",
    "InfiniteKernel",
    "Kernel",
    "ReadoutLaw",
    "ShardedKernel",
    "empirical_ntk",
    "nngp",
    "ntk",
    "on_devices",
    "pseudo_ntk",
    "readout_law",
    "relative_error",
    "stream",
]
