"""The pictures: what is drawn where."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from ntkbook import plots
from ntkbook.bounds import relu_adversary


def test_adversary_shows_neurons_by_sign_and_distance_and_arrows_on_the_pushed():
    u = np.array([0.3, -0.1, 2.0, -0.05, 1.0])
    signs = np.array([1.0, 1.0, 1.0, -1.0, -1.0])
    push = np.array(relu_adversary(jnp.array(u), jnp.array(signs), 1.0))
    with plots.style("dark"):
        ax = plots.adversary(Figure().subplots(), u, signs, push)
    positive, negative, kink = ax.lines
    assert same_color(positive.get_color(), "C2")
    assert same_color(negative.get_color(), "C1")
    assert [line.get_label() for line in (positive, negative)] == ["$a_j > 0$", "$a_j < 0$"]
    # Nearest to the kink first, upwards and downwards.
    np.testing.assert_array_equal(positive.get_xydata(), [[0.3, 2], [-0.1, 1], [2.0, 3]])
    np.testing.assert_array_equal(negative.get_xydata(), [[-0.05, -1], [1.0, -2]])
    np.testing.assert_array_equal(kink.get_xdata(), [0, 0])
    (arrows,) = [item for item in ax.collections if isinstance(item, Quiver)]
    np.testing.assert_array_equal(arrows.XY, [[0.3, 2], [-0.1, 1]])
    np.testing.assert_allclose(arrows.U, [-np.sqrt(0.5), np.sqrt(0.5)])
    np.testing.assert_array_equal(arrows.V, 0)


def test_adversary_refuses_arrays_of_unequal_length():
    with pytest.raises(ValueError, match="shape"):
        plots.adversary(Figure().subplots(), np.ones(3), np.ones(3), np.ones(2))
