"""Two-sample tests: do x and y come from one law? The maximum mean discrepancy of a kernel."""

from ntkbook.two_sample.discrepancy import TwoSampleTest, mmd2, mmd_test, permutation_test
from ntkbook.two_sample.tangent import TangentWitness, tangent_mmd2, tangent_witness

__all__ = [
    "TangentWitness",
    "TwoSampleTest",
    "mmd2",
    "mmd_test",
    "permutation_test",
    "tangent_mmd2",
    "tangent_witness",
]
