"""Training with a constant kernel, solved: predictions at every time from one eigendecomposition.

The loss is L_S(h) = (1/m) sum_i |h(x_i) - y_i|^2 everywhere: a mean over the m training inputs and
a sum over outputs. Its gradient has the factor 2/m, so that gradient flow learns the mode of an
eigenvalue lambda of the kernel matrix at the rate 2 eta lambda / m.

The kernel is any function (x1, x2) -> (n1, n2), infinite, empirical or classical.
"""

from ntkbook.dynamics.descent import gradient_descent
from ntkbook.dynamics.flow import gradient_flow
from ntkbook.dynamics.gaussian import Ensemble, Gaussian, Posterior, ensemble, gp_posterior
from ntkbook.dynamics.learning_rates import best_learning_rate, largest_stable_learning_rate
from ntkbook.dynamics.modes import Modes, eigenmodes
from ntkbook.dynamics.regression import Regression, kernel_regression
from ntkbook.dynamics.solution import Solution

__all__ = [
    "Ensemble",
    "Gaussian",
    "Modes",
    "Posterior",
    "Regression",
    "Solution",
    "best_learning_rate",
    "eigenmodes",
    "ensemble",
    "gp_posterior",
    "gradient_descent",
    "gradient_flow",
    "kernel_regression",
    "largest_stable_learning_rate",
]
