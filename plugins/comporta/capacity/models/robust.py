"""What the fits share: weights that keep a freak measurement from bending a curve, linear fits with honest tails, intervals."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.optimize import least_squares

from comporta.capacity.models.draws import COUNT, Array

_FREAK: Final = 3.0  # standard deviations
_LEAST_SPREAD: Final = 0.01  # in logs: nothing that is timed is steadier than 1 %


def huber_weights(residuals: Array, parameters: int) -> Array:
    """1 for what lies within three (robust) standard deviations, less the further out it lies."""
    freedom = max(1, len(residuals) - parameters)
    ranked = np.sort(np.abs(residuals))[-freedom:] if parameters else np.abs(residuals)
    spread = max(_LEAST_SPREAD, 1.4826 * float(np.median(ranked)))
    return np.minimum(1.0, _FREAK * spread / np.maximum(np.abs(residuals), 1e-12))


def soft_l1(design: Array, y: Array, scale: float = 0.05) -> Array:
    """Coefficients of a linear model, with residuals much beyond ``scale`` counted less than squared."""
    start = np.linalg.lstsq(design, y, rcond=None)[0]
    found = least_squares(
        lambda coefficients: design @ coefficients - y, start, jac=lambda _: design, loss="soft_l1", f_scale=scale
    )
    return np.asarray(found.x)


def linear_draws(  # the world of one fit
    design: Array,
    y: Array,
    weights: Array,
    shrink: Array,
    noise: float,
    prior_weight: float,
    random: np.random.Generator,
) -> tuple[Array, Array, float]:
    """Coefficients by weighted ridge regression, ``COUNT`` draws of them with the tails of Student's t, and the spread.

    ``shrink``: the prior standard deviation of each coefficient around 0, inf for none. ``noise`` counts as
    ``prior_weight`` observations of that spread, so that two points on a line are not taken for certainty.
    """
    penalty = np.where(np.isinf(shrink), 0.0, (noise / np.where(np.isinf(shrink), 1.0, shrink)) ** 2)
    gram = (design * weights[:, None]).T @ design + np.diag(penalty)
    inverse = np.linalg.pinv(gram)
    center = inverse @ (design * weights[:, None]).T @ y
    residual = y - design @ center
    freedom = max(0.0, len(y) - float(np.isinf(shrink).sum())) + prior_weight
    squares = float(weights @ residual**2) + prior_weight * noise**2
    spread = np.sqrt(squares / freedom)
    root = np.linalg.cholesky(inverse + 1e-12 * np.trace(inverse) * np.eye(len(inverse)))
    tails = np.sqrt(squares / random.chisquare(freedom, COUNT))
    return center, center + tails[:, None] * (random.standard_normal((COUNT, len(center))) @ root.T), float(spread)


def shortest(draws: Array, level: float = 0.95, *, floor: float | None = None) -> tuple[float, float]:
    """The shortest interval with so large a share of the draws; it reaches down to ``floor`` when it begins at the lowest."""
    ranked = np.sort(draws)
    keep = max(1, int(np.ceil(level * len(ranked))))
    widths = ranked[keep - 1 :] - ranked[: len(ranked) - keep + 1]
    first = int(np.argmin(widths))
    low = floor if floor is not None and first <= 0.01 * len(ranked) else float(ranked[first])
    return low, float(ranked[first + keep - 1])


def first_reached(values: Array, goal: Array, grid: Array) -> Array:
    """Where on the grid (last axis of ``values``) a rising value first reaches the goal, between points by logs; nan: nowhere."""
    reached = values >= goal[..., None]
    index = np.argmax(reached, axis=-1)
    before = np.maximum(index - 1, 0)
    low, high = (np.take_along_axis(values, at[..., None], axis=-1)[..., 0] for at in (before, index))
    share = np.clip((goal - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    found = np.exp(np.log(grid[before]) + share * (np.log(grid[index]) - np.log(grid[before])))
    return np.where(reached.any(axis=-1), np.where(index == 0, grid[0], found), np.nan)
