"""Look-ahead: training on one more label, against fits from the beginning.

Kernels and refits are written in NumPy, which compiles nothing, and arrays have few shapes.
"""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkbook import kernel_regression
from ntkbook.lookahead import Tabulated, acquire, look_ahead, most_output_change

pytestmark = pytest.mark.usefixtures("compiled_quickly")

M, C, D = 6, 5, 3
RNG = np.random.default_rng(2022)
X, CANDIDATES, X_NEW = (RNG.normal(size=(n, D)) for n in (M, C, M + C))
Y, LABELS = RNG.normal(size=(M, 2)), RNG.normal(size=(C, 2))
WEIGHTS = RNG.normal(size=(D, 2, 60))
EPS = np.finfo(float).eps


def rbf(x1, x2):
    return np.exp(-np.sum((np.asarray(x1)[:, None] - np.asarray(x2)) ** 2, axis=-1) / 2)


def joint(x1, x2):
    """Two outputs that share features, (n1, n2, 2, 2): k(x, x')[a, b] is not k(x, x')[b, a]."""
    one, two = (np.tanh(np.einsum("nd,dap->nap", x, WEIGHTS) + 0.5) for x in (x1, x2))
    return np.einsum("nap,mbp->nmab", one, two)


def wave(x):
    return np.sin(np.asarray(x)[:, :2])


KERNELS = {"one for all": (rbf, None), "from a start": (rbf, wave), "joint": (joint, wave)}
ALL = pytest.mark.parametrize("name", KERNELS)


def refit(kernel, x, y, x_new, noise=0.0, h0=None):
    """h_0 + k(x_new, x) (K + noise I)^+ (y - h_0(x)), by least squares."""
    h0 = h0 or (lambda x: np.zeros((len(x), 2)))
    K, cross = kernel(x, x), kernel(x_new, x)
    if K.ndim == 4:
        K, cross = (k.transpose(0, 2, 1, 3).reshape(2 * len(k), -1) for k in (K, cross))
    residual = (y - h0(x)).reshape(len(K), -1)
    alpha = np.linalg.lstsq(K + noise * np.eye(len(K)), residual, rcond=1e-13)[0]
    return h0(x_new) + (cross @ alpha).reshape(len(x_new), 2)


def close(one, other, rtol=1e-9):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


# One more label


@ALL
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_looking_ahead_is_fitting_anew(name, noise):
    kernel, h0 = KERNELS[name]
    ahead = look_ahead(kernel, X, Y, CANDIDATES, h0=h0, noise=noise)
    predicted, before = np.asarray(ahead(LABELS, X_NEW)), np.asarray(ahead.before(X_NEW))
    assert predicted.shape == (C, M + C, 2)
    for c in range(C):
        x, y = np.vstack([X, CANDIDATES[c]]), np.vstack([Y, LABELS[c]])
        close(predicted[c], refit(kernel, x, y, X_NEW, noise, h0))
    close(before, refit(kernel, X, Y, X_NEW, noise, h0))
    close(ahead.values, refit(kernel, X, Y, CANDIDATES, noise, h0))
    close(ahead.change(LABELS, X_NEW), predicted - before)


def test_the_library_fits_the_same_anew():
    # The ridge of kernel_regression is multiplied by the number of inputs, noise is not.
    ahead, again = look_ahead(rbf, X, Y, CANDIDATES[:1], noise=0.7), np.vstack([X, CANDIDATES[:1]])
    fitted = kernel_regression(rbf, again, np.vstack([Y, LABELS[:1]]), ridge=0.7 / (M + 1))
    close(ahead(LABELS[:1], X_NEW)[0], fitted(X_NEW))


def test_labels_without_an_axis_of_outputs():
    ahead = look_ahead(rbf, X, Y[:, 0], CANDIDATES, noise=0.1)
    predicted = ahead(LABELS[:, 0], X_NEW)
    assert predicted.shape == (C, M + C)
    close(predicted, look_ahead(rbf, X, Y, CANDIDATES, noise=0.1)(LABELS, X_NEW)[..., 0])
    # The last diagonal entry of an inverse is one over the Schur complement.
    K = rbf(np.vstack([X, CANDIDATES[:1]]), np.vstack([X, CANDIDATES[:1]])) + 0.1 * np.eye(M + 1)
    close(ahead.unexplained[0, 0, 0], 1 / np.linalg.inv(K)[M, M])


@ALL
def test_gain_is_the_derivative_by_the_label(name):
    kernel, h0 = KERNELS[name]
    ahead = look_ahead(kernel, X, Y, CANDIDATES, h0=h0)
    gain, start = np.asarray(ahead.gain(X_NEW)), np.asarray(ahead(LABELS, X_NEW))
    assert gain.shape == (M + C, C, *(2, 2) * (name == "joint"))
    for b in range(2):
        slope = np.asarray(ahead(LABELS + np.eye(2)[b], X_NEW)) - start
        for a in range(2):
            close(slope[:, :, a].T, gain[:, :, a, b] if name == "joint" else gain * (a == b))


draws = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(size=(M + C, D + 2))
)


@given(draws, st.sampled_from(["from a start", "joint"]))
@settings(max_examples=20, deadline=None)
def test_laws_of_one_more_label(z, name):
    kernel, h0 = KERNELS[name]
    x, y = z[:, :D], z[:, D:]
    ahead = look_ahead(kernel, x[:M], y[:M], x[M:], h0=h0)
    predicted = np.asarray(ahead(y[M:], x))
    allowed = 1e-6 * (1 + abs(predicted).max())
    for c in range(C):
        # Labels are met, the old ones and the new one.
        assert abs(predicted[c, :M] - y[:M]).max() < allowed
        assert abs(predicted[c, M + c] - y[M + c]).max() < allowed
    # A label that is expected changes nothing, whatever those of other candidates do.
    expected = y[M:].copy()
    expected[1:3] = ahead.values[1:3]
    change = np.asarray(ahead.change(expected, x))
    assert not change[1:3].any()
    assert change[[0, 3, 4]].any(axis=(1, 2)).all()


@given(draws, st.permutations(range(M)))
@settings(max_examples=20, deadline=None)
def test_projecting_again_and_again_is_projecting_once(z, order):
    x, y = z[:, :D], z[:, D:]
    f = wave
    for n in (1, 3, 4):  # warm starts on more and more labels, in any order

        def f(x_new, rows=order[:n], before=f):
            return refit(rbf, x[rows], y[rows], x_new, h0=before)

    warm = look_ahead(rbf, x[:M], y[:M], x[M:], h0=f)
    cold = look_ahead(rbf, x[:M], y[:M], x[M:], h0=wave)
    predicted = np.asarray(cold(y[M:], x))
    close(warm(y[M:], x), predicted, 1e-6 * (1 + abs(predicted).max()))


def test_with_noise_a_warm_start_is_another_problem():
    cold = look_ahead(rbf, X, Y, CANDIDATES, noise=0.1)
    warm = look_ahead(rbf, X, Y, CANDIDATES, h0=cold.before, noise=0.1)
    assert np.abs(warm(LABELS, X_NEW) - cold(LABELS, X_NEW)).max() > 0.01


# Candidates that repeat what is known


@pytest.mark.parametrize("name", ["from a start", "joint"])
@pytest.mark.parametrize("noise", [0.0, 1e-30])
def test_two_labels_of_one_input_meet_in_the_middle(name, noise):
    kernel, h0 = KERNELS[name]
    pool = CANDIDATES.copy()
    pool[[1, 3]] = X[[4, 0]]
    ahead = look_ahead(kernel, X, Y, pool, h0=h0, noise=noise)
    predicted = ahead(LABELS, np.vstack([X, CANDIDATES]))
    for c, i in ((1, 4), (3, 0)):
        middle = Y.copy()
        middle[i] = (Y[i] + LABELS[c]) / 2
        close(predicted[c, :M], middle, 1e-8)
    for c in range(C):
        x, y = np.vstack([X, pool[c]]), np.vstack([Y, LABELS[c]])
        close(predicted[c, M:], refit(kernel, x, y, CANDIDATES, 0.0, h0), 1e-7)


def linear(a, b):
    return np.asarray(a) @ np.asarray(b).T


def linear_and_rbf(a, b):
    """The first output is a linear function, the second another one; they share nothing."""
    return np.stack([linear(a, b), rbf(a, b)], axis=-1)[..., None] * np.eye(2)


def test_combinations_of_inputs_are_the_limit_of_small_noise():
    # Six inputs span the space of three, so each candidate is a combination of them, and no linear
    # function fits.
    weights = [
        np.linalg.lstsq(np.vstack([X, new]), np.vstack([Y, label]), rcond=None)[0]
        for new, label in zip(CANDIDATES, LABELS, strict=True)
    ]
    predicted = np.asarray(look_ahead(linear, X, Y, CANDIDATES)(LABELS, X_NEW))
    close(predicted, X_NEW @ np.stack(weights))
    noisy = look_ahead(linear, X, Y, CANDIDATES, noise=1e-7)(LABELS, X_NEW)
    close(noisy, predicted, 1e-5)
    # Of a candidate's two outputs, one is known and the other is not.
    both = look_ahead(linear_and_rbf, X, Y, CANDIDATES)(LABELS, X_NEW)
    close(both[..., 0], predicted[..., 0])
    close(both[..., 1], look_ahead(rbf, X, Y, CANDIDATES)(LABELS, X_NEW)[..., 1])


def laplace(a, b):
    return np.exp(-np.sum(np.abs(np.asarray(a)[:, None] - np.asarray(b)), axis=-1))


def test_near_copies_against_many_digits():
    # The error is what one unit of rounding in an entry of the kernel, times the size of the
    # matrix, does to a slope between inputs at this distance.
    distances, new = np.array([1e-2, 1e-4, 1e-6, 1e-9, 1e-12]), np.full((M + C, 1), 0.5)
    x, y = np.arange(M)[:, None].astype(float), np.array([[1.0, 0.0]] * M)
    predicted = look_ahead(laplace, x, y, distances[:, None])(np.full((C, 2), 2.0), new)[:, 0]
    for distance, value in zip(distances, predicted, strict=True):
        with mpmath.workdps(50):
            points = [*map(mpmath.mpf, range(M)), mpmath.mpf(float(distance))]
            K = mpmath.matrix([[mpmath.exp(-abs(a - b)) for a in points] for b in points])
            for output, label in ((0, 1), (1, 0)):
                alpha = mpmath.lu_solve(K, mpmath.matrix([label] * M + [2]))
                at = [mpmath.exp(-abs(mpmath.mpf(1) / 2 - p)) for p in points]
                exact = sum(a * k for a, k in zip(alpha, at, strict=True))
                assert abs(value[output] - float(exact)) < (M + 1) ** 2 * EPS / distance
    below = np.full((C, 1), 1e-17)  # nearer than the kernel can tell
    close(look_ahead(laplace, x, y, below)(np.full((C, 2), 2.0), new * 0)[0, 0], [1.5, 1.0])


# Scores


@ALL
def test_score_is_the_sum_of_the_norms_of_changes(name):
    kernel, h0 = KERNELS[name]
    ahead = look_ahead(kernel, X, Y, CANDIDATES, h0=h0, noise=0.2)
    likely = np.eye(2)[np.argmax(ahead.values, axis=1)]
    np.testing.assert_array_equal(ahead.pseudo_labels(), likely)
    for labels, told in ((likely, None), (LABELS, LABELS)):
        change = np.asarray(ahead(labels, X_NEW)) - np.asarray(ahead.before(X_NEW))
        expected = np.linalg.norm(change, axis=2).sum(axis=1)
        close(most_output_change(ahead, X_NEW, told), expected)


@pytest.mark.parametrize("y", [Y[:, 0], Y[:, :1]])
def test_a_single_output_expects_a_sign(y):
    ahead = look_ahead(rbf, X, y, CANDIDATES)
    expected = np.where(np.asarray(ahead.values) >= 0, 1.0, -1.0)
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
        before, scores = refit(kernel, x, y, x_new, noise, h0), np.zeros(C)
        likely = np.eye(2)[np.argmax(refit(kernel, x, y, CANDIDATES, noise, h0), axis=1)]
        for i in set(range(C)) - set(found.chosen[: len(x) - M]):
            more = np.vstack([x, CANDIDATES[i]]), np.vstack([y, likely[i]])
            change = refit(kernel, *more, x_new, noise, h0) - before
            scores[i] = np.linalg.norm(change, axis=1).sum()
        assert c == np.argmax(scores)
        close(score, scores[c], 1e-7)
        x, y = np.vstack([x, CANDIDATES[c]]), np.vstack([y, LABELS[c]])
    close(found.values, refit(kernel, x, y, x_new, noise, h0), 1e-7)


def test_copies_come_last_and_must_agree():
    rows = [0, 1, 2, 0]
    pool = np.vstack([X[2], CANDIDATES[rows]])
    truth = np.vstack([Y[2], LABELS[rows]])
    ahead = look_ahead(rbf, X, Y, pool)
    found = acquire(ahead, lambda c: truth[c], C)
    assert sorted(found.chosen) == list(range(C))
    assert set(found.chosen[-2:]) in ({0, 1}, {0, 4})
    assert found.scores[-2:].tolist() == [0, 0]
    close(found.values, truth, 1e-7)
    with pytest.raises(ValueError, match="repeats inputs that have labels"):
        acquire(ahead, lambda c: truth[c] + (c == 0), C)
    noisy = acquire(look_ahead(rbf, X, Y, pool, noise=0.1), lambda c: truth[c] + 1, C)
    everything = np.vstack([X, pool]), np.vstack([Y, truth + 1])
    close(noisy.values, refit(rbf, *everything, pool, 0.1), 1e-7)


def test_what_is_lost_in_rounding_is_not_chosen():
    # Linear functions of three coordinates: after one of the first, from L, and two candidates,
    # nothing is open, but the kernel's values are of the size 1e8.
    axis, weights = X * [1, 0, 0], RNG.normal(size=(D, 2))
    pool = 1e4 * CANDIDATES * [0, 1, 1]
    ahead = look_ahead(linear, axis, axis @ weights, pool)
    found = acquire(ahead, lambda c: pool[c] @ weights, C)
    assert found.scores[:2].min() > 1
    assert found.scores[2:].tolist() == [0, 0, 0]
    # Two labels next to each other, and candidates in line with them: weights of 1e4.
    near = X.copy()
    near[1] = near[0] + [1e-6, 0, 0]
    pool = near[0] + np.outer([1e-2, 5.0, -1e-2, 2e-2, -2e-2], [1, 0, 0])
    found = acquire(look_ahead(rbf, near, 0 * Y + 1, pool), lambda c: LABELS[c], 1)
    assert found.chosen.tolist() == [1]


def test_progress_is_shown(capsys):
    acquire(look_ahead(rbf, X, Y, CANDIDATES), lambda c: LABELS[c], 2, progress=True)
    assert "labels" in capsys.readouterr().err


# A table of kernel values


@pytest.mark.parametrize("name", ["from a start", "joint"])
def test_a_table_is_as_good_as_its_kernel(name):
    kernel, h0 = KERNELS[name]
    x = np.vstack([X, CANDIDATES, X_NEW])
    table, start = Tabulated(kernel(x, x)), h0(x)
    rows = table.points
    ahead = look_ahead(table, rows[:M], Y, rows[M : M + C], h0=lambda i: start[table.numbers(i)])
    direct = look_ahead(kernel, X, Y, CANDIDATES, h0=h0)
    close(ahead(LABELS, rows[M + C :]), direct(LABELS, X_NEW), 1e-7)
    np.testing.assert_array_equal(table(rows), table.K)


def test_few_values_of_the_kernel_are_asked_for():
    asked = []

    def uneven(x1, x2):
        asked.append((len(x1), len(x2)))
        return rbf(x1, x2) * (1 + linear(x1, x2))

    many = RNG.normal(size=(70, D))
    many[:C], many[-C:] = CANDIDATES, CANDIDATES
    ahead = look_ahead(uneven, X, Y, many)
    assert sum(a * b for a, b in asked) <= M * M + 70 * M + 96 * 32
    few = look_ahead(uneven, X, Y, CANDIDATES).unexplained
    close(ahead.unexplained[:C], few)
    close(ahead.unexplained[-C:], few)
    asked.clear()
    ahead.gain(X_NEW)
    assert sorted(asked) == [(M + C, M), (M + C, 70)]


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
        ({"h0": lambda x: np.zeros((len(x), 1))}, ValueError, "h0 must have one value"),
        ({"rtol": 2.0}, ValueError, "rtol"),
    ],
)
def test_refuses(change, error, words):
    with pytest.raises(error, match=words):
        look_ahead(**(GOOD | change))


def test_refuses_labels_and_budgets_that_do_not_fit():
    ahead = look_ahead(rbf, X, Y, CANDIDATES)
    for labels in (LABELS[:, :1], LABELS[:, 0], LABELS[:4], np.full((C, 2), np.inf)):
        with pytest.raises(ValueError, match=r"label|NaN"):
            ahead(labels, X_NEW)
    with pytest.raises(ValueError, match="x_new"):
        ahead.gain(X_NEW[:, :1])
    for budget, words in ((0, "positive"), (C + 1, "more than the 5 candidates")):
        with pytest.raises(ValueError, match=words):
            acquire(ahead, lambda c: LABELS[c], budget)
    with pytest.raises(ValueError, match="must have shape"):
        acquire(ahead, lambda c: 1.0, 1)
    with pytest.raises(ValueError, match="finite"):
        acquire(ahead, lambda c: [np.nan, 1.0], 1)


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
