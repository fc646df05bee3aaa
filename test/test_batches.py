"""Which pairs of a batch belong together: by the frames of the sites, and not by the sites."""

from dataclasses import fields

from helpers_training import noise_config
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.training.batches import Batch, draw_batch
from saliency_i2ploc_ros.training.objectives import InfoNce
from saliency_i2ploc_ros.training.pairs import PreparedSite

STEP_M, N = 10.0, 12


def street(number: int, frame: str) -> PreparedSite:
    """Return a drive along the x axis, every image of the brightness `number`."""
    tokens = noise_config().model.cloud.tokens
    rng = np.random.default_rng(number)
    xy = np.stack([STEP_M * np.arange(N), np.full(N, 1.0 * number)], 1)
    groups = rng.standard_normal((N, tokens.centres, tokens.neighbours, 3)).astype(np.float32)
    return PreparedSite(
        np.full((N, 32, 104, 3), number, np.uint8), xy, np.zeros(N),
        (groups, rng.standard_normal((N, tokens.centres, 3)).astype(np.float32)), xy + 0.5,
        np.zeros(N), None, None, np.arange(N), [np.array([i]) for i in range(N)], frame)


def streets(*frames: str) -> list[PreparedSite]:
    return [street(number, frame) for number, frame in enumerate(frames)]


def recipe(**changes):
    return noise_config(**{
        'batch': 12, 'sites_per_batch': 3, 'colour_jitter': 0.0, 'geometry_weight': 0.0,
        'positive_m': 15.0, 'ignored_m': 25.0, **changes})


def sites_of(batch: Batch) -> np.ndarray:
    """Return which site each pair was drawn of."""
    return batch.images[:, 0, 0, 0].numpy().astype(int)


@pytest.mark.parametrize('mirror', [0.0, 0.5])
def test_drives_of_one_frame_are_as_far_apart_as_they_are(mirror):
    config, frames = recipe(mirror=mirror), ('one', 'other', 'one')
    batch = draw_batch(streets(*frames), config, 0)
    site, mirrored = sites_of(batch), batch.frame.numpy() < 0
    assert set(site) == {0, 1, 2} and mirrored.any() == (mirror > 0.0)
    apart = InfoNce(config).apart(batch)
    near = 0
    for i in range(12):
        for j in range(12):
            together = frames[site[i]] == frames[site[j]] and mirrored[i] == mirrored[j]
            expected = (np.linalg.norm(batch.image_xy[i] - batch.cloud_xy[j]) if together
                        else np.inf)
            assert float(apart[i, j]) == pytest.approx(expected)
            near += site[i] != site[j] and expected < config.positive_m
    assert near > 0  # else nothing was tried


def test_the_other_drive_of_a_street_is_no_negative():
    """What is alike is of one place, of whichever drive: the loss has nothing to pull apart."""
    config = recipe(positive_m=5.0)
    batch = draw_batch(streets('one', 'one', 'one'), config, 1)
    images = torch.nn.functional.one_hot((batch.image_xy[:, 0] / STEP_M).long(), N).float()
    alone = Batch(**{field.name: getattr(batch, field.name) for field in fields(Batch)
                     if field.name != 'frame'}, frame=torch.arange(12))
    losses = [float(InfoNce(config).contrast(images, images, images, images, each,
                                             torch.tensor(0.1), 0.0)['contrast'])
              for each in (batch, alone)]
    assert losses[0] < 0.01 * losses[1]


@pytest.mark.parametrize('mirror', [0.0, 0.5])
def test_sites_of_frames_of_their_own_are_drawn_as_before_there_were_frames(mirror):
    """What is drawn does not depend on frames; and a frame's number is then its site's."""
    config = recipe(mirror=mirror)
    for step in range(3):
        cities, drives = (draw_batch(streets(*frames), config, step)
                          for frames in ('abc', 'aaa'))
        for field in fields(Batch):
            if field.name == 'clouds':
                assert all(map(torch.equal, cities.clouds, drives.clouds))
            elif field.name != 'frame':
                assert torch.equal(getattr(cities, field.name), getattr(drives, field.name))
        number = cities.frame.numpy()
        np.testing.assert_array_equal(np.where(number < 0, -1 - number, number),
                                      sites_of(cities))
