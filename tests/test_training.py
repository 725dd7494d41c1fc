"""Gradient descent: the same numbers as a loop by hand, at every step, and an honest end."""

import os
import signal
import threading
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from ntkbook import (
    ActivationFunction,
    Frozen,
    Scalar,
    Sequential,
    empirical_ntk,
    gradient_descent,
    gradient_flow,
    linearize,
    mlp,
    tanh,
    train,
)
from ntkbook.layers import Activation, Dense
from ntkbook.rates import fitted_rate
from ntkbook.training import Trajectory, descent, mean_square

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(142)
RNG = np.random.default_rng(142)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=6)
START = {"a": RNG.normal(size=4), "W": RNG.normal(size=(3, 4))}
ADAM = optax.adam(0.03)
ALL = {"params": lambda params: params}  # one function, and so one program for all tests


def model(params, x):
    return jnp.tanh(x @ params["W"]) @ params["a"]


def slope(params, x, y):
    """The gradient of the mean square in NumPy, by the chain rule."""
    z = np.tanh(x @ params["W"])
    r = 2 * (z @ params["a"] - y) / len(x)
    return {"a": z.T @ r, "W": x.T @ (np.outer(r, params["a"]) * (1 - z**2))}


def mean_square_by_hand(params, x=X, y=Y):
    return np.mean((np.tanh(x @ params["W"]) @ params["a"] - y) ** 2)


def linear(w, x):
    return x @ w


def by_hand(steps, rate=0.1, momentum=0.0, start=START, batches=None):
    """The parameters after 0, 1, ..., steps steps of the heavy ball."""
    params, v = start, dict.fromkeys(start, 0.0)
    path = [params]
    for n in range(steps):
        chosen = slice(None) if batches is None else batches[n]
        g = slope(params, X[chosen], Y[chosen])
        v = {name: momentum * v[name] - rate * g[name] for name in params}
        params = {name: params[name] + v[name] for name in params}
        path.append(params)
    return path


def assert_same(tree, other, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14), tree, other)


def assert_identical(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def stacked(path):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *path)


def seeds_of(start, count):
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda w: w + rng.normal(size=(count, *np.shape(w))), start)


def one_of(tree, seed):
    return jax.tree.map(lambda leaf: leaf[seed], tree)


# --- the same numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_every_step_is_that_of_a_loop_by_hand(momentum):
    path = by_hand(30, momentum=momentum)
    run = train(
        model, START, X, Y, learning_rate=0.1, momentum=momentum, steps=30, at=range(31), record=ALL
    )
    assert_same(run.recorded["params"], stacked(path))
    assert_same(run.params, path[-1])
    assert_same(run.loss, [mean_square_by_hand(params) for params in path])
    np.testing.assert_array_equal(run.steps, range(31))
    assert isinstance(run, Trajectory)


def test_by_default_start_and_end_are_recorded():
    run = train(model, START, X, Y, learning_rate=0.1, steps=7)
    path = by_hand(7)
    assert run.steps.tolist() == [0, 7]
    assert run.recorded == {}
    assert_same(run.loss, [mean_square_by_hand(path[0]), mean_square_by_hand(path[-1])])


def test_a_record_is_the_end_of_a_run_of_that_length():
    at = np.array([1, 2, 5, 17])
    long = train(model, START, X, Y, learning_rate=0.1, steps=40, at=at, record=ALL)
    assert long.steps.tolist() == at.tolist()
    assert_same(long.params, by_hand(40)[-1])
    for place, steps in enumerate(at):
        short = train(model, START, X, Y, learning_rate=0.1, steps=int(steps))
        assert_identical(one_of(long.recorded["params"], place), short.params)
        assert long.loss[place] == short.loss[-1]


def test_numbers_do_not_depend_on_the_pace(monkeypatch):
    runs = []
    for patience in (0.0, np.inf):
        monkeypatch.setattr(descent, "PATIENCE", patience)
        runs.append(
            train(
                model,
                START,
                X,
                Y,
                learning_rate=0.1,
                momentum=0.5,
                steps=50,
                batch_size=4,
                key=KEY,
                at=(0, 13, 50),
            )
        )
    assert_identical(runs[0].params, runs[1].params)
    assert_identical(runs[0].loss, runs[1].loss)


@pytest.mark.parametrize(
    ("patience", "expected"), [(np.inf, [1, 2, 4, 1, 2, 4, 6]), (0.0, [1, 1, 1, 1, 1, 1, 1, 1])]
)
def test_chunks_grow_while_they_are_quick(monkeypatch, patience, expected):
    monkeypatch.setattr(descent, "PATIENCE", patience)
    assert list(descent._chunks([0, 8, 20] if patience else [3, 8])) == expected


def test_outputs_are_summed_and_inputs_averaged():
    h, y = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))
    want = np.sum((h - y) ** 2) / 5
    assert float(mean_square(jnp.asarray(h), jnp.asarray(y))) == pytest.approx(want, rel=1e-14)
    run = train(linear, jnp.zeros((3, 2)), X, Y[:, None] * [1, 2], learning_rate=0.1, steps=1)
    np.testing.assert_allclose(run.params, 0.2 * X.T @ (Y[:, None] * [1, 2]) / 6, rtol=1e-13)


def test_another_loss():
    def logistic(h, labels):
        return jnp.mean(jnp.logaddexp(0.0, h) - labels * h)

    labels = np.array([0, 1, 1, 0, 1, 0])
    run = train(linear, jnp.zeros(3), X, labels, learning_rate=1.0, steps=5,
                loss=logistic)  # fmt: skip
    w = np.zeros(3)
    for _ in range(5):
        w = w - X.T @ (1 / (1 + np.exp(-X @ w)) - labels) / 6
    np.testing.assert_allclose(run.params, w, rtol=1e-12)
    assert float(run.loss[0]) == pytest.approx(np.log(2))


def test_divergence_is_recorded_as_it_is():
    run = train(lambda w, x: w * x, jnp.array(1.0), X[:, 0], Y, learning_rate=1e3, steps=400,
                at=(0, 1, 10, 400))  # fmt: skip
    assert np.isfinite(run.loss[:3]).all()
    assert run.loss[1] > 1e3 * run.loss[0]
    assert not np.isfinite(run.loss[3])
    assert not np.isfinite(run.params)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_single_precision_stays(momentum):
    start = jax.tree.map(np.float32, START)
    run = train(model, start, X, Y, learning_rate=0.1, momentum=momentum, steps=20)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(run.params))
    assert_same(run.params, by_hand(20, momentum=momentum)[-1], rtol=1e-4)


# --- optimisers -----------------------------------------------------------------------------------


def test_momentum_is_that_of_optax():
    here = train(model, START, X, Y, learning_rate=0.05, momentum=0.9, steps=25)
    there = train(model, START, X, Y, optimiser=optax.sgd(0.05, momentum=0.9), steps=25)
    assert_same(here.params, there.params)


def test_adam_is_that_of_a_loop_by_hand():
    rate, b1, b2, eps = 0.03, 0.9, 0.999, 1e-8
    run = train(model, START, X, Y, optimiser=ADAM, steps=20, at=(0, 11, 20))
    w, first, second = START, dict.fromkeys(START, 0.0), dict.fromkeys(START, 0.0)
    for n in range(1, 21):
        g = slope(w, X, Y)
        first = {k: b1 * first[k] + (1 - b1) * g[k] for k in w}
        second = {k: b2 * second[k] + (1 - b2) * g[k] ** 2 for k in w}
        w = {
            k: w[k] - rate * (first[k] / (1 - b1**n)) / (np.sqrt(second[k] / (1 - b2**n)) + eps)
            for k in w
        }
    assert_same(run.params, w, rtol=1e-9)


def test_an_optimiser_sees_the_tree_and_the_parameters():
    """Rates by name, decay by value: a rule of two functions, which knows no other library."""

    class Decay(NamedTuple):
        init: object
        update: object

    def update(g, state, w):
        assert g.keys() == w.keys() == {"a", "W"}
        return {"a": -0.1 * g["a"], "W": -0.5 * w["W"]}, state + 1

    run = train(model, START, X, Y, optimiser=Decay(lambda w: 0, update), steps=2)
    np.testing.assert_allclose(run.params["W"], START["W"] / 4, rtol=1e-14)
    w = {"a": START["a"] - 0.1 * slope(START, X, Y)["a"], "W": START["W"] / 2}
    np.testing.assert_allclose(run.params["a"], w["a"] - 0.1 * slope(w, X, Y)["a"], rtol=1e-12)


def test_an_optimiser_of_higher_precision_leaves_the_parameters_in_theirs():
    class Double(NamedTuple):
        init: object = lambda w: None
        update: object = lambda g, state, w: (
            jax.tree.map(lambda leaf: -0.1 * leaf.astype(float), g),
            state,
        )

    start = jax.tree.map(np.float32, START)
    run = train(model, start, X, Y, optimiser=Double(), steps=3)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(run.params))
    assert_same(run.params, by_hand(3)[-1], rtol=1e-5)


# --- batches --------------------------------------------------------------------------------------

MARKS = np.array([1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6])


def worth_of_labels(h, y):
    """Falls in w by the label of each example seen, where h = w has one entry an example."""
    return -jnp.sum(h * y)


def visits(steps, batch_size, key=KEY, m=7):
    """How often each example was seen after 0, 1, ... steps: w, marked by labels."""
    run = train(linear, jnp.zeros(m), np.eye(m), MARKS[:m], learning_rate=1.0, loss=worth_of_labels,
                steps=steps, batch_size=batch_size, key=key, at=range(steps + 1),
                record=ALL)  # fmt: skip
    return np.asarray(run.recorded["params"]) / MARKS[:m]


def test_an_epoch_sees_every_example_once():
    seen = visits(6, 2, m=6)
    np.testing.assert_array_equal(seen[3], np.ones(6))
    np.testing.assert_array_equal(seen[6], 2 * np.ones(6))
    batches = np.diff(seen, axis=0)
    assert np.all(batches.sum(axis=1) == 2)
    assert np.all((batches == 0) | (batches == 1))
    assert not np.array_equal(batches[:3], batches[3:])


def test_what_is_too_little_for_a_batch_is_left_out_of_the_epoch():
    seen = visits(40, 3)
    epochs = np.diff(seen[::2], axis=0)
    assert np.all((epochs == 0) | (epochs == 1))
    assert np.all(epochs.sum(axis=1) == 6)
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_the_key_determines_the_batches():
    once, again = visits(6, 2, m=6), visits(6, 2, m=6)
    other = visits(6, 2, key=jax.random.key(1), m=6)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_the_first_batch_is_any_two_examples():
    """Each of 6 is in the first batch of two with probability 1/3: 300 keys, z-test."""
    keys = jax.random.split(jax.random.key(5), 300)
    run = train(linear, jnp.zeros((300, 6)), np.eye(6), np.ones(6), learning_rate=1.0,
                loss=worth_of_labels, steps=1, batch_size=2, key=keys,
                seeds=True)  # fmt: skip
    share = np.mean(run.params, axis=0)
    z = (share - 1 / 3) / np.sqrt(2 / 9 / 300)
    assert np.max(np.abs(z)) < 3.5


def test_a_step_on_a_batch_is_that_of_a_loop_by_hand():
    seen = visits(9, 2, m=6)
    batches = [np.flatnonzero(batch) for batch in np.diff(seen, axis=0)]
    path = by_hand(9, batches=batches)
    run = train(model, START, X, Y, learning_rate=0.1, steps=9, batch_size=2, key=KEY, at=range(10))
    assert_same(run.params, path[-1])
    assert_same(run.loss, [mean_square_by_hand(params) for params in path])


def test_one_batch_of_all_examples_is_gradient_descent():
    run = train(model, START, X, Y, learning_rate=0.1, steps=9, batch_size=6, key=KEY)
    assert_same(run.params, by_hand(9)[-1])


# --- seeds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["momentum", "batches", "batches of their own"])
def test_seeds_run_as_they_would_alone(kind):
    count, start = 3, seeds_of(START, 3)
    rates, keys = np.array([0.02, 0.1, 0.3]), jax.random.split(KEY, 3)
    options = {
        "momentum": lambda i: {"learning_rate": rates[i], "momentum": 0.5},
        "batches": lambda i: {"optimiser": ADAM, "batch_size": 4, "key": KEY},
        "batches of their own": lambda i: {
            "learning_rate": rates[i],
            "batch_size": 4,
            "key": keys[i],
        },
    }[kind]
    record = {"squares": lambda params: jnp.sum(params["W"] ** 2, axis=0), "all": lambda p: p}
    both = {"steps": 12, "at": (0, 5, 12), "record": record}
    together = train(model, start, X, Y, seeds=True, **options(slice(None)), **both)
    assert together.loss.shape == (3, count)
    assert together.recorded["squares"].shape == (3, count, 4)
    for seed in range(count):
        alone = train(model, one_of(start, seed), X, Y, **options(seed), **both)
        assert_same(one_of(together.params, seed), alone.params)
        assert_same(together.loss[:, seed], alone.loss)
        assert_same(together.recorded["squares"][:, seed], alone.recorded["squares"])


def test_a_rate_for_all_seeds():
    start = seeds_of(START, 2)
    run = train(model, start, X, Y, learning_rate=0.1, steps=5, seeds=True)
    for seed in range(2):
        assert_same(one_of(run.params, seed), by_hand(5, start=one_of(start, seed))[-1])


# --- models of all kinds --------------------------------------------------------------------------


def by_jax(f, params, steps, rate, y):
    value = jax.jit(jax.grad(lambda w: jnp.sum((f(w, X) - y) ** 2) / len(X)))
    for _ in range(steps):
        params = jax.tree.map(lambda w, g: w - rate * g, params, value(params))
    return params


def test_networks_of_our_own_and_frozen_layers():
    net = Sequential(Frozen(Dense(5)), Activation(tanh), Dense(1, b_std=0.5), Scalar())
    params, _ = net.init(KEY, (3,))
    run = train(net.apply, params, X, Y, learning_rate=0.1, steps=8)
    assert_same(run.params, by_jax(net.apply, params, 8, 0.1, Y))
    assert_identical(run.params[0], params[0])
    assert not np.array_equal(run.params[2]["W"], params[2]["W"])


def test_flax():
    net = linen.Sequential([linen.Dense(4, param_dtype=float), jnp.tanh, linen.Dense(2)])
    params = jax.tree.map(lambda w: w.astype(float), net.init(KEY, X))
    y = np.stack([Y, -Y], axis=1)
    run = train(net.apply, params, X, y, learning_rate=0.1, steps=8)
    assert_same(run.params, by_jax(net.apply, params, 8, 0.1, y))


def test_equinox_keeps_its_functions():
    net = eqx.nn.MLP(3, "scalar", width_size=4, depth=1, activation=jnp.tanh, key=KEY)

    def f(net, x):
        return jax.vmap(net)(x)

    run = train(f, net, X, Y, learning_rate=0.1, steps=8, at=(0, 8),
                record={"b": lambda net: net.layers[0].bias})  # fmt: skip
    arrays, rest = eqx.partition(net, eqx.is_array)
    want = by_jax(lambda arrays, x: f(eqx.combine(arrays, rest), x), arrays, 8, 0.1, Y)
    assert_same(eqx.filter(run.params, eqx.is_array), want)
    assert_same(run.recorded["b"], [net.layers[0].bias, want.layers[0].bias])
    assert run.params(X[0]).shape == ()
    adam = train(f, net, X, Y, optimiser=optax.adam(0.1), steps=50)
    assert adam.loss[-1] < 0.1 * adam.loss[0]


def test_the_kernel_on_the_way():
    net = mlp(4, 1, tanh)
    params = jax.vmap(lambda key: net.init(key, (3,))[0])(jax.random.split(KEY, 2))
    record = {"kernel": lambda w: empirical_ntk(net.apply, w)(X)}
    run = train(net.apply, params, X, Y, learning_rate=0.1, steps=3, seeds=True, record=record)
    assert run.recorded["kernel"].shape == (2, 2, 6, 6)
    for place, at in enumerate((params, run.params)):
        want = empirical_ntk(net.apply, one_of(at, 1))(X)
        assert_same(run.recorded["kernel"][place, 1], want)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_tangent_model_follows_the_closed_form(momentum):
    kernel = empirical_ntk(model, START)
    rate = 3.0 / float(np.linalg.eigvalsh(kernel(X))[-1])
    f_lin = linearize(model, START)
    at = [0, 1, 3, 30, 300]
    run = train(f_lin, START, X, Y, learning_rate=rate, momentum=momentum, steps=300, at=at,
                record={"h": lambda w: f_lin(w, X)})  # fmt: skip
    solved = gradient_descent(kernel, X, Y, learning_rate=rate, momentum=momentum,
                              h0=lambda x: model(START, x))  # fmt: skip
    for place, steps in enumerate(at):
        np.testing.assert_allclose(run.recorded["h"][place], solved(X, steps), rtol=1e-8, atol=1e-9)


def test_small_steps_approach_the_flow_at_the_rate_of_euler():
    """max over inputs of |h - flow| at one time, for steps half as large each: slope 1."""
    rates, time = 0.02 / 2.0 ** np.arange(4), 0.4
    starts = RNG.normal(size=(8, 3))
    flow = gradient_flow(
        lambda x1, x2=None: x1 @ (x1 if x2 is None else x2).T,
        X,
        np.stack([Y] * 8, axis=1),
        h0=lambda x: x @ starts.T,
    )
    want = flow(X, time)
    errors = np.empty((4, 8))
    for place, rate in enumerate(rates):
        run = train(linear, starts, X, Y, learning_rate=rate, steps=round(time / rate),
                    seeds=True)  # fmt: skip
        errors[place] = np.max(np.abs(X @ run.params.T - want), axis=0)
    rate = fitted_rate(rates, errors)
    # The next term of the error is smaller by a factor of the order of the step: slope 1 + O(rate).
    assert abs(rate.slope - 1) < 3 * rate.standard_error + rates[0]


# --- compiled once --------------------------------------------------------------------------------


def test_equal_networks_share_a_program_for_all_numbers():
    traces = []

    def sine(t):
        traces.append(1)
        return jnp.sin(t)

    sigma = ActivationFunction("traced", sine, jnp.cos, 1.0, dual=lambda a, b, c: (b, b))
    params, _ = mlp(4, 1, sigma).init(KEY, (3,))

    def run(**options):
        train(mlp(4, 1, sigma).apply, params, X, Y, **options)
        return len(traces)

    first = run(learning_rate=0.1, steps=3)
    assert 0 < first <= 3
    assert run(learning_rate=0.2, steps=9, at=(0, 2, 9)) == first
    with_momentum = run(learning_rate=0.2, steps=9, momentum=0.5)
    assert first < with_momentum <= first + 2
    assert run(learning_rate=0.3, steps=4, momentum=0.9) == with_momentum


# --- progress and Ctrl-C --------------------------------------------------------------------------


class Interrupting:
    """A progress bar that interrupts its owner at its n-th update."""

    def __init__(self, n, interrupt):
        self.left, self.interrupt = n, interrupt

    def __call__(self, **options):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def update(self, chunk):
        self.left -= 1
        if self.left == 0:
            self.interrupt()


def stop():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("updates", "at", "steps"),
    [
        (4, (0, 1, 2, 3, 50), [0, 1, 2, 3, 4]),
        (2, (0, 1, 2, 50), [0, 1, 2]),
        (2, (50,), [2]),
        (3, (0, 1), [0, 1, 3]),
    ],
)
def test_ctrl_c_returns_what_is_finished(monkeypatch, updates, at, steps):
    monkeypatch.setattr(descent, "tqdm", Interrupting(updates, stop))
    monkeypatch.setattr(descent, "PATIENCE", 0.0)
    run = train(model, START, X, Y, learning_rate=0.1, momentum=0.5, steps=50, at=at, record=ALL)
    path = by_hand(50, momentum=0.5)
    assert run.steps.tolist() == steps
    assert_same(run.loss, [mean_square_by_hand(path[n]) for n in steps])
    assert_same(run.recorded["params"], stacked([path[n] for n in steps]))
    assert_same(run.params, path[steps[-1]])


def test_ctrl_c_before_the_first_step(monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(descent, "advance", stopped)
    run = train(model, START, X, Y, learning_rate=0.1, steps=50, at=(20, 50))
    assert run.steps.tolist() == [0]
    assert_identical(run.params, START)


def test_a_long_run_hears_ctrl_c(monkeypatch):
    """A real signal, a moment after the third look at a run of some minutes."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    monkeypatch.setattr(descent, "tqdm", Interrupting(3, timer.start))
    # A process in the background may have been started deaf.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run = train(model, START, X, Y, learning_rate=0.1, steps=10**8)
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.steps.tolist() == [0, run.steps[-1]]
    assert 3 < run.steps[-1] < 10**8
    assert run.loss[-1] < run.loss[0]


def test_progress_is_shown_where_it_is_wanted(capfd):
    train(model, START, X, Y, learning_rate=0.1, steps=5)
    assert capfd.readouterr() == ("", "")
    train(model, START, X, Y, learning_rate=0.1, steps=5, progress=True)
    assert "5/5" in capfd.readouterr().err


# --- bad input ------------------------------------------------------------------------------------

NOT_FINITE = X.copy()
NOT_FINITE[2, 1] = np.nan
TWO = seeds_of(START, 2)
NET = mlp(4, 1)
RATE = {"learning_rate": 0.1}
BATCHES = {"batch_size": 2, "key": KEY}

REFUSED = {
    "f is a network": (TypeError, "such as net.apply", {"f": NET}),
    "f has no hash": (TypeError, "f must be hashable", {"f": eqx.nn.Lambda(np.zeros(2))}),
    "steps 0": (ValueError, "steps must be at least 1", {"steps": 0}),
    "steps negative": (ValueError, "steps must be at least 1", {"steps": -3}),
    "steps 1.5": (TypeError, "steps must be an integer", {"steps": 1.5}),
    "steps True": (TypeError, "steps must be an integer", {"steps": True}),
    "at falls": (ValueError, "at must increase", {"at": (0, 3, 2)}),
    "at twice": (ValueError, "np.unique", {"at": (0, 2, 2)}),
    "at beyond": (ValueError, "between 0 and steps = 4", {"at": (0, 5)}),
    "at negative": (ValueError, "between 0 and steps = 4", {"at": (-1, 2)}),
    "at empty": (ValueError, "at least one", {"at": ()}),
    "at a number": (ValueError, "at must be step numbers", {"at": 3}),
    "at not integers": (TypeError, "at must be integers", {"at": np.geomspace(1, 4, 3)}),
    "labels with an axis": (ValueError, r"\(6,\) and labels y \(6, 1\)", {"y": Y[:, None]}),
    "too few labels": (ValueError, "6 inputs and 5 labels", {"y": Y[:5]}),
    "x NaN": (ValueError, "x contains NaN", {"x": NOT_FINITE}),
    "y infinite": (ValueError, "y contains NaN or inf", {"y": Y * np.inf}),
    "no data": (ValueError, "x must be a batch", {"x": X[:0], "y": Y[:0]}),
    "x a number": (ValueError, "x must be a batch", {"x": 1.0}),
    "params NaN": (
        ValueError,
        r"params\['a'\] contains NaN",
        {"params": {**START, "a": np.nan * Y}},
    ),
    "params integers": (
        ValueError,
        "real floating point",
        {"params": {**START, "a": np.arange(4)}},
    ),
    "params empty": (ValueError, "nothing to train", {"params": {}}),
    "no rule": (ValueError, "got neither", {"learning_rate": None}),
    "two rules": (ValueError, "got both", {"optimiser": optax.sgd(0.1)}),
    "rate negative": (ValueError, "not negative", {"learning_rate": -0.1}),
    "rate NaN": (ValueError, "finite", {"learning_rate": np.nan}),
    "rates without seeds": (ValueError, "without seeds=True", {"learning_rate": [0.1, 0.2]}),
    "momentum 1": (ValueError, r"momentum must lie in \[0, 1\)", {"momentum": 1.0}),
    "momentum negative": (ValueError, "momentum must lie", {"momentum": -0.1}),
    "momentum NaN": (ValueError, "momentum must lie", {"momentum": np.nan}),
    "momentum a list": (ValueError, "momentum must lie", {"momentum": [0.1]}),
    "momentum of an optimiser": (
        ValueError,
        "an optimiser has its own",
        {"learning_rate": None, "optimiser": optax.sgd(0.1), "momentum": 0.5},
    ),
    "optimiser not called": (
        TypeError,
        "functions init and update",
        {"learning_rate": None, "optimiser": optax.sgd},
    ),
    "optimiser a class": (
        TypeError,
        "functions init and update",
        {"learning_rate": None, "optimiser": optax.GradientTransformation},
    ),
    "batch too large": (
        ValueError,
        "at most the number of examples 6",
        {**BATCHES, "batch_size": 7},
    ),
    "batch 0": (ValueError, "batch_size must be at least 1", {**BATCHES, "batch_size": 0}),
    "batch 2.0": (TypeError, "batch_size must be an integer", {**BATCHES, "batch_size": 2.0}),
    "batch without key": (ValueError, "batch_size needs a key", {"batch_size": 2}),
    "key without batch": (ValueError, "needs a batch_size", {"key": KEY}),
    "key a number": (TypeError, "jax.random.key", {"batch_size": 2, "key": 0}),
    "key of old": (TypeError, "jax.random.key", {"batch_size": 2, "key": jax.random.PRNGKey(0)}),
    "keys without seeds": (
        ValueError,
        "without seeds=True",
        {"batch_size": 2, "key": jax.random.split(KEY, 2)},
    ),
    "record a function": (TypeError, "dictionary of functions", {"record": model}),
    "record a value": (TypeError, "dictionary of functions", {"record": {"w": 1.0}}),
    "record without hash": (
        TypeError,
        "must be hashable",
        {"record": {"w": eqx.nn.Lambda(np.zeros(2))}},
    ),
    "record fails": (KeyError, "V", {"record": {"w": lambda p: p["V"]}, "at": (4,)}),
    "loss a name": (TypeError, "loss must be a function", {"loss": "mean_square"}),
    "loss an array": (ValueError, "must be one real number", {"loss": lambda h, y: (h - y) ** 2}),
    "loss an integer": (ValueError, "must be one real number", {"loss": lambda h, y: len(h)}),
    "seeds a number": (TypeError, "True or False", {"seeds": 2, "params": TWO}),
    "seeds differ": (
        ValueError,
        "leading axis of one length",
        {"seeds": True, "params": {**TWO, "a": TWO["a"][:1]}},
    ),
    "seeds of a number": (
        ValueError,
        "leading axis of one length",
        {"seeds": True, "params": {"a": jnp.array(1.0)}},
    ),
    "no seeds": (
        ValueError,
        "leading axis of one length",
        {"seeds": True, "params": jax.tree.map(lambda w: w[:0], TWO)},
    ),
    "rates of other seeds": (
        ValueError,
        r"\(\) or \(2,\), one for each seed, got \(3,\)",
        {"seeds": True, "params": TWO, "learning_rate": [0.1, 0.1, 0.1]},
    ),
    "keys of other seeds": (
        ValueError,
        "one for each seed",
        {"seeds": True, "params": TWO, "batch_size": 2, "key": jax.random.split(KEY, 3)},
    ),
}


@pytest.mark.parametrize(("error", "message", "bad"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_before_the_first_step(monkeypatch, error, message, bad):
    monkeypatch.setattr(descent, "advance", None)
    good = {"f": model, "params": START, "x": X, "y": Y, "learning_rate": 0.1, "steps": 4}
    with pytest.raises(error, match=message):
        train(**{**good, **bad})
