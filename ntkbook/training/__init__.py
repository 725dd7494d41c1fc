"""Training step by step: gradient descent of any model, and what is measured on the way."""

from ntkbook.training.descent import Trajectory, mean_square, train

__all__ = ["Trajectory", "mean_square", "train"]
