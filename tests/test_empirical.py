"""Empirical kernels: against explicit Jacobians, the lecture's sum, laws, and each other."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import (
    Activation,
    Dense,
    Frozen,
    Residual,
    Sequential,
    empirical_ntk,
    erf,
    mlp,
    relu,
    tanh,
    two_layer,
)
from ntkbook.kernels import empirical, gradients, strategies
from ntkbook.kernels.gradients import Explicit, Factored, gram, rows_within
from ntkbook.kernels.layerwise import NotLayerwiseError, layer_factors
from ntkbook.layers import Conv, Flatten

KEY = jax.random.key(1412)
RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(6, 4)), RNG.normal(size=(3, 4))
ROWS_X, ROWS_Y = RNG.normal(size=(4, 3, 4)), RNG.normal(size=(2, 3, 4))
IMAGES = RNG.normal(size=(3, 3, 3, 2))
EPS = np.finfo(float).eps


def by_hand(params, x):
    (a, b), c = params["pair"], params["c"]
    return (x @ a) ** 2 / (1 + c**2) + jnp.sin(c * x[..., 0]) * jnp.sum(b)


@dataclass(frozen=True)
class OverPositions:
    """The mean over the last axis but one: a layer without parameters."""

    def init(self, key, in_shape):
        return (), (*in_shape[:-2], in_shape[-1])

    def apply(self, params, x):
        return jnp.mean(x, -2)

    def kernel(self, pair):
        raise NotImplementedError


def initialised(net, in_shape=(4,)):
    return net.apply, net.init(KEY, in_shape)[0]


NETS = {
    "two layers": initialised(two_layer(11, tanh)),
    "mlp": initialised(mlp(7, 2, relu, b_std=0.4)),
    "outputs": initialised(mlp(7, 1, erf, b_std=0.3, outputs=3)),
    "one output kept": initialised(Sequential(Dense(5, b_std=1.0), Activation(tanh), Dense(1))),
    "residual, partly frozen": initialised(
        Sequential(
            Frozen(Dense(5, b_std=0.7)),
            Residual(Sequential(Activation(tanh), Dense(5, 1.3, 0.2))),
            Activation(erf),
            Frozen(Dense(4)),
            Dense(2, 0.9),
        )
    ),
    "positions": initialised(
        Sequential(
            Dense(6, 1.4, 0.3), Activation(tanh), Dense(2, b_std=0.5), Activation(erf),
            OverPositions(), Dense(2),
        ),
        (3, 4),
    ),
}  # fmt: skip
NETS["convolution"] = initialised(
    Sequential(Conv(3, (2, 2), b_std=0.4), Activation(tanh), Conv(2, (3, 3)), Flatten(), Dense(2)),
    (3, 3, 2),
)
MODELS = NETS | {
    "by hand": (
        by_hand,
        {"pair": (jnp.arange(4.0) - 1.3, jnp.ones((2, 2)) / 3), "c": jnp.asarray(0.7)},
    )
}
every_model = pytest.mark.parametrize("name", MODELS)


def inputs(name):
    special = {"positions": (ROWS_X, ROWS_Y), "convolution": (IMAGES, IMAGES[:2])}
    return special.get(name, (X, Y))


@functools.cache
def jacobian(name, which):
    """(n, outputs, p), by forward differentiation of the whole batch."""
    f, params = MODELS[name]
    x = inputs(name)[which]
    leaves = jax.tree.leaves(jax.jit(jax.jacfwd(f))(params, x))
    k = int(np.prod(jax.eval_shape(f, params, x).shape[1:]))
    return np.concatenate([np.reshape(leaf, (len(x), k, -1)) for leaf in leaves], axis=-1)


def expected(name, columns, outputs="full"):
    """K[i, j, a, b] = <grad h_a(x_i), grad h_b(x_j)>, entry by entry."""
    jx, jy = jacobian(name, 0), jacobian(name, columns)
    full = np.array([[[[ga @ gb for gb in gy] for ga in gx] for gy in jy] for gx in jx])
    if outputs == "trace":
        return np.einsum("ijaa->ij", full)
    scalar = jax.eval_shape(MODELS[name][0], MODELS[name][1], inputs(name)[0]).ndim == 1
    return full[:, :, 0, 0] if scalar else full


@functools.cache
def kernel(name, strategy="auto", outputs="full", memory=2**30):
    return empirical_ntk(*MODELS[name], strategy=strategy, outputs=outputs, memory=memory)


# --- every way to compute it ----------------------------------------------------------------------

WAYS = [(name, "layers") for name in NETS]
WAYS += [
    (name, way)
    for name in ("one output kept", "positions", "by hand")
    for way in ("jacobian", "products")
]


@pytest.mark.parametrize(("name", "strategy"), WAYS)
def test_each_strategy_gives_the_product_of_jacobians(name, strategy):
    got = kernel(name, strategy)(*inputs(name))
    np.testing.assert_allclose(got, expected(name, 1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("strategy", ["layers", "jacobian", "products"])
@pytest.mark.parametrize("name", ["positions"])
def test_the_trace_is_the_sum_over_equal_outputs(name, strategy):
    x, y = inputs(name)
    k = kernel(name, strategy, "trace")
    np.testing.assert_allclose(k(x, y), expected(name, 1, "trace"), rtol=1e-10, atol=1e-12)


def test_the_trace_of_one_output_is_its_kernel():
    for name in ("mlp", "one output kept"):
        got = kernel(name, outputs="trace")(X, Y)
        np.testing.assert_allclose(got, expected(name, 1, "trace"), rtol=1e-11, atol=1e-13)


@every_model
def test_symmetric_and_positive_semidefinite(name):
    x, _ = inputs(name)
    gram = np.asarray(kernel(name)(x))
    np.testing.assert_allclose(gram, expected(name, 0), rtol=1e-10, atol=1e-12)
    if gram.ndim == 2:
        np.testing.assert_allclose(gram, gram.T, rtol=1e-14)
        flat = gram
    else:
        np.testing.assert_allclose(gram, np.transpose(gram, (1, 0, 3, 2)), rtol=1e-12)
        rows = len(x) * gram.shape[-1]
        flat = np.transpose(gram, (0, 2, 1, 3)).reshape(rows, rows)
    eigenvalues = np.linalg.eigvalsh(flat)
    assert eigenvalues[0] >= -len(flat) * EPS * eigenvalues[-1]


@pytest.mark.parametrize(
    ("name", "strategy", "outputs"),
    [
        ("mlp", "auto", "full"),
        ("one output kept", "products", "full"),
        ("outputs", "auto", "full"),
        ("outputs", "jacobian", "trace"),
        ("positions", "auto", "trace"),
    ],
)
def test_the_diagonal_is_the_diagonal(name, strategy, outputs):
    x, _ = inputs(name)
    whole = expected(name, 0, outputs)
    each = np.arange(len(x))
    got = kernel(name, strategy, outputs).diagonal(x)
    np.testing.assert_allclose(got, whole[each, each], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("one output kept", "full"), ("positions", "full"), ("outputs", "trace"), ("mlp", "trace")],
)
def test_times_is_the_product_with_the_matrix(name, outputs):
    x, y = inputs(name)
    for columns, arguments in [(1, (x, y)), (0, (x,))]:
        matrix = expected(name, columns, outputs)
        full = matrix.ndim == 4
        v = RNG.normal(size=(matrix.shape[1], *matrix.shape[3:]))
        got = kernel(name, outputs=outputs).times(v, *arguments)
        product = np.einsum("ijab,jb->ia", matrix, v) if full else matrix @ v
        np.testing.assert_allclose(got, product, rtol=1e-10, atol=1e-13)


def test_times_solves_without_the_matrix():
    k, y, ridge = kernel("mlp"), RNG.normal(size=6), 0.1
    solution, _ = jax.scipy.sparse.linalg.cg(lambda v: k.times(v, X) + ridge * v, y, tol=1e-12)
    matrix = expected("mlp", 0) + ridge * np.eye(6)
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, y), rtol=1e-8)


@pytest.mark.parametrize("signs", ["alternating", (2.0, 0.5, -1.0)])
def test_two_layers_give_the_sum_of_the_lecture(signs):
    """(14.2): x . x' (1/N) sum_j a_j^2 sigma'(w_j . x) sigma'(w_j . x')."""
    net = two_layer(3, relu, signs)
    params, _ = net.init(KEY, (4,))
    W = np.asarray(params[0]["W"])
    a = [1, -1, 1] if signs == "alternating" else signs
    total = np.zeros((6, 3))
    for i, x in enumerate(X):
        for j, y in enumerate(Y):
            for n in range(3):
                w = W[:, n]
                total[i, j] += (x @ y) * a[n] ** 2 * (w @ x > 0) * (w @ y > 0) / 3
    assert 0 < np.sum(total != 0) < total.size
    np.testing.assert_allclose(empirical_ntk(net.apply, params)(X, Y), total, rtol=1e-13)


def test_frozen_parameters_do_not_count():
    whole, part = mlp(7, 1, tanh), Sequential(Frozen(Dense(7)), *mlp(7, 1, tanh).layers[1:])
    params, _ = whole.init(KEY, (4,))
    z = np.tanh(X @ np.asarray(params[0]["W"]) / 2)
    np.testing.assert_allclose(
        empirical_ntk(part.apply, params)(X), z @ z.T / 7, rtol=1e-12, atol=1e-15
    )


def test_a_factor_on_the_output_squares_in_the_kernel():
    f, params = MODELS["outputs"]
    scaled = empirical_ntk(lambda w, x: 3 * f(w, x), params)
    np.testing.assert_allclose(scaled(X, Y), 9 * expected("outputs", 1), rtol=1e-12)


def test_inputs_may_have_any_number_of_axes():
    images = RNG.normal(size=(3, 2, 5))
    w = 0.3 * RNG.normal(size=(2, 5))
    k = empirical_ntk(lambda w, x: jnp.tanh(jnp.einsum("nij,ij->n", x, w)), w)
    slope = np.cosh(np.einsum("nij,ij->n", images, w)) ** -2
    products = np.einsum("nij,mij->nm", images, images)
    np.testing.assert_allclose(k(images), np.outer(slope, slope) * products, rtol=1e-12)


# --- sums over positions, tiles and halves --------------------------------------------------------


def factored(n, k, t, features, width, bias):
    return Factored(
        jnp.asarray(RNG.normal(size=(n, t, features))),
        jnp.asarray(RNG.normal(size=(n, k, t, width))),
        bias,
    )


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("bias", [0.0, 0.6])
@pytest.mark.parametrize("t", [1, 3])
def test_factors_have_the_inner_products_of_what_they_multiply_to(t, bias, trace):
    one, other = (factored(n, 2, t, 4, 3, bias) for n in (5, 2))
    explicit = gram(one.multiplied_out(), other.multiplied_out(), trace)
    assert explicit.shape == ((5, 2) if trace else (10, 4))
    np.testing.assert_allclose(one.inner(other, trace), explicit, rtol=1e-12, atol=1e-13)


def test_the_cheaper_form_is_taken():
    few_positions, many = factored(2, 1, 1, 50, 40, 0.1), factored(2, 1, 90, 5, 4, 0.1)
    assert few_positions.cheapest((9, 9), False) == (few_positions,)
    assert [type(part) for part in many.cheapest((9, 9), False)] == [Explicit, Explicit]
    assert few_positions.bytes_per_pair(False) == 0
    # What the other form takes: positions squared, once for a and once for delta.
    assert many.bytes_per_pair(False) == 90 * 90 * 2 * 8


def test_tiles_fit_into_the_memory():
    for per_input, per_pair in [(800, 0), (800, 50), (1, 7)]:
        b = rows_within(10_000, 1000, 1000, 1000, per_input, per_pair)
        assert 2 * b * per_input + b**2 * per_pair <= 10_000
        assert 2 * (b + 1) * per_input + (b + 1) ** 2 * per_pair > 10_000
    assert rows_within(10_000, 10, 10, 10, 1000, 0) == 10
    assert rows_within(9_999, 10, 10, 10, 1000, 0) == 4
    assert rows_within(1, 10, 10, 10, 1000, 0) == 1


@pytest.mark.parametrize(
    ("name", "strategy", "outputs"),
    [("outputs", "jacobian", "full"), ("positions", "layers", "trace")],
)
def test_tiles_change_nothing_and_hold_less(name, strategy, outputs):
    x, y = inputs(name)
    rows = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(MODELS[name][1])) * jacobian(name, 0).shape[1]
    )
    tiled = kernel(name, strategy, outputs, memory=4 * rows if strategy == "jacobian" else 3000)
    for arguments, columns in [((x, y), 1), ((x,), 0)]:
        np.testing.assert_allclose(
            tiled(*arguments), expected(name, columns, outputs), rtol=1e-10, atol=1e-12
        )
        program = str(jax.make_jaxpr(tiled)(*arguments))
        assert "scan" in program
        assert "scan" not in str(jax.make_jaxpr(kernel(name, strategy, outputs))(*arguments))
    np.testing.assert_allclose(
        tiled.diagonal(x), kernel(name, strategy, outputs).diagonal(x), rtol=1e-12
    )


@pytest.mark.parametrize("trace", [False, True])
def test_a_symmetric_kernel_takes_the_blocks_below_the_diagonal(trace, monkeypatch):
    part = Explicit(RNG.normal(size=(11, 2, 5)))
    whole = gram((part,), (part,), trace)
    blocks = []

    def counted(one, other, trace):
        block = gram(one, other, trace)
        blocks.append(block.size)
        return block

    monkeypatch.setattr(gradients, "HALVES", 4)
    monkeypatch.setattr(gradients, "gram", counted)
    halves = jax.jit(gradients.symmetric_gram, static_argnums=(1, 2, 3))((part,), 11, 2, trace)
    np.testing.assert_allclose(halves, whole, rtol=1e-13)
    assert sum(blocks) < 0.7 * whole.size


def test_the_same_inputs_twice_are_half_the_work(monkeypatch):
    def halves(*arguments):
        raise AssertionError("halves")

    monkeypatch.setattr(empirical, "symmetric_gram", halves)
    k = empirical_ntk(lambda w, x: jnp.tanh(x @ w), jnp.ones(4), strategy="jacobian")
    for again in ((X,), (X, X)):
        with pytest.raises(AssertionError, match="halves"):
            k(*again)
    assert k(X, X + 1.0).shape == (len(X), len(X))


# --- the choice -----------------------------------------------------------------------------------


def choice(f, params, n, outputs="full"):
    plan = empirical_ntk(f, params, outputs=outputs)._plan
    return strategies.cheapest(plan, jax.tree.leaves(params), np.ones((n, 4)), (n, n))


def test_columns_win_with_many_outputs_and_gradients_with_shared_weights():
    dense = initialised(mlp(50, 2, tanh))
    assert choice(*dense, 100) == "products"
    assert choice(*dense, 1000) == "jacobian"
    many = initialised(mlp(50, 2, tanh, outputs=10))
    assert choice(*many, 1000) == "products"
    assert choice(*many, 1000, "trace") == "jacobian"

    def shared(w, x):
        return jnp.tanh((x[:, None] * jnp.arange(20.0)[:, None]) @ w).mean(1)

    assert choice(shared, jnp.ones((4, 10)), 100) == "jacobian"


def test_auto_takes_layers_where_it_can(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("gradients were formed")

    monkeypatch.setattr(strategies, "cheapest", refuse)
    net = mlp(3, 1, tanh)
    params, _ = net.init(KEY, (4,))
    empirical_ntk(net.apply, params)(X)
    with pytest.raises(AssertionError, match="gradients were formed"):
        empirical_ntk(lambda w, x: net.apply(w, x), params)(X)


@dataclass(frozen=True)
class Gain(OverPositions):
    """x -> w x: a parameter, but no `weight_inputs`."""

    def init(self, key, in_shape):
        return {"w": jax.random.normal(key, in_shape)}, in_shape

    def apply(self, params, x):
        return params["w"] * x


@dataclass(frozen=True)
class Twice(OverPositions):
    """layer(layer(x)), with the same weights."""

    layer: Dense

    def init(self, key, in_shape):
        return self.layer.init(key, in_shape)

    def apply(self, params, x):
        return self.layer.apply(params, jnp.tanh(self.layer.apply(params, x)))


@dataclass(frozen=True)
class Tied(OverPositions):
    """W^T tanh(W x): the weights are used by the layer and beside it."""

    layer: Dense

    def init(self, key, in_shape):
        return self.layer.init(key, in_shape)[0], in_shape

    def apply(self, params, x):
        return jnp.tanh(self.layer.apply(params, x)) @ params["W"].T


ODD = {
    "own parameters": (Gain(), "Gain.* has parameters and no method weight_inputs"),
    "used twice": (Twice(Dense(4)), "shares its parameters with another layer"),
    "used beside": (Tied(Dense(3)), "uses parameters outside its layers"),
}


@pytest.mark.parametrize("name", ODD)
def test_where_layers_do_not_add_up_another_way_is_taken_or_the_reason_given(name):
    layer, message = ODD[name]
    net = Sequential(Dense(4, b_std=0.5), layer, Activation(tanh))
    f, params = initialised(net)
    by_jacobian = empirical_ntk(f, params, strategy="jacobian")(X, Y)
    np.testing.assert_allclose(empirical_ntk(f, params)(X, Y), by_jacobian, rtol=1e-11, atol=1e-13)
    with pytest.raises(NotLayerwiseError, match=message):
        empirical_ntk(f, params, strategy="layers")(X)


def test_factors_are_those_of_trained_layers_only():
    f, params = MODELS["residual, partly frozen"]
    shapes = jax.eval_shape(layer_factors(f, params), X)
    assert [part.a.shape for part in shapes] == [(6, 1, 5), (6, 1, 4)]
    assert [part.delta.shape for part in shapes] == [(6, 2, 1, 5), (6, 2, 1, 2)]


# --- as programs ----------------------------------------------------------------------------------


def test_compiled_once_for_all_parameters():
    calls = []

    def f(w, x):
        calls.append(None)
        return jnp.tanh(x @ w)

    for run in (lambda k: k(X), lambda k: k.diagonal(X), lambda k: k.times(X[:, 0], X)):
        before = len(calls)
        first = run(empirical_ntk(f, jnp.ones(4)))
        traced = len(calls)
        assert traced > before
        np.testing.assert_array_equal(run(empirical_ntk(f, jnp.ones(4))), first)
        run(empirical_ntk(f, jnp.zeros(4)))
        assert len(calls) == traced


def test_composes_with_transformations_and_prints_briefly():
    f, params = MODELS["mlp"]
    k = kernel("mlp")
    np.testing.assert_allclose(jax.jit(k)(X, Y), k(X, Y), rtol=1e-12)
    batched = jax.vmap(k, (0, None))(np.stack([X, 2 * X]), Y)
    np.testing.assert_allclose(batched[1], k(2 * X, Y), rtol=1e-12)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params)
    drawn = jax.jit(jax.vmap(lambda p: empirical_ntk(f, p)(X)))(several)
    np.testing.assert_allclose(drawn[0], k(X), rtol=1e-12)
    assert "0.7" not in repr(kernel("by hand"))


@pytest.mark.parametrize("strategy", ["layers", "products"])
def test_single_precision_stays_single(strategy):
    f, params = MODELS["outputs"]
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    x = X.astype(np.float32)
    k = empirical_ntk(f, single, strategy=strategy)(x)
    assert k.dtype == jnp.float32
    scale = np.max(np.abs(expected("outputs", 0)))
    np.testing.assert_allclose(k, expected("outputs", 0), atol=1e-5 * scale)


# --- models of other libraries --------------------------------------------------------------------


def small_mlp_kernel(weights, biases, x, y):
    """K of W2 tanh(W1 x + b1) + b2 in the standard parametrisation, two outputs, by hand."""
    z, zy = (np.tanh(t @ weights[0].T + biases[0]) for t in (x, y))
    slopes = np.einsum("nh,kh->nkh", 1 - z**2, weights[1])
    slopes_y = np.einsum("nh,kh->nkh", 1 - zy**2, weights[1])
    first = (x @ y.T + 1)[:, :, None, None] * np.einsum("ikh,jlh->ijkl", slopes, slopes_y)
    return first + (z @ zy.T + 1)[:, :, None, None] * np.eye(2)


def test_equinox():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(4, 2, width_size=5, depth=1, activation=jnp.tanh, key=KEY)
    weights = [np.asarray(layer.weight) for layer in model.layers]
    biases = [np.asarray(layer.bias) for layer in model.layers]
    want = small_mlp_kernel(weights, biases, X, Y)

    def f(model, x):
        return jax.vmap(model)(x)

    np.testing.assert_allclose(empirical_ntk(f, model)(X, Y), want, rtol=1e-10)
    # Some of the parameters: the rest is closed over.
    where = jax.tree.map(lambda _: False, model)
    where = eqx.tree_at(lambda m: m.layers[1].weight, where, replace=True)
    last, rest = eqx.partition(model, where)
    k = empirical_ntk(lambda part, x: f(eqx.combine(part, rest), x), last)
    z, zy = (np.tanh(t @ weights[0].T + biases[0]) for t in (X, Y))
    readout = (z @ zy.T)[:, :, None, None] * np.eye(2)
    np.testing.assert_allclose(k(X, Y), readout, rtol=1e-10, atol=1e-13)


def test_flax():
    nnx = pytest.importorskip("flax.nnx")

    class MLP(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(4, 5, rngs=rngs, param_dtype=jnp.float64)
            self.norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
            self.readout = nnx.Linear(5, 2, rngs=rngs, param_dtype=jnp.float64)

        def __call__(self, x):
            return self.readout(jnp.tanh(self.norm(self.hidden(x))))

    # The averages of the normalisation are not trained: f closes over them.
    graph, params, state = nnx.split(MLP(nnx.Rngs(0)), nnx.Param, ...)
    k = empirical_ntk(lambda params, x: nnx.merge(graph, params, state)(x), params)
    model = nnx.merge(graph, params, state)
    leaves = jax.jacfwd(lambda p: nnx.merge(graph, p, state)(X))(params)
    rows = np.concatenate(
        [np.reshape(leaf, (6, 2, -1)) for leaf in jax.tree.leaves(leaves)], axis=-1
    )
    assert model(X).shape == (6, 2)
    np.testing.assert_allclose(k(X), np.einsum("iap,jbp->ijab", rows, rows), rtol=1e-5, atol=1e-6)


def test_flax_linen():
    nn = pytest.importorskip("flax.linen")
    model = nn.Sequential(
        [nn.Dense(5, param_dtype=jnp.float64), jnp.tanh, nn.Dense(2, param_dtype=jnp.float64)]
    )
    variables = model.init(KEY, X)
    dense = [variables["params"][name] for name in ("layers_0", "layers_2")]
    weights = [np.asarray(layer["kernel"]).T for layer in dense]
    biases = [np.asarray(layer["bias"]) for layer in dense]
    np.testing.assert_allclose(
        empirical_ntk(model.apply, variables)(X, Y),
        small_mlp_kernel(weights, biases, X, Y),
        rtol=1e-10,
    )


# --- bad input ------------------------------------------------------------------------------------

F, P = MODELS["mlp"]
MESSAGES = {
    "one number": ((1.0,), r"x1 must be a batch of inputs, shape \(n, d\); got shape \(\)"),
    "x2 one input": ((X, X[0]), r"x2 must be a batch.* got shape \(4,\)"),
    "empty": ((X[:0],), r"x1 is empty: shape \(0, 4\)"),
    "nan": ((np.concatenate([X, [[0, 0, np.nan, 0]]]),), "x1 contains NaN or infinity"),
    "integers": ((np.ones((3, 4), int),), "x1 must be real floating point, got int64"),
    "complex": ((X + 1j,), "x1 must be real floating point, got complex128"),
    "mismatch": ((X, Y[:, :3]), r"agree in all axes but the first, got \(6, 4\) and \(3, 3\)"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_bad_inputs_are_refused_with_what_was_expected_and_what_came(name):
    arguments, message = MESSAGES[name]
    with pytest.raises(ValueError, match=message):
        kernel("mlp")(*arguments)


def of(f, params, **options):
    return lambda: empirical_ntk(f, params, **options)(X)


BAD_CALLS = {
    "features": (
        lambda: kernel("mlp")(X[:, :3]),
        ValueError,
        r"4 features on the last axis, got an input of shape \(1, 3\)",
    ),
    "params of another network": (
        of(F, MODELS["two layers"][1]),
        ValueError,
        "tuple of parameters for 6 layers, got tuple of length 3",
    ),
    "no apply": (
        of(mlp(7, 2), P),
        TypeError,
        r"a function f\(params, x\), such as net\.apply; got Sequential\(",
    ),
    "swapped": (of(P, F), TypeError, r"a function f\(params, x\).*; got \(\{"),
    "matrix values": (
        of(lambda w, x: x[:, :, None] * w, jnp.ones(2)),
        ValueError,
        r"values \(n,\) or \(n, outputs\), but .* for one input have shape \(4, 2\)",
    ),
    "no batch axis": (
        of(lambda w, x: jnp.sum(x @ w), jnp.ones(4)),
        ValueError,
        r"keep the batch axis of x: for one input, shape \(1, 4\), it gave shape \(\)",
    ),
    "complex values": (
        of(lambda w, x: (1j * x) @ w, jnp.ones(4)),
        ValueError,
        "real floating-point values, got complex128",
    ),
    "integer values": (
        of(lambda w, x: jnp.argmax(x * w, 1), jnp.ones(4)),
        ValueError,
        "real floating-point values, got int64",
    ),
    "outputs": (
        of(F, P, outputs="mean"),
        ValueError,
        "outputs must be one of full, trace; got 'mean'",
    ),
    "strategy": (
        of(F, P, strategy="fast"),
        ValueError,
        "strategy must be one of auto, layers, jacobian, products; got 'fast'",
    ),
    "memory": (of(F, P, memory=0), ValueError, "memory must be a positive number of bytes, got 0"),
    "layers of a function": (
        of(by_hand, MODELS["by hand"][1], strategy="layers"),
        TypeError,
        r"expected net\.apply of a network of our own layers, got <function by_hand",
    ),
    "nan in params": (
        of(by_hand, MODELS["by hand"][1] | {"c": jnp.asarray(jnp.nan)}),
        ValueError,
        r"params\['c'\] contains NaN or infinity",
    ),
    "integer params": (
        of(by_hand, MODELS["by hand"][1] | {"c": jnp.asarray(1)}),
        ValueError,
        r"params\['c'\] must be real floating point, got int64: close f over arrays that are not",
    ),
    "complex params": (
        of(lambda w, x: jnp.abs(x @ w), jnp.ones(4) * 1j),
        ValueError,
        "params must be real floating point, got complex128",
    ),
    "no arrays": (
        of(lambda w, x: x[:, 0] * w, 2.0),
        ValueError,
        "params hold no array, so that there is nothing to train: 2.0",
    ),
    "neither array nor constant": (
        of(lambda w, x: x @ w[0], [jnp.ones(4), {1}]),
        TypeError,
        r"params\[1\] is neither an array nor a constant: \{1\}",
    ),
    "diagonal": (lambda: kernel("mlp").diagonal(X[0]), ValueError, "x must be a batch of inputs"),
    "v of another length": (
        lambda: kernel("mlp").times(np.ones(6), X, Y),
        ValueError,
        r"v must have one number for each column, \(3,\); got \(6,\)",
    ),
    "v without outputs": (
        lambda: kernel("outputs").times(np.ones(6), X),
        ValueError,
        r"v must have one number for each column, \(6, 3\); got \(6,\)",
    ),
    "integer v": (
        lambda: kernel("mlp").times(np.ones(6, int), X),
        ValueError,
        "v must be real floating point, got int64",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_refused_with_what_was_expected_and_what_came(name):
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        call()


def test_refuses_weight_inputs_of_another_shape():
    @dataclass(frozen=True)
    class Wrong(Gain):
        def weight_inputs(self, params, x):
            return x[..., None], 0.0

    f, params = initialised(Sequential(Dense(4), Wrong()))
    with pytest.raises(
        ValueError, match=r"weight_inputs of .*Wrong.* but the last, got \(1, 4, 1\)"
    ):
        empirical_ntk(f, params)(X)
