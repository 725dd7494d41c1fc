"""Kernels: functions (x1, x2) -> matrix of k(x, x'), finite and infinite, one type."""

from ntkbook.kernels.empirical import EmpiricalNTK, empirical_ntk
from ntkbook.kernels.infinite import InfiniteKernel, nngp, ntk
from ntkbook.kernels.protocol import Kernel

__all__ = ["EmpiricalNTK", "InfiniteKernel", "Kernel", "empirical_ntk", "nngp", "ntk"]
