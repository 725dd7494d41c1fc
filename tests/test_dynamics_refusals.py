"""Bad input is refused at once, in words that name it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import (
    best_learning_rate,
    eigenmodes,
    empirical_ntk,
    ensemble,
    gp_posterior,
    gradient_descent,
    gradient_flow,
    kernel_regression,
    largest_stable_learning_rate,
)

X, NEW = np.arange(6.0).reshape(3, 2), np.ones((2, 2))
Y = np.array([1.0, 2.0, 4.0])
NAN = np.array([1.0, np.nan, 4.0])


@jax.jit
def k(x1, x2):
    return jnp.exp(-jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / 2)


def by_outputs(x1, x2):
    return k(x1, x2)[:, :, None, None] * jnp.eye(2)


def descent(**settings):
    return gradient_descent(k, X, Y, **{"learning_rate": 0.1, **settings})


def of_columns(x):
    return x[:, :1]


def row(x):
    return x[:, 0]


FLOW, WALK = gradient_flow(k, X, Y), descent()

VALUES = {
    "no labels": (lambda: gradient_flow(k, X, np.zeros(0)), r"y must have shape .*got \(0,\)"),
    "other number of labels": (lambda: gradient_flow(k, X, Y[:2]), "3 inputs but y has 2.*axis 0"),
    "labels of three axes": (lambda: gradient_flow(k, X, np.ones((3, 1, 1))), r"y must have shape"),
    "one label": (lambda: gradient_flow(k, X, 1.0), "y must have shape"),
    "labels NaN": (lambda: gradient_flow(k, X, NAN), "y contains NaN"),
    "labels infinite": (lambda: kernel_regression(k, X, Y / 0.0), "y contains NaN or infinity"),
    "inputs NaN": (lambda: gradient_flow(k, X * np.nan, Y), "x contains NaN"),
    "no inputs": (lambda: gradient_flow(k, np.zeros((0, 2)), np.zeros(0)), "x is empty"),
    "inputs of one axis": (lambda: gradient_flow(k, X[:, 0], Y), "x must be a batch"),
    "integer inputs": (lambda: gradient_flow(k, X.astype(int), Y), "x must be real floating"),
    "new inputs of another shape": (lambda: FLOW(np.ones((2, 3)), 1.0), "x_new must agree with x"),
    "new inputs NaN": (lambda: FLOW(NEW * np.nan, 1.0), "x_new contains NaN"),
    "new inputs of a posterior": (lambda: gp_posterior(k, X, Y)(np.ones((2, 3))), "x_new must"),
    "kernel NaN": (lambda: gradient_flow(lambda a, b: k(a, b) * jnp.nan, X, Y), "kernel.* NaN"),
    "kernel of features": (lambda: gradient_flow(lambda a, b: a, X, Y), r"a row for each of 3"),
    "kernel of one input": (lambda: gradient_flow(lambda a, b: k(a, b)[0], X, Y), r"got \(3,\)"),
    "kernel transposed": (
        lambda: gradient_flow(lambda a, b: k(b, a), X, Y)(NEW, 1.0),
        r"each of 2 and a column for each of 3 inputs, .* shape \(3, 2\)",
    ),
    "kernel integer": (
        lambda: gradient_flow(lambda a, b: jnp.ones((len(a), len(b)), int), X, Y),
        "must be real floating point",
    ),
    "kernel of unequal outputs": (
        lambda: gradient_flow(lambda a, b: jnp.ones((3, 3, 2, 1)), X, Y),
        r"outputs, outputs\); got \(3, 3, 2, 1\)",
    ),
    "kernel asymmetric": (
        lambda: gradient_flow(lambda a, b: k(a, b) * jnp.arange(1.0, 4.0), X, Y),
        "not symmetric: K and its transpose differ by",
    ),
    "kernel indefinite": (
        lambda: gradient_flow(lambda a, b: k(a, b) - 2 * jnp.eye(3), X, Y),
        "has the eigenvalue -1, .*not positive semi-definite",
    ),
    "kernel indefinite in an ensemble": (
        lambda: ensemble(k, lambda a, b: k(a, b) - 2 * jnp.eye(3), X, Y),
        "not positive semi-definite",
    ),
    "kernel of outputs, labels of none": (
        lambda: gradient_flow(by_outputs, X, Y),
        r"2 outputs, so y must have shape \(3, 2\); got \(3,\)",
    ),
    "kernel of outputs, other labels": (
        lambda: gradient_flow(by_outputs, X, np.ones((3, 3))),
        "2 outputs, so y",
    ),
    "kernel that loses its outputs": (
        lambda: gradient_flow(
            lambda a, b: by_outputs(a, b) if len(a) == 3 else by_outputs(a, b)[..., :1, :1],
            X,
            np.ones((3, 2)),
        )(NEW, 1.0),
        "does not go with one that has 2 outputs",
    ),
    "start of another shape than labels": (
        lambda: gradient_flow(k, X, Y[:, None], h0=row),
        r"expected shape \(3, 1\) and got \(3,\), which differ in axis 1 \(outputs\)",
    ),
    "labels of another shape than start": (
        lambda: gradient_flow(k, X, Y, h0=of_columns),
        r"expected shape \(3,\) and got \(3, 1\), which differ in axis 1 \(outputs\)",
    ),
    "start of another length": (
        lambda: gradient_flow(k, X, Y, h0=lambda x: x[1:, 0]),
        r"differ in axis 0 \(inputs\)",
    ),
    "start NaN": (lambda: gradient_flow(k, X, Y, h0=lambda x: x[:, 0] * jnp.nan), "h0 has values"),
    "start that changes its shape": (
        lambda: gradient_flow(k, X, Y, h0=lambda x: row(x) if len(x) == 3 else x)(NEW, 1.0),
        r"expected shape \(2,\) and got \(2, 2\)",
    ),
    "learning rate 0": (lambda: gradient_flow(k, X, Y, learning_rate=0), "must be positive.*got 0"),
    "learning rate negative": (
        lambda: descent(learning_rate=-1.0),
        "learning_rate must be positiv",
    ),
    "learning rate NaN": (lambda: descent(learning_rate=np.nan), "learning_rate must be positive"),
    "learning rate infinite": (
        lambda: ensemble(k, k, X, Y, learning_rate=np.inf),
        "positive and f",
    ),
    "momentum 1": (lambda: descent(momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
    "momentum negative": (lambda: descent(momentum=-0.1), r"momentum must be in \[0, 1\)"),
    "momentum of a rate": (
        lambda: largest_stable_learning_rate(k(X, X), momentum=1),
        "momentum must be in",
    ),
    "time negative": (lambda: FLOW(NEW, -1.0), "t must not be negative or NaN, got -1.0"),
    "time NaN": (
        lambda: FLOW.at_training(np.array([1.0, np.nan])),
        "t must not be negative or NaN",
    ),
    "steps negative": (lambda: WALK(NEW, -1), "steps must be whole numbers and not negative"),
    "half a step": (lambda: WALK(NEW, 1.5), "steps must be whole numbers"),
    "steps NaN": (lambda: WALK(NEW, np.nan), "steps must be whole numbers"),
    "too many steps": (lambda: WALK(NEW, 1e30), r"steps must be below 2\*\*63"),
    "unstable forever": (lambda: descent(learning_rate=9.0)(NEW, np.inf), "no limit"),
    "ridge negative": (
        lambda: kernel_regression(k, X, Y, ridge=-1e-9),
        "ridge must be finite and n",
    ),
    "ridge infinite": (lambda: kernel_regression(k, X, Y, ridge=np.inf), "ridge must be finite"),
    "noise negative": (
        lambda: gp_posterior(k, X, Y, noise=-1.0),
        "noise must be finite and not neg",
    ),
    "matrix not square": (lambda: eigenmodes(np.ones((2, 3))), r"square, got shape \(2, 3\)"),
    "matrix of one axis": (
        lambda: best_learning_rate(np.ones(3)),
        "the kernel matrix must have sha",
    ),
    "matrix empty": (lambda: eigenmodes(np.ones((0, 0))), "the kernel matrix must have shape"),
    "rtol negative": (lambda: eigenmodes(np.eye(2), rtol=-1.0), r"rtol must be in \[0, 1\)"),
    "rtol 1": (lambda: gradient_flow(k, X, Y, rtol=1.0), r"rtol must be in \[0, 1\)"),
}

TYPES = {
    "kernel an array": (lambda: gradient_flow(np.eye(3), X, Y), "needs a kernel, a function"),
    "kernel of ensemble": (lambda: ensemble(k, np.eye(3), X, Y), "needs a kernel, a function"),
    "start an array": (
        lambda: gradient_flow(k, X, Y, h0=np.zeros(3)),
        "h0 must be a function of x",
    ),
    "complex labels": (lambda: gradient_flow(k, X, Y * 1j), "y must be real"),
    "labels of truth": (lambda: gradient_flow(k, X, Y > 1), "y must be real"),
    "several rates": (lambda: gradient_flow(k, X, Y, learning_rate=Y), "must be one real number"),
    "rate a word": (lambda: descent(learning_rate="fast"), "learning_rate must be one real number"),
    "no rate": (lambda: descent(learning_rate=None), "learning_rate must be one real number"),
    "time a word": (lambda: FLOW(NEW, "inf"), "t must be a real number"),
    "no time": (lambda: FLOW(NEW, None), "t must be a real number"),
    "steps a truth": (lambda: WALK(NEW, True), "steps must be a whole number"),
    "steps traced as floats": (
        lambda: jax.jit(lambda n: WALK(NEW, n))(1.0),
        "traced steps must have an integer type",
    ),
    "ridge complex": (lambda: kernel_regression(k, X, Y, ridge=1j), "ridge must be one real"),
}


@pytest.mark.parametrize(("call", "words"), VALUES.values(), ids=VALUES)
def test_bad_values_are_refused_by_name(call, words):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(("call", "words"), TYPES.values(), ids=TYPES)
def test_bad_types_are_refused_by_name(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_shapes_are_refused_under_jit_too():
    with pytest.raises(ValueError, match="axis 1"):
        jax.jit(lambda x, y: gradient_flow(k, x, y, h0=row)(NEW, 1.0))(X, Y[:, None])
    with pytest.raises(ValueError, match="x_new must agree"):
        jax.jit(FLOW)(np.ones((2, 3)), 1.0)


def test_labels_of_one_output_do_not_broadcast():
    # (m, 1) is one output, and its predictions are (n, 1).
    assert FLOW(NEW, 1.0).shape == (2,)
    assert gradient_flow(k, X, Y[:, None], h0=of_columns)(NEW, 1.0).shape == (2, 1)
    kernel = empirical_ntk(lambda w, x: x @ w, np.ones((2, 1)))
    assert gradient_flow(kernel, X, Y[:, None])(NEW, 1.0).shape == (2, 1)
    with pytest.raises(ValueError, match=r"y must have shape \(3, 1\); got \(3,\)"):
        gradient_flow(kernel, X, Y)
