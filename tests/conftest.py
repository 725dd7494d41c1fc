"""All tests run in double precision, and draw without a screen."""

import jax
import matplotlib as mpl

jax.config.update("jax_enable_x64", True)
mpl.use("Agg")
