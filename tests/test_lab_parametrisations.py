"""The statements of the lab "Parametrisations"."""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkbook import Frozen, Sequential, mlp, ntk, tanh
from ntkbook.dynamics import largest_stable_learning_rate
from ntkbook.rates import fitted_rate
from ntkbook.scaling import MEAN_FIELD, MUP, NTK, STANDARD, Scaled, abc_mlp
from ntkbook.training import train

X = np.random.default_rng(1).standard_normal((6, 3))
Y = np.array([1.0, -0.5, 0.3, -1.2, 0.8, 0.4])
SLOW_STANDARD = dataclasses.replace(STANDARD, name="standard / n", c=1)


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2022, *request.node.name.encode()])


def slope_of_tanh(t):
    return 1 - np.tanh(t) ** 2


def forward(products, x):
    """Inputs of all layers of a tanh network with these matrices, (width out, width in) each."""
    z = [products[0] @ x.T / np.sqrt(x.shape[1])]
    for W in products[1:]:
        z.append(W @ np.tanh(z[-1]))
    return z


def gradients(products, x, residual):
    """d/dW of sum_i residual_i h(x_i), layer by layer: backpropagation written out."""
    z = forward(products, x)
    back, found = residual[None, :], []
    for layer in range(len(products) - 1, 0, -1):
        found.append(back @ np.tanh(z[layer - 1]).T)
        back = slope_of_tanh(z[layer - 1]) * (products[layer].T @ back)
    found.append(back @ x / np.sqrt(x.shape[1]))
    return found[::-1]


def descend(start, exponents, n, eta, steps, momentum=0.0):
    """Functions on X after each step in the parametrisation (a, b, c), a triple for each layer.

    ``start`` has standard deviation 1, and each step sees another batch and another loss.
    """
    a, b, c = exponents
    w = [n**-q * v for q, v in zip(b, start, strict=True)]
    velocity = [np.zeros_like(v) for v in w]
    seen = []
    for step in range(steps):
        products = [n**-p * v for p, v in zip(a, w, strict=True)]
        batch = slice(step % 2, None, 2)
        h = forward(products, X[batch])[-1][0]
        residual = 2 * (h - Y[batch]) if step % 3 else np.tanh(h - Y[batch])
        slopes = gradients(products, X[batch], residual / len(h))
        for i, G in enumerate(slopes):
            velocity[i] = momentum * velocity[i] - eta * n ** (-c[i] - a[i]) * G
            w[i] = w[i] + velocity[i]
        seen.append(forward([n**-p * v for p, v in zip(a, w, strict=True)], X)[-1][0])
    return np.array(seen)


def random_start(rng, n, depth):
    widths = [X.shape[1], *[n] * depth, 1]
    return [rng.standard_normal((o, i)) for i, o in pairwise(widths)]


@pytest.mark.claim("prop-abc-symmetry")
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("depth", [1, 3])
def test_shifted_exponents_give_the_same_functions(rng, momentum, depth):
    n, start = 7.0, random_start(rng, 7, depth)
    for _ in range(5):
        a, b, c, t = rng.uniform(-0.5, 0.5, (4, depth + 1))
        plain = descend(start, (a, b, c), n, 0.05, 12, momentum)
        shifted = descend(start, (a + t, b - t, c - 2 * t), n, 0.05, 12, momentum)
        assert np.all(np.isfinite(plain))
        assert np.ptp(plain, axis=0).min() > 1e-4
        np.testing.assert_allclose(shifted, plain, rtol=1e-9, atol=1e-11)
        # ... and no other shift of c does it.
        other = descend(start, (a + t, b - t, c - t), n, 0.05, 12, momentum)
        assert np.max(np.abs(other - plain)) > 1e-6


def runs(net, rate, steps=25):
    params, _ = net.init(jax.random.key(3), (3,))
    return np.asarray(
        train(
            net.apply,
            params,
            X,
            Y,
            learning_rate=rate,
            steps=steps,
            record={"h": lambda w: net.apply(w, jnp.asarray(X))},
            at=[1, steps],
        ).recorded["h"]
    )


@pytest.mark.claim("prop-abc-symmetry")
def test_every_bit_agrees_if_the_width_is_a_power_of_four(rng):
    """Multiplying by a power of two is exact, and so is everything that follows."""
    start, half = random_start(rng, 16, 2), np.array([0.5, -1.0, 1.5])
    a, b, c = np.array([[-0.5, 0, 0.5], [0.5, 0.5, 0.5], [0, 0, 0]])
    plain = descend(start, (a, b, c), 16.0, 0.2, 12, 0.5)
    shifted = descend(start, (a + half, b - half, c - 2 * half), 16.0, 0.2, 12, 0.5)
    np.testing.assert_array_equal(shifted, plain)


@pytest.mark.claim("prop-abc-symmetry", "cor-abc-same")
@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize(("other", "depth"), [(MUP.shifted(0.5), 2), (MEAN_FIELD, 1)])
def test_the_library_knows_the_symmetry(other, depth):
    h, same = (runs(abc_mlp(16, depth, tanh, p), p.learning_rate(0.2, 16)) for p in (MUP, other))
    np.testing.assert_allclose(same, h, rtol=1e-9, atol=1e-12)


@pytest.mark.claim("cor-abc-same")
@pytest.mark.usefixtures("compiled_quickly")
def test_maximal_update_is_the_tangent_parametrisation_with_a_small_output():
    n = 20
    h = runs(abc_mlp(n, 2, tanh, MUP), MUP.learning_rate(0.2, n))
    small = runs(Scaled(mlp(n, 2, tanh), n**-0.5), 0.2 * n)
    assert np.ptp(h[-1]) > 0.1
    np.testing.assert_allclose(small, h, rtol=1e-9)


@pytest.mark.claim("cor-abc-same")
@pytest.mark.parametrize("depth", [1, 2])
def test_slow_standard_is_the_tangent_parametrisation_with_a_slow_first_layer(rng, depth):
    n, start = 9.0, random_start(rng, 9, depth)
    half, rest = (0, *[0.5] * depth), np.zeros(depth + 1)
    slow_first = (1, *[0] * depth)
    standard = descend(start, (rest, half, rest + 1), n, 0.3, 12)
    tangent = descend(start, (half, rest, slow_first), n, 0.3, 12)
    np.testing.assert_allclose(tangent, standard, rtol=1e-10, atol=1e-12)
    assert np.max(np.abs(descend(start, (half, rest, rest), n, 0.3, 12) - standard)) > 1e-3


def layer_kernels(products, scale, x):
    """sum over entries of scale_l^2 dh/dW^l dh/dW^l, by one backpropagation per input."""
    rows = [gradients(products, x[i : i + 1], np.ones(1)) for i in range(len(x))]
    flat = [np.stack([row[i].ravel() for row in rows]) for i in range(len(products))]
    return [s**2 * g @ g.T for s, g in zip(scale, flat, strict=True)]


@pytest.mark.claim("prop-abc-kernel")
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_kernel_is_a_sum_with_powers_of_the_width(rng, depth):
    n, v = 6.0, random_start(rng, 6, depth)
    neutral = np.array([0, *[0.5] * depth])
    k = layer_kernels([n**-s * u for s, u in zip(neutral, v, strict=True)], n**-neutral, X)
    for _ in range(4):
        b, c = rng.uniform(-1, 1, (2, depth + 1))
        a = neutral - b
        a[-1] += rng.uniform(-0.5, 1.0)
        alpha, gamma = a[-1] + b[-1], 2 * a + c
        products = [n ** -(p + q) * u for p, q, u in zip(a, b, v, strict=True)]
        K = sum(n**-r * part for r, part in zip(c, layer_kernels(products, n**-a, X), strict=True))
        e = np.array([1, *[2] * (depth - 1), 1]) - 2 * alpha - gamma
        e[-1] = 1 - gamma[-1]
        expected = sum(n**p * part for p, part in zip(e, k, strict=True))
        np.testing.assert_allclose(K, expected, rtol=1e-10, atol=1e-12)


LIMITS = {
    NTK.name: (NTK, 0, (True, True, True)),
    "standard": (STANDARD, 1, (False, True, True)),
    "standard / n": (SLOW_STANDARD, 0, (False, True, True)),
    MUP.name: (MUP, 0, (True, True, True)),
}


@pytest.mark.claim("prop-abc-kernel")
@pytest.mark.parametrize("name", LIMITS)
def test_the_kernel_and_the_largest_stable_rate_have_their_powers(rng, name):
    p, e, trained = LIMITS[name]
    one = mlp(1, 2, tanh)
    layers = [
        layer if fresh else Frozen(layer)
        for layer, fresh in zip(one.layers[:6:2], trained, strict=True)
    ]
    kept = Sequential(layers[0], one.layers[1], layers[1], one.layers[3], layers[2], one.layers[5])
    limit = np.asarray(ntk(kept)(X))
    widths, distance, rates = np.array([16, 64, 256]), [], []
    for n in widths.tolist():
        for _ in range(24):
            w = [
                float(n) ** -(a + b) * v
                for a, b, v in zip(p.a, p.b, random_start(rng, n, 2), strict=True)
            ]
            parts = layer_kernels(w, n ** -np.array(p.a, dtype=float), X)
            K = sum(parts) * float(n) ** -p.c
            distance.append(np.sqrt(np.mean((n**-e * K - limit) ** 2)))
            rates.append(float(n**e * largest_stable_learning_rate(K)))
    rate = fitted_rate(widths, np.reshape(distance, (3, 24)))
    # Each fluctuation falls like n^(-1/2); what is dropped, like 1/n or faster.
    assert rate.slope < -0.5 + 4 * rate.standard_error
    ratio = np.reshape(rates, (3, 24))[-1] / float(largest_stable_learning_rate(limit))
    assert abs(np.mean(ratio) - 1) < 0.1


@pytest.mark.claim("prop-abc-kernel")
def test_what_is_left_of_one_hidden_layer_is_the_covariance(rng):
    """One hidden layer, standard parametrisation: K / n tends to the NNGP kernel."""
    n = 4000
    u, v = random_start(rng, n, 1)
    first, last = layer_kernels([u, n**-0.5 * v], (1.0, 1.0), X)
    found = (first + last) / n
    covariance = gaussian_means(X, np.tanh)
    # tanh(u)tanh(v) lies in (-1, 1), and so its averages have standard deviations below n^(-1/2);
    # the first layer adds at most max |x|^2 / d E v^2 / n.
    assert np.max(np.abs(found - covariance)) < 4 / n**0.5 + 10 / n


def gaussian_means(x, f):
    """E f(u) f(v) for Gaussian pairs with covariance x x^T / d, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    K = x @ x.T / x.shape[1]
    found = np.zeros_like(K)
    for i in range(len(K)):
        for j in range(len(K)):
            s = np.sqrt(K[i, i])
            r = K[i, j] / s
            rest = np.sqrt(max(K[j, j] - r**2, 0.0))
            other = f(r * nodes[:, None] + rest * nodes)
            found[i, j] = weights @ (f(s * nodes)[:, None] * other) @ weights
    return found


def first_steps(rng, n, seeds, alpha, gamma, eta, new):
    """Changes of z_1(new), of h(new) and d/d eta of h(new), by backpropagation, one row a seed."""
    rows = []
    for _ in range(seeds):
        products = [v * s for v, s in zip(random_start(rng, n, 1), (1, n**-alpha), strict=True)]
        slopes = gradients(products, X, -2 * Y / len(Y))  # the residuals of h - h_0 are -y
        speed = float(n) ** -np.array(gamma)
        moved = [W - eta * r * G for W, r, G in zip(products, speed, slopes, strict=True)]
        old, now = forward(products, new), forward(moved, new)
        of_h = gradients(products, new, np.ones(1))
        rate = -sum(r * np.sum(g * G) for r, g, G in zip(speed, of_h, slopes, strict=True))
        rows.append([now[0][0, 0] - old[0][0, 0], now[1][0, 0] - old[1][0, 0], rate])
    return np.array(rows)


NEW = np.array([[0.4, -1.1, 0.7]])
ONE_HIDDEN = [(0.5, (0, 1)), (0.5, (1, 1)), (1, (-1, 1)), (0.75, (-0.25, 1.25))]


@pytest.mark.claim("prop-abc-step")
@pytest.mark.parametrize(("alpha", "gamma"), ONE_HIDDEN)
@pytest.mark.parametrize("n", [1, 5])
def test_the_first_step_has_the_stated_means_at_every_width(rng, n, alpha, gamma):
    eta, seeds = 0.3, 6000
    dz, _, rate = first_steps(rng, n, seeds, alpha, gamma, eta, NEW).T
    x = np.concatenate([NEW, X])
    sigma_1, dot, kappa = x @ x.T / 3, gaussian_means(x, slope_of_tanh), gaussian_means(x, np.tanh)
    near = Y * sigma_1[0, 1:]
    Q = 4 / len(Y) ** 2 * near @ dot[1:, 1:] @ near
    phi, e = -alpha - gamma[0], (1 - 2 * alpha - gamma[0], 1 - gamma[1])
    kernel = float(n) ** e[0] * (sigma_1 * dot)[0, 1:] + float(n) ** e[1] * kappa[0, 1:]
    scores = []
    for sample, mean in (
        (dz**2, eta**2 * float(n) ** (2 * phi) * Q),
        (rate, 2 / len(Y) * kernel @ Y),
    ):
        scores.append((sample.mean() - mean) / (sample.std(ddof=1) / np.sqrt(seeds)))
    assert np.max(np.abs(scores)) < stats.norm.isf(0.5e-3 / 16), scores


@pytest.mark.claim("prop-abc-step")
@pytest.mark.parametrize(("alpha", "gamma"), ONE_HIDDEN)
def test_the_rest_of_the_first_step_is_within_its_power(rng, alpha, gamma):
    """|R| <= C eta^2 n^phi (n^e_1 + n^e_2), with the constant of the proof."""
    phi, e = -alpha - gamma[0], (1 - 2 * alpha - gamma[0], 1 - gamma[1])
    rho_2 = 4 / (3 * np.sqrt(3))  # the largest |tanh''|
    z = X @ rng.standard_normal((3, 40_000)) / np.sqrt(3)
    p = 2 / len(Y) * Y @ np.tanh(z)
    q = 2 / len(Y) * (Y * (X @ NEW[0]) / 3) @ slope_of_tanh(z)
    v = np.sqrt(2 / np.pi)  # E |v|; E |v|^3 is twice that
    for n in (4, 64, 1024):
        for eta in (0.1, 1.0):
            _, dh, rate = first_steps(rng, n, 60, alpha, gamma, eta, NEW).T
            rest = np.abs(dh - eta * rate)
            bound = (
                eta**2
                * float(n) ** phi
                * (
                    float(n) ** e[1] * v * np.mean(np.abs(p * q))
                    + float(n) ** e[0] * rho_2 * v * np.mean(q**2)
                )
            )
            assert rest.mean() - 4 * rest.std(ddof=1) / np.sqrt(60) < bound


@pytest.mark.claim("prop-abc-step")
def test_features_freeze_below_one_and_move_at_one(rng):
    """(d): the law of the movement at alpha = 1 is the same at two widths; at 1/2 it shrinks."""
    wide, narrow = (first_steps(rng, n, 1500, 1, (-1, 1), 0.3, NEW)[:, 0] for n in (400, 3))
    assert stats.ks_2samp(wide, narrow).pvalue > 1e-3
    frozen = first_steps(rng, 400, 1500, 0.5, (0, 1), 0.3, NEW)[:, 0]
    assert stats.ks_2samp(wide, frozen * 20).pvalue > 1e-3
    assert stats.ks_2samp(wide, frozen).pvalue < 1e-6
    for _ in range(200):
        alpha, gamma = rng.uniform(0.5, 1), rng.uniform(-1, 2)
        e_1 = 1 - 2 * alpha - gamma
        assert -alpha - gamma == pytest.approx(e_1 - (1 - alpha))


TWO_HIDDEN = {"NTK": (0.5, (0, 1)), "standard / n": (0.5, (1, 1)), "maximal update": (1, (-1, 0))}


@pytest.mark.claim("prop-abc-deep-step")
@pytest.mark.parametrize("name", TWO_HIDDEN)
def test_both_hidden_layers_move_as_stated(rng, name):
    alpha, gamma = TWO_HIDDEN[name]
    x = np.concatenate([NEW, X])
    sigma_1, dot_1 = x @ x.T / 3, gaussian_means(x, slope_of_tanh)
    sigma_2 = gaussian_means(x, np.tanh)
    root = np.linalg.cholesky(sigma_2) * np.sqrt(len(x))
    dot_2 = gaussian_means(root, slope_of_tanh)
    first, second = Y * sigma_1[0, 1:], Y * sigma_2[0, 1:]
    limits = (
        4
        / len(Y) ** 2
        * np.array([first @ (dot_1 * dot_2)[1:, 1:] @ first, second @ dot_2[1:, 1:] @ second])
    )
    n, seeds, rows = 300, 60, []
    for _ in range(seeds):
        scale = (1, n**-0.5, float(n) ** -alpha)
        W = [s * v for s, v in zip(scale, random_start(rng, n, 2), strict=True)]
        G = gradients(W, X, -2 * Y / len(Y))
        z = forward(W, NEW)
        moved = [W[i] - float(n) ** -gamma[i] * G[i] for i in (0, 1)]
        dz_1 = forward([moved[0]], NEW)[0] - z[0]
        dz_2 = (moved[1] - W[1]) @ np.tanh(z[0])
        rows.append([np.mean(dz_1**2), np.mean(dz_2**2)])
    phi = np.array([-alpha - gamma[0], 1 - alpha - gamma[1]])
    ratio = np.array(rows) * float(n) ** (-2 * phi) / limits
    errors = ratio.std(axis=0, ddof=1) / np.sqrt(seeds)
    # The mean at width n differs from the limit by O(1/n).
    assert np.all(np.abs(ratio.mean(axis=0) - 1) < 3.5 * errors + 5 / n), (
        ratio.mean(axis=0),
        errors,
    )


def test_many_steps_have_the_counted_slopes(rng):
    """The lab's table in small, by backpropagation written out."""
    widths = np.array([16, 64, 256])
    counted = {NTK: (-0.5, -0.5), SLOW_STANDARD: (-1.5, -0.5), MUP: (0.0, 0.0)}
    for p, slopes in counted.items():
        a, rows = np.array(p.a, dtype=float), []
        for n in widths.astype(float):
            for _ in range(8):
                start = [
                    n ** -(s + t) * v
                    for s, t, v in zip(p.a, p.b, random_start(rng, int(n), 2), strict=True)
                ]
                W, initial = start, forward(start, X)
                for _ in range(15):
                    residual = 2 * (forward(W, X)[-1] - initial[-1])[0] - 2 * Y
                    G = gradients(W, X, residual / len(Y))
                    W = [u - 0.2 * n ** (-2 * s - p.c) * g for u, s, g in zip(W, a, G, strict=True)]
                now = forward(W, X)
                rows.append([np.sqrt(np.mean((now[i] - initial[i]) ** 2)) for i in (0, 1)])
        moved = np.reshape(rows, (3, 8, 2))
        for layer, slope in enumerate(slopes):
            rate = fitted_rate(widths, moved[:, :, layer])
            # 0.06: what corrections of relative order n^(-1/2) can do to a slope from n = 16 on.
            assert abs(rate.slope - slope) < 4 * rate.standard_error + 0.06, (p.name, layer, rate)


def test_regression_in_the_standard_parametrisation_forgets_the_first_layer(rng):
    angle = np.concatenate([[0.3, 1.0, 2.4, 3.0], np.linspace(0, 3.3, 12)])
    x = 2**0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    y = np.array([1.0, -1.0, -1.0, 1.0])

    def predict(K):
        return K[4:, :4] @ np.linalg.solve(K[:4, :4], y)

    deep = mlp(1, 2, tanh, w_std=2.0)
    later = Sequential(Frozen(deep.layers[0]), *deep.layers[1:])
    right, wrong = (predict(np.asarray(ntk(net)(x))) for net in (later, deep))
    n, found = 200, []
    for _ in range(40):
        shapes = (n, 2), (n, n), (1, n)
        scale = 2.0, 2 / n**0.5, 2 / n**0.5
        W = [s * rng.standard_normal(shape) for s, shape in zip(scale, shapes, strict=True)]
        found.append(predict(sum(layer_kernels(W, (1, 1, 1), x))))
    mean = np.mean(found, axis=0)
    to_right, to_wrong = (np.sqrt(np.mean((mean - limit) ** 2)) for limit in (right, wrong))
    assert to_wrong > 4 * to_right
    # Regression is not linear in the kernel, hence a bias of order 1/n besides the noise.
    noise = np.sqrt(np.mean(np.var(found, axis=0, ddof=1)) / 40)
    assert to_right < 4 * noise
