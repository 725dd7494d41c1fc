"""Look-ahead: training on one more label, against fits from the beginning."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkbook import empirical_ntk, kernel_regression, two_layer
from ntkbook.look_ahead import Tabulated, acquire, look_ahead, most_output_change

pytestmark = pytest.mark.usefixtures("compiled_quickly")

M, C, N, D = 6, 5, 4, 3
RNG = np.random.default_rng(2022)
X, CANDIDATES, X_NEW = (RNG.normal(size=(n, D)) for n in (M, C, N))
Y, LABELS = RNG.normal(size=(M, 2)), RNG.normal(size=(C, 2))


@jax.jit
def rbf(x1, x2):
    return jnp.exp(-jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / 2)


@jax.jit
def wave(x):
    return jnp.sin(x[:, :2])


WEIGHTS = RNG.normal(size=(D, 2, 30))


@jax.jit
def joint(x1, x2):
    """Two outputs that share features, (n1, n2, 2, 2): k(x, x')[a, b] is not k(x, x')[b, a]."""
    one, two = (jnp.tanh(jnp.einsum("nd,dap->nap", x, WEIGHTS) + 0.5) for x in (x1, x2))
    return jnp.einsum("nap,mbp->nmab", one, two)


KERNELS = {"one for all": (rbf, None), "from a start": (rbf, wave), "joint": (joint, wave)}
ALL = pytest.mark.parametrize("name", KERNELS)


def refit(kernel, x, y, x_new, noise=0.0, h0=None):
    return kernel_regression(kernel, x, y, ridge=noise / len(x), h0=h0)(x_new)


def close(one, other, rtol=1e-9):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


# One more label


@ALL
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_looking_ahead_is_fitting_anew(name, noise):
    kernel, h0 = KERNELS[name]
    ahead = look_ahead(kernel, X, Y, CANDIDATES, h0=h0, noise=noise)
    predicted = ahead(LABELS, X_NEW)
    assert predicted.shape == (C, N, 2)
    for c in range(C):
        x, y = np.vstack([X, CANDIDATES[c]]), np.vstack([Y, LABELS[c]])
        close(predicted[c], refit(kernel, x, y, X_NEW, noise, h0))
    close(ahead.before(X_NEW), refit(kernel, X, Y, X_NEW, noise, h0))
    close(ahead.values, refit(kernel, X, Y, CANDIDATES, noise, h0))
    close(ahead.change(LABELS, X_NEW), predicted - ahead.before(X_NEW))


def test_looking_ahead_with_the_kernel_of_a_network():
    net = two_layer(30)
    params, _ = net.init(jax.random.key(1), (D,))
    kernel = empirical_ntk(net.apply, params)
    ahead = look_ahead(kernel, X, Y[:, 0], CANDIDATES, h0=partial(net.apply, params))
    K = np.asarray(kernel(np.vstack([X, CANDIDATES])))
    schur = K[M, M] - K[M, :M] @ np.linalg.solve(K[:M, :M], K[:M, M])
    close(ahead.unexplained[0, 0, 0], schur, 1e-7)


def test_refit_written_out_without_the_library():
    ahead = look_ahead(rbf, X, Y[:, 0], CANDIDATES, noise=0.1)
    predicted = ahead(LABELS[:, 0], X_NEW)
    assert predicted.shape == (C, N)
    for c in range(C):
        x, y = np.vstack([X, CANDIDATES[c]]), np.append(Y[:, 0], LABELS[c, 0])
        K = np.asarray(rbf(x, x)) + 0.1 * np.eye(M + 1)
        close(predicted[c], rbf(X_NEW, x) @ np.linalg.solve(K, y))
        # The last diagonal entry of an inverse is one over the Schur complement.
        close(ahead.unexplained[c, 0, 0], 1 / np.linalg.inv(K)[M, M])


@ALL
def test_gain_is_the_derivative_by_the_label(name):
    kernel, h0 = KERNELS[name]
    ahead = look_ahead(kernel, X, Y, CANDIDATES, h0=h0)
    gain, full = ahead.gain(X_NEW), name == "joint"
    assert gain.shape == ((N, C, 2, 2) if full else (N, C))
    for b in range(2):
        slope = ahead(LABELS + np.eye(2)[b], X_NEW) - ahead(LABELS, X_NEW)
        for a in range(2):
            close(slope[:, :, a].T, gain[:, :, a, b] if full else gain * (a == b))


vectors = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(size=(M + C, D + 2))
)


@given(vectors, st.sampled_from(["from a start", "joint"]))
@settings(max_examples=15, deadline=None)
def test_laws_of_one_more_label(z, name):
    kernel, h0 = KERNELS[name]
    x, y = z[:, :D], z[:, D:]
    ahead = look_ahead(kernel, x[:M], y[:M], x[M:], h0=h0)
    predicted = ahead(y[M:], x)
    scale = 1e-7 * (1 + abs(np.asarray(predicted)).max())
    for c in range(C):
        # Labels are met, the old ones and the new one.
        assert abs(predicted[c, :M] - y[:M]).max() < scale
        assert abs(predicted[c, M + c] - y[M + c]).max() < scale
    # A label that is expected changes nothing, whatever those of other candidates do.
    expected = y[M:].copy()
    expected[1:3] = ahead.values[1:3]
    change = np.asarray(ahead.change(expected, x))
    assert not change[1:3].any()
    assert change[[0, 3, 4]].any(axis=(1, 2)).all()


@given(vectors, st.permutations(range(C)))
@settings(max_examples=8, deadline=None)
def test_projecting_again_and_again_is_projecting_once(z, order):
    x, y = z[:, :D], z[:, D:]
    labelled = list(range(M))
    f = kernel_regression(rbf, x[:M], y[:M], h0=wave)
    for c in order[:2]:
        ahead = look_ahead(rbf, x[labelled], y[labelled], x[[M + c]], h0=f)
        labelled.append(M + c)
        f = kernel_regression(rbf, x[labelled], y[labelled], h0=f)  # a warm start
        close(ahead(y[[M + c]], x)[0], f(x), 1e-6)
    cold = kernel_regression(rbf, x[labelled], y[labelled], h0=wave)(x)
    close(f(x), cold, 1e-6 * (1 + abs(cold).max()))


def test_with_noise_a_warm_start_is_another_problem():
    warm = look_ahead(rbf, X, Y, CANDIDATES, h0=kernel_regression(rbf, X, Y, ridge=0.1), noise=0.1)
    cold = look_ahead(rbf, X, Y, CANDIDATES, noise=0.1)
    assert abs(warm(LABELS, X_NEW) - cold(LABELS, X_NEW)).max() > 0.01


# Candidates that repeat what is known


@pytest.mark.parametrize("name", ["from a start", "joint"])
@pytest.mark.parametrize("noise", [0.0, 1e-30])
def test_a_copy_of_an_input_shares_its_label(name, noise):
    kernel, h0 = KERNELS[name]
    copies = CANDIDATES.copy()
    copies[[1, 3]] = X[[4, 0]]
    predicted = look_ahead(kernel, X, Y, copies, h0=h0, noise=noise)(LABELS, X)
    for c, i in ((1, 4), (3, 0)):
        middle = Y.copy()
        middle[i] = (Y[i] + LABELS[c]) / 2
        close(predicted[c], middle, 1e-8)
        x, y = np.vstack([X, copies[c]]), np.vstack([Y, LABELS[c]])
        ahead = look_ahead(kernel, X, Y, copies, h0=h0)
        close(ahead(LABELS, X_NEW)[c], refit(kernel, x, y, X_NEW, 0.0, h0), 1e-7)


def test_a_combination_of_inputs_is_the_limit_of_small_noise():
    # Linear regression in the plane: the third input is a combination of two, and one direction
    # of the two outputs' joint kernel is known where the other is not.
    x, new = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([[3.0, -1.0]])
    y, label = jnp.array([0.5, -1.0]), jnp.array([4.0])
    limit = look_ahead(lambda a, b: a @ b.T, x, y, new)(label, X[:, :2])
    weights = np.linalg.lstsq(np.vstack([x, new]), np.append(y, label), rcond=None)[0]
    close(limit[0], X[:, :2] @ weights)

    def half(a, b):  # the first output as above, the second another function
        other = jnp.exp(-jnp.sum((a[:, None] - b[None]) ** 2, axis=-1))
        return jnp.stack([a @ b.T, other], axis=-1)[..., None] * jnp.eye(2)

    both = look_ahead(half, x, jnp.stack([y, y], axis=1), new)
    together = both(jnp.stack([label, label], axis=1), X[:, :2])[0]
    close(together[:, 0], limit[0])
    second = look_ahead(lambda a, b: half(a, b)[..., 1, 1], x, y, new)(label, X[:, :2])
    close(together[:, 1], second[0])


def test_near_copies_against_many_digits():
    # k = exp(-|x - x'|): the nearer a candidate, the more its own label weighs, up to rounding.
    def laplace(a, b):
        return jnp.exp(-jnp.sum(jnp.abs(a[:, None] - b[None]), axis=-1))

    x, y, distances = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0]), 10.0 ** -np.arange(1, 13)
    new = jnp.array([[0.5]])
    predicted = look_ahead(laplace, x, y, distances[:, None])(jnp.full(12, 2.0), new)[:, 0]
    for distance, value in zip(distances, predicted, strict=True):
        with mpmath.workdps(60):
            points = [mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(float(distance))]
            K = mpmath.matrix([[mpmath.exp(-abs(a - b)) for a in points] for b in points])
            alpha = mpmath.lu_solve(K, mpmath.matrix([1, -1, 2]))
            half = mpmath.mpf(1) / 2
            exact = sum(a * mpmath.exp(-abs(half - p)) for a, p in zip(alpha, points, strict=True))
        # What one unit of rounding in an entry of the kernel does, times the size of the matrix.
        assert abs(value - float(exact)) < 30 * np.finfo(float).eps / distance
    inside = look_ahead(laplace, x, y, 1e-17 * np.ones((1, 1)))(jnp.array([2.0]), x)[0]
    close(inside, [1.5, -1.0])


# Scores


@ALL
def test_score_is_the_sum_of_the_norms_of_changes(name):
    kernel, h0 = KERNELS[name]
    ahead = look_ahead(kernel, X, Y, CANDIDATES, h0=h0, noise=0.2)
    likely = np.eye(2)[np.argmax(ahead.values, axis=1)]
    for labels, given_labels in ((likely, None), (LABELS, LABELS)):
        change = ahead(labels, X_NEW) - ahead.before(X_NEW)
        expected = np.linalg.norm(change, axis=2).sum(axis=1)
        close(most_output_change(ahead, X_NEW, given_labels), expected)


@pytest.mark.parametrize("y", [Y[:, 0], Y[:, :1]])
def test_a_single_output_expects_a_sign(y):
    ahead = look_ahead(rbf, X, y, CANDIDATES)
    expected = np.where(ahead.values >= 0, 1.0, -1.0)
    np.testing.assert_array_equal(ahead.pseudo_labels(), expected)
    change = np.abs(ahead.change(expected, X_NEW)).reshape(C, -1)
    close(most_output_change(ahead, X_NEW), change.sum(axis=1))


# One label after another


@pytest.mark.parametrize("name", ["from a start", "joint"])
@pytest.mark.parametrize(("noise", "new"), [(0.0, True), (0.3, False)])
def test_acquiring_is_choosing_and_fitting_anew_each_time(name, noise, new):
    kernel, h0 = KERNELS[name]
    x_new = X_NEW if new else CANDIDATES
    ahead = look_ahead(kernel, X, Y, CANDIDATES, h0=h0, noise=noise)
    asked = []
    found = acquire(ahead, lambda c: asked.append(c) or LABELS[c], 3, X_NEW if new else None)
    assert asked == found.chosen.tolist()
    np.testing.assert_array_equal(found.labels, LABELS[found.chosen])
    x, y = X, Y
    for c, score in zip(found.chosen, found.scores, strict=True):
        scores = most_output_change(look_ahead(kernel, x, y, CANDIDATES, h0=h0, noise=noise), x_new)
        scores = scores.at[found.chosen[: len(x) - M]].set(-1)
        assert c == jnp.argmax(scores)
        close(score, scores[c], 1e-7)
        x, y = np.vstack([x, CANDIDATES[c]]), np.vstack([y, LABELS[c]])
    close(found.values, refit(kernel, x, y, x_new, noise, h0), 1e-7)


def test_copies_come_last_and_must_agree():
    pool = np.concatenate([X[[2]], CANDIDATES, CANDIDATES[[0]]])
    truth = np.concatenate([Y[[2]], LABELS, LABELS[[0]]])
    ahead = look_ahead(rbf, X, Y, pool)
    found = acquire(ahead, lambda c: truth[c], len(pool))
    assert sorted(found.chosen) == list(range(len(pool)))
    assert found.chosen[-2:].tolist() in ([0, C + 1], [0, 1])
    assert found.scores[-2:].tolist() == [0, 0]
    close(found.values, truth, 1e-7)
    with pytest.raises(ValueError, match="repeats inputs that have labels"):
        acquire(ahead, lambda c: truth[c] + (c == 0), len(pool))
    noisy = acquire(look_ahead(rbf, X, Y, pool, noise=0.1), lambda c: truth[c] + 1, len(pool))
    everything = np.vstack([X, pool]), np.vstack([Y, truth + 1])
    close(noisy.values, refit(rbf, *everything, pool, 0.1), 1e-7)


def test_progress_is_shown(capsys):
    acquire(look_ahead(rbf, X, Y, CANDIDATES), lambda c: LABELS[c], 2, progress=True)
    assert "labels" in capsys.readouterr().err


# A table of kernel values


@ALL
def test_a_table_is_as_good_as_its_kernel(name):
    kernel, h0 = KERNELS[name]
    x = np.concatenate([X, CANDIDATES, X_NEW])
    table = Tabulated(kernel(x, x))
    rows = table.points
    start = None if h0 is None else h0(x)
    of_rows = None if start is None else lambda i: start[table.numbers(i)]
    ahead = look_ahead(table, rows[:M], Y, rows[M : M + C], h0=of_rows)
    close(
        ahead(LABELS, rows[M + C :]),
        look_ahead(kernel, X, Y, CANDIDATES, h0=h0)(LABELS, X_NEW),
        1e-7,
    )
    np.testing.assert_array_equal(table(rows), table.K)


def test_few_values_of_the_kernel_are_asked_for():
    asked = []

    def counted(x1, x2):
        asked.append((len(x1), len(x2)))
        return rbf(x1, x2)

    many = RNG.normal(size=(70, D))
    ahead = look_ahead(counted, X, Y, many)
    assert sum(a * b for a, b in asked) <= M * M + 70 * M + 96 * 32
    close(ahead.unexplained, look_ahead(rbf, X, Y, many[:, :]).unexplained)
    asked.clear()
    ahead.gain(X_NEW)
    assert sorted(asked) == [(N, M), (N, 70)]


# What is refused

GOOD = {"kernel": rbf, "x": X, "y": Y, "candidates": CANDIDATES}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"candidates": CANDIDATES[:, :2]}, ValueError, "must agree with x"),
        ({"candidates": CANDIDATES[0]}, ValueError, "batch of inputs"),
        ({"candidates": CANDIDATES[:0]}, ValueError, "empty"),
        ({"candidates": np.full((C, D), np.nan)}, ValueError, "NaN"),
        ({"y": Y[:-1]}, ValueError, "5 labels"),
        ({"y": np.full(M, np.nan)}, ValueError, "NaN"),
        ({"noise": -1.0}, ValueError, "noise must be finite and not negative"),
        ({"noise": "much"}, TypeError, "noise must be one real number"),
        ({"kernel": lambda a, b: -rbf(a, b)}, ValueError, "not positive semi-definite"),
        ({"kernel": None}, TypeError, "needs a kernel"),
        ({"h0": lambda x: jnp.zeros((len(x), 1))}, ValueError, "h0 must have one value"),
        ({"rtol": 2.0}, ValueError, "rtol"),
    ],
)
def test_refuses(change, error, words):
    with pytest.raises(error, match=words):
        look_ahead(**(GOOD | change))


def test_refuses_labels_and_budgets_that_do_not_fit():
    ahead = look_ahead(rbf, X, Y[:, 0], CANDIDATES)
    for labels in (LABELS[:, :1], LABELS[0, :1], LABELS[:4, 0], np.full(C, np.inf)):
        with pytest.raises(ValueError, match=r"label|NaN"):
            ahead(labels, X_NEW)
    with pytest.raises(ValueError, match="x_new"):
        ahead.gain(X_NEW[:, :1])
    for budget, words in ((0, "positive"), (C + 1, "more than the 5 candidates")):
        with pytest.raises(ValueError, match=words):
            acquire(ahead, lambda c: 1.0, budget)
    with pytest.raises(ValueError, match="must have shape"):
        acquire(ahead, lambda c: LABELS[c], 1)
    with pytest.raises(ValueError, match="finite"):
        acquire(ahead, lambda c: np.nan, 1)


def test_a_table_refuses():
    with pytest.raises(ValueError, match="a column for each row"):
        Tabulated(np.ones((2, 3)))
    with pytest.raises(ValueError, match="NaN"):
        Tabulated(np.full((2, 2), np.nan))
    table = Tabulated(np.eye(2))
    for numbers in ([[2.0]], [[-1.0]], [[0.5]]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            table(np.array(numbers))
    with pytest.raises(ValueError, match="one column"):
        table(np.zeros((1, 2)))
