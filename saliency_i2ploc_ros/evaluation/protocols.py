"""
The three protocols: who asks, what may answer, and which pairing of image and cloud is judged.

    same_pass    one drive: a place every few metres asks, all the others may answer, not itself
    revisit      one drive: only places passed over 10 s before may answer
    cross_drive  the map of one drive, the queries of another

Under the first, the place beside the query's own (the same pass, a second later) is a right
answer: it tells places apart and says little of coming back. The last is a vehicle's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..data.drive import Drive
from ..data.submaps import spaced, SubmapConfig, submaps_of_drive, SubmapStore
from ..distributed import in_turn, World
from ..encoders.config import ModelConfig, View
from ..errors import InputError
from ..mapping.database import PlaceDatabase
from .described import (
    describe_database,
    describe_images,
    describe_submaps,
    Described,
    Describer,
)
from .ranking import Allowed, NONE

Array = NDArray[np.float64]
Protocol = Literal['same_pass', 'revisit', 'cross_drive']

OLDER_S = 10.0
PAPER_SPACING_M = 3.0
PAIRINGS = ('image-cloud', 'cloud-image', 'image-image', 'cloud-cloud')  # query-database


@dataclass(frozen=True)
class Entries:
    """
    Places along a drive, in the order of time: T_map_base (n, 4, 4) and stamps_ns (n,).

    frames: (n,) an image of the camera for each: of those that were taken nearer in time to this
    place than to another, and no further from it than the spacing, the nearest. NONE without one.
    """

    drive: Drive
    camera: str | None
    spacing_m: float
    T_map_base: Array
    stamps_ns: NDArray[np.int64]
    frames: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.stamps_ns)


@dataclass(frozen=True)
class Side:
    """One side of a pairing: what is described, of which entry (n,) of its drive, and when."""

    described: Described
    entry: NDArray[np.int64]
    stamps_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.described)


def entries_of(
    drive: Drive, spacing_m: float, camera: str | None = None, every: int = 1,
    limit: int | None = None,
) -> Entries:
    """
    Return a place every `spacing_m` travelled; 0: one at each posed image of the camera.

    every, limit: of the images, with spacing 0: each n-th of them, and as many as `limit` at most.
    A drive without poses is an InputError, for nothing can be judged by it. camera: None takes
    the first, and none where the drive has no images.
    """
    name = drive.camera_named(camera) if drive.cameras or camera else None
    stream = None if name is None else drive.cameras[name]
    if spacing_m <= 0.0:
        if stream is None or not stream.has_pose.any():
            raise InputError(f'{drive.source} has no images with poses: there is nothing to judge')
        used = np.arange(0, len(stream), every)[:limit]
        posed = used[stream.has_pose[used]]
        return Entries(drive, name, 0.0, stream.T_map_base[posed], stream.stamps_ns[posed], posed)
    if len(drive.trajectory) == 0:
        raise InputError(f'{drive.source} has no poses: there is nothing to judge by')
    chosen = spaced(drive.trajectory.T_map_base[:, :3, 3], spacing_m)
    poses, stamps = drive.trajectory.T_map_base[chosen], drive.trajectory.stamps_ns[chosen]
    frames = np.full(len(chosen), NONE)
    if stream is not None and stream.has_pose.any():
        posed = np.flatnonzero(stream.has_pose)
        # Each image belongs to the one entry nearest to it in time, the first of the nearest.
        nearest = _nearest(stamps, stream.stamps_ns[posed])
        apart = np.linalg.norm(stream.T_map_base[posed, :2, 3] - poses[nearest, :2, 3], axis=1)
        for i in np.argsort(-apart, kind='stable')[np.sum(apart > spacing_m):]:
            frames[nearest[i]] = posed[i]
    return Entries(drive, name, spacing_m, poses, stamps, frames)


def _nearest(sorted_ns: NDArray[np.int64], at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the stamp nearest to each of `at_ns`."""
    after = np.clip(np.searchsorted(sorted_ns, at_ns), 1, max(len(sorted_ns) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(sorted_ns) - 1)
    return np.where(np.abs(sorted_ns[after] - at_ns) < np.abs(at_ns - sorted_ns[before]),
                    after, before)


def image_side(entries: Entries, describer: Describer, world: World) -> Side:
    """Return the described images of the entries that have one."""
    if entries.camera is None:
        raise InputError(f'{entries.drive.source} has no camera images: choose another pairing')
    has = np.flatnonzero(entries.frames != NONE)
    if len(has) == 0:
        raise InputError(f'{entries.drive.source} has no image with a pose near its trajectory')
    found = describe_images(entries.drive, entries.camera, entries.frames[has].tolist(),
                            describer, world)
    entry = has[np.searchsorted(entries.frames[has], found.numbers)]
    return Side(found, entry, entries.drive.cameras[entries.camera].stamps_ns[found.numbers])


def cloud_side(
    entries: Entries, describer: Describer, world: World, submap: SubmapConfig,
    views: Sequence[View] = (View(),), smooth_m: float = 0.0,
) -> Side:
    """
    Return the described submaps of the entries that have one, each from all `views`.

    submap: how they are cut, its spacing aside, which is the entries'. smooth_m: see
    `describe_submaps`.
    """
    store = submaps_of_entries(entries, submap, world)
    found = describe_submaps(store, describer, world, views, smooth_m)
    entry = _entries_of_submaps(entries, store)[found.numbers]
    return Side(found, entry, entries.stamps_ns[entry])


def submaps_of_entries(
    entries: Entries, config: SubmapConfig, world: World | None = None,
) -> SubmapStore:
    """Return the submaps about the entries' poses; each process in turn, for one makes them."""
    if entries.spacing_m <= 0.0:
        raise InputError('submaps need a spacing: give --query-spacing, as 5')
    with in_turn(world or World()):
        return submaps_of_drive(
            entries.drive, config.model_copy(update={'spacing_m': entries.spacing_m}))


def _entries_of_submaps(entries: Entries, store: SubmapStore) -> NDArray[np.int64]:
    """Return which entry each submap was cut about: their poses are the same to the bit."""
    found, entry = [], 0
    for pose in store.poses:
        while not np.array_equal(entries.T_map_base[entry], pose):
            entry += 1
        found.append(entry)
        entry += 1
    return np.array(found, np.int64)


def map_side(database: PlaceDatabase, describer: Describer, world: World) -> Side:
    """Return the places of a map that was built before; their time is not known."""
    described = describe_database(database, describer, world)
    return Side(described, np.arange(len(described)), np.zeros(len(described), np.int64))


def allowed_by(protocol: Protocol, queries: Side, database: Side) -> Allowed:
    """Return which places of the database each query may be answered with (see above)."""
    everything = Allowed.all_of(len(database), len(queries))
    if protocol == 'same_pass':
        place = {int(entry): i for i, entry in enumerate(database.entry)}
        itself = np.array([place.get(int(entry), NONE) for entry in queries.entry], np.int64)
        return Allowed(everything.stop, itself)
    if protocol == 'revisit':
        # The database is in the order of time, so that the older places are its beginning.
        before = queries.stamps_ns - round(OLDER_S * 1e9)
        return Allowed(np.searchsorted(database.stamps_ns, before, 'left'), everything.itself)
    return everything


def sides_of(
    pairings: Sequence[str], queries: Entries, database: Entries | PlaceDatabase,
    describer: Describer, config: ModelConfig, world: World, protocol: Protocol,
) -> dict[str, tuple[Side, Side]]:
    """
    Return query and database side of each pairing, describing what it takes once.

    database: the same entries as `queries` where the protocol has one drive, else those of the
    map's drive, or a map on disk, which has clouds only. config: the model's, for how submaps are
    cut and seen. In the order of `pairings`.
    """
    # As a map is built for a vehicle; within one drive each place is seen as it was driven past.
    views = config.views if protocol == 'cross_drive' else (View(),)
    smooth_m = config.smooth_m if protocol == 'cross_drive' and describer.name == 'model' else 0.0
    made: dict[tuple[str, bool], Side] = {}

    def side(what: str, asks: bool) -> Side:
        own = asks or database is queries
        key = (what, own)
        if key not in made:
            entries = queries if own else database
            if isinstance(entries, PlaceDatabase):
                if what == 'image':
                    raise InputError('a map holds clouds and no images: name the drive of the '
                                     'images with --map-drive in place of --map')
                made[key] = map_side(entries, describer, world)
            elif what == 'image':
                made[key] = image_side(entries, describer, world)
            else:
                made[key] = cloud_side(entries, describer, world, config.submap,
                                       (View(),) if asks else views, 0.0 if asks else smooth_m)
        return made[key]

    result = {}
    for pairing in pairings:
        asking, answering = pairing.split('-')
        result[pairing] = side(asking, True), side(answering, False)
    return result
