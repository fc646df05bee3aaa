"""NetVLAD against a plain one written here, and what saliency does to it."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from saliency_i2ploc_ros.encoders.config import AggregationConfig
from saliency_i2ploc_ros.encoders.netvlad import NetVLAD, saliency_weight

PUBLISHED = AggregationConfig(clusters=5)
WITH_MEAN = AggregationConfig(clusters=5, intra_normalise=False, gating=False, mean_token=True)


def made(config, seed=0):
    torch.manual_seed(seed)
    return NetVLAD(12, 8, config).eval()


def tokens_and_attention(B=3, N=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(B, N, 12, generator=generator)
    return tokens, torch.randn(B, N, generator=generator).softmax(1)


def plain_netvlad(m, x):
    """Return NetVLAD as published, with context gating, from its parameters alone."""
    a = F.linear(x, m.assign.weight, m.assign.bias).softmax(2)
    v = a.transpose(1, 2) @ x - a.sum(1)[:, :, None] * m.centres
    v = F.normalize(F.normalize(v, dim=2).reshape(len(x), -1), dim=1)
    y = F.linear(v, m.project.weight)
    return y * torch.sigmoid(F.linear(y, m.gate.weight, m.gate.bias))


def test_strength_0_is_plain_netvlad_to_the_bit():
    m = made(PUBLISHED)
    tokens, attention = tokens_and_attention()
    assert saliency_weight(attention, 0.0) is None
    assert torch.equal(m(tokens, saliency_weight(attention, 0.0)), plain_netvlad(m, tokens))


def test_strength_1_changes_the_descriptor():
    m = made(PUBLISHED)
    tokens, attention = tokens_and_attention()
    changed = m(tokens, saliency_weight(attention, 1.0))
    assert (changed - m(tokens)).abs().max() > 1e-3
    half = m(tokens, saliency_weight(attention, 0.5))
    assert 1e-4 < (half - m(tokens)).abs().max() < (changed - m(tokens)).abs().max() * 1.5


@pytest.mark.parametrize('config', [PUBLISHED, WITH_MEAN])
def test_weighted_sums_are_those_of_loops(config):
    m = made(config).double()
    tokens, attention = tokens_and_attention()
    x, weight = tokens.double(), saliency_weight(attention.double(), 0.7)
    W, b, centres = (v.detach().numpy() for v in (m.assign.weight, m.assign.bias, m.centres))
    expected = np.zeros((3, 5, 12))
    for i in range(3):
        for n in range(20):
            token = x[i, n].numpy()
            share = np.exp(W @ token + b)
            share /= share.sum()
            for k in range(5):
                expected[i, k] += float(weight[i, n]) * share[k] * (token - centres[k])
    np.testing.assert_allclose(m.sums(x, weight).detach().numpy(), expected, atol=1e-12)


def test_the_mean_is_weighted_too():
    m = made(WITH_MEAN)
    tokens, attention = tokens_and_attention()
    torch.nn.init.zeros_(m.project.weight)
    weight = attention / attention.mean(1, keepdim=True)
    for given, mean in ((None, tokens.mean(1)),
                        (saliency_weight(attention, 1.0), (tokens * weight[..., None]).mean(1))):
        expected = m.project_mean(m.mean_norm(mean))
        torch.testing.assert_close(m(tokens, given), expected)


@pytest.mark.parametrize('strength', [0.3, 1.0])
def test_weights_average_one_and_do_not_depend_on_the_number_of_tokens(strength):
    _, attention = tokens_and_attention()
    weight = saliency_weight(attention, strength)
    torch.testing.assert_close(weight.mean(1), torch.ones(3))
    twice = saliency_weight(attention.repeat(1, 2) / 2.0, strength)
    torch.testing.assert_close(twice, weight.repeat(1, 2))
    uniform = saliency_weight(torch.full((2, 7), 0.01), strength)
    torch.testing.assert_close(uniform, torch.ones(2, 7))


def test_attention_reaches_the_weights_undamped():
    # The published sigmoid would give 0.5 and 0.6 here.
    weight = saliency_weight(torch.tensor([[0.4, 0.1, 0.1]]), 1.0)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 0.5, 0.5]]))
    assert saliency_weight(torch.tensor([[0.4, 0.1, 0.1]]), 3.0).min() == 0.0


@pytest.mark.parametrize('config', [PUBLISHED, WITH_MEAN])
def test_features_are_free_of_order_and_repetition(config):
    m = made(config)
    tokens, attention = tokens_and_attention()
    weight = saliency_weight(attention, 1.0)
    with torch.no_grad():
        one = m(tokens, weight)
        order = torch.randperm(20)
        torch.testing.assert_close(m(tokens[:, order], weight[:, order]), one)
        torch.testing.assert_close(m(tokens.repeat(1, 2, 1), weight.repeat(1, 2)), one,
                                   atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('config', [PUBLISHED, WITH_MEAN])
def test_gradients(config):
    m = made(config).double()
    tokens, attention = tokens_and_attention(B=2, N=6)
    x, a = tokens.double().requires_grad_(), attention.double().requires_grad_()
    parameters = tuple(m.parameters())

    def function(x, a, *_):
        return m(x, saliency_weight(a, 0.8))
    assert torch.autograd.gradcheck(function, (x, a, *parameters))


def test_sums_start_small_beside_the_mean():
    m = made(WITH_MEAN)
    tokens, _ = tokens_and_attention(B=64)
    sums = m.project(m.sums_norm(m.sums(tokens, None).flatten(1))).std()
    mean = m.project_mean(m.mean_norm(tokens.mean(1))).std()
    assert 0.03 < (sums / mean).item() < 0.3


def test_a_layout_keeps_where_tokens_are():
    m = NetVLAD(12, 16, WITH_MEAN.model_copy(update={'layout': 3}), 20)
    tokens, attention = tokens_and_attention()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    plain = NetVLAD(12, 16, WITH_MEAN)
    plain.load_state_dict({k: v for k, v in m.state_dict().items() if 'layout' not in k})
    with torch.no_grad():
        kept = m(tokens) - plain(tokens)
        # Token by token: what each adds depends on its place alone.
        x = m.layout_norm(m.layout_in(tokens).reshape(3, 60))
        expected = sum(x[:, 3 * n:3 * n + 3] @ m.layout_out.weight[:, 3 * n:3 * n + 3].T
                       for n in range(20))
        torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-5)
        moved = m(tokens[:, order]) - plain(tokens[:, order])
        assert (moved - kept).abs().max() > 1e-2
        weight = saliency_weight(attention, 1.0)
        assert (m(tokens, weight) - plain(tokens, weight) - kept).abs().max() > 1e-2
