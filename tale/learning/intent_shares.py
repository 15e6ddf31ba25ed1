"""Margins as probabilities, by one temperature (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""

from typing import Final

import numpy as np
import numpy.typing as npt

SHARPNESSES: Final = tuple(0.5 * 1.05**step for step in range(70))  # up to 15

Floats = npt.NDArray[np.float64]


def log_shares(margins: Floats) -> Floats:
    """The logarithms of shares that add up to one in each row."""
    least = margins - margins.max(axis=1, keepdims=True)
    shares: Floats = least - np.log(np.exp(least).sum(axis=1, keepdims=True))
    return shares


def fitted_sharpness(margins: Floats, wanted: npt.NDArray[np.int64]) -> float:
    """The inverse of the temperature under which the margins of unseen messages make the best probabilities."""
    rows = np.arange(len(wanted))
    return max(SHARPNESSES, key=lambda sharpness: float(log_shares(sharpness * margins)[rows, wanted].sum()))
