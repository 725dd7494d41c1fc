"""Shapes and types in the signatures hold at run time, and single precision works: one process."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ntkbook import erf, gelu, mlp, nngp, ntk, relu, tanh
from ntkbook.layers import (
    Activation,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    LayerNorm,
    Scalar,
    SelfAttention,
    Sequential,
)

NETS = {
    "relu": mlp(5, 3, relu, w_std=2**0.5),
    "erf": mlp(5, 3, erf, w_std=1.5, b_std=0.1),
    "gelu": mlp(5, 2, gelu, w_std=1.5, b_std=0.1),
    "tanh": mlp(5, 2, tanh, b_std=0.1),
}
OF_SEQUENCES = Sequential(
    Conv(4, (2,), padding="VALID", w_std=2**0.5, b_std=0.1),
    LayerNorm(),
    Activation(relu),
    AvgPool((2,)),
    SelfAttention(4, 2, tied=True),
    Flatten(),
    Dense(1),
    Scalar(),
)
RNG = np.random.default_rng(32)
X = RNG.normal(size=(6, 20)).astype(np.float32)
NEAR = (X[:2] + 1e-3 * RNG.normal(size=(2, 20))).astype(np.float32)

# In a process of its own, because annotations are checked only in modules imported under the hook,
# and precision is chosen once.
BEGINNING = """
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import TypeCheckError, install_import_hook


def single(tree):
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(tree)), tree
    return tree


def refused(call):
    try:
        call()
    except TypeCheckError:
        return
    raise AssertionError("the checker is asleep")
"""
PROGRAM = """
from matplotlib.figure import Figure

with install_import_hook("ntkbook", "beartype.beartype"):
    import ntkbook as nb
    from ntkbook import data, layers, page, plots, rates, scaling

assert not jax.config.jax_enable_x64
key = jax.random.key(0)
x, near = (np.array(points, np.float32) for points in json.loads(sys.argv[1]))
inputs = (x, jnp.asarray(x))


refused(lambda: data.sphere(jnp.ones(3), 2, 2))
refused(lambda: nb.ntk(nb.mlp(3, 1)).at_pair(jnp.ones((2, 3)), jnp.ones(3)))
refused(lambda: nb.ntk(nb.mlp(3, 1)).at_pair(jnp.ones(2), jnp.ones(3)))
refused(lambda: nb.linearize(nb.mlp(3, 1), ()))

nets = {
    "relu": nb.mlp(5, 3, nb.relu, w_std=2**0.5),
    "erf": nb.mlp(5, 3, nb.erf, w_std=1.5, b_std=0.1),
    "gelu": nb.mlp(5, 2, nb.gelu, w_std=1.5, b_std=0.1),
    "tanh": nb.mlp(5, 2, nb.tanh, b_std=0.1),
}
more = [
    nb.two_layer(2, nb.tanh, signs=(1.0, -1.0)),
    nb.mlp(5, 1, b_std=0.1),
    nb.mlp(5, 1, outputs=3),
    nb.Sequential(
        nb.Dense(5), nb.Residual(nb.Dense(5)), nb.Frozen(nb.Activation(nb.sine)), nb.Readout()
    ),
]
for sigma in (
    nb.absolute, nb.erf, nb.gelu, nb.identity, nb.leaky_relu(0.1), nb.quadratic, nb.relu, nb.sine,
    nb.softplus, nb.tanh,
):
    for t in (0.5, *inputs):
        single(sigma(t))
    single(sigma.derivative(jnp.asarray(x)))
    pair = layers.Pair.of_inputs(*jnp.asarray(x[:2]))
    single(nb.Activation(sigma).kernel(nb.Dense(2).kernel(pair)).moments)

for net in more:
    params, out_shape = net.init(key, (x.shape[1],))
    single(params)
    for t in inputs:
        assert single(net.apply(params, t)).shape == (len(x), *out_shape)
    assert single(net.apply(params, x[0])).shape == out_shape
    single(nb.linearize(net.apply, params)(params, x))
    single(nb.empirical_ntk(net.apply, params)(x, jnp.asarray(near)))
single(nb.tangent_features(net.apply, params)(x))

single((data.circle(5), data.sphere(key, 4, 3)))
ax = Figure().add_subplot()
t = np.linspace(0, 1, 5)
for convert in (np.asarray, jnp.asarray):
    t, e = convert(t), convert(np.ones((5, 2)))
    plots.function_and_tangent(ax, t, t, t)
    plots.broken_line(ax, t, t, t[:2])
    plots.rates(ax, t + 1, e, color="C0", label="")
    plots.spectrum(ax, t, color="C0", label="")
page.glue("name", "text")
page.show(lambda figure: figure.add_subplot(), "A picture.")

single(nb.ntk(more[0]).at_pair(*x[:2]))
both = np.concatenate([x, near])
kernels = {}
for name, net in nets.items():
    for maker in (nb.ntk, nb.nngp):
        k = maker(net)
        kernels[f"{name} {maker.__name__}"] = single(k(both)).tolist()

sequences = x.reshape(len(x), 5, 4)
net = nb.Sequential(
    layers.Conv(4, (2,), padding="VALID", w_std=2**0.5, b_std=0.1),
    layers.LayerNorm(),
    nb.Activation(nb.relu),
    layers.AvgPool((2,)),
    layers.SelfAttention(4, 2, tied=True),
    layers.Flatten(),
    nb.Dense(1),
    layers.Scalar(),
)
params, out_shape = net.init(key, sequences.shape[1:])
single(params)
for t in (sequences, jnp.asarray(sequences)):
    assert single(net.apply(params, t)).shape == (len(x), *out_shape)
for maker in (nb.ntk, nb.nngp):
    k = maker(net)
    kernels[f"sequences {maker.__name__}"] = single(k(sequences)).tolist()
single(k(sequences, jnp.asarray(sequences)))
single(k.at_pair(*sequences[:2]))

y, two, steps = x[:, 0], x[:, :2], np.arange(3)
for convert in (np.asarray, jnp.asarray):
    points, labels, t = convert(x), convert(y), convert(np.float32([0, 1, np.inf]))
    kernel = nb.ntk(more[1])
    flow = nb.gradient_flow(kernel, points, labels, h0=lambda x: x[:, 1], learning_rate=0.5)
    walk = nb.gradient_descent(kernel, points, labels, learning_rate=1e-2, momentum=0.5)
    assert single(flow(points, t)).shape == (3, len(x))
    single((walk(points, convert(steps)), walk(points, 3), flow.at_training(1.0), flow.rates))
    single(nb.kernel_regression(kernel, points, labels, ridge=0.1)(points))
    ensemble = nb.ensemble(kernel, nb.nngp(more[1]), points, labels)(points, t)
    single((ensemble, ensemble.standard_deviation))
    single(nb.gp_posterior(kernel, points, convert(two), noise=0.1)(points))
    K = convert(kernel(points))
    single((nb.eigenmodes(K).vectors, nb.best_learning_rate(K)))
    single(nb.largest_stable_learning_rate(K, momentum=0.5))
full = nb.empirical_ntk(more[2].apply, more[2].init(key, (x.shape[1],))[0])
single(nb.gradient_flow(full, x, x[:, :3])(near, 1.0))
single(nb.gp_posterior(full, x, x[:, :3])(near))
single(nb.gradient_flow(lambda a, b: a @ b.T, x, np.sign(y).astype(int))(near, 1))
refused(lambda: nb.gradient_flow(kernel, x, y[:2]))

nets = [
    nb.Scaled(nb.mlp(5, 1), 0.5),
    nb.Antisymmetric(nb.mlp(5, 1)),
    nb.Sequential(nb.Dense(5), nb.InitialScale(nb.Dense(1), 0.0), nb.Scalar()),
    nb.abc_mlp(5, 2, nb.erf, scaling.MUP),
]
for net in nets:
    params = single(net.init(key, (x.shape[1],))[0])
    for t in inputs:
        assert single(net.apply(params, t)).shape == (len(x),)
    single((nb.ntk(net)(x), nb.nngp(net)(x)))
    single(nb.centred(net.apply, params)(params, x))
keys = jax.random.split(key, 2)
seeds = jax.vmap(lambda key: net.init(key, (x.shape[1],))[0])(keys)
rates_of_seeds = np.array([0.1, 0.2])
eta = scaling.MUP.learning_rate(0.1, 5)
record = {"h": lambda w: net.apply(w, x)}
at = np.array([0, 2])
runs = [
    nb.train(net.apply, params, x, y, learning_rate=eta, momentum=0.5, steps=3, record=record),
    nb.train(net.apply, seeds, *inputs[1:], y, learning_rate=rates_of_seeds, steps=2, at=at,
             seeds=True),
    nb.train(
        net.apply, seeds, x, np.sign(y).astype(int), learning_rate=1, steps=2, at=range(2),
        seeds=True, batch_size=2, key=keys, record=record,
    ),
]
for run in runs:
    single((run.params, run.loss, run.recorded))
refused(lambda: nb.train(net.apply, params, x, y[:2], learning_rate=eta, steps=3))
refused(lambda: nb.train(net.apply, params, x, y, learning_rate=eta, steps=3.0))
with open(sys.argv[2], "w") as file:
    json.dump(kernels, file)
"""

TOOLS = """

with install_import_hook("ntkbook", "beartype.beartype"):
    import ntkbook as nb
    from ntkbook import barrier, cube, data, evolution, two_sample
    from ntkbook.estimators import NTKClassifier, NTKRegressor
    from ntkbook.features import energy
    from ntkbook.neuron import relu_tail
    from ntkbook.lookahead import acquire
    from ntkbook.kernels import pseudo

key = jax.random.key(0)
rng = np.random.default_rng(5)
x = rng.standard_normal((6, 4)).astype(np.float32)
net = nb.mlp(5, 1, outputs=3)
params = net.init(key, (4,))[0]
scalar = nb.mlp(5, 1)
start = scalar.init(key, (4,))[0]


for convert in (np.asarray, jnp.asarray):
    points, y = convert(x), convert(x[:, 0])
    hot = convert(np.eye(3, dtype=np.float32)[[0, 1, 2] * 2])
    K = single(evolution.kernel_at(net.apply, points)(params))
    single((nb.kernel_distance(K, convert(2 * np.asarray(K))), nb.alignment(K, hot)))
    single((nb.effective_rank(K), nb.kernel_velocity(jnp.stack([K, K]), [0.0, 1.0])))
    single(nb.linear_barrier(lambda w: jnp.mean(scalar.apply(w, x)), start, start))
    path = jax.tree.map(lambda w: jnp.stack([w, w]), params)
    single(evolution.kernels_along(net.apply, path, points, outputs="trace"))
    for kind in ("sum", "first", "trace"):
        k = nb.pseudo_ntk(net.apply, params, kind=kind)
        single((k(points), pseudo.relative_error(k(points), K)))
    law = pseudo.readout_law(lambda w, x: jnp.tanh(x @ w), rng.standard_normal((4, 5)), points)
    single((law, law.floor(3), law.error(3)))
    kernel = nb.ntk(scalar)
    ahead = nb.look_ahead(kernel, points[:3], y[:3], points[3:], noise=0.1)
    single((ahead(y[3:], points), ahead.gain(points), nb.most_output_change(ahead, points)))
    single(acquire(ahead, lambda c: x[3 + c, 0], 2).values)
    single((nb.mmd2(kernel, points[:3], points[3:], unbiased=True)))
    single(nb.mmd_test(kernel, points[:3], points[3:], key=key, permutations=9))
    single(nb.tangent_mmd2(scalar.apply, start, points[:3], points[3:]))
    single(two_sample.tangent_witness(scalar.apply, start, points[:3], points[3:])(points))
    single(nb.ridge_path(kernel(points), y, convert(np.float32([0.1, 1]))))
    step = nb.softmax_step(net.apply, params, points[:2], points, hot, 0.1)
    single((step.change, step.spread, step.kernel, step.residual))
    single((nb.feature_shift(points, 2 * points), energy(points[:, :3], hot)))
    single(nb.tangent_edge(scalar.apply, start, points, y, unbiased=True).squared)
    NTKRegressor().fit(x, x[:, 0]).predict(x)
    NTKClassifier().fit(x, [0, 1] * 3).predict(x)
    bits = convert(np.sign(x))
    single(data.parity(bits, (0, 2)))
    cube.parity_errors(lambda t: t, bits, 1, convert(np.float32([0.1])))
single(data.biased_parity(key, 4, 5, (0, 1), 0.5))
barrier.average_error_bound(np.arange(3), 0.1)
barrier.norm_bound(0.5, 0.1)
barrier.top_eigenvalue(x)
cube.least_norm(cube.weights_by_degree(lambda t: t, 3), cube.spectrum(cube.relu_ntk(1), 3), 0.1)
relu_tail(0.5, 3)
data.digits()
refused(lambda: nb.ridge_path(np.ones((2, 3)), x[:2, 0], [0.1]))
refused(lambda: nb.feature_shift(x, x[:3]))
"""


def test_shapes_and_types_of_the_tools_hold():
    command = [sys.executable, "-W", "error", "-c", BEGINNING + TOOLS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def in_single_precision(tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "kernels.json"
    points = json.dumps([X.tolist(), NEAR.tolist()])
    command = [sys.executable, "-W", "error", "-c", BEGINNING + PROGRAM, points, str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return {name: np.array(k) for name, k in json.loads(out.read_text()).items()}


@pytest.mark.parametrize("kernel", [ntk, nngp])
@pytest.mark.parametrize("name", NETS)
def test_single_precision_has_the_stated_accuracy(in_single_precision, name, kernel):
    both = np.concatenate([X, NEAR]).astype(float)
    exact = np.asarray(kernel(NETS[name])(both))
    error = np.abs(in_single_precision[f"{name} {kernel.__name__}"] - exact) / np.max(exact)
    parallel = np.eye(8, dtype=bool)
    for i in range(2):
        parallel[i, 6 + i] = parallel[6 + i, i] = True
    assert np.max(error[~parallel]) < 1e-5
    kinked = name == "relu" and kernel is ntk
    assert np.max(error[parallel]) < (1e-3 if kinked else 1e-5)
    assert np.max(error) > 1e-9  # it was single precision


@pytest.mark.parametrize("kernel", [ntk, nngp])
def test_single_precision_holds_for_convolution_normalisation_and_attention(
    in_single_precision, kernel
):
    exact = np.asarray(kernel(OF_SEQUENCES)(X.reshape(6, 5, 4).astype(float)))
    error = np.abs(in_single_precision[f"sequences {kernel.__name__}"] / exact - 1)
    assert 1e-9 < np.max(error) < 1e-5
