"""Maximum mean discrepancy: laws, closed forms, exact levels of the test, and refusals."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ntkbook import (
    Activation,
    Conv,
    Dense,
    Flatten,
    Frozen,
    Scalar,
    Sequential,
    empirical_ntk,
    mlp,
    tanh,
)
from ntkbook.two_sample import (
    mmd2,
    mmd_test,
    permutation_test,
    tangent_mmd2,
    tangent_witness,
)
from ntkbook.two_sample.discrepancy import _permutation_test

KEY = jax.random.key(12)
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@jax.jit
def rbf(x1, x2):
    return jnp.exp(-jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / 2)


def dot(x1, x2):
    return x1 @ x2.T


def by_hand(K, m, unbiased):
    """MMD^2 as the definition has it, block by block."""
    blocks = K[:m, :m], K[m:, m:]
    if unbiased:
        own = [(np.sum(b) - np.trace(b)) / (len(b) * (len(b) - 1)) for b in blocks]
    else:
        own = [np.mean(b) for b in blocks]
    return sum(own) - 2 * np.mean(K[:m, m:])


def z_score(values, mean):
    return (np.mean(values) - mean) / (np.std(values, ddof=1) / np.sqrt(len(values)))


# MMD^2

samples = arrays(
    float, st.tuples(st.sampled_from([2, 5]), st.just(3)), elements=st.floats(-4, 4, width=32)
)


@given(x=samples, y=samples, unbiased=st.booleans())
@settings(deadline=None, max_examples=20)
def test_is_the_definition_and_does_not_know_who_is_first(x, y, unbiased):
    value = mmd2(rbf, x, y, unbiased=unbiased)
    both = np.concatenate([x, y])
    expected = by_hand(np.asarray(rbf(both, both)), len(x), unbiased)
    np.testing.assert_allclose(value, expected, atol=1e-14)
    np.testing.assert_allclose(mmd2(rbf, y, x, unbiased=unbiased), value, atol=1e-14)
    assert unbiased or value >= -1e-13


@given(x=samples, y=samples)
@settings(deadline=None, max_examples=20)
def test_linear_kernel_gives_the_distance_of_the_means(x, y):
    expected = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    np.testing.assert_allclose(mmd2(dot, x, y), expected, atol=1e-13)


@given(x=samples, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_the_same_inputs_in_another_order_are_at_distance_zero(x, seed):
    y = np.random.default_rng(seed).permutation(x)
    assert abs(mmd2(rbf, x, y)) < 1e-13
    # Repeated inputs are another sample of the same empirical law.
    assert abs(mmd2(rbf, x, np.repeat(y, 2, axis=0))) < 1e-13


def test_offsets_of_the_kernel_cancel():
    x, y = np.random.default_rng(0).standard_normal((2, 5, 3))
    for unbiased in (False, True):
        far = mmd2(lambda a, b: rbf(a, b) + 1e6, x, y, unbiased=unbiased)
        np.testing.assert_allclose(far, mmd2(rbf, x, y, unbiased=unbiased), atol=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
def test_means_over_samples_are_those_of_gaussians(unbiased):
    """x ~ N(0, 1), y ~ N(1, 1): E k = exp(-a^2 / 2(1 + 2)) / sqrt(1 + 2) at distance a of means."""
    m, n, draws = 4, 7, 4000
    z = np.random.default_rng(unbiased).standard_normal((draws, m + n, 1))
    same, other = 1 / np.sqrt(3), np.exp(-1 / 6) / np.sqrt(3)
    expected = 2 * (same - other)
    if not unbiased:  # the diagonal is 1 instead of E k
        expected += (1 - same) * (1 / m + 1 / n)
    values = jax.vmap(lambda z: mmd2(rbf, z[:m], z[m:] + 1, unbiased=unbiased))(z)
    assert abs(z_score(values, expected)) < 4
    assert unbiased == bool(np.any(values < 0))


# The test

M, N = 3, 7
EXACT = [np.array(c) for c in combinations(range(N), M)]


def small_gram():
    z = np.random.default_rng(1).standard_normal((N, 2))
    return np.asarray(rbf(z, z))


@pytest.mark.parametrize("unbiased", [False, True])
def test_p_values_have_their_exact_law_when_all_splits_of_the_data_are_equally_likely(unbiased):
    """Each split is the data in turn, of rank r among all: b ~ Binomial(B, r / splits)."""
    K, B, keys = small_gram(), 9, 100
    orders = np.array([[*c, *sorted(set(range(N)) - set(c))] for c in EXACT])
    exact = np.array([by_hand(K[np.ix_(o, o)], M, unbiased) for o in orders])
    ranks = np.sum(exact[None] >= exact[:, None] - 1e-14, axis=1)
    assert sorted(ranks) == list(range(1, len(EXACT) + 1))
    grams = jnp.asarray([K[np.ix_(o, o)] for o in orders])
    test = partial(permutation_test, m=M, permutations=B, unbiased=unbiased)
    batch = jax.vmap(jax.vmap(lambda g, k: test(g, key=k), (None, 0)), (0, 0))
    outcome = batch(grams, jax.random.split(KEY, (len(EXACT), keys)))
    np.testing.assert_allclose(outcome.mmd2[:, 0], exact, atol=1e-14)
    b = np.rint(np.asarray(outcome.p_value) * (B + 1)).astype(int) - 1
    for count, rank in zip(b, ranks, strict=True):
        assert abs(np.mean(count) - B * rank / len(EXACT)) < 5 * np.sqrt(B / 4 / keys)
    for k in range(1, B + 1):
        expected = np.mean(stats.binom.cdf(k - 1, B, ranks / len(EXACT)))
        assert expected <= k / (B + 1)
        hits = np.mean(b < k, axis=1)
        error = np.sqrt(np.sum(hits * (1 - hits)) / keys) / len(EXACT)
        assert abs(np.mean(hits) - expected) <= 4 * error + 1e-12


def test_p_values_are_uniform_under_the_null():
    tests, m, n, B = 2000, 7, 9, 9
    z = np.random.default_rng(10).standard_normal((tests, m + n, 1)) ** 3

    def one(z, key):
        return mmd_test(rbf, z[:m], z[m:], key=key, permutations=B).p_value

    p = jax.vmap(one)(z, jax.random.split(KEY, tests))
    counts = np.bincount(np.rint(np.asarray(p) * (B + 1)).astype(int), minlength=B + 2)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3


def test_distant_samples_are_told_apart_at_the_least_p_value():
    x = np.random.default_rng(2).standard_normal((8, 1))
    outcome = mmd_test(rbf, x, 2 * x + 9, key=KEY, permutations=99)
    assert float(outcome.p_value) == 1 / 100
    np.testing.assert_allclose(outcome.mmd2, mmd2(rbf, x, 2 * x + 9), rtol=1e-13)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_ties_count_against_the_data(offset):
    """Both samples are the same: no split is closer, and rounding must not make one so."""
    x = np.random.default_rng(3).standard_normal((8, 2))
    both = np.concatenate([x, x[::-1]])
    gram = rbf(both, both) + offset
    assert float(permutation_test(gram, 8, key=KEY, permutations=99).p_value) == 1.0
    # All splits of two values are ties or not, exactly: hypergeometric.
    binary = np.array([1.0] * 6 + [0.0] * 10)[:, None]
    gram = dot(binary, binary) + offset
    keys = jax.random.split(KEY, 40)
    p = jax.vmap(lambda key: permutation_test(gram, 8, key=key, permutations=99).p_value)(keys)
    counts = 100 * np.asarray(p) - 1
    law = stats.hypergeom(16, 6, 8)
    exact = law.pmf([0, 6]).sum()
    assert abs(np.mean(counts) - 99 * exact) < 4 * np.sqrt(99 * exact / 40)


def test_bias_does_not_matter_to_the_p_value_for_samples_of_one_size():
    z = np.random.default_rng(4).standard_normal((16, 1)) * np.repeat([[1.0], [2.0]], 8, axis=0)
    p = [
        float(permutation_test(rbf(z, z), 8, key=KEY, permutations=99, unbiased=u).p_value)
        for u in (False, True)
    ]
    assert p[0] == p[1]
    assert 0.01 < p[0] < 1


def test_keys_decide():
    z = np.random.default_rng(5).standard_normal((16, 1))
    p = [
        float(permutation_test(rbf(z, z), 8, key=key, permutations=99).p_value)
        for key in (KEY, KEY, jax.random.key(1))
    ]
    assert p[0] == p[1] != p[2]


def test_memory_is_that_of_the_matrix_and_the_permutations():
    n, B = 300, 500
    args = jax.ShapeDtypeStruct((n, n), float), n // 2, KEY, B, True
    analysis = _permutation_test.lower(*args).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 8 * 8 * (n * n + B * n)


def test_an_invariance_is_a_blind_spot():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((8, 3))
    rolls = [np.roll(np.eye(3), r, axis=0) for r in range(3)]

    def pooled(x1, x2):
        return sum(rbf(x1, x2 @ g) for g in rolls)

    turned = np.stack([row @ rolls[r % 3] for r, row in enumerate(x)])
    assert abs(mmd2(pooled, x, turned)) < 1e-14
    assert mmd2(rbf, x, turned) > 0.05
    assert float(mmd_test(pooled, x, turned, key=KEY, permutations=99).p_value) == 1.0


# Tangents


def dense(params, x):
    W, a = params
    return jnp.tanh(x @ W) @ a


CONVOLUTION = Sequential(
    Frozen(Conv(5, (3, 3))), Activation(tanh), Conv(4, (3, 3)), Flatten(), Dense(1), Scalar()
)


@pytest.fixture(params=["dense", "convolution"])
def model(request):
    rng = np.random.default_rng(7)
    shape = (3,)
    shapes = (np.zeros((3, 6)), np.zeros(6))
    f = dense
    if request.param == "convolution":
        shape = (4, 4, 1)
        shapes = jax.eval_shape(lambda key: CONVOLUTION.init(key, shape)[0], KEY)
        f = CONVOLUTION.apply
    params = jax.tree.map(lambda w: rng.standard_normal(w.shape), shapes)
    return f, params, rng.standard_normal((5, *shape)), rng.standard_normal((3, *shape))


def test_one_backward_pass_is_the_sum_over_pairs(model):
    f, params, x, y = model
    K = np.asarray(empirical_ntk(f, params)(np.concatenate([x, y])))
    witness = tangent_witness(f, params, x, y)
    np.testing.assert_allclose(witness.mmd2, by_hand(K, len(x), unbiased=False), rtol=1e-12)
    assert tangent_mmd2(f, params, x, y) == witness.mmd2
    values = witness(np.concatenate([x, y]))
    expected = K[:, : len(x)].mean(axis=1) - K[:, len(x) :].mean(axis=1)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)
    gap = values[: len(x)].mean() - values[len(x) :].mean()
    np.testing.assert_allclose(gap, witness.mmd2, rtol=1e-12)


def test_witness_is_the_change_along_the_direction(model):
    f, params, x, y = model
    witness = tangent_witness(f, params, x, y)
    leaves, tree = jax.tree.flatten(params)
    z, step = np.concatenate([x, y]), 1e-5
    ahead, behind = (
        f(tree.unflatten([w + s * g for w, g in zip(leaves, witness.direction, strict=True)]), z)
        for s in (step, -step)
    )
    # A central difference.
    np.testing.assert_allclose(witness(z), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)


def test_models_see_one_input_at_a_time_and_may_have_constants():
    def f(params, x):
        return (x**2 - jnp.mean(x, axis=0) ** 2) @ params["w"]  # 0 for one input alone

    params = {"scale": 2.0, "w": jnp.ones(2)}
    x, y = np.ones((3, 2)), np.zeros((2, 2))
    assert float(tangent_mmd2(f, params, np.arange(6.0).reshape(3, 2), y)) == 0.0
    witness = tangent_witness(lambda p, x: p["scale"] * x @ p["w"], params, x, y)
    assert float(witness.mmd2) == 8.0
    assert witness(y + 0.5).tolist() == [4.0, 4.0]


# Refusals

X, Y = np.arange(6.0).reshape(3, 2), np.ones((2, 2))
LINEAR = (lambda w, x: x @ w, jnp.ones(2))


def permuted(gram, m=1, key=KEY, **settings):
    return permutation_test(gram, m, key=key, **settings)


VALUES = {
    "NaN": (lambda: mmd2(rbf, X * np.nan, Y), "x contains NaN"),
    "infinite": (lambda: mmd2(rbf, X, np.full((2, 2), np.inf)), "y contains NaN or infinity"),
    "empty": (lambda: mmd2(rbf, X, np.zeros((0, 2))), "y is empty"),
    "one axis": (lambda: mmd2(rbf, X[:, 0], Y), r"x must be a batch"),
    "integers": (lambda: mmd2(rbf, X, Y.astype(int)), "y must be real floating"),
    "other inputs": (lambda: mmd2(rbf, X, np.ones((2, 3))), "x and y must agree"),
    "alone": (lambda: mmd2(rbf, X, Y[:1], unbiased=True), "two inputs, to have pairs; got 3 and 1"),
    "outputs": (lambda: mmd2(lambda a, b: jnp.ones((5, 5, 1, 1)), X, Y), "axes of outputs"),
    "shape": (lambda: mmd2(lambda a, b: jnp.ones((5, 4)), X, Y), "a column for each of 5"),
    "kernel NaN": (lambda: mmd2(lambda a, b: dot(a, b) * np.nan, X, Y), "NaN or infinity"),
    "not symmetric": (lambda: mmd2(lambda a, b: dot(a, 2 * b + 1), X, Y), "not symmetric"),
    "gram not symmetric": (lambda: permuted(np.triu(np.ones((3, 3)))), "not symmetric"),
    "gram not square": (lambda: permuted(np.ones((3, 2))), "must be square"),
    "gram of outputs": (lambda: permuted(np.ones((3, 3, 2, 2))), r"must be square, \(n, n\)"),
    "gram integer": (lambda: permuted(np.ones((3, 3), int)), "real floating point"),
    "no first": (lambda: permuted(np.ones((3, 3)), 0), "m must be a positive integer"),
    "no second": (lambda: permuted(np.ones((3, 3)), 3), "m = 3 leaves none of the 3"),
    "half": (lambda: permuted(np.ones((3, 3)), 1.5), "m must be a positive integer"),
    "pairs": (lambda: permuted(np.ones((3, 3)), 2, unbiased=True), "got 2 and 1"),
    "permutations": (lambda: permuted(np.ones((3, 3)), permutations=0), "permutations must be a"),
    "model of outputs": (
        lambda: tangent_mmd2(lambda w, x: x * w, jnp.ones(2), X, Y),
        "2 in an axis of outputs",
    ),
    "model without batch": (lambda: tangent_mmd2(lambda w, x: w[0], jnp.ones(2), X, Y), "batch"),
    "params NaN": (lambda: tangent_mmd2(LINEAR[0], jnp.full(2, np.nan), X, Y), "NaN"),
    "tangent inputs": (lambda: tangent_mmd2(*LINEAR, X, np.ones((2, 3))), "x and y must agree"),
    "new inputs": (lambda: tangent_witness(*LINEAR, X, Y)(X * np.nan), "x_new contains NaN"),
}
TYPES = {
    "no kernel": (lambda: mmd2("rbf", X, Y), "needs a kernel"),
    "no key": (lambda: permuted(np.ones((3, 3)), key=0), "key must come from"),
    "no model": (lambda: tangent_mmd2(mlp(3, 1), None, X, Y), "expected a function f"),
}


@pytest.mark.parametrize("name", VALUES)
def test_refuses_values(name):
    call, message = VALUES[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", TYPES)
def test_refuses_types(name):
    call, message = TYPES[name]
    with pytest.raises(TypeError, match=message):
        call()
