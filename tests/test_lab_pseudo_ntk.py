"""The statements of the lab "Pseudo-NTK"."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import Sequential, empirical_ntk, mlp, pseudo_ntk, relu, tanh
from ntkbook.kernels import relative_error
from ntkbook.rates import fitted_rate
from ntkbook.softmax import cross_entropy
from ntkbook.training import train

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KINDS = ("sum", "first", "trace")


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2023, *request.node.name.encode()])


def surrogates(k):
    """The three kinds, from kernels (..., m, m, outputs, outputs)."""
    outputs = k.shape[-1]
    return {
        "sum": k.sum((-1, -2)) / outputs,
        "first": k[..., 0, 0],
        "trace": np.trace(k, axis1=-2, axis2=-1) / outputs,
    }


def squared_error(k, S):
    """|k - S (x) I|_F^2 over the last four axes."""
    return np.sum((k - S[..., None, None] * np.eye(k.shape[-1])) ** 2, (-1, -2, -3, -4))


def squared_floor(k):
    return np.sum((k * (1 - np.eye(k.shape[-1]))) ** 2, (-1, -2, -3, -4))


def kernels(W, g, A):
    """k(x_i, x_j)[a, b] from readouts (..., outputs, N), features (m, N) and A (m, m, N, N)."""
    forms = np.einsum("...ak,ijkl,...bl->...ijab", W, A, W, optimize=True)
    return ((g @ g.T)[:, :, None, None] * np.eye(W.shape[-2]) + forms) / W.shape[-1]


def basis_from_ones(rng, n):
    """An orthogonal matrix whose first row has equal entries."""
    columns = np.column_stack([np.ones(n), rng.standard_normal((n, n - 1))])
    return np.linalg.qr(columns)[0].T


def hidden_layers(rng, m, N, p, decay=0.0):
    """Features and A of hidden layers with any derivative; its size falls along the features."""
    J = rng.standard_normal((m, N, p)) * np.arange(1, N + 1)[:, None] ** -decay
    return rng.standard_normal((m, N)), np.einsum("ikp,jlp->ijkl", J, J)


def assert_mean(samples, expected, deviations=5.0):
    """A two-sided z-test of each entry, the samples first."""
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    assert np.abs((samples.mean(0) - expected) / error).max() < deviations


# The best single kernel


@pytest.mark.claim("prop-pseudo-best")
@pytest.mark.parametrize(("m", "n", "outputs"), [(1, 1, 2), (2, 3, 4)])
def test_least_squares_finds_the_trace(m, n, outputs, rng):
    """All S at once, by a solver that knows nothing of traces."""
    k = rng.standard_normal((m, n, outputs, outputs)) + np.eye(outputs)
    units = np.eye(m * n).reshape(m * n, m, n)
    basis = np.stack([np.kron(unit, np.eye(outputs)).ravel() for unit in units], 1)
    flat = k.transpose(0, 2, 1, 3).reshape(-1)
    best, rest, *_ = np.linalg.lstsq(basis, flat)
    T = surrogates(k)["trace"]
    np.testing.assert_allclose(best.reshape(m, n), T, rtol=1e-10)
    diagonal = np.einsum("ijaa->ija", k)
    spread = np.sum((diagonal - T[..., None]) ** 2)
    np.testing.assert_allclose(rest[0], squared_floor(k) + spread, rtol=1e-10)
    S = rng.standard_normal((m, n))
    np.testing.assert_allclose(
        squared_error(k, S), rest[0] + outputs * np.sum((S - T) ** 2), rtol=1e-10
    )
    # A kernel for each output: its best is the diagonal, and the floor remains.
    blocks = np.stack([np.diag(e).ravel() for e in np.eye(outputs)], 1)
    for block in k.reshape(-1, outputs, outputs):
        _, left, *_ = np.linalg.lstsq(blocks, block.ravel())
        np.testing.assert_allclose(left[0], squared_floor(block[None, None]), rtol=1e-10)


# The law of the readout


@pytest.mark.claim("thm-pseudo-law")
def test_kernel_is_a_quadratic_form_in_the_readout(rng):
    net = mlp(width=6, depth=2, activation=tanh, w_std=1.3, outputs=3)
    params, _ = net.init(jax.random.key(1), (4,))
    x = rng.standard_normal((3, 4))
    hidden = Sequential(*net.layers[:-1])
    g = 1.3 * np.asarray(hidden.apply(params[:-1], x))
    A = 1.3**2 * np.asarray(empirical_ntk(hidden.apply, params[:-1])(x))
    expected = empirical_ntk(net.apply, params)(x)
    np.testing.assert_allclose(kernels(np.asarray(params[-1]["W"]).T, g, A), expected, rtol=1e-10)
    # Behind one hidden layer A is symmetric for each pair of inputs; behind two it is not.
    assert not np.allclose(A[0, 1], A[0, 1].T, rtol=1e-2)
    A = np.asarray(empirical_ntk(Sequential(*net.layers[:2]).apply, params[:2])(x))
    np.testing.assert_allclose(A[0, 1], A[0, 1].T, atol=1e-14)


@pytest.mark.claim("thm-pseudo-law")
@pytest.mark.parametrize("symmetric", [True, False])
def test_means_variances_and_errors_over_readouts(symmetric, rng):
    m, N, outputs = 2, 5, 4
    g, A = hidden_layers(rng, m, N, 7)
    if symmetric:
        A = A + A.transpose(0, 1, 3, 2)
    k = kernels(rng.standard_normal((20_000, outputs, N)), g, A)
    beta = np.sum(A**2, (2, 3)) / N**2
    nu = beta + np.einsum("ijkl,ijlk->ij", A, A) / N**2
    mean = (g @ g.T + np.einsum("ijkk->ij", A)) / N
    same = np.eye(outputs, dtype=bool)
    expected = np.where(same, mean[..., None, None], 0)
    assert_mean(k, expected)
    assert_mean((k - expected) ** 2, np.where(same, nu[..., None, None], beta[..., None, None]))
    floor = (outputs - 1) * outputs * beta.sum()
    assert_mean(squared_floor(k), floor)
    for kind, S in surrogates(k).items():
        c = 1 if kind == "trace" else 2
        error = floor + (outputs - 1) * c * nu.sum()
        assert_mean(squared_error(k, S), error)
        share, bound = np.sqrt(floor / error), np.sqrt(outputs / (outputs + 2 * c))
        assert np.isclose(share, bound) if symmetric else share > 1.001 * bound
    assert np.all((nu > 0) & (nu <= 2 * beta * (1 + 1e-12)))
    # The exercise on several logits.
    S = np.einsum("sijaa->sij", k[..., :3, :3]) / 3
    assert_mean(squared_error(k, S), floor + (outputs - 2 + outputs / 3) * nu.sum())


@pytest.mark.claim("thm-pseudo-law")
def test_the_sum_is_the_first_logit_of_rotated_outputs(rng):
    m, N, outputs = 3, 5, 4
    g, A = hidden_layers(rng, m, N, 7)
    W = rng.standard_normal((outputs, N))
    Q = np.linalg.qr(
        np.column_stack([np.ones(outputs), rng.standard_normal((outputs, outputs - 1))])
    )[0].T
    k, rotated = kernels(W, g, A), kernels(Q @ W, g, A)
    np.testing.assert_allclose(surrogates(rotated)["first"], surrogates(k)["sum"], rtol=1e-10)
    np.testing.assert_allclose(
        squared_error(rotated, surrogates(rotated)["first"]),
        squared_error(k, surrogates(k)["sum"]),
        rtol=1e-10,
    )


@pytest.mark.claim("thm-pseudo-law")
def test_no_matrix_leaves_the_bounds_on_the_variances(rng):
    for _ in range(300):
        A = rng.standard_normal((5, 5))
        A = A + rng.uniform(-1, 1) * A.T
        nu, beta = np.sum(A**2) + np.trace(A @ A), np.sum(A**2)
        assert -1e-12 <= nu <= 2 * beta
    for sign, ratio in ((1, 2), (-1, 0)):
        A = A + sign * A.T
        assert np.isclose(np.sum(A**2) + np.trace(A @ A), ratio * np.sum(A**2))


# The rate


def effective_rank(A):
    return np.einsum("iikk->", A) ** 2 / np.sum(A**2)


@pytest.mark.claim("thm-pseudo-rate")
@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_bound_holds_as_often_as_it_says(decay, rng):
    m, outputs, draws = 2, 3, 1000
    for N, p in ((20, 30), (60, 70)):
        g, A = hidden_layers(rng, m, N, p, decay)
        g *= 0.01  # the bound does without them
        k = kernels(rng.standard_normal((draws, outputs, N)), g, A)
        r = effective_rank(A)
        flat = A.transpose(0, 2, 1, 3).reshape(m * N, m * N)
        assert r >= np.trace(flat) / np.linalg.norm(flat, 2) * (1 - 1e-12)
        size = np.sum(k**2, (1, 2, 3, 4))
        # Its two halves, which are less generous than the bound.
        small = size < outputs / (4 * m) * np.trace(flat) ** 2 / N**2
        assert small.mean() <= 8 * m / (outputs * r)
        for S in surrogates(k).values():
            error = squared_error(k, S)
            deviation = error.std(ddof=1) / np.sqrt(draws)
            expected = (outputs - 1) * (outputs + 4) * np.sum(A**2) / N**2
            assert error.mean() <= expected + 5 * deviation
            for delta in (0.05, 0.3):
                failed = error / size > 4 * m * (outputs + 3) / (delta * r)
                assert failed.mean() <= delta + 8 * m / (outputs * r)


@pytest.mark.claim("thm-pseudo-rate")
def test_error_falls_with_the_root_of_the_effective_rank(rng):
    """A has r ones on its diagonal: the width has no say, the rank has."""
    N, outputs, ranks = 3200, 3, np.array([400, 800, 1600, 3200])
    small = np.diag(np.repeat([1.0, 0.0], [3, 4]))[None, None]
    assert np.isclose(effective_rank(small), 3)
    W = rng.standard_normal((6, outputs, 7))
    k = np.einsum("sak,sbk->sab", W[..., :3], W[..., :3])[:, None, None] / 7
    np.testing.assert_allclose(kernels(W, np.zeros((1, 7)), small), k)
    errors = {kind: [] for kind in KINDS}
    for r in ranks:
        W = rng.standard_normal((400, outputs, r))
        k = (W @ W.transpose(0, 2, 1) / N)[:, None, None]
        for kind, S in surrogates(k).items():
            ratio = squared_error(k, S) / np.sum(k**2, (1, 2, 3, 4))
            errors[kind].append(np.sqrt(ratio.reshape(20, 20).mean(1)))
    for values in errors.values():
        rate = fitted_rate(ranks, np.array(values))
        assert rate.standard_error < 0.02
        assert abs(rate.slope + 0.5) < 4 * rate.standard_error


def relu_kernel(weights, x, omega):
    """k by the chain rule of the corollary's proof, and lower bounds for tr A: numpy only."""
    *below, W = weights
    a, layers = x, []
    for V in below:
        z = omega / np.sqrt(a.shape[1]) * a @ V.T
        layers.append((a, V, z > 0))
        a = np.maximum(z, 0)
    N = a.shape[1]
    k = omega**2 * (a @ a.T)[:, :, None, None] * np.eye(len(W))
    rows = np.broadcast_to(omega * W, (len(x), *W.shape))
    for a, V, on in reversed(layers):
        rows = rows * on[:, None]  # w_a P_l
        gain = omega**2 * a @ a.T / a.shape[1]
        k = k + gain[:, :, None, None] * np.einsum("iak,jbk->ijab", rows, rows)
        rows = omega / np.sqrt(a.shape[1]) * rows @ V
    return k / N


def relu_weights(rng, d, N, depth, outputs):
    sizes = [d, *[N] * depth]
    below = [rng.standard_normal(shape[::-1]) for shape in itertools.pairwise(sizes)]
    return [*below, rng.standard_normal((outputs, N))]


def test_the_chain_rule_is_the_kernel_of_the_library(rng):
    omega, x = 1.2, rng.standard_normal((3, 4))
    net = mlp(width=6, depth=2, activation=relu, w_std=omega, outputs=3)
    weights = relu_weights(rng, 4, 6, 2, 3)
    *below, W = weights
    params = [part for V in below for part in ({"W": V.T}, ())]
    k = empirical_ntk(net.apply, (*params, {"W": W.T}))(x)
    np.testing.assert_allclose(k, relu_kernel(weights, x, omega), rtol=1e-10)


@pytest.mark.claim("cor-pseudo-relu")
@pytest.mark.parametrize("depth", [1, 2])
def test_error_falls_with_the_root_of_the_width(depth, rng):
    x, outputs, draws = rng.standard_normal((3, 5)), 3, 10
    widths, seeds = np.array([80, 160, 320, 640]), 10
    errors = np.empty((3, len(widths), seeds))
    for i, N in enumerate(widths):
        for seed in range(seeds):
            # Several readouts over the same hidden layers, one beside the other.
            k = relu_kernel(relu_weights(rng, 5, N, depth, draws * outputs), x, np.sqrt(2))
            k = np.stack([k[..., o : o + outputs, o : o + outputs] for o in range(0, 30, 3)])
            size = np.sum(k**2, (1, 2, 3, 4))
            ratios = [squared_error(k, S) / size for S in surrogates(k).values()]
            errors[:, i, seed] = np.sqrt(np.mean(ratios, 1))
    for values in errors:
        rate = fitted_rate(widths, values)
        assert rate.standard_error < 0.06
        assert abs(rate.slope + 0.5) < 4 * rate.standard_error


# The gotcha


NET = mlp(width=48, depth=1, activation=relu, w_std=2**0.5, outputs=4)


def trained(rng, loss=cross_entropy, **options):
    """A start and an end, on four clouds of points."""
    params, _ = NET.init(jax.random.key(3), (6,))
    label = np.arange(80) % 4
    x = rng.standard_normal((80, 6)) + 2 * np.eye(6)[label]
    y = np.eye(4)[label]
    run = train(
        NET.apply, params, x, y, learning_rate=0.5, momentum=0.9, steps=150, loss=loss, **options
    )
    return params, run.params, x


def summed(params):
    return np.asarray(params[-1]["W"]).sum(1)


@pytest.mark.claim("prop-pseudo-frozen")
def test_cross_entropy_moves_the_readout_but_not_its_sum(rng):
    start, end, x = trained(rng, batch_size=20, key=jax.random.key(5))
    moved = np.asarray(end[-1]["W"]) - np.asarray(start[-1]["W"])
    assert np.abs(moved).max() > 0.5
    np.testing.assert_allclose(summed(end), summed(start), atol=1e-12)

    # The kernel of the sum is that of the start's sum over the hidden weights of the end.
    x, s = x[:8], np.sqrt(2) * summed(start) / 2
    z = x @ np.asarray(end[0]["W"]) * np.sqrt(2 / 6)
    g, on = np.maximum(z, 0), z > 0
    A = (x @ x.T / 3)[:, :, None] * on[:, None] * on[None]
    expected = (2 * g @ g.T + A @ s**2) / 48
    K = np.asarray(pseudo_ntk(NET.apply, end)(x))
    np.testing.assert_allclose(K, expected, rtol=1e-10, atol=1e-12)

    # The scale fails and the shape survives; before, neither fails.
    full, full_0 = (np.asarray(empirical_ntk(NET.apply, p)(x)) for p in (end, start))
    S, T = surrogates(full)["sum"], surrogates(full)["trace"]
    factor = np.sum(S * T) / np.sum(S**2)
    errors = [float(relative_error(kernel, full)) for kernel in (S, factor * S, T)]
    assert errors[0] > 1.5 * errors[2]
    assert errors[1] - errors[2] < (errors[0] - errors[2]) / 3
    assert factor > 1.3
    S, T = surrogates(full_0)["sum"], surrogates(full_0)["trace"]
    assert relative_error(S, full_0) < 1.2 * relative_error(T, full_0)

    # The trace is the mean over any orthonormal basis that begins with the sum.
    Q = basis_from_ones(rng, 4)
    np.testing.assert_allclose(Q[1:].sum(1), 0, atol=1e-12)
    along = np.einsum("ua,ijab,ub->uij", Q, full, Q)
    np.testing.assert_allclose(along[0], K, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(along.mean(0), surrogates(full)["trace"], rtol=1e-8, atol=1e-10)


@pytest.mark.claim("prop-pseudo-frozen")
def test_so_does_every_loss_that_sees_differences_only(rng):
    def hinge(h, y):
        right = jnp.sum(h * y, 1, keepdims=True)
        return jnp.mean((1 - y) * jax.nn.softplus(1 + h - right))

    def squares(h, y):
        return jnp.mean((h - y) ** 2)

    for loss, free in ((hinge, False), (squares, True)):
        start, end, _ = trained(rng, loss)
        moved = np.abs(summed(end) - summed(start)).max()
        assert moved > 0.1 if free else moved < 1e-12
        assert np.abs(np.asarray(end[-1]["W"]) - np.asarray(start[-1]["W"])).max() > 0.1


# Where it stops


def test_logits_that_share_weights_have_no_single_kernel(rng):
    """The exercise: means of the kernel under w_a = sqrt(rho) w_0 + sqrt(1 - rho) w_a'."""
    rho, N, outputs = 0.5, 5, 3
    g, A = hidden_layers(rng, 1, N, 7)
    shared, own = rng.standard_normal((20_000, 1, N)), rng.standard_normal((20_000, outputs, N))
    W = np.sqrt(rho) * shared + np.sqrt(1 - rho) * own
    products = np.where(np.eye(outputs, dtype=bool), 1, rho) * (g @ g.T) / N
    k = kernels(W, 0 * g, A)[:, 0, 0] + products
    mean = (g[0] @ g[0] + np.trace(A[0, 0])) / N
    assert_mean(k, mean * np.where(np.eye(outputs, dtype=bool), 1, rho))
