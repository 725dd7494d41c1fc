"""The statements of the chapter "General networks"."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkbook import (
    Activation,
    ActivationFunction,
    Dense,
    Frozen,
    Scalar,
    Sequential,
    absolute,
    empirical_ntk,
    erf,
    mlp,
    nngp,
    ntk,
    relu,
    sine,
    tanh,
)
from ntkbook.activations import cosine, exponential, gelu, hermite_dual
from ntkbook.layers import Conv, Flatten, GlobalAvgPool, SelfAttention
from ntkbook.rates import fitted_rate

KEY = jax.random.key(1413)
CHAPTER = Path(__file__).parent.parent / "book" / "general-networks.ipynb"


def normal(i, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, i), shape)


def starts(net, in_shape, seeds):
    """Parameters of independent networks, drawn by numpy: no random bits to compile."""
    shapes = jax.eval_shape(lambda: net.init(KEY, in_shape)[0])
    rng = np.random.default_rng(1413)
    return jax.tree.map(lambda leaf: rng.standard_normal((seeds, *leaf.shape)), shapes)


@partial(jax.jit, static_argnums=0)
def kernels_at(net, params, x):
    def one(w):
        return empirical_ntk(net.apply, w, strategy="jacobian")(x)  # compiles fastest

    return jax.lax.map(one, params)


def kernels(net, x, seeds):
    """Empirical kernels of independent networks."""
    return np.asarray(kernels_at(net, starts(net, x.shape[1:], seeds), x))


def in_the_plane(f, k11, k12, k22, nodes=160):
    """E f(u) f(v) by quadrature in the plane."""
    g, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = weight / weight.sum()
    values, vectors = np.linalg.eigh(np.array([[k11, k12], [k12, k22]]))
    u, v = (vectors * np.sqrt(values)) @ np.stack(
        [np.repeat(g, nodes), np.tile(g, nodes)]
    )  # the symmetric way: neither input comes first
    return float(np.repeat(weight, nodes) * np.tile(weight, nodes) @ (f(u) * f(v)))


def plain_recursion(x, moments, layers):
    """Sigma and Theta at all pairs, with kappa by quadrature and layers (w_std, b_std, trained)."""
    count = len(x)
    S, T = x @ x.T / x.shape[1], np.zeros((count, count))
    for i, (w_std, b_std, trained) in enumerate(layers):
        if i:
            kappa, kappa_dot = (
                np.array(
                    [
                        [
                            in_the_plane(f, S[a, a], S[a, b], S[b, b])
                            if a != b
                            else in_the_line(f, S[a, a])
                            for b in range(count)
                        ]
                        for a in range(count)
                    ]
                )
                for f in moments
            )
            S, T = kappa, kappa_dot * T
        S, T = w_std**2 * S + b_std**2, w_std**2 * T
        T = T + trained * S
    return S, T


def in_the_line(f, k):
    g, weight = np.polynomial.hermite_e.hermegauss(200)
    return float(weight @ f(np.sqrt(k) * g) ** 2 / weight.sum())


LAYERS = [(1.1, 0.3, True), (0.9, 0.0, False), (1.2, 0.5, True)]


def uneven(first, second, sigma=tanh, outputs=1):
    """Two hidden layers of different widths and scales; the middle one is not trained."""
    dense = [
        layer if trained else Frozen(layer)
        for layer, (_, _, trained) in zip(
            (
                Dense(width, w_std, b_std)
                for width, (w_std, b_std, _) in zip((first, second, outputs), LAYERS, strict=True)
            ),
            LAYERS,
            strict=True,
        )
    ]
    return Sequential(dense[0], Activation(sigma), dense[1], Activation(sigma), dense[2])


@pytest.mark.claim("thm-recursion")
def test_library_computes_the_recursion():
    x = np.asarray(normal(0, 3, 4))
    S, T = plain_recursion(x, (np.tanh, lambda t: 1 - np.tanh(t) ** 2), LAYERS)
    net = uneven(1, 1)
    assert np.allclose(nngp(net)(x), S, rtol=1e-6)
    assert np.allclose(ntk(net)(x), T, rtol=1e-6)


def mean_square_rate(sizes, squares):
    """Slope of the mean squared error; 8 groups of 5 seeds are the repetitions."""
    return fitted_rate(sizes, np.array(squares).reshape(len(sizes), 8, 5).mean(axis=2))


@pytest.mark.claim("thm-recursion")
def test_kernels_converge_in_mean_square():
    x, sizes = normal(1, 2, 4), np.array([8, 32, 128])
    limit = np.asarray(ntk(uneven(1, 1))(x))
    same, different = [], []
    for n in sizes.tolist():
        k = kernels(uneven(2 * n, n, outputs=2), x, 40)
        same.append(((k[..., 0, 0] - limit) ** 2).mean(axis=(1, 2)))
        different.append((k[..., 0, 1] ** 2).mean(axis=(1, 2)))
    for squares in (same, different):
        rate = mean_square_rate(sizes, squares)
        assert abs(rate.slope + 1) < 3 * rate.standard_error
        assert rate.standard_error < 0.3


@pytest.mark.claim("thm-recursion")
def test_outputs_become_gaussian_with_the_covariance():
    x, seeds = normal(2, 2, 3), 2000
    net = uneven(64, 64, sigma=relu)

    params = starts(net, (3,), seeds)
    h = np.asarray(jax.jit(lambda w: jax.lax.map(lambda w: net.apply(w, x)[:, 0], w))(params))
    whitened = np.linalg.solve(np.linalg.cholesky(np.asarray(nngp(net)(x))), h.T)
    # A direction that is neither input, against the standard normal law.
    assert stats.kstest((whitened[0] + whitened[1]) / np.sqrt(2), "norm").pvalue > 1e-3


@pytest.mark.claim("cor-last-layer")
@pytest.mark.parametrize("sigma", [relu, erf, tanh])
def test_the_tangent_kernel_of_the_last_layer_is_the_nngp_kernel(sigma):
    w_std, b_std = 1.3, 0.4
    x = normal(3, 4, 5)
    hidden = [Frozen(Dense(6, w_std, b_std)), Activation(sigma)] * 2
    net = Sequential(*hidden, Dense(1, w_std, b_std), Scalar())
    assert np.allclose(ntk(net)(x), nngp(mlp(1, 2, sigma, w_std=w_std, b_std=b_std))(x), rtol=1e-12)
    # At finite width: the covariance of the output, over fresh last layers.
    params, _ = net.init(KEY, (5,))
    features = Sequential(*hidden).apply(params[:4], x)
    covariance = w_std**2 * features @ features.T / 6 + b_std**2
    assert np.allclose(empirical_ntk(net.apply, params)(x), covariance, rtol=1e-12)


COVARIANCES = [(1.0, 0.4, 0.7), (0.5, -0.6, 0.9), (1.7, 1.1, 0.8)]


@pytest.mark.claim("prop-price")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (lambda t: np.sin(t) + t**3 / 6, lambda t: np.cos(t) + t**2 / 2),
        (lambda t: np.exp(0.5 * t) - t, lambda t: 0.5 * np.exp(0.5 * t) - 1),
    ],
)
def test_the_derivative_in_the_covariance_is_the_expectation_of_slopes(f, slope, covariance):
    k11, k12, k22 = covariance
    step = 1e-4
    up, down = (in_the_plane(f, k11, k12 + s, k22) for s in (step, -step))
    assert np.isclose((up - down) / (2 * step), in_the_plane(slope, *covariance), rtol=1e-6)


@pytest.mark.claim("prop-price")
@pytest.mark.parametrize("sigma", [relu, absolute])
def test_price_theorem_survives_kinks(sigma):
    k11, k12, k22 = COVARIANCES[0]
    derivative = jax.grad(lambda c: sigma.dual(k11, c, k22)[0])(k12)
    u, v = (
        np.random.default_rng(5)
        .multivariate_normal(np.zeros(2), [[k11, k12], [k12, k22]], size=400_000)
        .T
    )
    sample = np.asarray(sigma.derivative(u) * sigma.derivative(v))
    error = sample.std() / np.sqrt(len(sample))
    assert abs(sample.mean() - derivative) < 4 * error


@pytest.mark.claim("prop-duals")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("name", ["erf", "exp", "sin", "cos"])
def test_closed_forms(name, covariance):
    k11, k12, k22 = covariance
    A, q = (1 + 2 * k11) * (1 + 2 * k22), np.exp(-(k11 + k22) / 2)
    sigma, kappa, kappa_dot = {
        "erf": (
            erf,
            2 / np.pi * np.arcsin(2 * k12 / np.sqrt(A)),
            4 / np.pi / np.sqrt(A - 4 * k12**2),
        ),
        "exp": (exponential, np.exp(k12) / q, np.exp(k12) / q),
        "sin": (sine, q * np.sinh(k12), q * np.cosh(k12)),
        "cos": (cosine, q * np.cosh(k12), q * np.sinh(k12)),
    }[name]
    for value, f in ((kappa, sigma.function), (kappa_dot, sigma.derivative)):
        assert np.isclose(
            value, in_the_plane(lambda t, f=f: np.asarray(f(t)), *covariance), rtol=1e-6
        )
    assert np.allclose(sigma.dual(*covariance), (kappa, kappa_dot), rtol=1e-12)


def standard(params, x, w_std):
    """The same network, its effective weights being the parameters."""
    z = x
    for i, U in enumerate(params):
        z = (jnp.tanh(z) if i else z) @ U
    return z[:, 0]


@pytest.mark.claim("prop-standard")
def test_standard_parametrisation_multiplies_each_part_by_its_fan_in():
    x, w_std = normal(6, 3, 5), 1.3
    net = mlp(7, 2, tanh, w_std=w_std)
    params, _ = net.init(KEY, (5,))
    weights = [layer["W"] for layer in params if layer]
    effective = [w_std / np.sqrt(len(W)) * W for W in weights]
    f = partial(standard, w_std=w_std)
    assert np.allclose(f(effective, x), net.apply(params, x), rtol=1e-12)

    gradients = jax.jacobian(net.apply)(params, x)
    parts = [g["W"].reshape(3, -1) @ g["W"].reshape(3, -1).T for g in gradients if g]
    expected = sum(len(W) * part for W, part in zip(weights, parts, strict=True)) / w_std**2
    assert np.allclose(empirical_ntk(f, effective)(x), expected, rtol=1e-10)


@pytest.mark.claim("prop-standard")
def test_standard_parametrisation_forgets_the_first_layer():
    x, sizes = normal(7, 2, 4), np.array([16, 64, 256])
    first_frozen = Sequential(
        Frozen(Dense(1)), Activation(tanh), Dense(1), Activation(tanh), Dense(1), Scalar()
    )
    limit = np.asarray(ntk(first_frozen)(x))
    whole = np.asarray(ntk(mlp(1, 2, tanh))(x))
    f = partial(standard, w_std=1.0)
    at = jax.jit(lambda U: jax.lax.map(lambda U: empirical_ntk(f, U, strategy="jacobian")(x), U))
    rng, squares, last = np.random.default_rng(7), [], np.zeros((1, 2, 2))
    for n in sizes.tolist():
        U = [
            rng.standard_normal((40, *shape)) / np.sqrt(shape[0])
            for shape in ((4, n), (n, n), (n, 1))
        ]
        last = np.asarray(at(U)) / n
        squares.append(((last - limit) ** 2).mean(axis=(1, 2)))
    rate = mean_square_rate(sizes, squares)
    # At least like 1/n: the first layer's share falls even faster.
    assert rate.slope < -1 + 3 * rate.standard_error
    assert rate.standard_error < 0.3
    # The test can tell the two limits apart.
    assert abs(whole - limit).max() > 10 * last.std(axis=0, ddof=1).max() / np.sqrt(40)


def convolutional(width, end):
    conv = Conv(width, (3,), padding="CIRCULAR", w_std=1.2, b_std=0.3)
    return Sequential(conv, Activation(erf), conv, Activation(erf), end, Dense(1), Scalar())


@pytest.mark.claim("prop-conv")
@pytest.mark.parametrize("end", [Flatten(), GlobalAvgPool()])
def test_convolutional_recursion(end):
    x = np.asarray(normal(8, 2, 5, 3))
    positions = x.shape[1]

    def average(S):
        shifted = [
            [S[:, (c + o) % positions][..., (e + o) % positions] for e in range(positions)]
            for c in range(positions)
            for o in (-1, 0, 1)
        ]
        mean = np.array(shifted).reshape(positions, 3, positions, 2, 2).mean(axis=1)
        return mean.transpose(2, 0, 3, 1)  # (image, position, image, position)

    S = np.einsum("icd,jed->icje", x, x) / 3
    T = 0 * S
    for _ in range(2):
        S = 1.2**2 * average(S) + 0.3**2
        T = S + 1.2**2 * average(T)
        own = np.einsum("icic->ic", S)
        A = (1 + 2 * own[:, :, None, None]) * (1 + 2 * own)
        S, T = (
            2 / np.pi * np.arcsin(2 * S / np.sqrt(A)),
            4 / np.pi / np.sqrt(A - 4 * S**2) * T,
        )
    both = S + T
    expected = (
        np.einsum("icjc->ij", both) / positions if isinstance(end, Flatten) else both.mean((1, 3))
    )
    assert np.allclose(ntk(convolutional(1, end))(x), expected, rtol=1e-10)


@pytest.mark.claim("prop-conv")
def test_convolutional_kernels_converge():
    x, sizes = normal(9, 2, 5, 3), np.array([8, 32, 128])
    limit = np.asarray(ntk(convolutional(1, GlobalAvgPool()))(x))
    squares = [
        ((kernels(convolutional(n, GlobalAvgPool()), x, 40) - limit) ** 2).mean((1, 2))
        for n in sizes.tolist()
    ]
    rate = mean_square_rate(sizes, squares)
    assert abs(rate.slope + 1) < 3 * rate.standard_error
    assert rate.standard_error < 0.3


def attentive(width, **options):
    attention = SelfAttention(width, **options)
    return Sequential(attention, Activation(relu), GlobalAvgPool(), Dense(1), Scalar())


@pytest.mark.claim("prop-attention")
def test_attention_with_logits_over_the_width_is_uniform_in_the_limit():
    x, sizes = normal(10, 2, 6, 4), np.array([16, 64, 256])
    mean = np.asarray(x).mean(axis=1)
    S = mean @ mean.T / 4
    own = jnp.asarray(np.diag(S))
    kappa, kappa_dot = relu.dual(own[:, None], jnp.asarray(S), own)
    limit = np.asarray(kappa + 2 * kappa_dot * S)
    assert np.allclose(ntk(attentive(1))(x), limit, rtol=1e-6)
    squares = [((kernels(attentive(n), x, 40) - limit) ** 2).mean((1, 2)) for n in sizes.tolist()]
    rate = mean_square_rate(sizes, squares)
    assert abs(rate.slope + 1) < 3 * rate.standard_error
    assert rate.standard_error < 0.3


@pytest.mark.claim("prop-attention")
def test_attention_with_logits_over_the_root_stays_random():
    x, n, seeds = normal(11, 3, 4) * 2, 256, 1000
    net = SelfAttention(n, scaling="root")
    rng = np.random.default_rng(11)

    def last_part(params):
        """The last layer's part of the kernel of the mean of sigma(y)."""
        features = jnp.maximum(net.apply(params, x), 0).mean(axis=0)
        return features @ features / n

    params = starts(net, x.shape, seeds)
    finite = np.asarray(jax.jit(lambda w: jax.lax.map(last_part, w))(params))
    S = np.asarray(x @ x.T / 4)
    L = np.linalg.cholesky(S)
    G = L @ rng.standard_normal((seeds, 3, 3)) @ L.T
    P = np.exp(G - G.max(axis=2, keepdims=True))
    P /= P.sum(axis=2, keepdims=True)
    gamma = P @ S @ P.transpose(0, 2, 1)
    own = np.einsum("hss->hs", gamma)
    limit = np.asarray(relu.dual(own[:, :, None], gamma, own[:, None, :])[0]).mean(axis=(1, 2))
    p = float(np.asarray(stats.ks_2samp(finite, limit))[1])
    assert p > 1e-3
    # Not a constant: an average over n neurons would have a relative variance of about 5 / n.
    assert finite.var() / finite.mean() ** 2 > 10 * 5 / n
    with pytest.raises(ValueError, match="no infinite-width limit"):
        ntk(attentive(8, scaling="root"))(x[None])


@pytest.mark.claim("prop-depth-width")
@pytest.mark.parametrize("widths", [(6,), (9, 5), (12, 12, 12, 12)])
def test_relative_variance_of_the_last_part_is_exact(widths):
    rng, seeds = np.random.default_rng(len(widths)), 100_000
    h = np.ones((seeds, 3))
    for n in widths:
        # Given |h|, the preactivations are |h| times independent Gaussians.
        W = rng.standard_normal((seeds, h.shape[1], n))
        h = np.maximum(np.einsum("si,sin->sn", h, W), 0) / np.sqrt(n)
    part = np.sum(h**2, axis=1)
    expected_mean = 3 * 0.5 ** len(widths)
    second = (part / expected_mean) ** 2
    error = second.std() / np.sqrt(seeds)
    assert abs(second.mean() - np.prod([1 + 5 / n for n in widths])) < 4 * error
    assert abs(part.mean() - expected_mean) < 4 * part.std() / np.sqrt(seeds)


def example(tag):
    """What the chapter's cell with this tag defines."""
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if tag in c["metadata"].get("tags", [])]
    assert len(sources) == 1
    from dataclasses import dataclass, replace

    names = {
        "ActivationFunction": ActivationFunction,
        "dataclass": dataclass,
        "hermite_dual": hermite_dual,
        "jax": jax,
        "jnp": jnp,
        "replace": replace,
        "__name__": "example",
    }
    exec(sources[0], names)
    return names


def test_the_activation_of_the_chapter():
    snake = example("example-activation")["snake"]
    t = jnp.linspace(-4, 4, 33)
    assert np.allclose(jax.vmap(jax.grad(snake.function))(t), snake.derivative(t), rtol=1e-12)
    curvature = jax.vmap(jax.grad(snake.derivative))(jnp.linspace(0, 4, 4001))
    assert abs(np.abs(curvature).max() - snake.smoothness) < 1e-5
    for covariance in COVARIANCES:
        expected = [
            in_the_plane(lambda t, f=f: np.asarray(f(t)), *covariance)
            for f in (snake.function, snake.derivative)
        ]
        assert np.allclose(snake.dual(*covariance), expected, rtol=1e-9)


def test_the_layer_of_the_chapter():
    gain = example("example-layer")["Gain"]()
    x = normal(12, 2, 4)
    net = Sequential(Dense(64, 1.2), Activation(gelu), gain, Dense(1), Scalar())
    sample = kernels(net, x, 400)
    error = sample.std(axis=0, ddof=1) / 20
    assert np.all(np.abs(sample.mean(axis=0) - ntk(net)(x)) < 4 * error)
    with pytest.raises(ValueError, match="not Gaussian"):
        ntk(Sequential(Dense(8), gain, Activation(relu)))(x)


def test_sharing_weights_does_not_matter_behind_flatten():
    x = normal(13, 2, 5, 3)
    permuted = x[:, jnp.array([0, 4, 3, 2, 1])]  # the same neighbourhoods, read backwards
    net = convolutional(1, Flatten())
    assert np.allclose(ntk(net)(x), ntk(net)(permuted), rtol=1e-12)
