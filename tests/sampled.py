"""Random networks beside their limit: draws of the empirical kernel, and a two-sided z-test."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ntkbook import empirical_ntk

KEY = jax.random.key(1412)


def draws(net, x, seeds, salt=0):
    """Kernel entries and products of outputs for independent parameters, (seeds, entries) each."""
    pairs = np.triu_indices(len(x))

    def one(key):
        params, _ = net.init(key, x.shape[1:])
        h = net.apply(params, x)
        return empirical_ntk(net.apply, params)(x)[pairs], jnp.outer(h, h)[pairs]

    keys = jax.random.split(jax.random.fold_in(KEY, salt), seeds)
    return jax.tree.map(np.asarray, jax.jit(lambda keys: jax.lax.map(one, keys))(keys))


def agrees(sample, expected, precision):
    """Two-sided z-tests, 1e-3 for all entries together; ``precision`` guards their power."""
    error = sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    assert np.max(error) < precision * np.max(np.abs(expected))
    scores = (sample.mean(axis=0) - expected) / error
    assert np.max(np.abs(scores)) < stats.norm.isf(0.5e-3 / scores.size), scores
