"""
Splits as files, and the check that no test place was trained on.

A split file (config/splits/*.yaml) names the drives that are tested and those that must never be
trained on. The check goes by the names that a model's provenance gives, and, where the drives that
it was trained on are at hand, by the distance between places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.spatial import cKDTree
import yaml

from ..data.drive import Drive
from ..data.kitti_files import is_named
from ..errors import InputError
from ..storage import shared_directory
from .ranking import IGNORED_M

KITTI360_WORLD = 'KITTI-360, 2013_05_28'


class TestDrive(BaseModel):
    """A drive that a split tests on; pairs: how many the paper counts in it, if it says so."""

    model_config = ConfigDict(frozen=True, extra='forbid')

    drive: str
    pairs: int | None = Field(None, ge=1)


class Split(BaseModel):
    """
    A split: on which drives a model is tested, how, and which it must never have seen.

    name: 'kitti360-urban'. source: where it is published. protocol, spacing_m: of the test.
    test: its drives. kept_out: numbers or names of drives that no model may be trained on.
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    name: str
    source: str
    protocol: Literal['same_pass', 'revisit', 'cross_drive']
    spacing_m: float = Field(gt=0.0)
    test: tuple[TestDrive, ...] = Field(min_length=1)
    kept_out: tuple[str, ...]

    def forbids(self, drive: str) -> bool:
        """Tell whether a model may not have been trained on this drive."""
        return any(is_named(drive, name)
                   for name in (*self.kept_out, *(test.drive for test in self.test)))


def split_names() -> list[str]:
    """Return the names of the splits that ship."""
    return sorted(path.stem for path in (shared_directory('config') / 'splits').glob('*.yaml'))


def load_split(name: str | Path) -> Split:
    """
    Return a shipped split by its name, or one in a file; what is wrong in it is an InputError.

    A file's split is named as the file is.
    """
    path = Path(name)
    if path.suffix != '.yaml':
        path = shared_directory('config') / 'splits' / f'{name}.yaml'
        if not path.is_file():
            raise InputError(f'there is no split {str(name)!r}: choose one of '
                             f'{", ".join(split_names())}, or name a .yaml file')
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
        split = Split.model_validate(values)
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f'cannot read the split {path}: {error}') from error
    except ValidationError as error:
        first = error.errors()[0]
        key = '.'.join(str(part) for part in first['loc']) or 'the whole'
        raise InputError(f'{path}: {key}: {first["msg"]}: see config/splits for examples'
                         ) from error
    if split.name != path.stem:
        raise InputError(f'{path} holds the split {split.name!r}: name file and split alike')
    return split


@dataclass(frozen=True)
class SplitCheck:
    """
    What a test shares with the training of the model under test.

    trained_on: names of its drives, None where the model does not say. shared_drives: tested on
    and trained on. chosen_by: tested on, and held out to choose the checkpoint. shared_frames: map
    frames that both have drives in. forbidden: trained on, though the split keeps them out.
    smallest_distance_m: between a test place and a training place of one map frame; None where no
    drive of the frame was at hand, inf where none shares one.
    """

    trained_on: tuple[str, ...] | None
    shared_drives: tuple[str, ...]
    chosen_by: tuple[str, ...]
    shared_frames: tuple[str, ...]
    forbidden: tuple[str, ...]
    smallest_distance_m: float | None

    @property
    def leaks(self) -> list[str]:
        """Return what is wrong with the test, in words; empty: nothing was found."""
        found = []
        if self.shared_drives:
            found.append('the model was trained on drives it is tested on: '
                         + ', '.join(self.shared_drives))
        if self.chosen_by:
            found.append('the checkpoint was chosen by drives it is tested on: '
                         + ', '.join(self.chosen_by))
        if forbidden := set(self.forbidden) - set(self.shared_drives):
            found.append('the model was trained on drives that the split keeps out of training: '
                         + ', '.join(sorted(forbidden)))
        if self.smallest_distance_m is not None and self.smallest_distance_m < IGNORED_M:
            found.append(f'a test place lies {self.smallest_distance_m:.1f} m from a place that '
                         'was trained on')
        return found

    @property
    def doubts(self) -> list[str]:
        """Return what the check could not rule out, in words."""
        found = []
        if self.trained_on is None:
            found.append('the model does not say which drives it was trained on: it may have '
                         'seen the test')
        elif self.shared_frames and self.smallest_distance_m is None:
            found.append(f'training and test share the map frame {", ".join(self.shared_frames)}, '
                         'and how near to each other they come was not measured: name the '
                         'training data with --check-split')
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the check as JSON-safe values; a distance to nothing is null."""
        distance = self.smallest_distance_m
        return {
            'trained_on': None if self.trained_on is None else list(self.trained_on),
            'shared_drives': list(self.shared_drives), 'chosen_by': list(self.chosen_by),
            'shared_frames': list(self.shared_frames),
            'forbidden_drives': list(self.forbidden),
            'smallest_distance_m': None if distance is None or math.isinf(distance) else distance,
            'leaks': self.leaks, 'doubts': self.doubts}


def check_split(
    tested: Sequence[Drive], provenance: dict[str, Any], training: Sequence[Drive] = (),
    split: Split | None = None, also_tested: Sequence[str] = (),
) -> SplitCheck:
    """
    Return what the tested drives share with a model's training.

    provenance: of the model, whose 'trained_on' and 'held_out_drives' name drives. training:
    drives that it was trained on (by name, or all that are given, if it does not say), for the
    distances. also_tested: names of drives that are not at hand, as that of a map.
    """
    said = provenance.get('trained_on')
    trained = None if said is None else tuple(sorted(map(str, said)))
    near = [drive for drive in training if trained is None or drive.name in trained]
    names = {drive.name for drive in near} | set(trained or ())
    test_names = {drive.name for drive in tested} | set(also_tested)
    frames = {frame_of(name) for name in names} & {frame_of(name) for name in test_names}
    return SplitCheck(
        tuple(sorted(names)) if trained is not None or near else None,
        tuple(sorted(names & test_names)),
        tuple(sorted(test_names & set(map(str, provenance.get('held_out_drives') or ())))),
        tuple(sorted(frames)),
        tuple(sorted(name for name in names if split is not None and split.forbids(name))),
        _smallest_distance(tested, near, bool(frames)))


def frame_of(drive: str) -> str:
    """
    Return a name for the map frame that a drive's poses are in, from the drive's name.

    A city's drives share one, all of KITTI-360 does, and any other drive has its own.
    """
    place, numbered, _ = drive.partition('_drive_')
    if numbered and place.startswith('city_'):
        return place
    if numbered and place == '2013_05_28':
        return KITTI360_WORLD
    return drive


def _smallest_distance(
    tested: Sequence[Drive], training: Sequence[Drive], frames_shared: bool,
) -> float | None:
    """Return the smallest planar distance between places of one frame; see `SplitCheck`."""
    smallest = math.inf
    measured = False
    for test in tested:
        for train in training:
            a, b = _positions(test), _positions(train)
            if frame_of(test.name) == frame_of(train.name) and len(a) and len(b):
                measured = True
                smallest = min(smallest, float(cKDTree(b).query(a)[0].min()))
    return smallest if measured or not frames_shared else None


def _positions(drive: Drive) -> NDArray[np.float64]:
    return drive.trajectory.T_map_base[:, :2, 3]
