"""The statements of the lab "Small data"."""

import jax
import numpy as np
import pytest
from sklearn.svm import SVC

from ntkbook import empirical_ntk, nngp, ntk, relu
from ntkbook.layers import Activation, Dense, Frozen, Scalar, Sequential, normalised_mlp

CASES = [(depth, fixed) for depth in (0, 1, 2) for fixed in range(depth + 1)]


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2020, *request.node.name.encode()])


def tangent_kernel(x1, x2, depth=1):
    """The recursion of the page in NumPy, all layers trained."""
    S, n1, n2 = (np.asarray(v) for v in (x1 @ x2.T, *(np.sum(x**2, axis=1) for x in (x1, x2))))
    norms = np.sqrt(np.outer(n1, n2))
    H = S
    for _ in range(depth):
        t = np.arccos(np.clip(S / norms, -1, 1))
        S = norms * (np.sin(t) + (np.pi - t) * np.cos(t)) / np.pi
        H = S + H * (1 - t / np.pi)
    return H


def with_constant(x, b=1.0):
    return np.column_stack([x, np.full(len(x), b)])


def plane(rng, n):
    """Points of the plane, the radius independent of the direction."""
    u = rng.standard_normal((n, 2))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    return rng.uniform(0.1, 3, n), u


def classifiers(x, y, kernel):
    """Decision functions: regression, regression with small ridge, machines, as x -> values."""
    K = kernel(x, x)
    found = []
    for ridge in (1e-4, 1e-2):
        alpha = np.linalg.solve(K + len(x) * ridge * np.eye(len(x)), y)
        found.append((lambda z, alpha=alpha: kernel(z, x) @ alpha, 0.0))
    for cost in (1.0, 100.0):
        machine = SVC(kernel="precomputed", C=cost, tol=1e-6).fit(K, y)
        decide = machine.decision_function
        found.append((lambda z, decide=decide: decide(kernel(z, x)), machine.intercept_[0]))
    return found


# Rays


@pytest.mark.claim("prop-small-rays")
@pytest.mark.usefixtures("compiled_quickly")
def test_infinite_kernels_are_homogeneous_in_each_input(rng):
    x, z = rng.standard_normal((4, 3)), rng.standard_normal((3, 3))
    c, d = rng.uniform(0.1, 5, (4, 1)), rng.uniform(0.1, 5, (3, 1))
    nets = [(bias, normalised_mlp(*case, bias)) for bias in (0.0, 0.5) for case in CASES]
    kernels = [(bias, maker(net)) for bias, net in nets for maker in (ntk, nngp)]
    at = jax.jit(lambda x, z: [kernel(x, z) for _, kernel in kernels])
    for (bias, _), K, K_scaled in zip(kernels, at(x, z), at(c * x, d * z), strict=True):
        assert np.allclose(K_scaled, c * d.T * K, rtol=1e-9) == (bias == 0)


@pytest.mark.claim("prop-small-rays")
@pytest.mark.usefixtures("compiled_quickly")
def test_finite_networks_and_their_kernels_are_homogeneous(rng):
    """With a fixed layer in the middle, and weights that no initialisation would draw."""
    net = Sequential(
        Dense(4), Activation(relu), Frozen(Dense(5)), Activation(relu), Dense(1), Scalar()
    )
    params = net.init(jax.random.key(0), (3,))[0]
    params = jax.tree.map(lambda w: w + 0.7, params)
    x, c = rng.standard_normal((4, 3)), rng.uniform(0.1, 5, (4, 1))
    both = np.concatenate([x, c * x])
    h, K = net.apply(params, both), np.asarray(empirical_ntk(net.apply, params)(both))
    np.testing.assert_allclose(h[4:], c[:, 0] * h[:4], rtol=1e-12)
    np.testing.assert_allclose(K[4:, :4], c * K[:4, :4], rtol=1e-12)
    np.testing.assert_allclose(K[4:, 4:], c * c.T * K[:4, :4], rtol=1e-12)


@pytest.mark.claim("prop-small-rays")
@pytest.mark.parametrize("depth", [1, 3])
def test_signs_change_at_most_once_on_a_ray(depth, rng):
    """And more often with a constant feature, so that the test can see more than one."""
    r, u = plane(rng, 60)
    x, y = r[:, None] * u, np.where((r > 1) & (r < 2), 1.0, -1.0)
    radii = np.geomspace(1e-6, 30, 200)
    rays = (radii[:, None, None] * plane(rng, 50)[1]).reshape(-1, 2)
    changes = {}
    for b in (0.0, 1.0):

        def kernel(z, w, b=b):
            return tangent_kernel(with_constant(z, b), with_constant(w, b), depth)

        for h, intercept in classifiers(x, y, kernel):
            signs = np.sign(h(rays).reshape(200, 50))
            most = np.max(np.sum(signs[1:] != signs[:-1], axis=0))
            changes.setdefault(b, []).append(most)
            if b == 0 and intercept != 0:
                assert np.all(signs[0] == np.sign(intercept))
    assert changes[0.0][:2] == [0, 0]
    assert max(changes[0.0][2:]) == 1
    assert max(changes[1.0]) >= 2


@pytest.mark.claim("prop-small-rays")
def test_largest_of_several_functions_is_constant_on_rays(rng):
    _, u = plane(rng, 40)
    alpha, x = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    near, far = (np.argmax(tangent_kernel(c * u, x) @ alpha, axis=1) for c in (0.01, 70.0))
    np.testing.assert_array_equal(near, far)
    assert len(set(near)) > 1


@pytest.mark.claim("prop-small-rays")
@pytest.mark.parametrize(
    ("label", "without", "with_one"),
    [
        (lambda r: (r > 1) & (r < 2), 1.9 / 2.9, 2 / 2.9),
        (lambda r: r > 1, 2 / 2.9, 1.0),
    ],
    ids=["three shells", "two shells"],
)
def test_no_classifier_by_rays_beats_the_bound(label, without, with_one, rng):
    """Radii are uniform on [0.1, 3]; with a constant feature the bound is left behind."""
    r, u = plane(rng, 150)
    x, y = r[:, None] * u, np.where(label(r), 1.0, -1.0)
    r, u = plane(rng, 4000)
    new, truth = r[:, None] * u, np.where(label(r), 1.0, -1.0)

    def noise(p):
        return 4 * np.sqrt(p * (1 - p) / len(truth))

    scores = [
        np.mean(h(new) * truth > 0) for h, _ in classifiers(x, y, lambda z, w: tangent_kernel(z, w))
    ]
    assert max(scores[:2]) <= without + noise(without)
    assert max(scores[2:]) <= with_one + noise(with_one)
    for _ in range(20):
        # Any threshold and sign, as a function of the direction.
        t = np.abs(rng.normal(1, 2) + rng.normal(0, 1) * u[:, 0] + rng.normal(0, 1) * u[:, 1] ** 2)
        sign = np.where(u @ rng.standard_normal(2) > rng.normal(-1, 1), 1, -1)
        score = np.mean(sign * np.sign(r - t) * truth > 0)
        assert score <= with_one + noise(with_one)
    affine = classifiers(x, y, lambda z, w: tangent_kernel(with_constant(z), with_constant(w)))
    assert np.mean(affine[0][0](new) * truth > 0) > without + 0.1
    # Attained: by one class for all, and by the best threshold.
    assert abs(max(np.mean(truth > 0), np.mean(truth < 0)) - without) <= noise(without)
    best = max(np.mean(s * np.sign(r - t) == truth) for t in (0, 1, 2) for s in (1, -1))
    assert abs(best - with_one) <= noise(with_one)


# The exercises


@pytest.mark.usefixtures("compiled_quickly")
def test_a_constant_feature_is_a_bias_in_the_first_layer(rng):
    x, b, gain = rng.standard_normal((4, 3)), 0.6, 2**0.5
    net = Sequential(Dense(1, b_std=b), Activation(relu), Dense(1, gain), Scalar())
    wide = np.sqrt(4 / 3) * with_constant(x, np.sqrt(3) * b)
    K, K_wide = jax.jit(lambda x, z: (ntk(net)(x), ntk(normalised_mlp(1))(z)))(x, wide)
    np.testing.assert_allclose(K, K_wide, rtol=1e-9)
    np.testing.assert_allclose(K_wide, tangent_kernel(wide, wide) / 4, rtol=1e-6)


def test_large_constants_leave_a_distance(rng):
    """The error is O(1 / b): ten times the constant, a tenth of the error."""
    x, z = rng.standard_normal((2, 6, 3))
    errors = []
    for b in (100.0, 1000.0):
        wide = (with_constant(p / np.sqrt(3), b) for p in (x, z))
        distance = np.linalg.norm(x[:, None] - z, axis=-1)
        limit = 2 * b**2 - b * distance / np.pi / np.sqrt(3) + 2 * x @ z.T / 3
        errors.append(np.max(np.abs(tangent_kernel(*wide) - limit)))
    assert errors[0] < 1
    assert 5 < errors[0] / errors[1] < 20
