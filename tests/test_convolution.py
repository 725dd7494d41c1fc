"""Convolutions and pooling: against loops, another library, an own recursion, sampled networks."""

import itertools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import agrees, draws

from ntkbook import (
    Activation,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    Frozen,
    GlobalAvgPool,
    Parallel,
    Readout,
    Residual,
    Scalar,
    Sequential,
    empirical_ntk,
    erf,
    nngp,
    ntk,
    relu,
)
from ntkbook.layers import Pair

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(8)
RNG = np.random.default_rng(8)
LINE, GRID = RNG.normal(size=(3, 5, 2)), RNG.normal(size=(2, 4, 3, 2))


def kernels(*nets):
    """x -> (ntk, nngp) of each network, as one program."""
    return jax.jit(lambda x: [(ntk(net)(x), nngp(net)(x)) for net in nets])


# --- finite networks -----------------------------------------------------------------------------


def by_loops(conv, params, image):
    """The convolution of one image, position by position, offset by offset."""
    W, sides, axes = np.asarray(params["W"]), image.shape[:-1], len(conv.window)
    steps = conv.strides or (1,) * axes
    first, count = [], []
    for side, size, step in zip(sides, conv.window, steps, strict=True):
        outputs = (side - size) // step + 1 if conv.padding == "VALID" else -(-side // step)
        total = max((outputs - 1) * step + size - side, 0)
        first.append(0 if conv.padding == "VALID" else -(total // 2))
        count.append(outputs)
    z = np.zeros((*count, conv.width))
    for position in itertools.product(*map(range, count)):
        for offset in itertools.product(*map(range, conv.window)):
            at = [f + p * s + o for f, p, s, o in zip(first, position, steps, offset, strict=True)]
            inside = all(0 <= a < side for a, side in zip(at, sides, strict=True))
            if inside or conv.padding == "CIRCULAR":
                at = tuple(a % side for a, side in zip(at, sides, strict=True))
                z[position] += image[at] @ W[offset]
    z *= conv.w_std / np.sqrt(np.prod(conv.window) * image.shape[-1])
    return z + conv.b_std * np.asarray(params["b"]) if conv.b_std else z


CONVOLUTIONS = [
    *(Conv(3, (size,), padding=p) for size in (2, 3) for p in ("SAME", "VALID", "CIRCULAR")),
    Conv(3, (2,), (3,), "SAME", 1.3, 0.4),
    Conv(3, (3,), (2,), "CIRCULAR", 1.3),
    Conv(3, (2,), (2,), "VALID", 1.3, 0.4),
    Conv(3, (3, 2), (1, 2), "SAME", 1.3, 0.4),
    Conv(3, (2, 3), (2, 1), "CIRCULAR"),
    Conv(3, (3, 2), (1, 1), "VALID", b_std=0.4),
]
every_convolution = pytest.mark.parametrize("conv", CONVOLUTIONS, ids=repr)


@every_convolution
def test_a_convolution_is_a_loop_over_positions_and_offsets(conv):
    images = LINE if len(conv.window) == 1 else GRID
    params, shape = conv.init(KEY, images.shape[1:])
    values = jax.jit(lambda params, *batches: [conv.apply(params, x) for x in batches])
    z, one, cube = values(params, images, images[0], np.stack([images, images]))
    z = np.asarray(z)
    assert z.shape[1:] == shape
    np.testing.assert_allclose(
        z, [by_loops(conv, params, image) for image in images], rtol=1e-12, atol=1e-14
    )
    # Leading axes are batch: none, or several.
    np.testing.assert_allclose(one, z[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(cube, np.stack([z, z]), rtol=1e-12, atol=1e-14)
    # What the parameters multiply: channels first, offsets behind them.
    a, beta = jax.jit(conv.weight_inputs)(params, images)
    assert a.shape[:-1] == z.shape[:-1]
    W = np.moveaxis(np.asarray(params["W"]), -2, 0).reshape(-1, conv.width)
    bias = beta * np.asarray(params["b"]) if conv.b_std else 0.0
    np.testing.assert_allclose(a @ W + bias, z, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("pool", "x"),
    [(AvgPool((2,)), LINE), (AvgPool((3,), (1,)), LINE), (AvgPool((2, 3), (1, 2)), GRID)],
    ids=repr,
)
def test_pooling_is_the_mean_over_windows(pool, x):
    windows = np.lib.stride_tricks.sliding_window_view(
        x, pool.window, axis=tuple(range(1, x.ndim - 1))
    )
    steps = pool.strides or pool.window
    windows = windows[(slice(None), *(slice(None, None, s) for s in steps))]
    expected = windows.mean(axis=tuple(range(-len(pool.window), 0)))
    np.testing.assert_allclose(pool.apply((), x), expected, rtol=1e-13)
    np.testing.assert_allclose(pool.apply((), x[0]), expected[0], rtol=1e-13)
    assert pool.init(KEY, x.shape[1:]) == ((), expected.shape[1:])


@pytest.mark.parametrize("x", [LINE, GRID], ids=["line", "grid"])
def test_flatten_and_global_pooling_end_with_vectors(x):
    n, channels = len(x), x.shape[-1]
    np.testing.assert_array_equal(Flatten().apply((), x), x.reshape(n, -1))
    np.testing.assert_allclose(
        GlobalAvgPool().apply((), x), x.reshape(n, -1, channels).mean(axis=1), rtol=1e-14
    )
    assert Flatten().init(KEY, x.shape[1:]) == ((), (x[0].size,))
    assert GlobalAvgPool().init(KEY, x.shape[1:]) == ((), (channels,))


def test_layer_by_layer_and_by_gradients_are_one_kernel():
    body = (Conv(3, (2, 2), (1, 2), b_std=0.3), Activation(relu), Conv(2, (3, 2), padding="VALID"))
    net = Sequential(*body, Activation(erf), GlobalAvgPool(), Dense(1, b_std=0.2), Scalar())
    params, _ = net.init(KEY, GRID.shape[1:])
    layers, gradients = (
        empirical_ntk(net.apply, params, strategy=s)(GRID) for s in ("layers", "jacobian")
    )
    np.testing.assert_allclose(layers, gradients, rtol=1e-12)


# --- limits: another library, and an own recursion -----------------------------------------------

REFERENCE = np.load(Path(__file__).parent / "reference" / "convolutional.npz")


@pytest.mark.parametrize("kernel", [ntk, nngp])
@pytest.mark.parametrize(("name", "end"), [("flatten", Flatten()), ("gap", GlobalAvgPool())])
def test_infinite_convolutions_agree_with_neural_tangents(kernel, name, end):
    scales = {"w_std": 2**0.5, "b_std": 0.1}
    body = (Conv(1, (3, 3), **scales), Activation(relu)) * 2
    k = kernel(Sequential(*body, end, Dense(1, **scales)))
    expected = REFERENCE[f"conv/conv2_same_{name}/{kernel.__name__}"]
    np.testing.assert_allclose(k(REFERENCE["conv/x"]), expected, rtol=1e-8)


def recursion(x, y, end):
    """CNTK of two circular Conv(3)-ReLU with variance 2, T <- A(S) + A(dot * T), in shifts."""

    def mean(k):
        return sum(np.roll(k, (o, o), (-2, -1)) for o in (-1, 0, 1)) / 3

    pairs = [x @ x.mT, x @ y.mT, y @ y.mT]
    S = [2 * mean(k / x.shape[-1]) for k in pairs]
    T = S[1]
    for layer in range(2):
        rows, columns = (
            np.sqrt(np.diagonal(k, axis1=-2, axis2=-1)) for k in (S[0], S[2])
        )  # standard deviations at the positions of x and of y
        new = []
        for k, a, b in zip(S, (rows, rows, columns), (rows, columns, columns), strict=True):
            scale = a[..., :, None] * b[..., None, :]
            angle = np.arccos(np.clip(k / scale, -1, 1))
            dot = (np.pi - angle) / (2 * np.pi)
            new.append((scale * np.sin(angle) / (2 * np.pi) + k * dot, dot))
        S, T = [k for k, _ in new], new[1][1] * T
        if layer == 0:
            S = [2 * mean(k) for k in S]
            T = S[1] + 2 * mean(T)
    kappa = S[1]
    if end == "flat":
        kappa, T = (np.diagonal(k, axis1=-2, axis2=-1).mean(-1) for k in (kappa, T))
    else:
        kappa, T = (k.mean((-2, -1)) for k in (kappa, T))
    return kappa, kappa + T


@pytest.mark.parametrize(("name", "end"), [("flat", Flatten()), ("gap", GlobalAvgPool())])
def test_infinite_convolutions_follow_the_recursion(name, end):
    x = RNG.normal(size=(4, 8, 3))
    body = (Conv(1, (3,), padding="CIRCULAR", w_std=2**0.5), Activation(relu)) * 2
    net = Sequential(*body, end, Dense(1))
    i, j = np.triu_indices(4, 1)
    covariance, tangent = recursion(x[i], x[j], name)
    np.testing.assert_allclose(nngp(net)(x)[i, j], covariance, rtol=1e-12)
    np.testing.assert_allclose(ntk(net)(x)[i, j], tangent, rtol=1e-12)
    # On the diagonal the arccos of the recursion has lost half the digits.
    np.testing.assert_allclose(np.diag(ntk(net)(x)), recursion(x, x, name)[1], rtol=1e-7)


# --- limits: two ways of computing one kernel ----------------------------------------------------


def with_every_position(net):
    """The same network, asked to keep covariances between all positions."""
    no_change = Sequential(AvgPool((1,)))
    return Sequential(no_change, *net.layers)


STRIDED = (
    Conv(1, (3,), (2,), "SAME", 1.2, 0.3),
    Activation(relu),
    Conv(1, (2,), None, "CIRCULAR", 1.1),
    Activation(erf),
    Conv(1, (2,), None, "VALID", 1.1),
    Activation(relu),
    Flatten(),
    Dense(1),
)


def test_equal_positions_are_enough_without_pooling():
    net = Sequential(*STRIDED)
    assert not net.every_position
    every, equal = kernels(with_every_position(net), net)(LINE)
    np.testing.assert_allclose(every, equal, rtol=1e-13)


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", "VALID"])
@pytest.mark.parametrize("window", [(2,), (2, 3)], ids=str)
def test_the_gap_is_what_subtraction_gives(padding, window):
    x, y = (LINE if len(window) == 1 else GRID)[:2]
    body = (Conv(1, window, None, padding, 1.2, 0.3), Activation(relu))
    again = Conv(1, window, (2,) * len(window), "SAME" if padding == "VALID" else padding)
    nets = [Sequential(*body), Sequential(*body, again)]
    if padding != "VALID":
        nets.append(Sequential(again, *body, again))

    @jax.jit
    def gaps(x, y):
        pairs = [Pair.of_inputs(x, y, every_position=every) for every in (False, True)]
        outs = [net.kernel(pair) for net in nets for pair in pairs]
        return [(out.squared_distance, replace(out, gap=None).squared_distance) for out in outs]

    for known, subtracted in gaps(x, y):
        np.testing.assert_allclose(known, subtracted, rtol=1e-12, atol=1e-14)


def test_a_window_of_one_is_a_dense_layer_at_each_position():
    conv, dense = Conv(1, (1, 1), w_std=1.3, b_std=0.2), Dense(1, 1.3, 0.2)
    ends = (Activation(relu), GlobalAvgPool(), Dense(1))
    convolved, plain = kernels(Sequential(conv, *ends), Sequential(dense, *ends))(GRID)
    np.testing.assert_allclose(convolved, plain, rtol=1e-13)


def test_a_window_as_large_as_the_image_is_a_dense_layer_behind_flatten():
    ends = (Activation(relu), Dense(1, 1.1, 0.2))
    conv = Conv(1, (4, 3), None, "VALID", 1.3, 0.2)
    flat, pooled = (
        Sequential(conv, Activation(relu), last, ends[-1]) for last in (Flatten(), GlobalAvgPool())
    )
    dense, *others = kernels(Sequential(Flatten(), Dense(1, 1.3, 0.2), *ends), flat, pooled)(GRID)
    for other in others:
        np.testing.assert_allclose(other, dense, rtol=1e-13)


def test_flatten_counts_the_features_of_all_positions():
    loud = Dense(1, 1.3, fan_in_scaling=False)
    flat = GRID.reshape(2, -1)
    expected = 1.3**2 * flat @ flat.T
    np.testing.assert_allclose(nngp(Sequential(Flatten(), loud))(GRID), expected, rtol=1e-12)


def test_flatten_leaves_vectors_as_they_are():
    x, tail = LINE[:, 0], (Dense(1, b_std=0.3), Flatten(), Activation(relu), Dense(1))
    assert Flatten().init(KEY, (2,)) == ((), (2,))
    np.testing.assert_array_equal(Flatten().apply((), x), x)
    flat, plain = kernels(Sequential(Flatten(), *tail), Sequential(tail[0], *tail[2:]))(x)
    np.testing.assert_array_equal(flat, plain)


def test_pooling_everything_is_global_pooling():
    body = (Conv(1, (2, 2), b_std=0.2), Activation(relu))
    ends = ([AvgPool((4, 3))], [AvgPool((2, 1)), AvgPool((2, 3))])
    nets = [Sequential(*body, *pools, Flatten(), Dense(1)) for pools in ends]
    once, *others = kernels(Sequential(*body, GlobalAvgPool(), Dense(1)), *nets)(GRID)
    for other in others:
        np.testing.assert_allclose(other, once, rtol=1e-13)


def test_a_shift_is_not_seen_through_circular_windows_and_global_pooling():
    body = (Conv(1, (2, 3), padding="CIRCULAR"), Activation(relu)) * 2
    k = ntk(Sequential(*body, GlobalAvgPool(), Dense(1)))
    shifted = np.roll(GRID, (1, 2), axis=(1, 2))
    k = jax.jit(k)
    np.testing.assert_allclose(k(shifted, GRID), k(GRID, GRID), rtol=1e-7)


# --- limits: laws --------------------------------------------------------------------------------

LAWFUL = {
    "flatten": Sequential(*STRIDED),
    "pooled": Sequential(
        Conv(1, (2,), (2,), "SAME", 1.2),
        AvgPool((2,), (1,)),
        Activation(relu),
        Residual(Sequential(Conv(1, (2,)), Activation(relu), Conv(1, (3,)))),
        GlobalAvgPool(),
        Dense(1),
    ),
}


@pytest.mark.parametrize("name", LAWFUL)
def test_convolutional_kernels_are_kernels(name):
    k = ntk(LAWFUL[name])
    x = np.concatenate([LINE, -LINE[:1], 2 * LINE[:1], LINE[:1] + 1e-7, 0 * LINE[:1]])
    K, again, corner = jax.jit(lambda x, y: (k(x), k(x, y), k(x[:3], y[3:])))(x, x)
    K = np.asarray(K)
    # Behind pooling the gap is known by subtraction: near-duplicates have half the digits.
    np.testing.assert_allclose(K, K.T, rtol=1e-13 if name == "flatten" else 1e-7)
    eigenvalues = np.linalg.eigvalsh(K)
    assert eigenvalues[0] > -1e-7 * eigenvalues[-1]
    np.testing.assert_allclose(K, again, rtol=1e-7)
    np.testing.assert_allclose(K[:3, 3:], corner, rtol=1e-7)


@pytest.mark.parametrize("name", LAWFUL)
def test_values_and_gradients_are_finite_for_images(name):
    value_and_slope = jax.jit(jax.value_and_grad(ntk(LAWFUL[name]).at_pair, (0, 1)))
    for scale in (1e-6, 1.0, 1e6):
        x = scale * LINE[0]
        edge = x * np.array([1.0, 0, 0, 0, 1])[:, None]
        for a, b in [(x, x), (x, -x), (x, 0 * x), (0 * x, 0 * x), (x, 2 * x), (edge, x)]:
            assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(value_and_slope(a, b)))


# --- limits are means of finite networks ---------------------------------------------------------

# With one hidden layer the mean is exact at every width. Otherwise it is off by O(1/N), which must
# stay below the sampling error of order 1 / sqrt(N seeds): no more seeds than neurons.
END = (Dense(1, 1.2, 0.3), Scalar())
DEEP = Sequential(Activation(relu), Conv(100, (2,), padding="CIRCULAR"))
SAMPLED = {
    "SAME": ((Conv(6, (3,), (2,), "SAME", 1.2, 0.3), Activation(relu), Flatten()), LINE, 1500),
    "VALID": ((Conv(6, (2,), None, "VALID"), Activation(relu), GlobalAvgPool()), LINE, 1500),
    "CIRCULAR": (
        (Conv(6, (3,), None, "CIRCULAR", 1.2), Activation(erf), AvgPool((2,)), Flatten()),
        LINE,
        1500,
    ),
    "SAME, plane": (
        (Conv(6, (3, 2), (1, 2), "SAME"), Activation(relu), GlobalAvgPool()),
        GRID,
        1500,
    ),
    "CIRCULAR, plane": (
        (Conv(6, (3, 2), (2, 1), "CIRCULAR"), AvgPool((2, 1), (1, 1)), Activation(relu), Flatten()),
        GRID,
        1500,
    ),
    "VALID, plane": (
        (Conv(6, (2, 2), None, "VALID", b_std=0.3), Activation(erf), GlobalAvgPool()),
        GRID,
        1500,
    ),
    "two layers": (
        (
            Conv(100, (2,), None, "SAME", 1.3, 0.2),
            Activation(relu),
            Conv(100, (3,), (2,), "CIRCULAR", 1.3),
            Activation(relu),
            GlobalAvgPool(),
        ),
        LINE,
        100,
    ),
    "skip and branches": (
        (
            Parallel(Conv(100, (2,)), Frozen(Conv(100, (3,), b_std=0.3))),
            Residual(DEEP),
            Activation(erf),
            AvgPool((2,), (3,)),
            Flatten(),
        ),
        LINE,
        100,
    ),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_networks_have_the_infinite_kernels_as_means(name):
    layers, x, seeds = SAMPLED[name]
    net, pairs = Sequential(*layers, *END), np.triu_indices(len(x))
    tangents, products = draws(net, x, seeds)
    ((tangent, covariance),) = map(np.asarray, kernels(net)(x))
    agrees(tangents, tangent[pairs], precision=0.05)
    agrees(products, covariance[pairs], precision=0.3)


# --- bad input -----------------------------------------------------------------------------------

IMAGES, BIAS = np.ones((2, 4, 3, 2)), {"b_std": 1.0}
HIDDEN = (Conv(4, (2, 2)), Activation(relu))
BAD = {
    "width": (lambda: Conv(0, (3,)), "width must be a positive integer, got 0"),
    "window number": (lambda: Conv(4, 3), "window of Conv must be a tuple of one or two.* got 3"),
    "window of three": (lambda: Conv(4, (3, 3, 3)), r"one or two positive.* got \(3, 3, 3\)"),
    "window empty": (lambda: Conv(4, ()), r"one or two positive integers, got \(\)"),
    "window of zero": (lambda: Conv(4, (3, 0)), "each number of window .* got 0"),
    "window fraction": (lambda: Conv(4, (1.5,)), r"each number of window .* got 1\.5"),
    "pool window": (lambda: AvgPool(2), "window of AvgPool must be a tuple .* got 2"),
    "strides": (lambda: Conv(4, (3, 3), (2,)), r"one stride for each side .*\(3, 3\), got \(2,\)"),
    "stride zero": (lambda: Conv(4, (3,), (0,)), "each number of strides .* got 0"),
    "stride number": (lambda: AvgPool((2,), 2), "strides of AvgPool must be a tuple .* got 2"),
    "padding": (lambda: Conv(4, (3,), padding="same"), "'SAME', 'VALID' or 'CIR.*, got 'same'"),
    "w_std": (lambda: Conv(4, (3,), w_std=-1.0), "w_std .* not negative, got -1"),
    "b_std": (lambda: Conv(4, (3,), b_std=np.nan), "b_std .* finite .* got nan"),
    "vectors": (
        lambda: Conv(4, (3,)).init(KEY, (7,)),
        r"Conv.* expects in_shape \(length, channels\), got \(7,\)",
    ),
    "line for plane": (
        lambda: Conv(4, (3, 3)).init(KEY, (7, 2)),
        r"expects in_shape \(height, width, channels\), got \(7, 2\)",
    ),
    "plane for line": (lambda: AvgPool((2,)).init(KEY, (7, 7, 2)), r"\(length, channels\), got"),
    "small image": (
        lambda: Conv(4, (5, 2), padding="VALID").init(KEY, (4, 3, 2)),
        r"has a window larger than the image, \(4, 3\)",
    ),
    "small circle": (
        lambda: Conv(4, (9,), padding="CIRCULAR").init(KEY, (3, 2)),
        r"has a window larger than the image, \(3,\)",
    ),
    "small pool": (lambda: AvgPool((4, 4)).init(KEY, (4, 3, 2)), r"larger than the image, \(4, 3"),
    "small pool at apply": (lambda: AvgPool((4, 4)).apply((), IMAGES), "larger than the image"),
    "global pool of vectors": (lambda: GlobalAvgPool().init(KEY, (7,)), r"positions, got \(7,\)"),
    "global pool of one": (lambda: GlobalAvgPool().apply((), IMAGES[0, 0]), r"got shape \(3, 2\)"),
    "channels": (
        lambda: Conv(4, (2, 2)).apply(Conv(4, (2, 2)).init(KEY, (4, 3, 3))[0], IMAGES),
        r"3 features on the last axis, got an input of shape \(2, 4, 3, 2\)",
    ),
    "axes at apply": (
        lambda: Conv(4, (2, 2)).apply(Conv(4, (2, 2)).init(KEY, (4, 3, 2))[0], np.ones((3, 2))),
        r"expects images with 3 axes, got shape \(3, 2\)",
    ),
    "swapped": (lambda: Conv(4, (2, 2)).apply(IMAGES, {}), "call init first, and apply"),
    "another bias": (
        lambda: Conv(4, (2, 2), **BIAS).apply(Conv(4, (2, 2)).init(KEY, (4, 3, 2))[0], IMAGES),
        r"expected parameters \['W', 'b'\], got \['W'\]",
    ),
    "another window": (
        lambda: Conv(4, (2, 2)).apply(Conv(4, (3, 2)).init(KEY, (4, 3, 2))[0], IMAGES),
        r"'W' of shape \(2, 2, channels, 4\), got shape \(3, 2, 2, 4\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


NO_LIMIT = {
    "conv on vectors": ((Conv(4, (3,)),), IMAGES[:, 0, 0], "Conv.* needs inputs with positions"),
    "pool on vectors": ((Dense(4), AvgPool((2,))), IMAGES[:, 0, 0], "AvgPool.* needs inputs with"),
    "line on planes": ((Conv(4, (3,)), Flatten()), IMAGES, "Conv.* with 2 axes of positions"),
    "line pool on planes": ((AvgPool((2,)), Flatten()), IMAGES, "AvgPool.* 2 axes of positions"),
    "small image": ((Conv(4, (9, 1), padding="VALID"), Flatten()), IMAGES, "window larger than"),
    "small pool": ((AvgPool((9, 1)), Flatten()), IMAGES, "window larger than"),
    "positions left": (HIDDEN, IMAGES, "has positions: end with Flatten or GlobalAvgPool"),
    "dense alone": ((Dense(4),), IMAGES, "has positions: end with Flatten or GlobalAvgPool"),
    "readout of images": ((*HIDDEN, Readout()), IMAGES, "Readout.* put Flatten or GlobalAvgPool"),
    # Signs would meet correlated positions, and means that nobody knows.
    "readout of flat images": ((*HIDDEN, Flatten(), Readout()), IMAGES, "needs independent feat"),
    "readout of pools": ((*HIDDEN, GlobalAvgPool(), Readout()), IMAGES, "whose means are known"),
    "activation behind flatten": (
        (Conv(4, (2, 2)), Flatten(), Activation(relu)),
        IMAGES,
        "acts on the output of an activation, which is not Gaussian",
    ),
    "activation twice": ((*HIDDEN, AvgPool((2, 2)), Activation(relu)), IMAGES, "not Gaussian"),
    "five axes": ((Conv(4, (2, 2)), Flatten()), IMAGES[None], r"\(n, height, width, channels\), g"),
}


@pytest.mark.parametrize("name", NO_LIMIT)
def test_networks_without_a_limit_say_why(name):
    layers, x, message = NO_LIMIT[name]
    with pytest.raises(ValueError, match=message):
        ntk(Sequential(*layers))(x)


@pytest.mark.parametrize("layer", [AvgPool((2, 2)), GlobalAvgPool()], ids=repr)
def test_pooling_refuses_a_pair_without_its_covariances(layer):
    pair = Pair.of_inputs(jnp.asarray(GRID[0]), jnp.asarray(GRID[1]))
    with pytest.raises(ValueError, match="needs covariances between different positions"):
        layer.kernel(pair)
