"""What a training run is made of: the whole recipe, written into its folder and its model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..encoders.config import ModelConfig


class Site(BaseModel):
    """
    Drives that share one map frame: one is made the map, some are asked.

    root: a data set's folder; map_drive, query_drives: names of its drives.
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    root: str
    map_drive: str
    query_drives: tuple[str, ...]


class TrainingConfig(BaseModel):
    """
    The recipe of `i2ploc train`. Distances in metres, angles in degrees.

    Learning rates follow the schedule: a linear warm-up, then a cosine to zero at `steps`. Of
    `batch` pairs that are contrasted, `chunk` are in memory at a time: see `training.steps`.
    objective: see `training.objectives`; the weights of relation terms: `training.relation`.
    trains: the encoders, or after them, on what they are by then, the model's verifier (see
    `training.verification`).
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    model: ModelConfig
    sites: tuple[Site, ...] = Field(min_length=1)
    held_out: tuple[Site, ...] = ()
    trains: Literal['encoders', 'verifier'] = 'encoders'
    seed: int = 0
    steps: int = Field(10_000, ge=1)
    warmup_steps: int = Field(200, ge=0)
    epochs: float | None = Field(
        None, gt=0, description='given, it sets steps: passes over the pairs of all sites')
    warmup_epochs: float | None = Field(None, ge=0, description='given, it sets warmup_steps')
    batch: int = Field(32, ge=2)
    chunk: int | None = Field(
        None, ge=1, description='pairs encoded at a time; None: all that a process has')
    overfit: bool = Field(False, description='the batch of the first step at every step')
    sites_per_batch: int = Field(
        4, ge=1, description='places of few sites in a batch: negatives that look alike')
    lr_image: float = 1e-3
    lr_cloud: float = 1e-3
    lr_aggregation: float = 1e-3
    lr_temperature: float = 5e-3
    layer_decay: float = Field(
        1.0, gt=0, le=1, description='factor on the rate for each layer further from the output')
    trained_image_blocks: int | None = Field(
        None, ge=0, description='the last blocks of the image encoder; 0: frozen, None: all of it')
    trained_cloud_blocks: int | None = Field(None, ge=0)
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description='of the average of the weights that is exported; 0: none')
    recompute: bool = Field(
        False, description='keep no activations of blocks: a third more time, far less memory')
    objective: Literal['infonce', 'paper', 'lip', 'spherical_triplet', 'vxp'] = 'infonce'
    graded: Literal['none', 'distance', 'overlap'] = Field(
        'none', description='weigh positives by their distance, or by the overlap of submaps')
    relation_distance: float = Field(0.0, ge=0)
    relation_angle: float = Field(0.0, ge=0)
    relation_geodesic: float = Field(0.0, ge=0)
    temperature: float = Field(
        0.07, gt=0, description="where the learned one starts; with objective 'paper' it stays")
    min_temperature: float = Field(0.01, gt=0)
    max_temperature: float = Field(1.0, gt=0)
    positive_m: float = 20.0
    ignored_m: float = 40.0
    positive_deg: float = Field(
        60.0, gt=0, le=180, description='places that look so far apart are negative, however near')
    recall_m: float = Field(20.0, gt=0, description='within which a held-out answer is right')
    pair_m: float = Field(6.0, description='a pair is an image and a submap no further apart')
    pair_deg: float = Field(30.0, description='nor turned more from each other')
    submap_spacing_m: float = Field(2.5, description='denser than the map of the vehicle')
    views: Literal['map', 'image'] = Field(
        'map', description='the map seen from its own vehicle, or from about each image')
    views_per_image: int = Field(2, ge=1)
    view_along_m: float = Field(3.0, ge=0, description='views of images lie so far off at most')
    view_across_m: float = Field(2.0, ge=0)
    view_deg: float = Field(6.0, ge=0)
    seed_of_views: int = 0
    geometry: Literal['profile', 'depth'] = Field(
        'profile', description='what the tokens must tell too: see training.geometry')
    geometry_weight: float = Field(1.0, ge=0)
    candidates: int = Field(10, ge=4, description='places that the verifier compares at a time')
    images_per_place: int = Field(1, ge=1)
    mirror: float = Field(0.0, ge=0, le=1, description='share of pairs seen in a mirror')
    yaw_jitter_deg: float = 3.0
    colour_jitter: float = 0.3
    precision: str = Field('auto', pattern='^(auto|fp32|bf16)$')
    evaluate_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    checkpoint_minutes: float = Field(
        1.0, gt=0, description='a killed run has lost no more than this, also amid a long step')
    threads: int = Field(2, ge=1)

    @property
    def supervision(self) -> Literal['profile', 'depth'] | None:
        """Return by what the tokens are supervised; None if they are not."""
        wanted = self.geometry_weight > 0.0 and self.trains == 'encoders'
        return self.geometry if wanted else None

    @staticmethod
    def drives(sites: tuple[Site, ...]) -> set[tuple[str, str]]:
        """Return root and name of every drive in these sites."""
        return {(site.root, name) for site in sites
                for name in (site.map_drive, *site.query_drives)}
