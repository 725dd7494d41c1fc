"""Ensembles and posteriors: linear models that are simulated, and formulas of the textbook."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import norm

from ntkbook import (
    Activation,
    Dense,
    Frozen,
    Scalar,
    Sequential,
    ensemble,
    gp_posterior,
    gradient_flow,
    kernel_regression,
    nngp,
    ntk,
    relu,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")
RNG = np.random.default_rng(219)
M, N, D = 5, 4, 2
X, X_NEW = RNG.normal(size=(M, D)), RNG.normal(size=(N, D))
BOTH = np.concatenate([X, X_NEW])
Y, Y2 = RNG.normal(size=M), RNG.normal(size=(M, 2))
ETA = 0.6


@jax.jit
def prior(x1, x2):
    return jnp.exp(-jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / 2)


@jax.jit
def tangent(x1, x2):
    return prior(x1, x2) + 0.3 * (1 + x1 @ x2.T) ** 2


# A linear model h(x) = phi(x) w, trained on all of w from a normal start of covariance C.
A, B = RNG.normal(size=(D, 7)), RNG.normal(size=7)
ROOT = RNG.normal(size=(7, 7)) / 2


def features(x):
    return jnp.cos(x @ A + B)


@jax.jit
def trained(x1, x2):
    return features(x1) @ features(x2).T


@jax.jit
def start(x1, x2):
    return (features(x1) @ ROOT) @ (features(x2) @ ROOT).T


def weights_after(t, y):
    """w_t = F w_0 + b for gradient flow on the weights."""
    phi = np.asarray(features(X))
    F = expm(-2 * ETA * t / M * phi.T @ phi)
    return F, np.linalg.pinv(phi) @ y - F @ np.linalg.pinv(phi) @ y


@pytest.mark.parametrize("t", [0.0, 0.8, 1e6])
def test_ensemble_is_the_law_of_a_linear_model(t):
    F, b = weights_after(t, Y)
    map_ = np.asarray(features(X_NEW)) @ F @ ROOT
    mean, covariance = ensemble(trained, start, X, Y, learning_rate=ETA)(X_NEW, t)
    np.testing.assert_allclose(mean, features(X_NEW) @ b, atol=1e-9)
    np.testing.assert_allclose(covariance, map_ @ map_.T, atol=1e-9)


def test_ensemble_is_what_sampled_starts_give():
    samples, t = 20_000, 0.8
    phi, phi_new = np.asarray(features(X)), np.asarray(features(X_NEW))
    w = RNG.normal(size=(samples, 7)) @ ROOT.T
    steps = 40
    for _ in range(steps):  # the midpoint rule: its error is far below the standard error
        half = w - ETA * t / steps / 2 * 2 / M * (w @ phi.T - Y) @ phi
        w = w - ETA * t / steps * 2 / M * (half @ phi.T - Y) @ phi
    h = w @ phi_new.T
    mean, covariance = ensemble(trained, start, X, Y, learning_rate=ETA)(X_NEW, t)
    variance = np.diag(covariance)
    z = [(h.mean(axis=0) - mean) / np.sqrt(variance / samples)]
    # The covariance of a sample has the variance (c_ii c_jj + c_ij^2) / samples.
    deviation = np.sqrt((np.outer(variance, variance) + np.square(covariance)) / samples)
    z.append(((np.cov(h.T) - covariance) / deviation)[np.triu_indices(N)])
    z = np.concatenate(z)
    assert np.max(np.abs(z)) < norm.isf(1e-4 / 2 / len(z))


def test_ensemble_mean_is_flow_from_zero_and_begins_at_the_prior():
    predict = ensemble(tangent, prior, X, Y, learning_rate=ETA)
    flow = gradient_flow(tangent, X, Y, learning_rate=ETA)
    times = np.array([[0.0, 0.5], [3.0, np.inf]])
    mean, covariance = predict(X_NEW, times)
    assert (mean.shape, covariance.shape) == ((2, 2, N), (2, 2, N, N))
    np.testing.assert_allclose(mean, flow(X_NEW, times), atol=1e-12)
    np.testing.assert_allclose(covariance[0, 0], prior(X_NEW, X_NEW), atol=1e-14)
    for i, t in np.ndenumerate(times):
        one = predict(X_NEW, t)
        np.testing.assert_allclose(one.mean, mean[i], atol=1e-12)
        np.testing.assert_allclose(one.covariance, covariance[i], atol=1e-12)
    # At the training inputs nothing is left of the start.
    end = predict(X, np.inf)
    np.testing.assert_allclose(end.mean, Y, atol=1e-11)
    assert np.max(np.abs(end.covariance)) < 1e-11
    assert np.all(end.standard_deviation < 1e-5)


def test_standard_deviations_are_roots_of_variances_and_no_nan():
    predict = ensemble(tangent, prior, X, Y)
    g = predict(X_NEW, np.array([0.0, 2.0]))
    expected = np.sqrt(np.diagonal(g.covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(g.standard_deviation, expected)
    negative = type(g)(jnp.zeros(2), jnp.diag(jnp.array([-1e-17, 4.0])))
    assert negative.standard_deviation.tolist() == [0.0, 2.0]


def test_excess_over_the_posterior_is_a_square():
    # The posterior is the best linear predictor under its covariance; another map G of the labels
    # adds (G - G*) K (G - G*)^T.
    excess = (
        ensemble(tangent, prior, X, Y)(X_NEW, np.inf).covariance
        - gp_posterior(prior, X, Y)(X_NEW).covariance
    )
    K = np.asarray(prior(X, X))
    maps = [
        np.linalg.solve(np.asarray(k(X, X)), np.asarray(k(X, X_NEW))).T for k in (tangent, prior)
    ]
    gap = maps[0] - maps[1]
    np.testing.assert_allclose(excess, gap @ K @ gap.T, atol=1e-12)
    values = np.linalg.eigvalsh(excess)
    assert values[0] > -1e-12
    assert values[-1] > 1e-4


def test_training_the_last_layer_alone_samples_the_posterior():
    net = Sequential(Frozen(Dense(1, 1.3)), Activation(relu), Dense(1, 1.1), Scalar())
    kernels = ntk(net), nngp(net)
    np.testing.assert_allclose(kernels[0](BOTH), kernels[1](BOTH), rtol=1e-14)
    got = ensemble(*kernels, X, Y)(X_NEW, np.inf)
    posterior = gp_posterior(kernels[1], X, Y)(X_NEW)
    for one, other in zip(got, posterior, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.7])
def test_posterior_is_the_formula(noise):
    mean, covariance = gp_posterior(prior, X, Y, noise=noise)(X_NEW)
    K, cross = np.asarray(prior(X, X)), np.asarray(prior(X_NEW, X))
    map_ = np.linalg.solve(K + noise * np.eye(M), cross.T).T
    np.testing.assert_allclose(mean, map_ @ Y, atol=1e-10)
    np.testing.assert_allclose(covariance, prior(X_NEW, X_NEW) - map_ @ cross.T, atol=1e-10)
    # The mean is regression with a ridge of noise / m.
    regression = kernel_regression(prior, X, Y, ridge=noise / M)
    np.testing.assert_allclose(mean, regression(X_NEW), atol=1e-12)


def test_posterior_conditions_a_normal_distribution():
    # Draws of (h(X) + noise, h(x)): the residual of the posterior mean is independent of labels.
    noise, samples = 0.2, 50_000
    root = np.linalg.cholesky(np.asarray(prior(BOTH, BOTH)) + 1e-12 * np.eye(M + N))
    h = RNG.normal(size=(samples, M + N)) @ root.T
    labels = h[:, :M] + noise**0.5 * RNG.normal(size=(samples, M))
    predict = gp_posterior(prior, X, labels.T, noise=noise)(X_NEW)
    assert predict.mean.shape == (N, samples)
    residual = h[:, M:] - predict.mean.T
    joint = np.concatenate([residual, labels], axis=1)
    spread = np.asarray(prior(X, X)) + noise * np.eye(M)
    expected = np.block(
        [
            [np.asarray(predict.covariance), np.zeros((N, M))],
            [np.zeros((M, N)), spread],
        ]
    )
    variance = np.diag(expected)
    deviation = np.sqrt((np.outer(variance, variance) + expected**2) / samples)
    z = ((np.cov(joint.T) - expected) / deviation)[np.triu_indices(M + N)]
    assert np.max(np.abs(z)) < norm.isf(1e-4 / 2 / len(z))


def test_equal_inputs_share_what_is_known():
    twice = np.concatenate([X, X[:1]])
    y = np.append(Y, Y[0] + 1)
    once = np.append(Y[0] + 0.5, Y[1:])
    for noise, single in ((0.0, gp_posterior(prior, X, once)), (0.1, None)):
        got = gp_posterior(prior, twice, y, noise=noise)(X_NEW)
        if single is None:
            K, cross = np.asarray(prior(twice, twice)), np.asarray(prior(X_NEW, twice))
            map_ = np.linalg.solve(K + noise * np.eye(M + 1), cross.T).T
            expected = map_ @ y, prior(X_NEW, X_NEW) - map_ @ cross.T
        else:
            expected = single(X_NEW)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9)


def outputs_by_outputs(scalar):
    """Two outputs that are correlated, the first at x with the second at 1.2 x."""
    mix = jnp.array([[2.0, 0.5], [0.5, 1.0]])

    def full(x1, x2):
        scales = (1.0, 1.2)
        rows = [jnp.stack([scalar(a * x1, b * x2) for b in scales], axis=-1) for a in scales]
        return jnp.stack(rows, axis=-2) * mix

    return full


def test_outputs_of_a_full_kernel_are_inferred_together():
    full = outputs_by_outputs(prior)
    flat = np.asarray(full(BOTH, BOTH)).transpose(0, 2, 1, 3).reshape(2 * (M + N), -1)
    K, cross, new = flat[: 2 * M, : 2 * M], flat[2 * M :, : 2 * M], flat[2 * M :, 2 * M :]
    map_ = np.linalg.solve(K + 0.1 * np.eye(2 * M), cross.T).T
    got = gp_posterior(full, X, Y2, noise=0.1)(X_NEW)
    assert (got.mean.shape, got.covariance.shape) == ((N, 2), (N, N, 2, 2))
    np.testing.assert_allclose(got.mean, (map_ @ Y2.reshape(-1)).reshape(N, 2), atol=1e-10)
    covariance = (new - map_ @ cross.T).reshape(N, 2, N, 2).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(got.covariance, covariance, atol=1e-10)
    expected = np.sqrt(np.diag(new - map_ @ cross.T)).reshape(N, 2)
    np.testing.assert_allclose(got.standard_deviation, expected, atol=1e-10)


def test_a_scalar_start_goes_with_a_full_tangent_kernel():
    # As for a finite network of several outputs and the infinite covariance of one.
    full = outputs_by_outputs(tangent)

    def uncorrelated(x1, x2):
        return prior(x1, x2)[:, :, None, None] * jnp.eye(2)

    times = np.array([0.0, 1.0])
    got, expected = (ensemble(full, s, X, Y2)(X_NEW, times) for s in (prior, uncorrelated))
    assert got.covariance.shape == (2, N, N, 2, 2)
    assert got.standard_deviation.shape == (2, N, 2)
    np.testing.assert_allclose(got.mean, gradient_flow(full, X, Y2)(X_NEW, times), atol=1e-12)
    np.testing.assert_allclose(got.covariance[0], uncorrelated(X_NEW, X_NEW), atol=1e-14)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-13)
    # The covariance of one coordinate among all, as in a single matrix.
    flat = [
        np.asarray(k(BOTH, BOTH)).transpose(0, 2, 1, 3).reshape(2 * (M + N), -1)
        for k in (full, uncorrelated)
    ]
    K, cross = flat[0][: 2 * M, : 2 * M], flat[0][2 * M :, : 2 * M]
    G = cross @ np.linalg.solve(K, np.eye(2 * M) - expm(-2 / M * K))
    map_ = np.concatenate([-G, np.eye(2 * N)], axis=1)
    covariance = (map_ @ flat[1] @ map_.T).reshape(N, 2, N, 2).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(got.covariance[1], covariance, atol=1e-11)
    with pytest.raises(ValueError, match="no axes for outputs"):
        ensemble(prior, full, X, Y2)


def test_outputs_of_scalar_kernels_share_their_covariance():
    got = ensemble(tangent, prior, X, Y2)(X_NEW, 1.0)
    assert (got.mean.shape, got.covariance.shape) == ((N, 2), (N, N))
    assert got.standard_deviation.shape == (N,)
    for a in range(2):
        one = ensemble(tangent, prior, X, Y2[:, a])(X_NEW, 1.0)
        np.testing.assert_allclose(one.mean, got.mean[:, a], atol=1e-13)
        np.testing.assert_allclose(one.covariance, got.covariance, atol=1e-13)


def test_gaussians_compile_and_have_finite_derivatives():
    for predict, t in (
        (ensemble(tangent, prior, X, Y), (1.0,)),
        (gp_posterior(prior, X, Y, noise=0.1), ()),
    ):
        for one, other in zip(jax.jit(predict)(X_NEW, *t), predict(X_NEW, *t), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)
        slope = jax.jit(jax.grad(lambda z, p=predict, t=t: jnp.sum(p(z, *t).covariance)))(X_NEW)
        assert np.all(np.isfinite(slope))
        assert np.any(slope != 0)
