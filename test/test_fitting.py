"""What a calibration is fitted by, against simulations of known truth and against brute force."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.fitting import (
    auroc,
    availability,
    effective_size,
    fit_logistic,
    fit_nothing,
    fit_power,
    honest_ece,
    reliability,
    risk_coverage,
    trust_figures,
)
from saliency_i2ploc_ros.evaluation.recall import block_bootstrap, block_bootstrap_of
from saliency_i2ploc_ros.localization.calibration import Power

WEIGHTS, BIAS = np.array([0.8, -1.5, 0.0, 3.0, 0.4]), -0.5
MEAN, SCALE = np.array([3.0, 0.6, 0.0, 0.5, 10.0]), np.array([2.0, 0.1, 0.05, 0.3, 4.0])


def simulated(n, seed, shift=0.0):
    """Return evidence of very different scales, and answers right as often as they should be."""
    rng = np.random.default_rng(seed)
    evidence = rng.normal(MEAN, SCALE, (n, 5))
    z = evidence @ WEIGHTS - MEAN @ WEIGHTS + BIAS + shift
    return evidence, rng.random(n) < 1.0 / (1.0 + np.exp(-z))


def test_the_regression_finds_what_made_the_answers():
    evidence, right = simulated(40_000, 0)
    found = fit_logistic(evidence, right)
    assert np.asarray(found.weights) * SCALE == pytest.approx(WEIGHTS * SCALE, abs=0.06)
    assert found.bias == pytest.approx(BIAS - MEAN @ WEIGHTS, abs=0.6)


def test_its_probabilities_hold_and_do_not_where_the_truth_has_moved():
    found = fit_logistic(*simulated(3000, 1))
    evidence, right = simulated(3000, 2)
    p = found(evidence)
    assert trust_figures(p, right)['ece'] <= honest_ece(p)[1] + 0.01
    evidence, right = simulated(3000, 3, shift=-1.5)
    p = found(evidence)
    assert trust_figures(p, right)['ece'] > 3.0 * honest_ece(p)[1]


def test_an_importance_is_as_many_images():
    evidence, right = simulated(60, 4)
    times = np.random.default_rng(0).integers(1, 4, 60)
    found = fit_logistic(evidence, right, times)
    same = fit_logistic(np.repeat(evidence, times, axis=0), np.repeat(right, times))
    assert found.weights == pytest.approx(same.weights, rel=1e-3, abs=1e-3)
    p = found(evidence)
    assert trust_figures(p, right, times)['brier'] == pytest.approx(
        trust_figures(np.repeat(p, times), np.repeat(right, times))['brier'])
    many = risk_coverage(np.repeat(p, times), np.repeat(right, times))
    assert np.allclose(risk_coverage(p, right, times), many)


def test_a_regression_of_one_kind_of_answer_is_refused():
    evidence, right = simulated(20, 5)
    for flags, word in ((right | True, 'right'), (right & False, 'wrong')):
        with pytest.raises(InputError, match=f'all of the 20 answers are {word}.*other drives'):
            fit_logistic(evidence, flags)


def test_separable_answers_get_finite_weights():
    evidence, _ = simulated(40, 6)
    found = fit_logistic(evidence, evidence[:, 3] > 0.5)
    assert np.isfinite(found.weights).all() and 0.0 < found(evidence).min() < 0.2


def test_the_law_of_deviations_is_found_and_holds():
    rng = np.random.default_rng(7)
    truth = Power(scale=0.4, floor=1.0, power=1.5, growth=0.1)
    spread, doubt = rng.exponential(3.0, 20_000), rng.uniform(-8, 2, 20_000)
    error = rng.normal(0.0, truth(spread, doubt))
    found = fit_power(spread, doubt, error, 1.0)
    assert found.scale == pytest.approx(0.4, rel=0.05)
    assert found.power == pytest.approx(1.5, abs=0.05)
    assert found.growth == pytest.approx(0.1, abs=0.01)
    ratio = error / found(spread, doubt)
    assert (ratio ** 2).mean() == pytest.approx(1.0, abs=1e-3)
    for chosen in (spread < 1.0, spread > 6.0, doubt < -6.0, doubt > 0.0):
        assert (ratio[chosen] ** 2).mean() == pytest.approx(1.0, abs=0.1)
        assert (np.abs(ratio[chosen]) <= 2.0).mean() == pytest.approx(0.954, abs=0.015)


def test_few_errors_do_not_make_a_bold_law():
    rng = np.random.default_rng(11)
    spread, doubt = rng.exponential(3.0, 12), rng.uniform(-8, 2, 12)
    error = np.exp(0.4 * doubt) * (0.1 + spread ** 2)  # as extreme as few of them can look
    few, many = (fit_power(*(np.tile(v, n) for v in (spread, doubt, error)), 1.0)
                 for n in (1, 100))
    assert few.growth < 0.75 * many.growth and many.growth == pytest.approx(0.4, abs=0.05)
    ratio = error / few(spread, doubt)
    assert (ratio ** 2).mean() == pytest.approx(1.0, abs=1e-3)


def test_errors_that_are_few_or_none():
    n = np.ones(9)
    with pytest.raises(InputError, match='only 9 answers are right.*more drives'):
        fit_power(n, n, n, 1.0)
    found = fit_power(np.ones(30), np.zeros(30), np.zeros(30), 1.0)
    assert 0.0 < found(1.0, 0.0) < 1e-4


def test_the_share_that_says_nothing_is_found():
    rng = np.random.default_rng(8)
    n, k, places, temperature, share = 4000, 20, 500, 0.05, 0.15
    scores = np.sort(rng.uniform(0.3, 0.8, (n, k)), axis=1)[:, ::-1]
    weights = np.exp(scores / temperature)
    weights /= weights.sum(1, keepdims=True)
    drawn = (weights.cumsum(1) < rng.random((n, 1))).sum(1)
    place = np.where(rng.random(n) < share, rng.integers(0, places, n), np.minimum(drawn, k - 1))
    near = place[:, None] == np.arange(k)
    chance = np.full(n, 1.0 / places)
    found = fit_nothing(scores, near, chance, temperature)
    assert found == pytest.approx(share, rel=0.15)
    # Images from where the map has no place change nothing.
    more = fit_nothing(np.concatenate([scores, scores[:900]]),
                       np.concatenate([near, near[:900] & False]),
                       np.concatenate([chance, np.zeros(900)]), temperature)
    assert more == found


def test_reliability_by_hand():
    p = np.array([.1, .1, .2, .2, .8, .9, .9, 1.0])
    right = np.array([0, 1, 0, 0, 1, 1, 0, 1], bool)
    mean, share, count = reliability(p, right, bins=2)
    assert mean == pytest.approx([0.15, 0.9])
    assert share.tolist() == [0.25, 0.75] and count.tolist() == [4.0, 4.0]
    figures = trust_figures(p, right)
    assert figures['right'] == 0.5
    assert figures['brier'] == pytest.approx(
        (.01 + .81 + .04 + .04 + .04 + .01 + .81 + 0.0) / 8.0)
    # Eight images are eight groups of ten.
    assert figures['ece'] == pytest.approx((.1 + .9 + .2 + .2 + .2 + .1 + .9 + 0.0) / 8.0)


def test_honest_probabilities_have_the_ece_of_chance():
    # Of 100 fair coins the share differs from a half by 0.0398 on average.
    mean, most = honest_ece(np.full(1000, 0.5))
    assert mean == pytest.approx(0.0398, abs=0.003) and mean < most < 0.065


scores = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(scores)
def test_auroc_is_what_counting_pairs_gives(rows):
    score, positive = np.array([s for s, _ in rows]), np.array([b for _, b in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    found = auroc(score, positive)
    assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


@settings(max_examples=100, deadline=None)
@given(scores, st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0]))
def test_availability_is_the_best_of_all_thresholds(rows, rate):
    p, right = np.array([s for s, _ in rows]) / 5.0, np.array([b for _, b in rows])
    best = max([(np.mean(p >= t), t) for t in p if np.mean(~right[p >= t]) <= rate],
               default=(0.0, np.inf))
    share, threshold = availability(p, right, rate)
    assert share == pytest.approx(best[0]) and threshold == best[1]
    assert share == pytest.approx(np.mean(p >= threshold))  # also where it is that of nothing


def test_what_is_wrong_at_certainty_is_not_accepted_either():
    assert availability(np.ones(4), np.zeros(4, bool), 0.01) == (0.0, np.inf)


def test_the_effective_size_is_that_of_theory():
    rng = np.random.default_rng(9)
    noise = rng.normal(size=20_000)
    assert effective_size(noise) == pytest.approx(20_000, rel=0.05)
    for rho in (0.5, 0.8):
        x = np.zeros(20_000)
        for i in range(1, len(x)):
            x[i] = rho * x[i - 1] + noise[i]
        assert effective_size(x) == pytest.approx(20_000 * (1 - rho) / (1 + rho), rel=0.15)
    assert effective_size(np.ones(7)) == 7.0
    assert effective_size(np.zeros(0)) == 0.0


def test_the_bootstrap_of_a_mean_is_that_of_the_mean():
    rng = np.random.default_rng(10)
    blocks = rng.integers(0, 12, 90)
    hits = rng.random(90) < 0.3 + 0.05 * blocks
    low, high = block_bootstrap_of(
        lambda rows: np.array([hits[rows].mean(), np.nan]), blocks, samples=200, seed=3)
    assert (low[0], high[0]) == pytest.approx(block_bootstrap(hits, blocks, samples=200, seed=3))
    assert np.isnan([low[1], high[1]]).all()
    low, high = block_bootstrap_of(lambda rows: np.zeros(3), np.zeros(5, int))
    assert np.isnan([low, high]).all() and low.shape == (3,)
