"""Feature relation consistency against definitions, pair by pair, in float64."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr
import torch

from saliency_i2ploc_ros.training.relation import (
    angle_consistency,
    CURVATURE,
    distance_consistency,
    geodesic_consistency,
    poincare_distances,
)


def features(seed: int, n: int = 6, d: int = 5, spread: float = 1.0) -> np.ndarray:
    """Return vectors (n, d) of different lengths."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.exp(spread * rng.standard_normal((n, 1)))


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32))


def smooth_l1(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1.0 else abs(x) - 0.5


def difference_by_loops(a: np.ndarray, b: np.ndarray, relation) -> float:
    """Every pair's relation over the mean of all, compared."""
    n = len(a)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    of_a, of_b = ([relation(x[i], x[j]) for i, j in pairs] for x in (a, b))
    mean_a, mean_b = sum(of_a) / len(pairs), sum(of_b) / len(pairs)
    return sum(smooth_l1(p / mean_a - q / mean_b)
               for p, q in zip(of_a, of_b, strict=True)) / len(pairs)


def geodesic(v: np.ndarray, w: np.ndarray, c: float = CURVATURE) -> float:
    """By the exponential map and Moebius addition: 2 / sqrt(c) artanh(sqrt(c) |-x + y|)."""
    def into_ball(v):
        length = math.sqrt(c) * np.linalg.norm(v)
        return np.tanh(length) * v / length
    x, y = -into_ball(v), into_ball(w)
    xy, xx, yy = x @ y, x @ x, y @ y
    z = ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c * c * xx * yy)
    return 2 / math.sqrt(c) * math.atanh(math.sqrt(c) * np.linalg.norm(z))


@pytest.mark.parametrize('seed', range(4))
def test_distances_and_geodesics_equal_their_definitions(seed):
    a, b = features(seed), features(seed + 100)
    assert float(distance_consistency(tensor(a), tensor(b))) == pytest.approx(
        difference_by_loops(a, b, lambda x, y: math.dist(x, y)), rel=1e-4)
    assert float(geodesic_consistency(tensor(a), tensor(b))) == pytest.approx(
        difference_by_loops(a, b, geodesic), rel=1e-4)


@pytest.mark.parametrize('seed', range(4))
def test_angles_are_those_of_all_triplets(seed):
    a, b = features(seed), features(seed + 100)

    def cosine(x, i, j, k):
        u, v = x[j] - x[i], x[k] - x[i]
        return sum(u * v) / math.sqrt(sum(u * u) * sum(v * v))

    n = len(a)
    triplets = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)
                if len({i, j, k}) == 3]
    expected = sum(smooth_l1(cosine(a, *t) - cosine(b, *t)) for t in triplets) / len(triplets)
    assert float(angle_consistency(tensor(a), tensor(b))) == pytest.approx(expected, rel=1e-4)


def test_geodesics_near_the_rim_keep_their_digits():
    """Where tanh rounds to one in fp32; the oracle works in the law of cosines' terms, exactly."""
    mpmath = pytest.importorskip('mpmath')
    v = np.array([[20.0, 0.0], [0.0, 20.0], [24.0, 7.0], [-15.0, 20.0]])
    got = poincare_distances(tensor(v)).numpy()
    with mpmath.workdps(60):
        root = mpmath.sqrt(mpmath.mpf(1) / 10)
        for i in range(4):
            for j in range(i):
                x, y = ([mpmath.tanh(root * mpmath.norm(w)) * mpmath.mpf(float(t))
                         / (root * mpmath.norm(w)) for t in w] for w in (v[i], v[j]))
                gap = sum((s - t) ** 2 for s, t in zip(x, y, strict=True))
                rim = [1 - mpmath.mpf(1) / 10 * sum(s * s for s in p) for p in (x, y)]
                exact = mpmath.acosh(1 + 2 * mpmath.mpf(1) / 10 * gap / (rim[0] * rim[1])) / root
                assert got[i, j] == pytest.approx(float(exact), rel=1e-5)


def test_geodesics_equal_geoopts():
    geoopt = pytest.importorskip('geoopt')
    # Not nearer the rim, where it clamps.
    v = torch.from_numpy(0.5 * features(3, n=20, d=8, spread=0.3))
    ball = geoopt.PoincareBall(c=CURVATURE)
    x = ball.expmap0(v)
    expected = ball.dist(x[:, None], x[None]).fill_diagonal_(0.0)
    assert torch.allclose(poincare_distances(v).double(), expected, rtol=1e-4, atol=1e-5)


def ranks_agree(x: np.ndarray) -> float:
    """Return the rank correlation of Poincare and Euclidean distances of all pairs."""
    i, j = np.triu_indices(len(x), 1)
    euclidean = np.linalg.norm(x[i] - x[j], axis=1)
    return float(spearmanr(poincare_distances(tensor(x)).numpy()[i, j], euclidean).statistic)


def test_the_hyperbolic_term_ranks_pairs_otherwise_than_the_euclidean_one():
    """On features it tells something of its own; on unit vectors it would only repeat."""
    x = features(0, n=40, d=16, spread=0.7)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert ranks_agree(3.0 * x) < 0.97
    assert ranks_agree(unit) > 0.99999
    i, j = np.triu_indices(len(x), 1)
    descriptors = np.linalg.norm(unit[i] - unit[j], axis=1)
    features_apart = poincare_distances(tensor(3.0 * x)).numpy()[i, j]
    assert spearmanr(features_apart, descriptors).statistic < 0.8


def test_scale_and_rotation_of_one_side_do_not_matter():
    x = features(5)
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))
    for term in (distance_consistency, angle_consistency):
        assert float(term(tensor(x), tensor(3.0 * x @ turn))) == pytest.approx(0.0, abs=1e-9)
        assert float(term(tensor(x), tensor(features(6)))) > 0.01
    assert float(geodesic_consistency(tensor(x), tensor(x @ turn))) == pytest.approx(0, abs=1e-9)
    # Nearer the rim everything lies otherwise: the ball has a scale.
    assert float(geodesic_consistency(tensor(x), tensor(5.0 * x))) > 1e-3


@pytest.mark.parametrize('term', [distance_consistency, angle_consistency, geodesic_consistency])
def test_gradients_stay_finite_where_distances_have_none(term):
    x = features(1)
    x[1] = x[0]
    x[2] = 0.0
    x[3] *= 1e4
    for n in (1, 2, 6):
        a, b = tensor(x[:n]).requires_grad_(), tensor(features(2)[:n]).requires_grad_()
        loss = term(a, b)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(a.grad).all()
        assert torch.isfinite(b.grad).all()


@pytest.mark.parametrize('term', [distance_consistency, angle_consistency, geodesic_consistency])
def test_autocast_changes_nothing(term):
    a, b = tensor(features(1)), tensor(features(2))
    with torch.autocast('cpu', torch.bfloat16):
        inside = term(a, b)
    assert torch.equal(inside, term(a, b)) and inside.dtype == torch.float32
