"""Kernel regression as scikit-learn estimators, for pipelines and grid searches.

Needs scikit-learn, which the extra ``learn`` installs.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntkbook.activations import ActivationFunction
from ntkbook.dynamics import kernel_regression
from ntkbook.dynamics.conditions import require_not_negative
from ntkbook.dynamics.expansion import evaluate
from ntkbook.dynamics.regression import inverse
from ntkbook.kernels import EmpiricalNTK, InfiniteKernel, nngp, ntk
from ntkbook.layers import Layer, normalised_mlp

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import Tags
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ntkbook.estimators needs scikit-learn: pip install 'ntkbook[learn]'"
    ) from error

KernelFunction = Callable[[Any, Any], Any]

# Predictions are made for so many inputs at a time: memory stays bounded, one program serves all
# prediction sets, and what is predicted for an input does not depend on its company.
_BLOCK = 256


class _KernelMachine(BaseEstimator):
    """x -> k(x, X) c, with the coefficients c of kernel regression."""

    def __init__(
        self,
        kernel: Literal["ntk", "nngp"] | KernelFunction = "ntk",
        *,
        net: Layer | None = None,
        depth: int = 1,
        fixed: int = 0,
        bias: float = 0.5,
        activation: ActivationFunction | str = "relu",
        ridge: float = 1e-3,
    ) -> None:
        self.kernel = kernel
        self.net = net
        self.depth = depth
        self.fixed = fixed
        self.bias = bias
        self.activation = activation
        self.ridge = ridge

    def _function(self) -> KernelFunction:
        """The kernel that the parameters describe."""
        if callable(self.kernel):
            if self.net is not None:
                raise ValueError("give a net, or a kernel that is a function, but not both")
            return self.kernel
        makers = {"ntk": ntk, "nngp": nngp}
        if self.kernel not in makers:
            raise ValueError(f"kernel must be 'ntk', 'nngp' or a function, got {self.kernel!r}")
        net = self.net
        if net is None:
            net = normalised_mlp(self.depth, self.fixed, self.bias, self.activation)
        return makers[self.kernel](net)

    def _solve(self, X: np.ndarray, y: np.ndarray) -> None:
        ridge = float(require_not_negative("ridge", self.ridge))
        m, rows = len(X), _size(len(X))
        # Inputs that nothing resembles, with the label 0, change no prediction; and sets of nearly
        # one size share the programs of the regression.
        K = np.zeros((rows, rows), X.dtype)
        K[:m, :m] = _values(self._function(), X)
        labels = np.zeros((rows, *y.shape[1:]), X.dtype)
        labels[:m] = y
        # The regression multiplies the ridge by the number of rows, of which m count.
        regression = kernel_regression(
            lambda x1, x2: jnp.asarray(K),
            np.zeros((rows, 1), X.dtype),
            labels,
            ridge=ridge * m / rows,
        )
        weights, coordinates, vectors = (
            np.asarray(a, np.float64)
            for a in (
                inverse(regression.modes, regression.shift),
                regression.expansion.coordinates,
                regression.modes.vectors,
            )
        )
        self.X_fit_ = X
        self.dual_coef_ = (vectors[:m] @ (weights[:, None] * coordinates)).reshape(y.shape)
        # The activations have no pickle, their names do: so the kernel is described, not kept.
        self.fitted_ = self.get_params(deep=False)

    def _evaluate(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=self.X_fit_.dtype)
        kernel = type(self)(**self.fitted_)._function()
        blocks = (X[start : start + _BLOCK] for start in range(0, len(X), _BLOCK))
        return np.concatenate([_values(kernel, x, self.X_fit_) @ self.dual_coef_ for x in blocks])


class NTKRegressor(RegressorMixin, _KernelMachine):
    """h(x) = k(x, X) (K + m ridge I)^{-1} y: regression with the kernel of a wide network.

    There is no intercept: a kernel without biases, and labels far from 0, call for scikit-learn's
    ``TransformedTargetRegressor``. Standardise the features: the kernel sees their inner products.

    Args:
        kernel: "ntk", "nngp", or any function (x1, x2) -> (n1, n2), such as `empirical_ntk` or a
            kernel of scikit-learn.
        net: a network for "ntk" and "nngp", in the place of the following four.
        depth: hidden layers of a network that `normalised_mlp` makes.
        fixed: how many of its layers are not trained.
        bias: scale of its biases.
        activation: its activation function, or the name.
        ridge: the weight of the squared norm against the mean squared error, as in
            `kernel_regression`. 0 is the network trained for ever.

    Attributes:
        X_fit_: X, the m training inputs.
        dual_coef_: (K + m ridge I)^{-1} y, (m,) or (m, outputs), in double precision.
        fitted_: the parameters at the time of the fit; later changes need another.
        n_features_in_: d; with feature_names_in_ if X had names.

    Raises:
        ValueError: (in ``fit``) for data that are no finite real numbers, parameters that
            describe no network, a negative ridge, and a kernel with other values than (n1, n2).

    Data in double precision need jax_enable_x64; without it the kernel has single precision. Sets
    of similar size share compiled programs, so that the folds of a grid search compile once.

    Example:
        >>> X, y = np.linspace(-1, 1, 20)[:, None], np.linspace(-1, 1, 20) ** 2
        >>> model = NTKRegressor(depth=2, ridge=1e-4).fit(X, y)
        >>> model.predict(np.array([[0.5]])).round(2).tolist()
        [0.25]

    Source: lecture, below (14.8); Arora et al. (2020); lab "Small data".
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> "NTKRegressor":
        """Solve for the coefficients.

        Args:
            X: inputs, (m, d).
            y: real labels, (m,) or (m, outputs).
        """
        X, y = validate_data(
            self, X, y, dtype=(np.float64, np.float32), multi_output=True, y_numeric=True
        )
        self._solve(X, y)
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "n *outputs"]:
        """h(x) at new inputs, (n,) or (n, outputs)."""
        return self._evaluate(X)


class NTKClassifier(ClassifierMixin, _KernelMachine):
    """argmax_c h_c(x), where h regresses on the labels 1[y = c] - 1 / C of C classes.

    There are no probabilities, because least squares has none.

    Args:
        kernel: as for `NTKRegressor`, and so are all others.
        net: a network in the place of the following four.
        depth: hidden layers.
        fixed: layers that are not trained.
        bias: scale of the biases.
        activation: activation function.
        ridge: weight of the squared norm.

    Attributes:
        classes_: the C labels, in order.
        X_fit_: X, the m training inputs.
        dual_coef_: coefficients, (m, C), or (m,) for two classes.
        fitted_: the parameters at the time of the fit.
        n_features_in_: d; with feature_names_in_ if X had names.

    Raises:
        ValueError: as `NTKRegressor`, and for labels that are no classes, or of one class alone.

    Example:
        >>> X = np.array([[-1.0], [-0.8], [0.9], [1.0]])
        >>> model = NTKClassifier().fit(X, ["left", "left", "right", "right"])
        >>> model.predict([[-0.5], [2.0]]).tolist()
        ['left', 'right']

    Source: Arora et al. (2020); lab "Small data".
    """

    def fit(self, X: Any, y: Any) -> "NTKClassifier":
        """Solve for the coefficients.

        Args:
            X: inputs, (m, d).
            y: labels of any kind, (m,).
        """
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        self.classes_, number = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        if count == 1:
            raise ValueError(f"a classifier needs two classes, got one class: {self.classes_[0]}")
        targets = np.eye(count)[number] - 1 / count
        # Of two classes the one is minus the other.
        self._solve(X, targets[:, 1] if count == 2 else targets)
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, "n *classes"]:
        """h(x): a column for each class, (n, C); of two classes that of the second alone, (n,)."""
        return self._evaluate(X)

    def predict(self, X: Any) -> np.ndarray:
        """The class with the largest h_c(x)."""
        scores = self.decision_function(X)
        largest = (scores > 0).astype(int) if scores.ndim == 1 else np.argmax(scores, axis=1)
        return self.classes_[largest]


def _size(n: int) -> int:
    """The next multiple of 128, and of a quarter of the power of two up to n: few sizes, near n."""
    step = max(128, 2 ** (n.bit_length() - 3))
    return -(-n // step) * step


def _values(kernel: KernelFunction, x1: np.ndarray, x2: np.ndarray | None = None) -> np.ndarray:
    """k(x1, x2), for x1 alone k(x1, x1)."""
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    # These compile a program for each shape. Other functions get the inputs as they are.
    if isinstance(kernel, InfiniteKernel | EmpiricalNTK):
        x1 = _filled(x1, _size(n1) if x2 is None else _BLOCK)
        x2 = None if x2 is None else _filled(x2, _size(n2))
    first = jnp.asarray(x1)
    # One object twice tells a kernel that the matrix is symmetric.
    values = np.asarray(evaluate(kernel, first, first if x2 is None else jnp.asarray(x2)))
    if values.ndim != 2:
        raise ValueError(
            f"an estimator needs a kernel with values (n1, n2), got shape {values.shape}: take "
            "the kernel of one output"
        )
    return values[:n1, :n2]


def _filled(x: np.ndarray, rows: int) -> np.ndarray:
    """x with its first input repeated at the end."""
    return np.concatenate([x, np.repeat(x[:1], rows - len(x), axis=0)])
