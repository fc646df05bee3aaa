"""What a training run is made of: the whole recipe, written into its folder and its model."""

from __future__ import annotations

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

    Learning rates follow the schedule: a linear warm-up, then a cosine to zero at `steps`.
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    model: ModelConfig
    sites: tuple[Site, ...] = Field(min_length=1)
    held_out: tuple[Site, ...] = ()
    seed: int = 0
    steps: int = Field(10_000, ge=1)
    warmup_steps: int = Field(200, ge=0)
    batch: int = Field(32, ge=2)
    sites_per_batch: int = Field(
        4, ge=1, description='places of few sites in a batch: negatives that look alike')
    lr_image: float = 1e-3
    lr_cloud: float = 1e-3
    lr_aggregation: float = 1e-3
    lr_temperature: float = 5e-3
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    temperature: float = Field(0.07, gt=0, description='where the learned one starts')
    min_temperature: float = Field(0.01, gt=0)
    max_temperature: float = Field(1.0, gt=0)
    positive_m: float = 20.0
    ignored_m: float = 40.0
    pair_m: float = Field(6.0, description='a pair is an image and a submap no further apart')
    pair_deg: float = Field(30.0, description='nor turned more from each other')
    submap_spacing_m: float = Field(2.5, description='denser than the map of the vehicle')
    geometry_weight: float = Field(
        1.0, ge=0, description='weight of predicting the range and height profile by azimuth')
    yaw_jitter_deg: float = 3.0
    colour_jitter: float = 0.3
    precision: str = Field('auto', pattern='^(auto|fp32|bf16)$')
    evaluate_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    threads: int = Field(2, ge=1)

    @staticmethod
    def drives(sites: tuple[Site, ...]) -> set[tuple[str, str]]:
        """Return root and name of every drive in these sites."""
        return {(site.root, name) for site in sites
                for name in (site.map_drive, *site.query_drives)}
