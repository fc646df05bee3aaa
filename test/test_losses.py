"""The training losses against plain loops."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.training.losses import (
    contrastive_loss,
    distances,
    LEAST_WEIGHT,
    lip_loss,
    published_loss,
    Temperature,
    weight_by_distance,
    weight_by_overlap,
)


def unit(rng, n, d):
    x = rng.standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def loss_by_loops(images, clouds, distance, temperature, positive_m, ignored_m, weigh=None):
    """The definition, pair by pair, in float64; weigh: what a positive at a distance weighs."""
    n = len(images)

    def one_way(a, b, d):
        rows = []
        for i in range(n):
            score = [math.exp(float(a[i] @ b[j]) / temperature) for j in range(n)]
            negatives = sum(score[j] for j in range(n) if j != i and d[i][j] >= ignored_m)
            weights = {j: 1.0 if weigh is None else weigh(d[i][j])
                       for j in range(n) if j == i or d[i][j] < positive_m}
            weights[i] = max(weights[i], LEAST_WEIGHT)
            rows.append(sum(-w * math.log(score[p] / (score[p] + negatives))
                            for p, w in weights.items()) / sum(weights.values()))
        return sum(rows) / n

    a, b = images.astype(np.float64), clouds.astype(np.float64)
    return (one_way(a, b, distance) + one_way(b, a, distance.T)) / 2


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.07, 1.0]))
def test_contrastive_loss_equals_the_definition(n, seed, temperature):
    rng = np.random.default_rng(seed)
    images, clouds = unit(rng, n, 8), unit(rng, n, 8)
    distance = rng.uniform(0, 80, (n, n))
    loss = contrastive_loss(torch.from_numpy(images), torch.from_numpy(clouds),
                            torch.from_numpy(distance), torch.tensor(temperature))
    expected = loss_by_loops(images, clouds, distance, temperature, 20.0, 40.0)
    assert float(loss) == pytest.approx(expected, rel=2e-4, abs=2e-5)


def test_without_negatives_the_loss_and_its_gradient_are_zero():
    images = torch.randn(4, 8, requires_grad=True)
    loss = contrastive_loss(images, torch.randn(4, 8), torch.zeros(4, 4), torch.tensor(0.07))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(images.grad, torch.zeros_like(images))


def test_gradient_by_finite_differences():
    torch.manual_seed(0)
    distance = torch.tensor([[0.0, 30.0, 90.0], [10.0, 5.0, 60.0], [70.0, 80.0, 3.0]])

    def loss(a, b, t):
        return contrastive_loss(a, b, distance, t)

    # The loss works in fp32 whatever comes in, so the tolerance is that of fp32.
    inputs = [torch.randn(3, 4), torch.randn(3, 4), torch.tensor(0.5)]
    for tensor in inputs:
        tensor.requires_grad_(True)
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    with torch.no_grad():
        for which, gradient in enumerate(gradients):
            flat = inputs[which].view(-1)
            for i in range(flat.numel()):
                old = flat[i].item()
                flat[i] = old + 1e-2
                up = float(loss(*inputs))
                flat[i] = old - 1e-2
                down = float(loss(*inputs))
                flat[i] = old
                assert (up - down) / 2e-2 == pytest.approx(
                    float(gradient.view(-1)[i]), rel=0.02, abs=2e-3)


def test_places_of_different_frames_are_infinitely_far():
    xy = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    d = distances(xy, torch.tensor([0, 1]), xy, torch.tensor([0, 0]))
    assert d[0].tolist() == [0.0, 5.0]
    assert torch.isinf(d[1]).all()


def test_temperature_is_clamped():
    temperature = Temperature(0.07, 0.01, 1.0)
    with torch.no_grad():
        temperature.log.fill_(-100.0)
    temperature.clamp()
    assert temperature().item() == pytest.approx(0.01)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_graded_positives_count_by_their_distance(n, seed):
    rng = np.random.default_rng(seed)
    images, clouds = unit(rng, n, 8), unit(rng, n, 8)
    distance = rng.uniform(0, 80, (n, n))
    weight = weight_by_distance(torch.from_numpy(distance), 20.0)
    loss = contrastive_loss(torch.from_numpy(images), torch.from_numpy(clouds),
                            torch.from_numpy(distance), torch.tensor(0.1), weight=weight)
    expected = loss_by_loops(images, clouds, distance, 0.1, 20.0, 40.0,
                             lambda d: max(0.0, (20.0 - d) / 20.0))
    assert float(loss) == pytest.approx(expected, rel=2e-4, abs=2e-5)


def test_overlap_is_that_of_two_circles():
    """Counted on a fine grid of points."""
    x, y = np.meshgrid(np.linspace(-40, 80, 1201), np.linspace(-40, 40, 801))
    here = x ** 2 + y ** 2 < 20.0 ** 2
    for d in (0.0, 3.0, 15.0, 30.0, 39.0, 40.0, 70.0):
        there = (x - d) ** 2 + y ** 2 < 20.0 ** 2
        expected = (here & there).sum() / (here | there).sum()
        assert float(weight_by_overlap(torch.tensor(d), 40.0)) == pytest.approx(expected, abs=3e-3)
    assert float(weight_by_overlap(torch.tensor(torch.inf), 40.0)) == 0.0


def published_by_loops(images, clouds, distance, image_distance, tau, positive_m, ignored_m):
    """One row of 2 n - 1 candidates for each image, each in a list of its own, in float64."""
    rows = []
    for i, x in enumerate(images.astype(np.float64)):
        near = [j for j in range(len(clouds)) if j == i or distance[i][j] < positive_m]
        rivals = [clouds[j] for j in range(len(clouds)) if j != i and distance[i][j] >= ignored_m]
        rivals += [images[j] for j in range(len(images))
                   if j != i and image_distance[i][j] >= ignored_m]
        crowd = sum(math.exp(float(x @ r) / tau) for r in rivals)
        terms = [math.log1p(crowd / math.exp(float(x @ clouds[j]) / tau)) for j in near]
        rows.append(sum(terms) / len(terms))
    return sum(rows) / len(rows)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_published_loss_equals_the_definition(n, seed):
    rng = np.random.default_rng(seed)
    images, clouds = unit(rng, n, 8), unit(rng, n, 8)
    distance, between = rng.uniform(0, 80, (2, n, n))
    loss = published_loss(*(torch.from_numpy(a) for a in (images, clouds, distance, between)),
                          0.07)
    expected = published_by_loops(images, clouds, distance, between, 0.07, 20.0, 40.0)
    assert float(loss) == pytest.approx(expected, rel=2e-4, abs=2e-5)


def test_of_places_far_apart_the_published_loss_is_one_cross_entropy():
    torch.manual_seed(0)
    n = 7
    images, clouds = (torch.nn.functional.normalize(torch.randn(n, 16), dim=1) for _ in range(2))
    far = torch.full((n, n), 1e3)
    similarity = torch.cat([images @ clouds.T, images @ images.T], 1) / 0.07
    rows = [torch.cat([row[:n + i], row[n + i + 1:]]) for i, row in enumerate(similarity)]
    candidates = torch.stack(rows)
    assert candidates.shape == (n, 2 * n - 1)
    expected = torch.nn.functional.cross_entropy(candidates, torch.arange(n))
    assert float(published_loss(images, clouds, far, far, 0.07)) == pytest.approx(
        float(expected), rel=1e-5)


def test_lip_loss_is_the_mean_of_both_softmaxes():
    rng = np.random.default_rng(0)
    images, clouds = unit(rng, 6, 8), unit(rng, 6, 8)
    share = np.exp(images.astype(np.float64) @ clouds.T)
    expected = -np.mean([np.log(np.diag(share) / share.sum(axis)) for axis in (0, 1)])
    loss = lip_loss(torch.from_numpy(images), torch.from_numpy(clouds))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_under_autocast_the_losses_stay_in_fp32():
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(8, 16), dim=1) for _ in range(2))
    far = torch.full((8, 8), 1e3)

    def losses():
        return [contrastive_loss(a, b, far, torch.tensor(0.07)),
                published_loss(a, b, far, far, 0.07), lip_loss(a, b)]

    with torch.autocast('cpu', torch.bfloat16):
        inside = losses()
    for x, y in zip(inside, losses(), strict=True):
        assert x.dtype == torch.float32 and torch.equal(x, y)
