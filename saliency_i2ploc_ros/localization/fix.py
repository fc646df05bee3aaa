"""What the localizer answers: a fix or a rejection, and always the candidates."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import to_quaternion, yaw_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fix:
    """
    Where the vehicle is.

    T_map_base: (4, 4). covariance: (6, 6) in ROS's order x, y, z, rotations about x, y, z; metres
    and radians, about the map's fixed axes (REP-103, REP-105); symmetric positive definite.
    score: of the best candidate: its cosine, with what the verifier adds (see `verification`).
    """

    T_map_base: Array
    covariance: Array
    score: float


@dataclass(frozen=True)
class Candidates:
    """
    The places that look most alike, best first; none if the image was rejected unseen.

    indices: (k,) int64, places of the database. scores: (k,) float32, falling.
    T_map_base: (k, 4, 4), where the vehicle would be if it were this one: the place's pose, turned
    back by the camera's heading in the vehicle.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    T_map_base: Array

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def none(cls) -> Candidates:
        """Return no candidates."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4, 4)))


@dataclass(frozen=True)
class Answer:
    """
    What became of one image, or of several cameras' images of one moment.

    Either `fix` or `rejection` is there, never both. rejection: 'no_texture' (black, white or
    covered), 'low_score' (nothing in the map looks like it), 'ambiguous' (several places do).
    explanation: one sentence for a reader, with the figures that decided.
    milliseconds: time of the stages 'prepare', 'encode', 'search' and 'hypotheses'; 0.0 for those
    that a rejection spared.
    saliency: by image, how much the network looks at each of its N tokens, (N,); None for one
    that was not looked at, or by a model that has no saliency. It is not part of `as_dict`.
    estimate: the fix, or what would be it had it not been refused; None for an image that was not
    searched. confidence: what acceptance is decided by, 0 to 1; NaN without an estimate. inside:
    the probability that it was taken in the map, were that as likely as not; NaN if not known.
    outside: the belief of a sequence that the vehicle is outside the map; NaN of a single image.
    A sequence (`Sequence`) has two more rejections: 'undecided' and 'outside'.
    """

    fix: Fix | None
    rejection: str | None
    explanation: str
    candidates: Candidates
    milliseconds: dict[str, float]
    saliency: tuple[NDArray[np.float32] | None, ...] = ()
    estimate: Fix | None = None
    confidence: float = math.nan
    inside: float = math.nan
    outside: float = math.nan

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as plain numbers and words, ready for JSON."""
        fix = None
        if self.fix is not None:
            x, y, z = self.fix.T_map_base[:3, 3]
            fix = {
                'position_m': [float(x), float(y), float(z)],
                'quaternion_xyzw': to_quaternion(self.fix.T_map_base).tolist(),
                'yaw_deg': math.degrees(yaw_of(self.fix.T_map_base)),
                'covariance': self.fix.covariance.tolist(),
                'score': float(self.fix.score),
            }
        candidates = [
            {'place': int(index), 'score': float(score), 'position_m': T[:3, 3].tolist(),
             'yaw_deg': math.degrees(yaw_of(T))}
            for index, score, T in zip(self.candidates.indices, self.candidates.scores,
                                       self.candidates.T_map_base, strict=True)
        ]
        estimate = None if self.estimate is None else {
            'position_m': self.estimate.T_map_base[:3, 3].tolist(),
            'yaw_deg': math.degrees(yaw_of(self.estimate.T_map_base)),
            'confidence': float(self.confidence)}
        belief = {} if math.isnan(self.outside) else {'outside': float(self.outside)}
        return {'accepted': fix is not None, 'rejection': self.rejection,
                'explanation': self.explanation, 'fix': fix, 'estimate': estimate, **belief,
                'candidates': candidates,
                'milliseconds': {name: round(ms, 3) for name, ms in self.milliseconds.items()}}
