"""
How far an answer can be trusted: learned on drives apart from training and test.

Two things are calibrated. The probability that a fix is right, a logistic regression on what the
retrieved places say of each other; acceptance goes by it. And the covariance of a fix that is
right: along the vehicle's heading, across it and of the heading itself, each a power of the
mixture's own spread, and of the odds against what was averaged. A wrong fix is the business of
the probability, not of the covariance: no ellipse that is of use for driving reaches to another
street.

`evaluation.calibrating` fits these numbers, `evaluation.calibration_figures` judges them.
"""

from __future__ import annotations

from functools import cached_property
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InputError
from ..geometry.poses import wrap, yaw_of
from ..storage import content_hash, read_json, write_json

Array = NDArray[np.float64]

FILE = 'calibration.json'  # of a map; of a model for maps with its own views, see `file_of`
FORMAT = 2
SEAL = 'hash'
AGAIN = 'calibrate again with `i2ploc calibrate`'
# Fields that say with which search it was made; `LocalizerConfig` has the same names.
SEARCH = ('top_k', 'temperature', 'merge_radius_m', 'verify')
EVIDENCE = ('weight', 'score', 'margin', 'agreement', 'heading')
_MOST_LOGIT = 8.0  # of a weight: beyond, a softmax in float64 says no more
_BEST = 3  # places whose mean score stands for a cluster
_AGREE = 10  # best places that are asked whether they agree


class Logistic(BaseModel):
    """A logistic regression on the figures of `EVIDENCE`: 1 / (1 + exp(-(w x + b)))."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    weights: tuple[float, ...] = Field(min_length=len(EVIDENCE), max_length=len(EVIDENCE))
    bias: float

    def __call__(self, evidence: ArrayLike) -> Array:
        """Return the probabilities (...,) of evidence (..., 5)."""
        z = np.asarray(evidence, np.float64) @ np.asarray(self.weights) + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -700.0, 700.0))))


class Power(BaseModel):
    """A standard deviation: scale * (spread^2 + floor^2)^(power / 2) * exp(growth * doubt)."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    scale: float = Field(gt=0.0)
    floor: float = Field(gt=0.0)
    power: float = Field(ge=0.0)
    growth: float = Field(ge=0.0)

    def __call__(self, spread: ArrayLike, doubt: ArrayLike) -> Array:
        """Return the standard deviations of answers whose mixtures spread by so much."""
        whole = np.asarray(spread, np.float64) ** 2 + self.floor ** 2
        return np.asarray(self.scale * whole ** (0.5 * self.power)
                          * np.exp(self.growth * np.asarray(doubt, np.float64)))


class Calibration(BaseModel):
    """
    What `i2ploc calibrate` learned; see the module.

    encoder_hash, preprocessing_hash, top_k, temperature, merge_radius_m, verify, headings (views
    of a submap), spacing_m and smooth_m are what it holds for: `check_calibration` refuses
    another. `verify` says nothing of a model without a verifier, and is then not compared;
    calibrations of format 1, which do not have it, are of such models.
    map_identity: of the one map that it holds for, '' for any of that kind. radius_m: within which
    a fix is right, if it also looks within 45 degrees of the right way. right: the probability of
    that, were the place in the map; inside: that it is, if it is as often as not (None: not known,
    then it is). along_m, across_m, heading_rad: standard deviations of right fixes. nothing: share
    of the images that speak for no place, for `Belief`. provenance: drives, counts and figures.
    """

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    format: int = FORMAT
    encoder_hash: str
    preprocessing_hash: str
    map_identity: str = ''
    top_k: int
    temperature: float
    merge_radius_m: float
    verify: bool = True
    headings: int
    spacing_m: float
    smooth_m: float
    radius_m: float
    right: Logistic
    inside: Logistic | None
    along_m: Power
    across_m: Power
    heading_rad: Power
    nothing: float = Field(gt=0.0, lt=1.0)
    provenance: dict[str, Any] = {}

    @cached_property
    def identity(self) -> str:
        """Return the hash by which answers and reports name it."""
        return content_hash(self.model_dump(mode='json'))

    def probability(self, evidence: ArrayLike, outside: float) -> Array:
        """
        Return the probability that a fix is right, of evidence (..., 5).

        outside: how often images come from outside the map, before anything is seen.
        """
        if self.inside is None:
            return self.right(evidence)
        p = self.inside(evidence)
        # Bayes: the regression saw as many from outside as from inside.
        return np.asarray(self.right(evidence) * p * (1.0 - outside)
                          / (p * (1.0 - outside) + (1.0 - p) * outside))

    def sigma(self, spread: Array) -> Array:
        """Return standard deviations (..., 3) along, across, of the heading; see `spread_of`."""
        laws = (self.along_m, self.across_m, self.heading_rad)
        return np.stack([law(spread[..., i], spread[..., 3]) for i, law in enumerate(laws)], -1)

    def plane_covariance(self, spread: Array, yaw: float) -> Array:
        """
        Return the (3, 3) covariance of x, y and yaw in the map of a right fix.

        spread: (4,) of the mixture about the vehicle's own pose, see `spread_of`. yaw: of the
        vehicle, radians.
        """
        c, s = math.cos(yaw), math.sin(yaw)
        road = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return np.asarray(road @ np.diag(self.sigma(spread) ** 2) @ road.T)


def identity_of(calibration: Calibration | None) -> str:
    """Return the hash that names a calibration, 'none' without one."""
    return 'none' if calibration is None else calibration.identity


def evidence_of(
    scores: ArrayLike, weights: Array, cluster: NDArray[np.bool_], alike: NDArray[np.bool_],
) -> Array:
    """
    Return the figures (5,) that the probability is made of, in the order of `EVIDENCE`.

    scores: (k,), best first: cosines, or what verification made of them (see `verification`).
    weights: (k,) of the mixture. cluster: (k,) which hypotheses
    lie about the best one; alike: (k,) which of these look its way too.

    weight: the logarithm of the odds of the cluster's weight. score: of the best place. margin:
    between the mean of the cluster's best three scores and that of the others'. agreement: the
    share of the ten best places that are in the cluster. heading: of its weight, the share that
    looks the same way.
    """
    s = np.asarray(scores, np.float64)
    share = float(weights[cluster].sum())
    others = s[~cluster][:_BEST] if (~cluster).any() else s[-1:]
    return np.array([
        _log_odds(share), s[0], s[cluster][:_BEST].mean() - others.mean(),
        cluster[:_AGREE].mean(), weights[alike].sum() / share])


def spread_of(
    weights: Array, T_map_place: Array, alike: NDArray[np.bool_], answer: Array,
) -> Array:
    """
    Return how far hypotheses lie from the answer: (4,) along, across, heading, and the doubt.

    Root mean squares, in metres and radians, along and across the answer's own heading; and the
    logarithm of the odds against these hypotheses, by their weight.
    weights: (k,). T_map_place: (k, 4, 4). alike: (k,) which hypotheses are meant. answer: (4, 4).
    Of a camera that looks aside, both turned back to the vehicle's own heading.
    """
    w = weights[alike] / weights[alike].sum()
    off = T_map_place[alike, :2, 3] - answer[:2, 3]
    yaw = float(yaw_of(answer))
    c, s = math.cos(yaw), math.sin(yaw)
    turned = wrap(yaw_of(T_map_place[alike]) - yaw)
    local = np.column_stack([off[:, 0] * c + off[:, 1] * s, -off[:, 0] * s + off[:, 1] * c,
                             turned])
    return np.append(np.sqrt(w @ local ** 2), -_log_odds(float(weights[alike].sum())))


def _log_odds(share: float) -> float:
    odds = math.log(max(share, 1e-12)) - math.log(max(1.0 - share, 1e-12))
    return min(max(odds, -_MOST_LOGIT), _MOST_LOGIT)


def file_of(headings: int, own: int) -> str:
    """
    Return the name of a model's calibration for maps of so many views of a place.

    own: how many the model itself asks for. A model can have one for each number.
    """
    return FILE if headings == own else f'calibration-{headings}.json'


def file_with(calibration: Calibration, own: int) -> str:
    """Return the name of the file that a calibration is in; own: as of `file_of`."""
    return FILE if calibration.map_identity else file_of(calibration.headings, own)


def write_calibration(folder: Path, calibration: Calibration, name: str = FILE) -> None:
    """Write it into the folder of a model or of a map, atomically, sealed by its hash."""
    written = calibration.model_dump(mode='json')
    write_json(Path(folder) / name, {**written, SEAL: content_hash(written)})


def read_calibration(folder: Path, name: str = FILE) -> Calibration | None:
    """Return the calibration of a folder, None if it has none; an altered one: InputError."""
    path = Path(folder) / name
    if not path.is_file():
        return None
    raw = read_json(path)
    seal = raw.pop(SEAL, None) if isinstance(raw, dict) else None
    if isinstance(raw, dict) and isinstance(raw.get('format'), int) and raw['format'] > FORMAT:
        raise InputError(f'{path} is of format {raw["format"]} and this version reads up to '
                         f'{FORMAT}: update this package, or {AGAIN}')
    try:
        found = Calibration.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = '.'.join(str(part) for part in first['loc'])
        raise InputError(f'{path} is no calibration ({key}: {first["msg"]}): {AGAIN}') from error
    # What an earlier format did not have is not in its seal.
    if content_hash(found.model_dump(mode='json', exclude_unset=True)) != seal:
        raise InputError(f'{path} was altered since it was written: {AGAIN}')
    return found


def check_calibration(
    calibration: Calibration, holds_for: dict[str, Any], where: Path, file: str = FILE,
) -> None:
    """
    Raise InputError unless a calibration was made for this model, map and search.

    holds_for: values by the names of `Calibration`'s fields that must be equal; '' of the
    calibration's own map_identity fits any map. file: its name, for the message.
    """
    for name, value in holds_for.items():
        made_for = getattr(calibration, name)
        if name == 'map_identity' and made_for == '':
            continue
        if made_for != value:
            # `i2ploc calibrate` searches as a localizer does by default.
            mend = f'leave {name} at {made_for!r}' if name in SEARCH else AGAIN
            raise InputError(f'the calibration for {where} was made for {name} {made_for!r}, and '
                             f'here it is {value!r}: {mend}, or take {file} out of the folder of '
                             'the map or model')
