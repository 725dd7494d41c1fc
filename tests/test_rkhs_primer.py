"""The primer on reproducing kernel Hilbert spaces: its statements, by routes the proofs avoid.

Random features have prescribed singular values (between 1/2 and 2, or exactly 0), so ranks are
never in doubt and errors stay near rounding.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import linprog, minimize

LENGTH = 0.6
seeds = st.integers(0, 2**32 - 1)
spread_inputs = st.permutations(range(-4, 5)).map(lambda places: 0.3 * np.array(places[:5]))


def random_features(rng, inputs, features, rank):
    """Features of all inputs, one row each; their span has the given dimension."""
    left, _ = np.linalg.qr(rng.normal(size=(inputs, rank)))
    right, _ = np.linalg.qr(rng.normal(size=(features, rank)))
    return (left * rng.uniform(0.5, 2, rank)) @ right.T


@st.composite
def feature_maps(draw, deficient=False):
    """A generator, and random features of a finite set of inputs."""
    inputs, features = draw(st.integers(2, 7)), draw(st.integers(2, 7))
    largest = min(inputs, features - 1 if deficient else features)
    rank = draw(st.integers(1, largest))
    rng = np.random.default_rng(draw(seeds))
    return rng, random_features(rng, inputs, features, rank)


def least_norm(phi, values):
    """The length of the shortest v with phi v = values, by LAPACK's least squares."""
    v, *_ = np.linalg.lstsq(phi, values, rcond=1e-8)
    assert np.allclose(phi @ v, values, atol=1e-9)
    return np.linalg.norm(v)


def gaussian(x, z, length=LENGTH):
    return np.exp(-((x[:, None] - z[None, :]) ** 2) / (2 * length**2))


def powers(x, count=80):
    """Features of the Gaussian kernel from the series of exp(x x' / length^2)."""
    columns = [np.exp(-((x / LENGTH) ** 2) / 2)]
    for n in range(1, count):
        columns.append(columns[-1] * (x / LENGTH) / np.sqrt(n))
    return np.stack(columns, axis=1)


def bumps(x):
    """Features of the same kernel: bumps around each t, integrated over t."""
    t, step = np.linspace(-6, 6, 241, retstep=True)
    height = np.sqrt(step) * (2 / (np.pi * LENGTH**2)) ** 0.25
    return height * np.exp(-(((x[:, None] - t) / LENGTH) ** 2))


def relu_tangent(x, z):
    """x . z (pi - theta) / 2 pi for unit vectors in the rows of x and z."""
    apart = np.linalg.norm(x[:, None] - z[None, :], axis=-1)
    together = np.linalg.norm(x[:, None] + z[None, :], axis=-1)
    return (x @ z.T) * (np.pi - 2 * np.arctan2(apart, together)) / (2 * np.pi)


def unit_vectors(rng, count, dimension):
    x = rng.normal(size=(count, dimension))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.claim("prop-rkhs-gram")
@given(feature_maps())
def test_gram_matrices_of_features_are_positive_semidefinite(case):
    rng, phi = case
    gram = np.array([[a @ b for b in phi] for a in phi])
    assert np.array_equal(gram, gram.T)
    assert np.linalg.eigvalsh(gram).min() > -1e-12
    c = rng.normal(size=len(phi))
    assert np.isclose(c @ gram @ c, np.linalg.norm(c @ phi) ** 2)


@pytest.mark.claim("thm-rkhs-features")
@settings(max_examples=25, deadline=None)
@given(feature_maps())
def test_norm_is_the_minimum_found_by_a_general_optimiser(case):
    rng, phi = case
    v = rng.normal(size=phi.shape[1])
    span = np.linalg.svd(phi)[2][: np.linalg.matrix_rank(phi, tol=1e-8)]
    projected = span.T @ (span @ v)
    assert np.allclose(phi @ projected, phi @ v)  # the same function
    # Independent rows of the constraint phi u = phi v, as SLSQP wants them.
    found = minimize(
        lambda u: u @ u,
        v,
        jac=lambda u: 2 * u,
        constraints={"type": "eq", "fun": lambda u: span @ (u - v), "jac": lambda u: span},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert found.success
    assert np.allclose(found.x, projected, atol=1e-6)


@pytest.mark.claim("thm-rkhs-features")
@given(feature_maps())
def test_reproducing_property_from_norms_alone(case):
    """<f, k_x> by polarisation of the minimum norm is f(x), and the parallelogram law holds."""
    rng, phi = case
    f, g = rng.normal(size=(2, phi.shape[1])) @ phi.T
    for x, k_x in enumerate(phi @ phi.T):
        inner = (least_norm(phi, f + k_x) ** 2 - least_norm(phi, f - k_x) ** 2) / 4
        assert np.isclose(inner, f[x], atol=1e-9)
    squares = [least_norm(phi, h) ** 2 for h in (f + g, f - g, f, g)]
    assert np.isclose(squares[0] + squares[1], 2 * (squares[2] + squares[3]))


@pytest.mark.claim("thm-rkhs-features")
@given(feature_maps(deficient=True))
def test_dependent_features_shorten_some_weights_strictly(case):
    _, phi = case
    relation = np.linalg.svd(phi)[2][-1]  # weights of the zero function
    assert np.allclose(phi @ relation, 0, atol=1e-12)
    v = phi[0] + relation
    assert np.isclose(least_norm(phi, phi @ v) ** 2, v @ v - 1)


@pytest.mark.claim("thm-rkhs-features")
@given(seeds, st.integers(1, 5), st.integers(0, 3))
def test_independent_features_keep_the_length_of_weights(seed, features, more_inputs):
    rng = np.random.default_rng(seed)
    phi = random_features(rng, features + more_inputs, features, features)
    v = rng.normal(size=features)
    assert np.isclose(least_norm(phi, phi @ v), np.linalg.norm(v))


@pytest.mark.claim("thm-rkhs-unique")
@given(feature_maps())
def test_other_features_of_the_same_kernel_give_the_same_norm(case):
    rng, phi = case
    features = phi.shape[1]
    rotation, _ = np.linalg.qr(rng.normal(size=(features, features)))
    others = {
        "rotated": phi @ rotation,
        "padded": np.pad(phi, ((0, 0), (0, 3))),
        "duplicated": np.hstack([phi, phi]) / np.sqrt(2),
        "Cholesky-like": np.linalg.svd(phi, full_matrices=False)[0]
        * np.linalg.svd(phi, full_matrices=False)[1],
    }
    f = phi @ rng.normal(size=features)
    for other in others.values():
        assert np.allclose(other @ other.T, phi @ phi.T)
        assert np.isclose(least_norm(other, f), least_norm(phi, f))
    # Another kernel with the same functions has another norm.
    assert np.isclose(least_norm(2 * phi, f), least_norm(phi, f) / 2)


@pytest.mark.claim("thm-rkhs-unique")
@settings(max_examples=20, deadline=None)
@given(seeds)
def test_powers_and_bumps_span_the_same_space(seed):
    """Two infinite feature maps of the Gaussian kernel, cut off where nothing changes any more."""
    rng = np.random.default_rng(seed)
    centres, grid = rng.uniform(-1, 1, 4), np.linspace(-1, 1, 60)
    assert np.allclose(powers(grid) @ powers(grid).T, bumps(grid) @ bumps(grid).T, atol=1e-12)
    alpha = rng.normal(size=4)
    in_powers, in_bumps = powers(centres).T @ alpha, bumps(centres).T @ alpha
    assert np.allclose(powers(grid) @ in_powers, bumps(grid) @ in_bumps)
    assert np.isclose(np.linalg.norm(in_powers), np.linalg.norm(in_bumps))


@pytest.mark.claim("prop-rkhs-finite")
@given(feature_maps())
def test_finite_set_norm_by_pseudo_inverse(case):
    rng, phi = case
    gram = phi @ phi.T
    f, alpha = phi @ rng.normal(size=phi.shape[1]), rng.normal(size=len(phi))
    inverse = np.linalg.pinv(gram, rcond=1e-8)
    assert np.isclose(f @ inverse @ f, least_norm(phi, f) ** 2)
    assert np.isclose(alpha @ gram @ alpha, least_norm(phi, gram @ alpha) ** 2)
    # The range of the features is the range of the Gram matrix.
    assert np.allclose(gram @ inverse @ phi, phi)
    assert np.linalg.matrix_rank(gram, tol=1e-8) == np.linalg.matrix_rank(phi, tol=1e-8)


@pytest.mark.claim("thm-rkhs-moore-aronszajn")
@given(spread_inputs, seeds)
def test_norms_on_finite_subsets_grow_to_the_norm(inputs, seed):
    """What existence on an infinite set needs: restricted norms increase, and are finite."""
    alpha = np.random.default_rng(seed).normal(size=3)
    centres = inputs[:3]
    total = alpha @ gaussian(centres, centres) @ alpha
    order = np.concatenate([inputs[3:], centres])  # the centres last
    norms = []
    for n in range(1, 6):
        f = gaussian(order[:n], centres) @ alpha
        norms.append(f @ np.linalg.solve(gaussian(order[:n], order[:n]), f))
    assert np.all(np.diff(norms) > -1e-9 * total)
    assert np.isclose(norms[-1], total)


@pytest.mark.claim("thm-rkhs-moore-aronszajn")
def test_finite_sums_are_dense():
    """A function given by its weights, not as a finite sum, is a limit of sums in the norm."""
    # Weights (2^-j) on the powers. The squared distance to a span is the norm minus its projection.
    v = 0.5 ** np.arange(80)
    distances = []
    for n in (2, 4, 6, 8):
        x = np.cos((np.arange(n) + 0.5) * np.pi / n)
        span = np.linalg.qr(powers(x).T)[0]
        distances.append(np.linalg.norm(v - span @ (span.T @ v)))
    assert np.all(np.diff(np.log(distances)) < -1)  # each step is better by more than e
    assert distances[-1] < 1e-3


# Losses of the residual r, and their derivatives; y is 1 or -1.
LOSSES = {
    "squared": (lambda r, y: r**2, lambda r, y: 2 * r),
    "nearly absolute": (lambda r, y: np.hypot(r, 0.1), lambda r, y: r / np.hypot(r, 0.1)),
    "logistic": (lambda r, y: np.logaddexp(0, -y * r), lambda r, y: -y / (1 + np.exp(y * r))),
}


@pytest.mark.claim("thm-rkhs-representer")
@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=20, deadline=None)
@given(feature_maps())
def test_minimiser_over_all_weights_is_a_sum_of_kernels_at_the_data(name, case):
    """Minimise over all weights, with no knowledge of kernels, and see where the minimiser lies."""
    loss, slope = LOSSES[name]
    rng, phi = case
    m = (len(phi) + 1) // 2  # the first inputs are the data, the others are not
    data = phi[:m]
    y = rng.choice([-1.0, 1.0], size=m)

    def objective(v):  # the penalty increases with the norm, but is not its square
        return np.sum(loss(data @ v - y, y)) + 0.3 * np.linalg.norm(v) ** 3

    def gradient(v):
        return data.T @ slope(data @ v - y, y) + 0.9 * np.linalg.norm(v) * v

    start = rng.normal(size=phi.shape[1])
    found = minimize(objective, start, jac=gradient, options={"gtol": 1e-10})
    span = np.linalg.svd(data)[2][: np.linalg.matrix_rank(data, tol=1e-8)]
    assert np.linalg.norm(found.x - span.T @ (span @ found.x)) < 1e-4

    # The projection of any function keeps its values at the data and has a smaller objective.
    projected = span.T @ (span @ start)
    assert np.allclose(data @ projected, data @ start)
    assert objective(projected) <= objective(start) + 1e-12


@pytest.mark.claim("prop-rkhs-minnorm")
@given(feature_maps())
def test_smallest_interpolant_by_kernel_and_by_least_squares(case):
    rng, phi = case
    m = (len(phi) + 1) // 2
    data, gram = phi[:m], phi[:m] @ phi[:m].T
    y = data @ rng.normal(size=phi.shape[1])
    rank = np.linalg.matrix_rank(data, tol=1e-8)
    values, vectors = np.linalg.eigh(gram)
    alpha = vectors[:, m - rank :] @ ((vectors.T @ y)[m - rank :] / values[m - rank :])
    weights, *_ = np.linalg.lstsq(data, y, rcond=1e-8)
    assert np.allclose(data.T @ alpha, weights, atol=1e-8)
    assert np.allclose(phi @ data.T @ alpha, phi @ weights, atol=1e-8)  # also off the data
    assert np.isclose(alpha @ gram @ alpha, weights @ weights)
    assert np.isclose(y @ np.linalg.pinv(gram, rcond=1e-8) @ y, weights @ weights)
    # Another solution of K alpha = y gives the same function.
    if rank < m:
        other = alpha + vectors[:, 0]
        assert np.allclose(gram @ other, y, atol=1e-8)
        assert np.allclose(phi @ data.T @ other, phi @ weights, atol=1e-8)


@pytest.mark.claim("prop-rkhs-minnorm")
@given(feature_maps(), st.floats(0.1, 3))
def test_every_other_interpolant_is_larger(case, size):
    rng, phi = case
    m = (len(phi) + 1) // 2
    data = phi[:m]
    rank = np.linalg.matrix_rank(data, tol=1e-8)
    y = data @ rng.normal(size=phi.shape[1])
    smallest, *_ = np.linalg.lstsq(data, y, rcond=1e-8)
    if rank == np.linalg.matrix_rank(phi, tol=1e-8):
        return  # the data determine the function
    # Weights in the span of all features but without effect on the data.
    blind = np.linalg.svd(data)[2][rank:]
    direction = blind.T @ (blind @ phi[m:].sum(axis=0))
    other = smallest + size * direction / np.linalg.norm(direction)
    assert np.allclose(data @ other, y)
    assert np.isclose(least_norm(phi, phi @ other) ** 2 - smallest @ smallest, size**2)


@pytest.mark.claim("prop-rkhs-minnorm")
def test_contradictory_data_have_no_interpolant():
    phi = np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]])
    y = np.array([1.0, -1.0, 0.0])
    gram = phi @ phi.T
    assert np.linalg.matrix_rank(np.column_stack([gram, y])) > np.linalg.matrix_rank(gram)
    feasible = linprog(np.zeros(2), A_eq=phi, b_eq=y, bounds=(None, None))
    assert feasible.status == 2  # infeasible


@pytest.mark.claim("prop-rkhs-evaluation")
@given(spread_inputs, seeds)
def test_norm_bounds_values_and_differences(inputs, seed):
    rng = np.random.default_rng(seed)
    alpha = rng.normal(size=5)
    norm = np.sqrt(alpha @ gaussian(inputs, inputs) @ alpha)
    grid = np.linspace(-2, 2, 41)
    f = gaussian(grid, inputs) @ alpha
    gaps = np.abs(f[:, None] - f[None, :])
    kernel_distance = np.sqrt(np.maximum(2 - 2 * gaussian(grid, grid), 0))
    assert np.all(np.abs(f) <= norm + 1e-9)
    assert np.all(gaps <= norm * kernel_distance + 1e-7)  # 1e-7: the root of rounding at 0
    assert np.all(kernel_distance <= np.abs(grid[:, None] - grid[None, :]) / LENGTH + 1e-7)


@pytest.mark.claim("prop-rkhs-evaluation")
@given(feature_maps())
def test_bounds_on_values_are_attained(case):
    rng, phi = case
    gram = phi @ phi.T
    value_bound = np.sqrt(gram[0, 0])
    difference_bound = np.sqrt(gram[0, 0] - 2 * gram[0, 1] + gram[1, 1])
    k_x, gap = gram[0], gram[0] - gram[1]
    assert np.isclose(k_x[0], least_norm(phi, k_x) * value_bound)
    assert np.isclose(gap[0] - gap[1], least_norm(phi, gap) * difference_bound)
    f = phi @ rng.normal(size=phi.shape[1])
    assert abs(f[0]) <= least_norm(phi, f) * value_bound + 1e-9
    assert abs(f[0] - f[1]) <= least_norm(phi, f) * difference_bound + 1e-9


@pytest.mark.claim("prop-rkhs-universal")
@pytest.mark.parametrize("kernel", ["exponential", "Gaussian"])
@pytest.mark.parametrize(
    ("target", "rate"),
    [(np.abs, -1.0), (lambda x: np.sign(x) * np.sqrt(np.abs(x)), -0.5)],
    ids=["absolute value", "signed root"],
)
def test_functions_of_the_space_approach_rough_targets(target, rate, kernel):
    """Polynomials (times the Gaussian factor) are in the space, and reach a Hoelder target.

    By Jackson's and Bernstein's theorems the best uniform error of degree n falls as n^-s for a
    target with the Hoelder exponent s.
    """

    def factor(x):
        return np.exp(-((x / LENGTH) ** 2) / 2) if kernel == "Gaussian" else np.ones_like(x)

    grid = np.linspace(-1, 1, 4001)
    nodes = np.cos((np.arange(1000) + 0.5) * np.pi / 1000)
    degrees = 2 ** np.arange(3, 8)
    errors = []
    for degree in degrees:
        fit = np.polynomial.Chebyshev.fit(nodes, target(nodes) / factor(nodes), degree)
        errors.append(np.abs(factor(grid) * fit(grid) - target(grid)).max())
    slope = np.polyfit(np.log(degrees), np.log(errors), 1)[0]
    assert abs(slope - rate) < 0.1


@pytest.mark.claim("prop-rkhs-universal")
@given(st.integers(0, 12), seeds)
def test_polynomials_are_in_the_space_of_the_exponential_kernel(degree, seed):
    """The restricted norms of x^n stay below its norm sqrt(n!) length^n, whatever the inputs."""
    x = np.sort(np.random.default_rng(seed).choice(np.linspace(-1, 1, 21), 6, replace=False))
    gram = np.exp(np.outer(x, x) / LENGTH**2)
    f = x**degree
    restricted = f @ np.linalg.solve(gram, f)
    assert restricted <= np.prod(np.arange(1.0, degree + 1)) * LENGTH ** (2 * degree) * (1 + 1e-6)


@pytest.mark.claim("cor-rkhs-nonsingular")
@given(spread_inputs)
def test_gaussian_gram_matrices_of_distinct_inputs_are_nonsingular(inputs):
    # By the Cholesky factor, which exists for positive definite matrices only.
    assert np.all(np.diagonal(np.linalg.cholesky(gaussian(inputs, inputs))) > 1e-3)
    twice = np.append(inputs, inputs[0])
    assert np.linalg.matrix_rank(gaussian(twice, twice)) == 5


@pytest.mark.claim("prop-rkhs-antipodes", "cor-rkhs-nonsingular")
def test_without_universality_distinct_inputs_can_be_singular():
    angles = np.arange(6) * np.pi / 3
    hexagon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    signs = (-1.0) ** np.arange(6)
    assert np.allclose(relu_tangent(hexagon, hexagon) @ signs, 0, atol=1e-12)


@pytest.mark.claim("prop-rkhs-antipodes")
@given(seeds, st.integers(2, 5))
def test_odd_part_is_linear(seed, dimension):
    rng = np.random.default_rng(seed)
    centres, x = unit_vectors(rng, 8, dimension), unit_vectors(rng, 30, dimension)
    alpha = rng.normal(size=8)
    difference = (relu_tangent(x, centres) - relu_tangent(-x, centres)) @ alpha
    axes = np.eye(dimension)
    w = (relu_tangent(axes, centres) - relu_tangent(-axes, centres)) @ alpha
    assert np.allclose(difference, x @ w)
    assert np.linalg.norm(w) > 0


@pytest.mark.claim("prop-rkhs-antipodes")
def test_kernel_is_the_average_over_half_spaces():
    """In the plane, the share of directions w that see both inputs is an integral over an angle."""
    x, z = np.array([1.0, 0.0]), np.array([np.cos(2.2), np.sin(2.2)])

    def both_seen(turn):
        w = np.array([np.cos(turn), np.sin(turn)])
        return float(w @ x > 0 and w @ z > 0)

    edges = [np.pi / 2, 3 * np.pi / 2, 2.2 - np.pi / 2, 2.2 + np.pi / 2]
    share = quad(both_seen, 0, 2 * np.pi, points=edges)[0] / (2 * np.pi)
    assert np.isclose(relu_tangent(x[None], z[None])[0, 0], (x @ z) * share)


@pytest.mark.claim("prop-rkhs-antipodes")
def test_no_combination_comes_nearer_to_cos_3_theta_than_zero():
    """Best uniform approximation by 40 kernel functions, as a linear programme."""
    angles = 2 * np.pi * np.arange(60) / 60
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    columns = relu_tangent(circle, circle[:40] @ np.array([[0.6, 0.8], [-0.8, 0.6]]))

    def distance(target):
        ones = np.ones((60, 1))
        found = linprog(
            np.append(np.zeros(40), 1.0),
            A_ub=np.block([[columns, -ones], [-columns, -ones]]),
            b_ub=np.concatenate([target, -target]),
            bounds=[(-1e3, 1e3)] * 40 + [(0, None)],
        )
        assert found.success
        return found.fun

    assert np.isclose(distance(np.cos(3 * angles)), 1)
    assert distance(np.cos(2 * angles)) < 0.1  # an even target is within reach
