"""Both stages in one call: drives in, judgements out, for the commands and for ablations."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

from ..data.drive import Drive
from ..distributed import World
from ..encoders.config import ModelConfig
from ..encoders.dual import DualEncoder
from ..errors import InputError
from ..export.runtime import ImageRuntime
from ..localization.hypotheses import LocalizerConfig
from ..localization.verification import Verification, verification_of
from ..mapping.database import PlaceDatabase
from .baseline import all_around, outlook_of
from .described import ByModel, BySkyline, Describer
from .judging import judge, Judgement, VERIFIED
from .protocols import (
    Entries,
    entries_of,
    OLDER_S,
    PAIRINGS,
    PAPER_SPACING_M,
    Protocol,
    Side,
    sides_of,
)
from .ranking import IGNORED_M, POSITIVE_M, RADII_M

DESCRIPTOR = 'descriptor'  # the method's name of a model that could verify and does not
VERIFIED_PAIRING = 'image-cloud'  # the only one that a localizer asks
EYE_M = 1.6  # above base_link: where the baseline looks from if there is no camera


@dataclass(frozen=True)
class Question:
    """
    What is evaluated.

    pairings: query-database, of PAIRINGS. query_spacing_m, spacing_m: between queries, between
    places; None: 3 m within one drive, else each image and the model's own spacing. max_turn_deg:
    a place turned more from the query is not right; None: any heading is. camera: None: the first.
    every, limit: of the images, where each one is a query. baseline: judge the skyline too.
    """

    protocol: Protocol = 'cross_drive'
    pairings: tuple[str, ...] = PAIRINGS[:1]
    query_spacing_m: float | None = None
    spacing_m: float | None = None
    max_turn_deg: float | None = None
    camera: str | None = None
    every: int = 1
    limit: int | None = None
    baseline: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.pairings) - set(PAIRINGS):
            raise InputError(f'there is no pairing {min(unknown)!r}: choose of '
                             f'{", ".join(PAIRINGS)}')
        for name, value in (('query spacing', self.query_spacing_m), ('spacing', self.spacing_m)):
            if value is not None and not (math.isfinite(value) and value >= 0.0):
                raise InputError(f'the {name} {value} is no distance: give metres, as 5')


@dataclass(frozen=True)
class Prepared:
    """
    Stage one done: the entries of both sides, and by method and pairing what is judged.

    verification: of the model, None if it has none.
    """

    question: Question
    queries: Entries
    database: Entries | PlaceDatabase
    sides: dict[tuple[str, str], tuple[Side, Side]]
    verification: Verification | None = None


def describe(
    question: Question, model: DualEncoder | ImageRuntime, drive: Drive,
    database: Drive | PlaceDatabase | None = None, world: World = World(),
) -> Prepared:
    """
    Return all that the question needs, from the cache or described now (stage one).

    drive: that asks. database: the drive of the map, or a map on disk, under cross_drive; None
    under the others, where the drive answers itself. world: the processes that share the work;
    each calls this, and each has the whole.
    """
    config = model.config
    queries, places = _entries(question, config, drive, database)
    by_model = ByModel(model)
    describers: list[Describer] = [by_model]
    if question.baseline:
        describers.append(baseline_of(queries))
    sides = {}
    for describer in describers:
        found = sides_of(question.pairings, queries, places, describer, config, world,
                         question.protocol)
        sides.update({(describer.name, pairing): both for pairing, both in found.items()})
    return Prepared(question, queries, places, sides,
                    verification_of(by_model.runtime, LocalizerConfig().verify))


def judge_all(prepared: Prepared) -> list[Judgement]:
    """
    Return a judgement for each pairing, and for each method of it, the model's first.

    Images that ask for clouds are verified as the localizer does, if the model can; what its
    descriptors say alone is then a method of its own.
    """
    question = prepared.question
    turn = None if question.max_turn_deg is None else math.radians(question.max_turn_deg)
    result = []
    for pairing in question.pairings:
        for (method, described), sides in prepared.sides.items():
            if described != pairing:
                continue
            verifies = (prepared.verification if pairing == VERIFIED_PAIRING
                        and method == ByModel.name else None)
            result.append(judge(pairing, *sides, question.protocol, turn, method,
                                verification=verifies))
            if verifies is not None:
                result.append(judge(pairing, *sides, question.protocol, turn, DESCRIPTOR))
    return result


def baseline_of(queries: Entries) -> BySkyline:
    """Return the baseline that sees as the queries' camera does; all around if there is none."""
    if queries.camera is None:
        return BySkyline(all_around(EYE_M))
    stream = queries.drive.cameras[queries.camera]
    return BySkyline(outlook_of(stream.camera, stream.T_base_sensor))


def _entries(
    question: Question, config: ModelConfig, drive: Drive, database: Drive | PlaceDatabase | None,
) -> tuple[Entries, Entries | PlaceDatabase]:
    if question.protocol != 'cross_drive':
        if database is not None:
            raise InputError(f'under {question.protocol} a drive is its own map: leave out --map '
                             'and --map-drive')
        if question.every != 1 or question.limit is not None:
            raise InputError(f'under {question.protocol} places ask, not images: leave out '
                             '--every and --limit, and choose a --spacing')
        given = (question.spacing_m, question.query_spacing_m, PAPER_SPACING_M)
        spacing = next(value for value in given if value is not None)
        if spacing == 0.0:
            raise InputError(f'{question.protocol} needs a spacing above 0, as 3')
        entries = entries_of(drive, spacing, question.camera)
        return entries, entries
    if database is None:
        raise InputError('cross_drive needs a map: give --map, or --map-drive')
    between = question.query_spacing_m
    if between is None:
        asks_by_cloud = any(pairing.startswith('cloud') for pairing in question.pairings)
        between = config.submap.spacing_m if asks_by_cloud else 0.0
    queries = entries_of(drive, between, question.camera, question.every, question.limit)
    if isinstance(database, PlaceDatabase):
        return queries, database
    places = question.spacing_m or config.submap.spacing_m
    # The map's own images matter only where they answer, and its cameras may have other names.
    answers_by_image = any(pairing.endswith('image') for pairing in question.pairings)
    return queries, entries_of(database, places, question.camera if answers_by_image else None)


def stated(prepared: Prepared, judgements: list[Judgement]) -> dict[str, Any]:
    """Return what a reader must know to compare the figures with others', JSON-safe."""
    question, queries, database = prepared.question, prepared.queries, prepared.database
    first = judgements[0]
    spacing = database.spacing_m
    return {
        'name': question.protocol, 'pairings': list(question.pairings),
        'sessions': {'queries': queries.drive.name, 'database': first.database.described.session},
        'camera': queries.camera,
        'query_spacing_m': queries.spacing_m or None, 'every': question.every,
        'limit': question.limit,
        'spacing_m': spacing, 'database': {j.pairing: len(j.database) for j in judgements},
        'queries': {j.pairing: len(j.queries) for j in judgements},
        'radii_m': list(RADII_M), 'distance': 'planar', 'alignment': 'none',
        'positive_m': POSITIVE_M, 'ignored_m': [POSITIVE_M, IGNORED_M],
        'older_s': OLDER_S if question.protocol == 'revisit' else None,
        'max_turn_deg': question.max_turn_deg,
        'verified': None if prepared.verification is None else VERIFIED,
        'bootstrap': {'block_m': 50.0, 'level': 0.95, 'samples': 2000, 'seed': question.seed},
    }
