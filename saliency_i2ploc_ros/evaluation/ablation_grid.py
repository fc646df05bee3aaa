"""A grid of an ablation, as a YAML file has it: what is varied, for how long, with which seeds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

BASE = 'base'


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra='forbid')


class Budget(_Config):
    """
    What each run may spend: one of the three.

    steps: of the optimiser. pairs: that are seen, so that steps are pairs over batch. minutes: of
    one core; the steps are fixed beforehand, from the variant's measured speed.
    """

    steps: int | None = Field(default=None, ge=1)
    pairs: int | None = Field(default=None, ge=2)
    minutes: float | None = Field(default=None, gt=0.0)

    @model_validator(mode='after')
    def _one(self) -> Budget:
        if sum(value is not None for value in (self.steps, self.pairs, self.minutes)) != 1:
            raise ValueError('give one of steps, pairs and minutes')
        return self

    def __str__(self) -> str:
        if self.minutes is not None:
            return f'{self.minutes:g} minutes of one core'
        return f'{self.steps} steps' if self.steps is not None else f'{self.pairs} pairs seen'


class Variant(_Config):
    """
    One change of the base recipe.

    settings: by dotted name, as model.aggregation.saliency_strength. preset: encoders other than
    the base's. against: the variant that it is compared with. why: what it asks, for the reader.
    """

    why: str = ''
    preset: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    against: str = BASE


class Grid(_Config):
    """A grid of variants as a file has it; `base` holds settings of every run."""

    title: str
    question: str = ''
    preset: str = 'city'
    base: dict[str, Any] = Field(default_factory=dict)
    budget: Budget
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    variants: dict[str, Variant] = Field(min_length=1)

    @model_validator(mode='after')
    def _known(self) -> Grid:
        if BASE in self.variants:
            raise ValueError(f'no variant may be named {BASE!r}: it is what the others vary')
        for name, variant in self.variants.items():
            if variant.against not in (BASE, *self.variants) or variant.against == name:
                raise ValueError(f'{name!r} is compared with {variant.against!r}, which is no '
                                 'other variant')
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError('a seed comes twice')
        return self
