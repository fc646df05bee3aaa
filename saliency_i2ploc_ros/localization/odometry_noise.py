"""The errors of an odometry: put into one that is simulated, expected of a real one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class OdometryNoise(BaseModel):
    """
    What a wheel odometry does wrong, of steps of d metres.

    scale: standard deviation of a factor of all lengths, once for each run (a tyre's radius).
    slip_m, turn_deg: standard deviations of each step's length and heading, growing with sqrt(d):
    what is given is that after one metre. bias_deg_m: of a turn with each metre, once a run.
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    scale: float = Field(default=0.02, ge=0.0)
    slip_m: float = Field(default=0.02, ge=0.0)
    turn_deg: float = Field(default=0.3, ge=0.0)
    bias_deg_m: float = Field(default=0.02, ge=0.0)

    def covariance(self, T_before_after: NDArray[np.float64]) -> NDArray[np.float64]:
        """
        Return how far off a motion (4, 4) is: (3, 3) of x, y and yaw, in the vehicle's old pose.

        As of a straight way of d metres, on which the heading is off by b s + w(s) after s, b
        being the bias and w a random walk, and the position aside of it by the integral over s.
        """
        x, y = T_before_after[:2, 3]
        d = math.hypot(x, y)
        bias, turn = math.radians(self.bias_deg_m) ** 2, math.radians(self.turn_deg) ** 2
        along = self.scale ** 2 * d ** 2 + self.slip_m ** 2 * d
        aside, both = bias * d ** 4 / 4 + turn * d ** 3 / 3, bias * d ** 3 / 2 + turn * d ** 2 / 2
        heading = bias * d ** 2 + turn * d
        c, s = (x / d, y / d) if d > 0.0 else (1.0, 0.0)
        R = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return np.asarray(R @ np.array(
            [[along, 0.0, 0.0], [0.0, aside, both], [0.0, both, heading]]) @ R.T)
