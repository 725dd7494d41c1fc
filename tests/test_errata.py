"""The corrections of the appendix "The lecture, corrected", item by item."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from ntkbook import (
    Frozen,
    Sequential,
    empirical_ntk,
    linearize,
    mlp,
    nngp,
    ntk,
    quadratic,
    relu,
    softplus,
    tangent_features,
    tanh,
    two_layer,
)
from ntkbook.bounds import relu_bound, relu_supremum, remainder, smooth_bound
from ntkbook.data import sphere

key = jax.random.key


def as_params(W):
    """W, of shape (d, N), as the parameters of a two_layer network."""
    return ({"W": jnp.asarray(W)}, (), ())


def rank(matrix):
    s = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(s > 1e-10 * s[0]))


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def features(W, activation=relu):
    """All features of a two-layer network, and its values, at 300 random inputs."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((300, len(W))))
    net = two_layer(W.shape[1], activation)
    phi = tangent_features(net.apply, as_params(W))(x)
    return np.asarray(phi), np.asarray(net.apply(as_params(W), x))


def outside(values, phi):
    """The part of a function that no combination of the features reaches, relatively."""
    rest = values - phi @ np.linalg.lstsq(phi, values, rcond=None)[0]
    return np.linalg.norm(rest) / np.linalg.norm(values)


# 2: absorbing sqrt(N)


def test_absorbing_the_width_changes_only_the_gradient_in_the_signs():
    N = 25
    rng = np.random.default_rng(0)
    W, x, a = rng.standard_normal((3, N)), rng.standard_normal(3), rng.choice([-1.0, 1.0], N)
    in_front = jax.grad(lambda a, W: relu(x @ W) @ a / np.sqrt(N), (0, 1))(a, W)
    absorbed = jax.grad(lambda a, W: relu(x @ W) @ a, (0, 1))(a / np.sqrt(N), W)
    assert np.allclose(absorbed[1], in_front[1], rtol=1e-13)
    assert np.allclose(absorbed[0], np.sqrt(N) * in_front[0], rtol=1e-13)


# 3: the constant term


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_constant_term_is_one_minus_the_number_of_trained_relu_layers(layers):
    net = two_layer(16) if layers == 1 else mlp(16, depth=layers - 1)
    w, _ = net.init(key(0), (3,))
    x = sphere(key(1), 6, 3)
    constant = linearize(net.apply, w)(jax.tree.map(jnp.zeros_like, w), x)
    h = net.apply(w, x)
    assert np.allclose(constant, (1 - layers) * h, rtol=1e-10, atol=1e-14)
    assert np.abs(h).max() > 0.1


# 4 and 11: the space of achievable functions


@pytest.mark.parametrize(
    ("W", "expected"),
    [
        (np.random.default_rng(0).standard_normal((3, 5)), 15),
        (np.array([[1.0, 2.0, 0.3], [2.0, 4.0, -1.0]]), 4),
        (np.random.default_rng(0).standard_normal((1, 5)), 2),
        (np.random.default_rng(0).standard_normal((1, 80)), 2),
        (np.array([[1.0, 0.5]]), 1),
    ],
    ids=["generic", "parallel", "line-5", "line-80", "line-one-sided"],
)
def test_number_of_independent_features(W, expected):
    assert rank(features(W)[0]) == expected


def test_frobenius_norm_is_the_rkhs_norm_only_for_independent_features():
    rng = np.random.default_rng(2)
    generic = rng.standard_normal((3, 4))
    parallel = generic.copy()
    parallel[:, 1] = 2 * parallel[:, 0]
    V = rng.standard_normal(12)

    def squared_norm(W):
        phi, _ = features(W)
        values = phi @ V
        return values @ np.linalg.pinv(phi @ phi.T, rcond=1e-10, hermitian=True) @ values

    assert squared_norm(generic) == pytest.approx(V @ V, rel=1e-8)
    assert squared_norm(parallel) < 0.95 * (V @ V)


@pytest.mark.parametrize("activation", [tanh, softplus])
def test_start_of_a_smooth_network_is_outside_the_rkhs_and_its_change_inside(activation):
    phi, h_0 = features(np.random.default_rng(0).standard_normal((3, 5)), activation)
    assert outside(h_0, phi) > 0.02
    labels = np.random.default_rng(3).standard_normal(len(h_0))
    h_t = h_0.copy()
    for _ in range(50):
        h_t -= 0.5 * (2 / len(labels)) * phi @ (phi.T @ (h_t - labels))
    assert outside(h_t - h_0, phi) < 1e-10
    assert outside(h_t, phi) > 1e-3


def test_start_of_a_relu_network_is_inside_the_rkhs():
    phi, h_0 = features(np.random.default_rng(0).standard_normal((3, 5)))
    assert outside(h_0, phi) < 1e-12


def test_tangent_jumps_where_the_network_does_not():
    rng = np.random.default_rng(0)
    W0, W = rng.standard_normal((2, 2, 7))
    net = two_layer(7)
    on_lines = np.stack([-W0[1], W0[0]], axis=1) / np.linalg.norm(W0, axis=0)[:, None]
    towards = W0.T / np.linalg.norm(W0, axis=0)[:, None]
    sides = [jnp.asarray(on_lines + step * towards) for step in (-1e-9, 1e-9)]
    tangent, network = (
        np.abs(f(as_params(W), sides[1]) - f(as_params(W), sides[0]))
        for f in (linearize(net.apply, as_params(W0)), net.apply)
    )
    predicted = np.abs(np.sum(W.T * on_lines, axis=1)) / np.sqrt(7)
    assert np.allclose(tangent, predicted, atol=1e-7)
    assert network.max() < 1e-7 < predicted.min()


# 5: the linearisation at the origin


def test_error_at_the_origin_stays_bounded_while_its_bound_grows():
    d, draws = 10, 40
    x = sphere(key(1), 1, d)

    def error(N, activation, signs):
        net = two_layer(N, activation, signs)
        W = np.random.default_rng(0).standard_normal((draws, d, N))
        one = jax.jit(
            jax.vmap(lambda W: remainder(net.apply, as_params(W))(as_params(0 * W), x)[0])
        )
        return np.asarray(one(W))

    # Signs that cancel: the variance is that of one term, g = tanh(u) - u tanh'(u), at every N.
    u = np.random.default_rng(1).standard_normal(200_000)
    second_moment = np.mean((np.tanh(u) - u / np.cosh(u) ** 2) ** 2)
    for N in (64, 1024):
        squares = error(N, tanh, "alternating") ** 2
        standard_error = squares.std() / np.sqrt(draws)
        assert abs(squares.mean() - second_moment) < 4 * standard_error
    assert smooth_bound(1024, np.sqrt(1024 * d), tanh.smoothness) == pytest.approx(
        4 * smooth_bound(64, np.sqrt(64 * d), tanh.smoothness)
    )
    # Equal signs and a mean: it does grow, as the lecture says it may.
    wide, narrow = (rms(error(N, softplus, "positive")) for N in (1024, 64))
    assert wide / narrow == pytest.approx(4, rel=0.1)
    assert np.abs(error(64, relu, "alternating")).max() < 1e-14


# 6 and 7: Proposition 14.2


def test_relu_proposition_needs_bounded_signs():
    N, B, delta, draws = 64, 1.0, 0.05, 400
    preactivations = jnp.asarray(np.random.default_rng(0).standard_normal((draws, N)))
    alternating = jnp.where(jnp.arange(N) % 2 == 0, 1.0, -1.0)
    worst = np.asarray(jax.vmap(lambda u: relu_supremum(u, alternating, B))(preactivations))
    bound = float(relu_bound(N, B, delta))
    assert np.mean(worst > bound) <= delta
    assert np.mean(10 * worst > bound) > 0.9


def test_relu_proposition_needs_relu():
    N, B = 64, 100.0
    net = two_layer(N, quadratic)
    W0 = np.random.default_rng(0).standard_normal((3, N))
    x = np.array([0.6, 0.0, 0.8])
    W = W0.copy()
    W[:, 0] += B * x
    error = float(jnp.abs(remainder(net.apply, as_params(W0))(as_params(W), jnp.asarray(x))))
    assert error == pytest.approx(B**2 / (2 * np.sqrt(N)), rel=1e-9)
    assert error > float(relu_bound(N, B, 0.05))


def test_relu_proposition_is_not_uniform_over_the_sphere():
    N, d, B = 64, 100, 1e-3
    W0 = np.random.default_rng(0).standard_normal((d, N))
    x = scipy.linalg.null_space(W0.T)[:, 0]
    W0 -= np.outer(x, x @ W0 + 1e-12)  # just below every kink
    W = W0 + np.outer(x, np.full(N, B / np.sqrt(N)))
    net = two_layer(N, signs="positive")
    error = float(jnp.abs(remainder(net.apply, as_params(W0))(as_params(W), jnp.asarray(x))))
    assert np.linalg.norm(W - W0) == pytest.approx(B)
    assert error == pytest.approx(B, rel=1e-6)
    assert error > 1.3 * float(relu_bound(N, B, 0.05))


# 8 and 14: antipodal points


@pytest.mark.parametrize(("N", "d"), [(1, 1), (2, 3), (31, 2), (200, 7)])
def test_odd_part_of_a_bias_free_relu_network_is_linear(N, d):
    rng = np.random.default_rng(0)
    a, W, x = rng.standard_normal(N), 3 * rng.standard_normal((d, N)), rng.standard_normal((4, d))
    net = two_layer(N, signs=tuple(a))
    odd = net.apply(as_params(W), jnp.asarray(x)) - net.apply(as_params(W), jnp.asarray(-x))
    assert np.allclose(odd, x @ W @ a / np.sqrt(N), atol=1e-12)


def with_constant(x):
    return jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)


def test_when_the_kernel_matrix_is_nonsingular():
    k = ntk(two_layer(1))
    points = sphere(key(2), 12, 3)
    pairs = jnp.concatenate([points, -points])
    assert rank(k(sphere(key(3), 24, 3))) == 24
    assert rank(k(jnp.concatenate([points, points]))) == 12
    assert rank(k(pairs)) == 12 + 3
    assert rank(k(with_constant(pairs))) == 24
    assert rank(ntk(mlp(1, depth=2))(pairs)) == 24


def test_bias_free_kernel_mirrors_an_odd_function():
    train = 2 * np.pi * np.random.default_rng(0).random(60)
    grid = 2 * np.pi * np.arange(400) / 400

    def error(kernel, lift):
        x, z = (lift(jnp.stack([jnp.cos(t), jnp.sin(t)], axis=1)) for t in (train, grid))
        prediction = kernel(z, x) @ np.linalg.solve(kernel(x), np.cos(3 * train))
        return np.mean((prediction - np.cos(3 * grid)) ** 2)

    assert error(ntk(two_layer(1)), lambda x: x) == pytest.approx(1, abs=0.1)
    assert error(ntk(two_layer(1)), with_constant) < 1e-2
    assert error(ntk(mlp(1, depth=2)), lambda x: x) < 1e-2


# 10 and 15: parametrisations


def standard_parametrisation(net):
    """f(weights, x) = net with weights / sqrt(fan_in) as its parameters."""

    def f(weights, x):
        params = tuple(
            {"W": layer["W"] * np.sqrt(layer["W"].shape[0])} if layer else () for layer in weights
        )
        return net.apply(params, x)

    return f


def test_standard_kernel_is_the_fan_in_weighted_sum_over_layers():
    d, n = 3, 12
    net, x = mlp(n, depth=2), sphere(key(1), 4, d)
    w, _ = net.init(key(0), (d,))
    standard = jax.tree.map(lambda W: W / np.sqrt(W.shape[0]), w)
    assert np.allclose(standard_parametrisation(net)(standard, x), net.apply(w, x))

    def of_layer(index):
        def f(layer, x):
            return net.apply((*w[:index], layer, *w[index + 1 :]), x)

        return empirical_ntk(f, w[index])(x)

    parts = [of_layer(i) for i, layer in enumerate(w) if layer]
    assert np.allclose(sum(parts), empirical_ntk(net.apply, w)(x))
    expected = d * parts[0] + n * parts[1] + n * parts[2]
    assert np.allclose(empirical_ntk(standard_parametrisation(net), standard)(x), expected)


def test_standard_regression_converges_to_the_kernel_without_the_first_layer():
    d, m = 3, 12
    x = np.asarray(sphere(key(0), m + 60, d))
    y = np.sin(3 * x[:m, 0]) + x[:m, 1] * x[:m, 2]

    def predict(K):
        return K[m:, :m] @ np.linalg.solve(K[:m, :m], y)

    net = mlp(1, depth=1)
    full, last = (predict(np.asarray(k(net)(jnp.asarray(x)))) for k in (ntk, nngp))
    assert np.allclose(
        predict(
            np.asarray(ntk(Sequential(Frozen(net.layers[0]), *net.layers[1:]))(jnp.asarray(x)))
        ),
        last,
    )

    def gaps(n):
        gaps = []
        for seed in range(6):
            rng = np.random.default_rng([n, seed])
            W, w = rng.standard_normal((d, n)), rng.standard_normal(n)
            u = x @ W / np.sqrt(d)
            z, back = np.maximum(u, 0), (u > 0) * w
            # d and n times the two parts of the NTK parametrisation's kernel
            K = x @ x.T * (back @ back.T) / n + z @ z.T
            prediction = predict(K)
            gaps.append([rms(prediction - last), rms(prediction - full)])
        return np.mean(gaps, axis=0)

    narrow, wide = gaps(64), gaps(8192)
    assert wide[0] < 0.2 * narrow[0]
    # The other distance stalls at the distance of the two limits.
    assert wide[1] == pytest.approx(rms(full - last), rel=0.2)
    assert wide[0] < 0.25 * wide[1]


# 12 and 13: equation (14.8)


@pytest.fixture(scope="module")
def flow():
    """A regression problem, its flow (14.7) on all points by an ODE solver, and the formula."""
    m, eta, t = 6, 0.8, 3.0
    x = np.asarray(sphere(key(0), m + 4, 3))
    K = np.asarray(ntk(mlp(1, depth=2, activation=tanh))(jnp.asarray(x)))
    rng = np.random.default_rng(0)
    y, h_0 = rng.standard_normal(m), rng.standard_normal(m + 4)

    def h_at_t(rate):
        """dh/dt = -rate k(., X)(h(X) - y)."""
        return scipy.integrate.solve_ivp(
            lambda _, h: -rate * K[:, :m] @ (h[:m] - y), (0, t), h_0, rtol=1e-12, atol=1e-12
        ).y[:, -1]

    def formula(exponent):
        change = np.eye(m) - scipy.linalg.expm(-exponent * K[:m, :m])
        return h_0 + K[:, :m] @ np.linalg.solve(K[:m, :m], change @ (y - h_0[:m]))

    return m, eta, t, h_at_t, formula


def test_solution_has_the_factor_two_over_m(flow):
    m, eta, t, h_at_t, formula = flow
    truth = h_at_t(2 * eta / m)
    assert np.abs(formula(2 * eta * t / m) - truth).max() < 1e-8
    assert np.abs(formula(eta * t) - truth).max() > 0.1


def test_printed_solution_belongs_to_half_the_sum_of_squares(flow):
    _, eta, t, h_at_t, formula = flow
    assert np.abs(formula(eta * t) - h_at_t(eta)).max() < 1e-8


def test_flow_in_the_weights_of_a_linear_model_follows_the_corrected_solution():
    m, d, eta, t = 5, 3, 0.7, 2.0
    net = two_layer(8, tanh)
    w0, _ = net.init(key(0), (d,))
    x, z = sphere(key(1), m, d), sphere(key(2), 4, d)
    y = jnp.cos(3 * x[:, 0])
    f = linearize(net.apply, w0)
    shape = w0[0]["W"].shape
    gradient = jax.jit(jax.grad(lambda W: jnp.mean((f(as_params(W.reshape(shape)), x) - y) ** 2)))
    W_t = scipy.integrate.solve_ivp(
        lambda _, W: -eta * np.asarray(gradient(W)),
        (0, t),
        np.asarray(w0[0]["W"]).ravel(),
        rtol=1e-11,
        atol=1e-11,
    ).y[:, -1]
    k = empirical_ntk(net.apply, w0)
    K = np.asarray(k(x))

    def formula(exponent):
        change = np.eye(m) - scipy.linalg.expm(-exponent * K)
        return net.apply(w0, z) + k(z, x) @ np.linalg.solve(K, change @ (y - net.apply(w0, x)))

    truth = f(as_params(W_t.reshape(shape)), z)
    assert np.abs(formula(2 * eta * t / m) - truth).max() < 1e-8
    assert np.abs(formula(eta * t) - truth).max() > 0.01


def test_exponential_acts_on_eigenvalues_not_on_singular_values():
    x = sphere(key(0), 6, 3)
    A = -np.asarray(ntk(two_layer(1))(x))
    truth = scipy.linalg.expm(A)
    eigenvalues, Q = np.linalg.eigh(A)
    U, s, Vt = np.linalg.svd(A)
    assert np.abs((Q * np.exp(eigenvalues)) @ Q.T - truth).max() < 1e-12
    assert np.abs((U * np.exp(s)) @ Vt - truth).max() > 0.5
    # For positive semidefinite matrices the two recipes agree.
    U, s, Vt = np.linalg.svd(-A)
    assert np.abs((U * np.exp(s)) @ Vt - scipy.linalg.expm(-A)).max() < 1e-12


# 14: singular kernel matrices


def test_contradicting_labels_converge_to_their_mean():
    points = sphere(key(2), 3, 3)
    K = np.asarray(ntk(two_layer(1))(jnp.concatenate([points, points[:1]])))
    y = np.array([1.0, 0.5, -0.5, -1.0])
    h = scipy.linalg.expm(-1e6 * K) @ (0 - y) + y  # the flow from 0, after a long time
    assert np.allclose(h, [0, 0.5, -0.5, 0], atol=1e-6)


# 16 and 17: the function at initialisation


def test_initial_function_stays_on_test_points():
    m, d = 8, 4
    net = two_layer(64)
    w0, _ = net.init(key(0), (d,))
    x, z = sphere(key(1), m, d), sphere(key(2), 20, d)
    y = jnp.sin(2 * x[:, 0])
    # Training to the end moves the linearised network to the interpolant nearest in the weights.
    phi_x, phi_z = (tangent_features(net.apply, w0)(inputs) for inputs in (x, z))
    shift = np.linalg.lstsq(phi_x, y - net.apply(w0, x), rcond=None)[0]
    trained = net.apply(w0, z) + phi_z @ shift
    k = empirical_ntk(net.apply, w0)
    bracket = net.apply(w0, z) - k(z, x) @ np.linalg.solve(k(x), net.apply(w0, x))
    assert np.allclose(trained, k(z, x) @ np.linalg.solve(k(x), y) + bracket, atol=1e-9)
    assert rms(bracket) > 0.1 * rms(net.apply(w0, z))


def test_factor_on_the_output_squares_in_the_kernel():
    net, x, eps = mlp(16, depth=1), sphere(key(1), 5, 3), 0.1
    w, _ = net.init(key(0), (3,))
    scaled = empirical_ntk(lambda w, x: eps * net.apply(w, x), w)(x)
    assert np.allclose(scaled, eps**2 * empirical_ntk(net.apply, w)(x), rtol=1e-12)


def test_small_factor_with_rescaled_rate_leaves_the_kernel_regime():
    net, m = mlp(128, depth=1), 12
    x = sphere(key(0), m, 4)
    y = x[:, 0] + x[:, 0] * x[:, 1]
    w0, _ = net.init(key(1), (4,))
    K0 = empirical_ntk(net.apply, w0)(x)
    rate = 0.05 * m / float(np.linalg.eigvalsh(K0)[-1])

    @jax.jit
    def run(eps):
        loss = lambda w: jnp.mean((eps * net.apply(w, x) - y) ** 2)  # noqa: E731
        step = lambda w, g: w - rate / eps**2 * g  # noqa: E731
        w = jax.lax.fori_loop(0, 2000, lambda _, w: jax.tree.map(step, w, jax.grad(loss)(w)), w0)
        return loss(w), w

    losses, weights = zip(*(run(eps) for eps in (1.0, 0.1, 0.03)), strict=True)
    changes = [
        float(jnp.linalg.norm(empirical_ntk(net.apply, w)(x) - K0) / jnp.linalg.norm(K0))
        for w in weights
    ]
    assert max(losses) < 1e-2
    assert changes[0] < 0.3
    assert changes[1] > 3 * changes[0]
    assert changes[2] > 2 * changes[1]
