"""Look-ahead: what training on one more labelled input would change, without training.

For a constant kernel, training on L and one more input c adds to f_L a multiple of one function,
the kernel section k(., c) without the part that L explains. The conditional kernel

    k_L(x, c) = k(x, c) - k(x, L) (K + noise I)^{-1} k(L, c)

says it all: f_{L+c}(x) = f_L(x) + k_L(x, c) (k_L(c, c) + noise)^{-1} (y_c - f_L(c)). One
factorisation of K serves all candidates, all labels, and all inputs x.
"""

from ntkbook.lookahead.acquisition import Acquisition, acquire, most_output_change
from ntkbook.lookahead.prediction import LookAhead, look_ahead
from ntkbook.lookahead.tabulated import Tabulated

__all__ = [
    "Acquisition",
    "LookAhead",
    "Tabulated",
    "acquire",
    "look_ahead",
    "most_output_change",
]
