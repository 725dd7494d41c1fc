"""Pseudo-NTKs: against the full kernel, laws, the law of the readout, and bad inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import Dense, Sequential, empirical_ntk, mlp, ntk, pseudo_ntk, tanh
from ntkbook.kernels import empirical, pseudo, readout_law, relative_error, strategies
from ntkbook.kernels.gradients import Explicit
from ntkbook.kernels.layerwise import network_of

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(2023)
RNG = np.random.default_rng(2023)
X, Y = RNG.normal(size=(5, 4)), RNG.normal(size=(3, 4))
NET = mlp(width=6, depth=2, activation=tanh, b_std=0.3, outputs=3)
PARAMS, _ = NET.init(KEY, (4,))
KINDS = ("sum", "first", "trace")


def function(params, x):
    """A model of no network: outputs that are neither alike nor independent."""
    return jnp.sin(x @ params["W"]) * params["c"] + params["c"][0]


FUNCTION_PARAMS = {"W": RNG.normal(size=(4, 3)), "c": RNG.normal(size=3)}
MODELS = {
    "network": (NET.apply, PARAMS, X, Y),
    "function": (function, FUNCTION_PARAMS, X, Y),
}
CONTRACTION = {
    "sum": lambda full: np.einsum("ijab->ij", full) / full.shape[2],
    "first": lambda full: full[..., 0, 0],
    "trace": lambda full: np.einsum("ijaa->ij", full) / full.shape[2],
}


@functools.cache
def by_two_routes(name):
    """The full kernel, by the library and by reverse mode, whatever the library does."""
    f, params, x, y = MODELS[name]

    @jax.jit
    def jacobian(x):
        leaves = jax.tree.leaves(jax.jacrev(f)(params, x))
        return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], 2)

    both = jacobian(np.concatenate([x, y]))
    explicit = np.einsum("iap,jbp->ijab", both[: len(x)], both[len(x) :])
    return np.asarray(empirical_ntk(f, params)(x, y)), explicit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_contraction_of_the_full_kernel_by_two_routes(name, kind):
    f, params, x, y = MODELS[name]
    k = pseudo_ntk(f, params, kind=kind)(x, y)
    for full in by_two_routes(name):
        np.testing.assert_allclose(k, CONTRACTION[kind](full), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", [False, True])
def test_one_output_has_one_kernel(kind, column):
    w = RNG.normal(size=4)
    k = pseudo_ntk(lambda w, x: jnp.tanh(x @ w), w[:, None] if column else w, kind=kind)
    slopes = (1 - np.tanh(X @ w) ** 2)[:, None] * X
    v = RNG.normal(size=5)
    np.testing.assert_allclose(k.times(v, X), slopes @ (slopes.T @ v), rtol=1e-12)
    if column:
        np.testing.assert_allclose(k(X), slopes @ slopes.T, rtol=1e-12, atol=1e-15)


def test_only_the_first_logit_knows_the_order_of_the_outputs():
    order = np.array([2, 0, 1])
    full = by_two_routes("network")[0]
    *below, readout = PARAMS
    reordered = (*below, {"W": readout["W"][:, order], "b": readout["b"][order]})
    K = {kind: pseudo_ntk(NET.apply, reordered, kind=kind)(X, Y) for kind in KINDS}
    for kind in ("sum", "trace"):
        np.testing.assert_allclose(K[kind], CONTRACTION[kind](full), rtol=1e-10)
    np.testing.assert_allclose(K["first"], full[..., 2, 2], rtol=1e-10)


def test_the_trace_is_symmetric_and_positive_semidefinite():
    K = np.asarray(pseudo_ntk(function, FUNCTION_PARAMS, kind="trace")(X))
    np.testing.assert_allclose(K, K.T, rtol=1e-12)
    assert np.linalg.eigvalsh(K).min() > -1e-12 * np.trace(K)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reading_is_a_layer_whose_limit_is_that_of_one_output(kind):
    net = mlp(width=6, depth=1, outputs=3)
    out_shape = (3,) if kind == "trace" else ()
    reading = network_of(pseudo._with_readings(net.apply, kind))

    def initialised(key):
        params, shape = reading.init(key, (4,))
        assert shape == out_shape
        return reading.apply(params, jnp.asarray(X))

    assert jax.eval_shape(initialised, KEY).shape == (5, *out_shape)
    if kind == "sum":
        np.testing.assert_allclose(ntk(reading)(X), ntk(net)(X), rtol=1e-12)


def test_layers_are_taken_and_programs_shared():
    pseudo_ntk(NET.apply, PARAMS, strategy="layers")(X)
    before = empirical._gram._cache_size()
    for scale in (2.0, 3.0):
        params = jax.tree.map(lambda w, scale=scale: scale * w, PARAMS)
        pseudo_ntk(NET.apply, params, strategy="layers")(X)
    assert empirical._gram._cache_size() == before
    with pytest.raises(TypeError, match=r"expected net\.apply of a network of our own layers"):
        pseudo_ntk(function, FUNCTION_PARAMS, strategy="layers")(X)


@pytest.mark.parametrize(("kind", "gradients"), [("sum", 1), ("first", 1), ("trace", 3)])
def test_the_sum_takes_one_gradient_an_input(kind, gradients, monkeypatch):
    """Not O of them, of which the sum is taken."""
    sizes = []

    def counted(rows):
        sizes.append(rows.shape)
        return Explicit(rows)

    monkeypatch.setattr(strategies, "Explicit", counted)
    pseudo_ntk(function, FUNCTION_PARAMS, kind=kind, strategy="jacobian")(X[:2])
    assert {k for _, k, _ in sizes} == {gradients}


def test_tiles_change_nothing():
    tiled = pseudo_ntk(NET.apply, PARAMS, kind="sum", memory=2000)(X, Y)
    np.testing.assert_allclose(tiled, CONTRACTION["sum"](by_two_routes("network")[0]), rtol=1e-10)


# Relative errors


def test_relative_error_is_that_of_the_kronecker_product():
    full = by_two_routes("function")[0]
    K = RNG.normal(size=(5, 3))
    flat = full.transpose(0, 2, 1, 3).reshape(15, 9)
    expected = np.linalg.norm(np.kron(K, np.eye(3)) - flat) / np.linalg.norm(flat)
    np.testing.assert_allclose(relative_error(K, full), expected, rtol=1e-12)
    np.testing.assert_allclose(relative_error(0 * K, full), 1)


# The law of the readout

OUTPUTS = 3
HIDDEN = Sequential(*mlp(width=5, depth=2, activation=tanh).layers[:-2])
HIDDEN_PARAMS, _ = HIDDEN.init(KEY, (4,))
LAW = readout_law(HIDDEN.apply, HIDDEN_PARAMS, X, w_std=1.3, b_std=0.4)


def fresh_kernels(draws):
    """Kernels of the whole network for so many readouts over the same hidden layers."""
    net = Sequential(HIDDEN, Dense(OUTPUTS, 1.3, 0.4))

    def kernel(key):
        readout, _ = Dense(OUTPUTS, 1.3, 0.4).init(key, (5,))
        return empirical_ntk(net.apply, (HIDDEN_PARAMS, readout))(X)

    keys = jax.random.split(jax.random.key(7), draws)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(kernel, keys, batch_size=500))(keys))


@pytest.fixture(scope="module")
def kernels():
    return fresh_kernels(2000)


def assert_mean(samples, expected, deviations=5.0):
    """A two-sided z-test of each entry, the samples first."""
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    z = (samples.mean(0) - expected) / np.maximum(error, 1e-12)
    assert np.abs(z).max() < deviations


def test_means_and_variances_of_the_readout(kernels):
    mean, within, between = (np.asarray(part) for part in LAW)
    eye = np.eye(OUTPUTS, dtype=bool)
    assert_mean(kernels, np.where(eye, mean[:, :, None, None], 0))
    deviations = kernels - np.where(eye, mean[:, :, None, None], 0)
    variance = np.where(eye, within[:, :, None, None] ** 2, between[:, :, None, None] ** 2)
    assert_mean(deviations**2, variance)


def test_errors_and_floor_of_the_readout(kernels):
    eye = np.eye(OUTPUTS)
    size = np.sum(kernels**2, (1, 2, 3, 4))
    off = np.sum((kernels * (1 - eye)) ** 2, (1, 2, 3, 4))
    assert_mean(off - LAW.floor(OUTPUTS) ** 2 * size, 0)
    for kind in KINDS:
        K = np.stack([CONTRACTION[kind](full) for full in kernels])
        gap = np.sum((kernels - K[..., None, None] * eye) ** 2, (1, 2, 3, 4))
        assert_mean(gap - LAW.error(OUTPUTS, kind) ** 2 * size, 0)


def test_one_output_has_no_error():
    assert LAW.floor(1) == 0
    assert all(LAW.error(1, kind) == 0 for kind in KINDS)


def test_law_of_one_hidden_layer_in_closed_form():
    """A = x.x' / d diag(s_j s'_j) for one hidden layer."""
    hidden = Sequential(*mlp(width=7, depth=1, activation=tanh).layers[:-2])
    params, _ = hidden.init(KEY, (4,))
    z = X @ np.asarray(params[0]["W"]) / 2
    s = 1 - np.tanh(z) ** 2
    A = (X @ X.T / 4)[:, :, None] * s[:, None] * s[None]
    law = readout_law(hidden.apply, params, X, memory=500)
    np.testing.assert_allclose(law.mean, (np.tanh(z) @ np.tanh(z).T + A.sum(2)) / 7, rtol=1e-10)
    norms = np.linalg.norm(A, axis=2) / 7
    np.testing.assert_allclose(law.between, norms, rtol=1e-10)
    np.testing.assert_allclose(law.within, np.sqrt(2) * norms, rtol=1e-10)


def test_law_where_the_hidden_kernel_is_not_symmetric():
    """Any model can be the hidden layers; A of two inputs need not be symmetric."""
    A = np.asarray(empirical_ntk(function, FUNCTION_PARAMS)(X))
    law = readout_law(function, FUNCTION_PARAMS, X)
    squares = np.sum(A**2, (2, 3))
    np.testing.assert_allclose(3 * law.between, np.sqrt(squares), rtol=1e-10)
    expected = np.sqrt(squares + np.einsum("ijab,ijba->ij", A, A))
    assert not np.allclose(expected, np.sqrt(2 * squares), rtol=1e-2)
    np.testing.assert_allclose(3 * law.within, expected, rtol=1e-10)


# Bad inputs

FULL = np.ones((2, 3, 2, 2))
BAD = {
    "kind": (
        lambda: pseudo_ntk(function, FUNCTION_PARAMS, kind="mean"),
        ValueError,
        "kind must be one of sum, first, trace; got 'mean'",
    ),
    "network": (lambda: pseudo_ntk(NET, PARAMS), TypeError, "such as net.apply"),
    "memory": (
        lambda: pseudo_ntk(function, FUNCTION_PARAMS, memory=0),
        ValueError,
        "memory must be a positive number of bytes, got 0",
    ),
    "nan": (
        lambda: pseudo_ntk(function, FUNCTION_PARAMS)(np.full((2, 4), np.nan)),
        ValueError,
        "x1 contains NaN",
    ),
    "nan in params": (
        lambda: pseudo_ntk(function, FUNCTION_PARAMS | {"c": np.full(3, np.nan)}),
        ValueError,
        r"params\['c'\] contains NaN",
    ),
    "matrix values": (
        lambda: pseudo_ntk(lambda w, x: x[:, :, None] * w, jnp.ones(2))(X),
        ValueError,
        r"values \(n,\) or \(n, outputs\), but .* have shape \(4, 2\)",
    ),
    "no batch axis": (
        lambda: pseudo_ntk(lambda w, x: jnp.sum(x @ w), jnp.ones(4))(X),
        ValueError,
        "keep the batch axis",
    ),
    "surrogate of outputs": (lambda: relative_error(FULL, FULL), ValueError, r"\(2, 3, 2, 2\) and"),
    "kernel of no outputs": (
        lambda: relative_error(FULL[..., 0, 0], FULL[..., 0, 0]),
        ValueError,
        r"of a kernel \(n1, n2, outputs, outputs\), got shapes \(2, 3\) and \(2, 3\)",
    ),
    "outputs differ": (
        lambda: relative_error(FULL[..., 0, 0], FULL[..., :1]),
        ValueError,
        "got shapes",
    ),
    "other inputs": (
        lambda: relative_error(FULL[:1, :, 0, 0], FULL),
        ValueError,
        r"got shapes \(1, 3\) and \(2, 3, 2, 2\)",
    ),
    "kernel of zeros": (
        lambda: relative_error(FULL[..., 0, 0], 0 * FULL),
        ValueError,
        "the kernel is 0",
    ),
    "scalar hidden": (
        lambda: readout_law(lambda w, x: x @ w, jnp.ones(4), X),
        ValueError,
        r"hidden must have values \(n, N\); for one input got \(1,\)",
    ),
    "hidden without batch": (
        lambda: readout_law(lambda w, x: x.T * w, jnp.ones(()), X),
        ValueError,
        "keep the batch axis",
    ),
    "hidden network": (lambda: readout_law(HIDDEN, HIDDEN_PARAMS, X), TypeError, "net.apply"),
    "no inputs": (
        lambda: readout_law(HIDDEN.apply, HIDDEN_PARAMS, X[:0]),
        ValueError,
        "x is empty",
    ),
    "w_std": (
        lambda: readout_law(HIDDEN.apply, HIDDEN_PARAMS, X, w_std=-1.0),
        ValueError,
        "w_std must be a number, finite and not negative",
    ),
    "b_std": (
        lambda: readout_law(HIDDEN.apply, HIDDEN_PARAMS, X, b_std=np.nan),
        ValueError,
        "b_std must be a number, finite and not negative",
    ),
    "outputs": (lambda: LAW.floor(0), ValueError, "outputs must be a positive integer, got 0"),
    "kind of error": (lambda: LAW.error(3, "mean"), ValueError, "kind must be one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls_are_refused_with_what_was_expected_and_what_came(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()
