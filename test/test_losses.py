"""The training losses against plain loops."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.training.losses import (
    cloud_columns,
    contrastive_loss,
    distances,
    geometry_loss,
    GeometryHead,
    image_columns,
    Temperature,
)


def unit(rng, n, d):
    x = rng.standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def loss_by_loops(images, clouds, distance, temperature, positive_m, ignored_m):
    """The definition, pair by pair, in float64."""
    n = len(images)

    def one_way(a, b, d):
        rows = []
        for i in range(n):
            score = [math.exp(float(a[i] @ b[j]) / temperature) for j in range(n)]
            negatives = sum(score[j] for j in range(n) if j != i and d[i][j] >= ignored_m)
            positives = [j for j in range(n) if j == i or d[i][j] < positive_m]
            rows.append(sum(-math.log(score[p] / (score[p] + negatives)) for p in positives)
                        / len(positives))
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


def test_places_of_different_sites_are_infinitely_far():
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


def test_columns_are_means_by_column():
    tokens = torch.arange(2 * 6 * 3, dtype=torch.float32).reshape(2, 6, 3)
    columns = image_columns(tokens, 3)
    for b in range(2):
        for k in range(3):
            assert torch.equal(columns[b, k], (tokens[b, k] + tokens[b, k + 3]) / 2)
    column = torch.tensor([[0, 0, 2, -1, 2, 2], [-1, -1, -1, -1, -1, 1]])
    gathered = cloud_columns(tokens, column, 3)
    assert torch.equal(gathered[0, 0], tokens[0, :2].mean(0))
    assert torch.equal(gathered[0, 1], torch.zeros(3))
    assert torch.allclose(gathered[0, 2], tokens[0, [2, 4, 5]].mean(0))
    assert torch.equal(gathered[1, 1], tokens[1, 5])


def test_geometry_is_only_asked_where_it_was_measured():
    head = GeometryHead(8, 3, 12)
    predicted = head(torch.randn(2, 3, 8))
    assert predicted.shape == (2, 12, 2)
    profile = torch.full((2, 12, 2), torch.nan)
    assert float(geometry_loss(predicted, profile)) == 0.0
    profile[0, 4, 1] = predicted[0, 4, 1].item() + 1.0
    assert float(geometry_loss(predicted, profile)) == pytest.approx(1.0 - 0.1, abs=1e-5)
