"""Distances between kernels, their shape, kernels along a run, and errors between two networks."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkbook import empirical_ntk, mlp, train
from ntkbook.evolution import (
    alignment,
    effective_rank,
    errors_between,
    kernel_at,
    kernel_distance,
    kernel_velocity,
    kernels_along,
    linear_barrier,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RNG = np.random.default_rng(2020)
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.floats(-20, 20)


def psd(rng, m=4, rank=None):
    A = rng.normal(size=(m, rank or m))
    return A @ A.T


def rotation(rng, m=4):
    return np.linalg.qr(rng.normal(size=(m, m)))[0]


# Distance


@given(SEEDS, SIZES, SIZES)
@settings(max_examples=50, deadline=None)
def test_distance_is_one_minus_the_cosine_and_ignores_scale_basis_and_order(seed, a, b):
    rng = np.random.default_rng(seed)
    K1, K2 = psd(rng, rank=rng.integers(1, 5)), psd(rng, rank=rng.integers(1, 5))
    Q = rotation(rng)
    cosine = np.sum(K1 * K2) / np.sqrt(np.sum(K1**2) * np.sum(K2**2))
    S = kernel_distance(K1, K2)
    np.testing.assert_allclose(S, 1 - cosine, atol=1e-14)
    assert 0 <= S <= 1 + 1e-14
    assert kernel_distance(K2, K1) == S
    for other in (
        kernel_distance(10**a * K1, 10**b * K2),
        kernel_distance(Q @ K1 @ Q.T, Q @ K2 @ Q.T),
    ):
        np.testing.assert_allclose(other, S, rtol=1e-10, atol=1e-14)


@given(SEEDS, SIZES)
@settings(max_examples=30, deadline=None)
def test_root_of_the_distance_is_a_metric_on_rays(seed, a):
    K1, K2, K3 = (psd(np.random.default_rng([seed, i])) for i in range(3))
    sides = [math.sqrt(kernel_distance(*pair)) for pair in ((K1, K2), (K2, K3), (K1, K3))]
    assert sides[2] <= sides[0] + sides[1] + 1e-14
    assert min(sides) > 1e-3
    assert kernel_distance(K1, 10**a * K1) < 1e-30


@pytest.mark.parametrize("power", [1, 3, 6, 9, 12])
def test_tiny_distances_keep_their_digits(power):
    # diag(1, 1) against diag(1, 1 + e) in exact arithmetic: sin^2 = e^2 / (2 (1 + (1 + e)^2)).
    e = Fraction(2) ** (-3 * power)
    sine2 = e**2 / (2 * (1 + (1 + e) ** 2))
    exact = float(sine2) / (1 + math.sqrt(1 - float(sine2)))
    S = float(kernel_distance(np.eye(2), np.diag([1.0, float(1 + e)])))
    assert abs(S / exact - 1) < 4 * np.finfo(float).eps / math.sqrt(exact)


def test_kernels_that_are_orthogonal_or_opposite():
    assert kernel_distance(np.diag([1.0, 0.0]), np.diag([0.0, 3.0])) == 1
    np.testing.assert_allclose(kernel_distance(np.eye(2), -np.eye(2)), 2, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_neither_overflow_nor_underflow_in_single_precision(scale):
    K = psd(RNG).astype(np.float32)
    S = kernel_distance(np.float32(scale) * K, np.eye(4, dtype=np.float32))
    assert S.dtype == np.float32
    # Some tens of units of rounding of single precision.
    np.testing.assert_allclose(S, kernel_distance(K, np.eye(4, dtype=np.float32)), rtol=1e-5)


def test_outputs_are_entries_like_others():
    K = RNG.normal(size=(2, 3, 4, 2, 2))
    np.testing.assert_allclose(kernel_distance(*K), kernel_distance(*K.reshape(2, 6, 8)))


@pytest.mark.parametrize(
    ("K1", "K2", "message"),
    [
        (np.eye(2), np.eye(3), r"one shape, got \(2, 2\) and \(3, 3\)"),
        (np.eye(2), np.zeros((2, 2)), "K2 is zero"),
        (np.full((2, 2), np.nan), np.eye(2), "K1 contains NaN"),
        (np.eye(2), np.ones(2), r"K2 must have shape \(n1, n2\)"),
        (np.eye(2, dtype=int), np.eye(2), "K1 must be real floating point"),
        (np.ones((0, 0)), np.ones((0, 0)), "K1 must have shape"),
    ],
)
def test_distance_refuses(K1, K2, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(K1, K2)


# Velocity


def test_velocity_is_distance_over_time_for_each_seed():
    kernels = np.stack([[psd(RNG) for _ in range(2)] for _ in range(4)])  # (times, seeds, m, m)
    times = np.array([0.0, 0.1, 0.5, 2.0])
    v = jax.vmap(kernel_velocity, (1, None), 1)(kernels, times)
    by_hand = [
        [float(kernel_distance(kernels[i, s], kernels[i + 1, s])) for s in range(2)]
        for i in range(3)
    ] / np.diff(times)[:, None]
    np.testing.assert_allclose(v, by_hand, rtol=1e-12)
    np.testing.assert_allclose(kernel_velocity(kernels[:, 0], times), by_hand[:, 0], rtol=1e-12)
    np.testing.assert_allclose(kernel_velocity(kernels[:, 0], [0, 1, 2, 3]).shape, (3,))


@pytest.mark.parametrize(
    ("kernels", "times", "message"),
    [
        (np.eye(2)[None], [0.0], "at least two of them"),
        (np.eye(2), [0.0, 1.0], r"kernels must have shape \(k, n1, n2\)"),
        (np.stack([np.eye(2)] * 2), [0.0], r"times must have shape \(2,\).*got \(1,\)"),
        (np.stack([np.eye(2)] * 2), [1.0, 1.0], "must be finite and increase"),
        (np.stack([np.eye(2)] * 2), [0.0, np.inf], "must be finite and increase"),
        (np.stack([np.eye(2), np.zeros((2, 2))]), [0.0, 1.0], r"kernels\[1\] is zero"),
    ],
)
def test_velocity_refuses(kernels, times, message):
    with pytest.raises(ValueError, match=message):
        kernel_velocity(kernels, np.array(times))


# Alignment


@given(SEEDS, SIZES)
@settings(max_examples=30, deadline=None)
def test_alignment_is_the_cosine_with_the_kernel_of_the_labels(seed, a):
    rng = np.random.default_rng(seed)
    K, y, Q = psd(rng), rng.normal(size=(4, 3)), rotation(rng)
    T = y @ y.T
    expected = np.sum(K * T) / np.linalg.norm(K) / np.linalg.norm(T)
    np.testing.assert_allclose(alignment(K, y), expected, rtol=1e-12)
    np.testing.assert_allclose(1 - kernel_distance(K, T), expected, rtol=1e-12)
    np.testing.assert_allclose(alignment(10**a * K, -(10**-a) * y), expected, rtol=1e-10)
    np.testing.assert_allclose(alignment(Q @ K @ Q.T, Q @ y), expected, rtol=1e-10)
    assert 0 <= expected <= 1


def test_centred_alignment_is_that_of_centred_features():
    phi, y = RNG.normal(size=(5, 3)) + 2, RNG.normal(size=5) + 7
    c, z = phi - phi.mean(0), y - y.mean()
    expected = alignment(c @ c.T, z)
    np.testing.assert_allclose(alignment(phi @ phi.T, y, centred=True), expected, rtol=1e-12)
    assert abs(alignment(phi @ phi.T, y) - expected) > 0.1


@pytest.mark.parametrize("centred", [False, True])
def test_alignment_of_several_outputs_is_that_of_one_long_vector(centred):
    phi, y = RNG.normal(size=(5, 2, 7)), RNG.normal(size=(5, 2))
    K = np.einsum("iap,jbp->ijab", phi, phi)
    if centred:
        phi, z = phi - phi.mean(0), y - y.mean(0)
    else:
        z = y
    flat = phi.reshape(10, 7)
    np.testing.assert_allclose(
        alignment(K, y, centred=centred), alignment(flat @ flat.T, z.ravel()), rtol=1e-12
    )


def test_labels_may_be_integers_and_traced():
    y = np.array([1, -1, 1, 1])
    K = psd(RNG)
    np.testing.assert_allclose(jax.jit(alignment)(K, y), alignment(K, y.astype(float)))


@pytest.mark.parametrize(
    ("K", "y", "options", "message"),
    [
        (np.ones((2, 3)), np.ones(2), {}, r"K must be square, got shape \(2, 3\)"),
        (np.eye(3), np.ones(2), {}, "3 inputs but y has 2"),
        (np.ones((2, 2, 3, 3)), np.ones(2), {}, r"labels of shape \(2, 3\), got \(2,\)"),
        (np.zeros((2, 2)), np.ones(2), {}, "K is zero"),
        (np.eye(2), np.zeros(2), {}, "y is zero"),
        (np.eye(2), np.full(2, 0.1), {"centred": True}, "y is constant"),
        (np.eye(2), np.array([1.0, np.nan]), {}, "y contains NaN"),
    ],
)
def test_alignment_refuses(K, y, options, message):
    with pytest.raises(ValueError, match=message):
        alignment(K, y, **options)


# Effective rank


@given(SEEDS, SIZES)
@settings(max_examples=12, deadline=None)
def test_effective_rank_lies_between_one_and_the_rank_and_decreases_with_the_order(seed, a):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 5))
    K, Q = psd(rng, rank=rank), rotation(rng)
    orders = (0.01, 0.5, 1.0, 2.0, 7.0, math.inf)
    ranks = [float(effective_rank(K, order=q)) for q in orders]
    assert np.all(np.diff(ranks) <= 1e-12)
    assert ranks[-1] >= 1 - 1e-12
    assert ranks[0] <= rank + 1e-12
    np.testing.assert_allclose(effective_rank(10**a * (Q @ K @ Q.T)), ranks[2], rtol=1e-8)


@pytest.mark.parametrize("order", [0.3, 1, 2, 500.0, math.inf])
def test_equal_eigenvalues_count_one_each(order):
    P = rotation(RNG)[:, :3]
    np.testing.assert_allclose(effective_rank(5 * P @ P.T, order=order), 3, rtol=1e-12)


def test_named_orders_and_their_neighbours():
    K = psd(RNG)
    p = np.linalg.eigvalsh(K) / np.trace(K)
    for order, expected in (
        (1, np.exp(-np.sum(p * np.log(p)))),
        (2, np.trace(K) ** 2 / np.sum(K**2)),
        (math.inf, np.trace(K) / np.linalg.norm(K, 2)),
    ):
        np.testing.assert_allclose(effective_rank(K, order=order), expected, rtol=1e-12)
        near = 1e5 if order == math.inf else order + 1e-6  # so the limit is off by a part in 1e5
        np.testing.assert_allclose(effective_rank(K, order=near), expected, rtol=1e-4)
    np.testing.assert_allclose(
        effective_rank(np.einsum("ij,ab->ijab", K, np.eye(2))), 2 * effective_rank(K)
    )


@pytest.mark.parametrize(
    ("K", "order", "message"),
    [
        (np.ones((2, 3)), 1, "K must be square"),
        (np.zeros((2, 2)), 1, "K is zero"),
        (np.eye(2), 0, "order must be positive, got 0"),
        (np.eye(2), math.nan, "order must be positive, got nan"),
        (np.array([[1.0, 1.0], [0.0, 1.0]]), 1, "not symmetric"),
        (np.diag([1.0, -0.5]), 2, "not positive semi-definite"),
    ],
)
def test_effective_rank_refuses(K, order, message):
    with pytest.raises(ValueError, match=message):
        effective_rank(K, order=order)


# Kernels along a run

NET = mlp(width=3, depth=1, outputs=2)
X, Y = RNG.normal(size=(4, 2)), RNG.normal(size=(4, 2))
START = jax.vmap(lambda key: NET.init(key, (2,))[0])(jax.random.split(jax.random.key(0), 3))


def own(params, x):
    """A model that is none of ours, with a constant among its parameters."""
    return jnp.tanh(x @ params["W"]) * params["scale"]


@pytest.fixture(scope="module")
def run():
    return train(
        NET.apply,
        START,
        X,
        Y,
        learning_rate=0.1,
        steps=4,
        seeds=True,
        at=(0, 1, 4),
        record={"params": lambda w: w, "kernel": kernel_at(NET.apply, X)},
    )


def test_a_run_records_the_kernels_of_its_networks(run):
    recorded = run.recorded["kernel"]
    assert recorded.shape == (3, 3, 4, 4, 2, 2)
    along = kernels_along(NET.apply, run.recorded["params"], X, seeds=True)
    np.testing.assert_allclose(along, recorded, rtol=1e-12)
    w = jax.tree.map(lambda leaf: leaf[2, 1], run.recorded["params"])
    np.testing.assert_allclose(recorded[2, 1], empirical_ntk(NET.apply, w)(X), rtol=1e-12)
    last = jax.tree.map(lambda leaf: leaf[-1, 1], run.recorded["params"])
    np.testing.assert_array_equal(*(jax.tree.leaves(t)[0] for t in (last, w)))
    assert kernel_distance(recorded[0, 0], recorded[2, 0]) > 1e-4


def test_options_reach_the_kernel(run):
    stack = jax.tree.map(lambda leaf: leaf[:, 0], run.recorded["params"])
    along = kernels_along(NET.apply, stack, X, outputs="trace", memory=1)
    np.testing.assert_allclose(
        along, np.einsum("kijaa->kij", run.recorded["kernel"][:, 0]), rtol=1e-12
    )
    at = kernel_at(NET.apply, X, outputs="trace", memory=1)
    first = jax.tree.map(lambda leaf: leaf[0], stack)
    np.testing.assert_allclose(at(first), along[0], rtol=1e-12)
    for options in ({"strategy": "none"}, {"memory": 0}, {"outputs": "sum"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            kernel_at(NET.apply, X, **options)(first)
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            kernels_along(NET.apply, stack, X, **options)


def test_constants_stay_constant():
    W = RNG.normal(size=(3, 2, 2))
    along = kernels_along(own, {"W": W, "scale": 2.0}, X)
    for i in range(3):
        expected = empirical_ntk(own, {"W": W[i], "scale": 2.0})(X)
        np.testing.assert_allclose(along[i], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        ({"a": np.ones((2, 3)), "b": np.ones(3)}, {}, "the same axis, times, in front"),
        ({"a": np.array(1.0)}, {}, "the same axis"),
        ({"a": np.ones((0, 3))}, {}, "the same axis"),
        ({"a": np.ones(2)}, {"seeds": True}, "two axes, times and seeds"),
        ({"a": np.ones((2, 3)), "b": np.ones((2, 4))}, {"seeds": True}, "two axes"),
        ({"a": np.array([1.0, np.nan])}, {}, "NaN"),
    ],
)
def test_stacks_of_weights_that_do_not_fit(params, options, message):
    with pytest.raises(ValueError, match=message):
        kernels_along(lambda w, x: x[:, 0] * w["a"][0], params, X, **options)


def test_functions_and_inputs_that_are_none():
    with pytest.raises(TypeError, match=r"net\.apply"):
        kernel_at(NET, X)
    with pytest.raises(TypeError, match=r"net\.apply"):
        kernels_along(NET, START, X)
    for bad in (X[0], X[:0], np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="x "):
            kernel_at(NET.apply, bad)
        with pytest.raises(ValueError, match="x "):
            kernels_along(NET.apply, START, bad)


# Errors between two networks


def double_well(w):
    return (w["a"] ** 2 - 1) ** 2 + 0.3 * w["a"]


def test_the_barrier_of_a_double_well():
    p, q = ({"a": np.array(a)} for a in (-1.0, 1.0))
    a = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(
        errors_between(double_well, p, q), (a**2 - 1) ** 2 + 0.3 * a, atol=1e-15
    )
    # The maximum of (a^2 - 1)^2 + 0.3 a on nine points is at a = 0; its ends average to 0.
    assert linear_barrier(double_well, p, q) == 1
    fine = linear_barrier(double_well, p, q, points=401)
    top = max((t**2 - 1) ** 2 + 0.3 * t for t in np.roots([4, 0, -4, 0.3]).real if abs(t) < 0.5)
    # A grid of step 1/200 on [-1, 1] misses a maximum by half the curvature, 2, times the square.
    np.testing.assert_allclose(fine, top, atol=1e-4)
    assert fine > 1


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_convex_error_has_no_more_barrier_than_its_ends_differ(seed):
    rng = np.random.default_rng(seed)
    H, w0, p, q = psd(rng, rank=2), *rng.normal(size=(3, 4))
    w = {"H": jnp.asarray(H), "w0": jnp.asarray(w0)}
    ends = [0.5 * (v - w0) @ H @ (v - w0) for v in (p, q)]
    barrier = linear_barrier(quadratic, w | {"v": p}, w | {"v": q})
    np.testing.assert_allclose(barrier, abs(ends[0] - ends[1]) / 2, atol=1e-12)
    np.testing.assert_allclose(
        barrier, linear_barrier(quadratic, w | {"v": q}, w | {"v": p}), atol=1e-12
    )


def quadratic(w):
    return 0.5 * (w["v"] - w["w0"]) @ w["H"] @ (w["v"] - w["w0"])


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_ends_are_exact_and_equal_weights_have_no_barrier(seed):
    p, q = np.random.default_rng(seed).normal(size=(2, 3)) * 10.0 ** np.arange(3)
    errors = errors_between(rough, p, q, points=4)
    assert (errors[0], errors[-1]) == (rough(p), rough(q))
    assert linear_barrier(rough, p, p, points=4) == 0


def rough(w):
    return jnp.sum(jnp.abs(w))


def test_pairs_go_in_parallel_and_constants_along():
    p, q = RNG.normal(size=(2, 5, 3))
    both = jax.vmap(lambda p, q: linear_barrier(rough, p, q))(p, q)
    np.testing.assert_allclose(
        both, [linear_barrier(rough, a, b) for a, b in zip(p, q, strict=True)]
    )
    named = [{"v": v[0], "name": "l1"} for v in (p, q)]
    assert linear_barrier(lambda w: rough(w["v"]), *named) == both[0]
    single = errors_between(lambda w: rough(w["v"]), {"v": np.float32(1)}, {"v": np.float32(2)})
    assert single.dtype == np.float32


@pytest.mark.parametrize(
    ("p", "q", "options", "message"),
    [
        (np.ones(2), np.ones(3), {}, r"shape \(2,\), got \(3,\)"),
        (np.ones(2), [np.ones(2)], {}, "structure"),
        (np.ones(2), np.array([1.0, np.inf]), {}, "NaN or infinity"),
        ([np.ones(2), "relu"], [np.ones(2), "tanh"], {}, "agree in all leaves"),
        (np.ones(2), np.ones(2), {"points": 1}, "points must be an integer of at least 2"),
        (np.ones(2), np.ones(2), {"points": 2.5}, "points must be an integer"),
    ],
)
def test_segments_that_are_none(p, q, options, message):
    for function in (errors_between, linear_barrier):
        with pytest.raises(ValueError, match=message):
            function(lambda w: jnp.sum(jax.tree.leaves(w)[0]), p, q, **options)


def test_errors_that_are_no_numbers():
    with pytest.raises(ValueError, match=r"one real number, got shape \(2,\)"):
        errors_between(lambda w: w, np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="of type int"):
        errors_between(lambda w: jnp.sum(w > 0), np.ones(2), np.ones(2))
    with pytest.raises(TypeError, match="error must be a function of params, got 3"):
        errors_between(3, np.ones(2), np.ones(2))
