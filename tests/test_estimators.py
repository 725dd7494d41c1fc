"""Estimators: scikit-learn's own checks, the formula, and few compiled programs."""

import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from ntkbook import empirical_ntk, erf, kernel_regression, mlp, nngp, ntk, relu
from ntkbook.estimators import NTKClassifier, NTKRegressor
from ntkbook.layers import normalised_mlp

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def linear(x1, x2):
    return x1 @ x2.T


def rbf(x1, x2):
    return RBF(1.5)(np.asarray(x1), np.asarray(x2))


@pytest.fixture
def rng():
    return np.random.default_rng(2020)


@pytest.mark.parametrize("estimator", [NTKRegressor(), NTKClassifier()], ids=["regressor", "class"])
def test_every_check_of_scikit_learn_passes(estimator):
    results = check_estimator(estimator, on_skip=None)
    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert len(passed) > 45
    if isinstance(estimator, NTKRegressor):
        assert "check_regressor_multioutput" in passed
    # What asks for packages that are not installed here.
    assert all("array_api" in name or "not_an_array" in name for name in skipped), skipped


# The network


def test_kernel_is_the_recursion_of_the_paper_up_to_scale(rng):
    """Arccosines of normalised products, with the factor 2 that keeps a layer's second moment."""
    x = rng.standard_normal((5, 3))
    cases = [(depth, fixed, 0.0) for depth in range(3) for fixed in range(depth + 1)]
    cases.append((3, 1, 0.4))
    kernels = [ntk(normalised_mlp(*case)) for case in cases]
    values = jax.jit(lambda x: [kernel(x, x + 0) for kernel in kernels])(x)
    for (depth, fixed, bias), K in zip(cases, values, strict=True):
        S = x @ x.T / 3 + bias**2
        H = np.zeros_like(S)
        for layer in range(depth + 1):
            H += S if layer >= fixed else 0
            if layer < depth:
                norms = np.sqrt(np.outer(np.diag(S), np.diag(S)))
                t = np.arccos(np.clip(S / norms, -1, 1))
                S = norms * (np.sin(t) + (np.pi - t) * np.cos(t)) / np.pi + bias**2
                H *= 1 - t / np.pi
        np.testing.assert_allclose(K, H, rtol=1e-6, atol=1e-7)


def test_bias_of_a_linear_model_is_a_constant_feature(rng):
    """Where no other bias counts: depth 0, d = 2, and (x, sqrt(2) b) has the products of (x, b)."""
    x, b = rng.standard_normal((4, 2)), 0.7
    np.testing.assert_allclose(ntk(normalised_mlp(0, bias=b))(x), x @ x.T / 2 + b**2, rtol=1e-12)


@pytest.mark.parametrize("activation", [erf, "erf"])
def test_second_moment_is_kept(activation):
    k = nngp(normalised_mlp(2, activation=activation))
    np.testing.assert_allclose(k(np.array([[1.0, -1.0]])), [[1.0]], rtol=1e-9)


# The formula


def test_prediction_is_the_formula(rng):
    """More inputs than one block, and no round number of them, to train and to predict."""
    m, n, ridge = 45, 300, 0.03
    X, Z, y = rng.standard_normal((m, 4)), rng.standard_normal((n, 4)), rng.standard_normal((m, 2))
    k = ntk(normalised_mlp(2, 1, 0.3, erf))
    K, cross = np.split(np.asarray(k(np.concatenate([X, Z]), X)), [m])
    expected = cross @ np.linalg.solve(K + m * ridge * np.eye(m), y)
    settings = {"depth": 2, "fixed": 1, "bias": 0.3, "activation": "erf", "ridge": ridge}
    model = NTKRegressor(**settings)
    np.testing.assert_allclose(model.fit(X, y).predict(Z), expected, rtol=1e-9, atol=1e-10)
    alone = model.fit(X, y[:, 0]).predict(Z)
    np.testing.assert_allclose(alone, expected[:, 0], rtol=1e-9, atol=1e-10)
    net = NTKRegressor(net=normalised_mlp(2, 1, 0.3, erf), ridge=ridge)
    np.testing.assert_array_equal(net.fit(X, y[:, 0]).predict(Z), alone)


def test_regression_with_their_kernel_is_theirs(rng):
    X, y, Z = rng.standard_normal((30, 3)), rng.standard_normal(30), rng.standard_normal((9, 3))
    ours = NTKRegressor(rbf, ridge=0.1).fit(X, y)
    theirs = KernelRidge(alpha=30 * 0.1, kernel="rbf", gamma=1 / (2 * 1.5**2)).fit(X, y)
    np.testing.assert_allclose(ours.predict(Z), theirs.predict(Z), rtol=1e-9)


def test_without_a_ridge_it_is_the_limit_of_training(rng):
    """A singular matrix: the labels off its range are given up, not chased."""
    X, y = rng.standard_normal((20, 2)), rng.standard_normal(20)
    model = NTKRegressor(linear, ridge=0).fit(X, y)
    weights = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose(model.predict(X), X @ weights, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(model.predict(X), kernel_regression(linear, X, y)(X), atol=1e-10)


@pytest.mark.parametrize("names", [["b", "a", "c"], [7, 3]])
def test_classifier_regresses_on_centred_indicators(names, rng):
    X, Z = rng.standard_normal((30, 3)), rng.standard_normal((40, 3))
    number = np.argmax(X[:, : len(names)], axis=1)
    classes, y = np.sort(names), np.array(names)[number]
    model = NTKClassifier(rbf, ridge=0.01).fit(X, y)
    indicators = (y[:, None] == classes) - 1 / len(names)
    h = NTKRegressor(rbf, ridge=0.01).fit(X, indicators).predict(Z)
    decision = model.decision_function(Z)
    np.testing.assert_allclose(decision, h if len(names) > 2 else h[:, 1], atol=1e-12)
    np.testing.assert_array_equal(model.predict(Z), classes[np.argmax(h, axis=1)])
    assert len(set(model.predict(Z))) == len(names)
    assert model.score(X, y) > 0.9
    assert not hasattr(model, "predict_proba")


def test_empirical_kernels_are_kernels(rng):
    """One hidden layer of ReLU: the kernel by hand."""
    net = mlp(8, 1)
    params = net.init(jax.random.key(0), (3,))[0]
    W, a = (np.asarray(params[i]["W"]) for i in (0, 2))

    def by_hand(x1, x2):
        z1, z2 = x1 @ W / np.sqrt(3), x2 @ W / np.sqrt(3)
        on = (a[:, 0] * (z1 > 0)) @ (a[:, 0] * (z2 > 0)).T
        return (on * (x1 @ x2.T) / 3 + np.maximum(z1, 0) @ np.maximum(z2, 0).T) / 8

    X, y, Z = rng.standard_normal((10, 3)), rng.standard_normal(10), rng.standard_normal((4, 3))
    model, expected = (
        NTKRegressor(k, ridge=0.1).fit(X, y).predict(Z)
        for k in (empirical_ntk(net.apply, params), by_hand)
    )
    np.testing.assert_allclose(model, expected, rtol=1e-8)


def test_own_kernels_see_the_inputs_as_they_are(rng):
    shapes = []

    def recorded(x1, x2):
        shapes.append((x1.shape, x2.shape, x1 is x2))
        return linear(x1, x2)

    X = rng.standard_normal((10, 3))
    NTKRegressor(recorded).fit(X, X[:, 0]).predict(rng.standard_normal((260, 3)))
    assert shapes == [
        ((10, 3), (10, 3), True),
        ((256, 3), (10, 3), False),
        ((4, 3), (10, 3), False),
    ]


# In scikit-learn's company


def test_grid_search_over_a_pipeline_finds_the_network():
    """A product of signs is no linear function; the order of the classes is that of their names."""
    rng = np.random.default_rng(0)
    X = np.array([1.0, 100.0]) * rng.standard_normal((90, 2))
    y = np.where(X[:, 0] * X[:, 1] > 0, "same", "different")
    pipe = make_pipeline(StandardScaler(), NTKClassifier())
    grid = {"ntkclassifier__depth": [0, 1], "ntkclassifier__ridge": [1e-4, 1e-2]}
    search = GridSearchCV(pipe, grid, cv=3, error_score="raise").fit(X, y)
    assert search.best_params_["ntkclassifier__depth"] == 1
    assert search.best_score_ > 0.85
    assert list(search.classes_) == ["different", "same"]


def test_sets_of_similar_size_share_their_programs(rng, caplog):
    X, y = load_iris(return_X_y=True)
    order = rng.permutation(150)
    X, y = X[order], y[order]
    NTKClassifier(depth=2).fit(X[:60], y[:60]).predict(X[:1])

    def compiled():
        return sum(record.message.startswith("Compiling") for record in caplog.records)

    with jax.log_compiles(), caplog.at_level("WARNING"):
        for m in (61, 77, 100, 128):
            model = NTKClassifier(depth=2, ridge=m * 1e-5).fit(X[:m], y[:m])
            assert model.score(X, y) > 0.9
            model.predict(np.resize(X, (300, 4)))
        assert compiled() == 0
        NTKClassifier(depth=2).fit(np.resize(X, (129, 4)), np.resize(y, 129))
        assert compiled() > 0


def test_copies_and_pickles_predict_the_same(rng):
    X, y = rng.standard_normal((10, 2)), np.arange(10) % 3
    model = NTKClassifier("nngp", activation="erf").fit(X, y)
    decision = model.decision_function(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.decision_function(X), decision)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "dual_coef_")
    # Parameters set after the fit are those of the next.
    model.set_params(kernel="ntk")
    np.testing.assert_array_equal(model.decision_function(X), decision)
    assert not np.allclose(model.fit(X, y).decision_function(X), decision)


def test_copies_of_networks_are_equal(rng):
    model = NTKRegressor(net=mlp(4, 1, relu))
    assert clone(model).net == model.net


def test_precision_is_that_of_jax_and_of_the_data(rng):
    X, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    double = NTKRegressor(ridge=0.1).fit(X, y).predict(X)
    of_floats = NTKRegressor(ridge=0.1).fit(X.astype(np.float32), y).predict(X)
    with jax.enable_x64(False):
        model = NTKRegressor(ridge=0.1).fit(X, y)
        single = model.predict(X)
    for other in (of_floats, single):
        assert 1e-10 < np.max(np.abs(other - double)) < 1e-4
    # Sums are in double precision: they cost nothing, and do not depend on their order.
    assert single.dtype == model.dual_coef_.dtype == np.float64
    assert jax.config.jax_enable_x64


def test_without_scikit_learn_the_error_says_what_is_missing(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "ntkbook.estimators")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ntkbook\[learn\]'"):
        __import__("ntkbook.estimators")


# Refusals


X, Y = np.arange(6.0).reshape(3, 2), np.array([0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "rbf"}, "'ntk', 'nngp' or a function, got 'rbf'"),
        ({"kernel": linear, "net": mlp(3, 1)}, "not both"),
        ({"depth": -1}, "depth must be an integer, not negative; got -1"),
        ({"depth": 1.5}, "depth must be"),
        ({"fixed": 2}, "between 0 and depth = 1; got 2"),
        ({"fixed": True}, "fixed must be an integer"),
        ({"bias": -1.0}, "b_std must be"),
        ({"activation": "rely"}, "'relu'.*got 'rely'"),
        ({"activation": "hermite"}, "got 'hermite'"),
        ({"ridge": -0.5}, "ridge must be finite and not negative, got -0.5"),
        ({"ridge": np.nan}, "ridge"),
        ({"kernel": lambda a, b: jnp.zeros((3, 3, 2, 2))}, r"got shape \(3, 3, 2, 2\)"),
        ({"kernel": lambda a, b: jnp.ones((3, 1))}, "a row for each of 3"),
        ({"kernel": lambda a, b: -linear(a, b)}, "not positive semi-definite"),
        ({"kernel": lambda a, b: jnp.full((3, 3), jnp.nan)}, "NaN"),
    ],
)
def test_settings_without_a_kernel_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NTKRegressor(**settings).fit(X, Y)


def test_types_that_are_no_settings_are_refused():
    with pytest.raises(TypeError, match="ntk takes layers"):
        NTKRegressor(net=relu).fit(X, Y)
    with pytest.raises(TypeError, match="ridge must be one real number"):
        NTKRegressor(ridge="small").fit(X, Y)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="got one class: a"):
        NTKClassifier().fit(X, ["a"] * 3)
