"""The verifier's training: hard candidates, its losses, and that all else stays as it was."""

from dataclasses import replace
import json
import math

from helpers_training import noise_config
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.encoders.config import ModelConfig, VerifierConfig
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import load_model, save_model
from saliency_i2ploc_ros.encoders.presets import PRESETS
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.training import trainer
from saliency_i2ploc_ros.training.config import TrainingConfig
from saliency_i2ploc_ros.training.held_out import evaluate
from saliency_i2ploc_ros.training.origin import start_from, verifier_weights
from saliency_i2ploc_ros.training.pairs import PreparedSite
from saliency_i2ploc_ros.training.task import TrainingTask
from saliency_i2ploc_ros.training.trainer import train
from saliency_i2ploc_ros.training.verification import (
    draw_candidates,
    encoded_site,
    EncodedSite,
    verifier_loss,
)

CPU = torch.device('cpu')


def looking(verifier: bool = True, mirrored: bool = True) -> ModelConfig:
    """Return a tiny model of the kind that can be verified."""
    values = PRESETS['ours-city'].model_dump()
    camera = PRESETS['ours-city'].image.camera.resized(48, 16)
    for branch in ('image', 'cloud'):
        values[branch].update(height=16, width=48, patch=8, dim=32, depth=1, heads=2)
    values['image'].update(camera=camera)
    values['aggregation'].update(clusters=2, layout=4)
    values.update(descriptor_dim=16, mirrored=mirrored)
    if verifier:
        values['verifier'] = VerifierConfig(details=4, width=8, depth=1, reach=1, weight=1.0)
    return ModelConfig.model_validate(values)


def config_for(**changes) -> TrainingConfig:
    return noise_config(**{
        'model': looking(), 'trains': 'verifier', 'batch': 8, 'candidates': 6,
        'sites_per_batch': 2, 'positive_m': 6.0, 'ignored_m': 12.0, 'lr_aggregation': 5e-3,
        'warmup_steps': 0, **changes})


def noise_site(seed: int, n: int = 40) -> PreparedSite:
    """Return a street of n pictures, a view at each; a view is its picture in range."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 16, 48, 3), np.uint8)
    ranges = (images.mean(3)[:, None] / 4.0).astype(np.float16)
    xy = np.stack([4.0 * np.arange(n), np.zeros(n)], 1)
    yaw = np.where(np.arange(n) % 2, math.pi, 0.0)
    return PreparedSite(images, xy, yaw, (ranges,), xy + 0.5, yaw, None, None, np.arange(n),
                        [np.array([i]) for i in range(n)], frame=f'street {seed}')


@pytest.fixture
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def encoded(_cache) -> list[EncodedSite]:
    torch.manual_seed(0)
    encoder = DualEncoder(looking()).eval()
    return [encoded_site(noise_site(i), encoder, config_for(), CPU) for i in (1, 2)]


@pytest.mark.parametrize('mirrored', [False, True])
def test_sites_are_encoded_as_the_model_does(_cache, mirrored):
    torch.manual_seed(0)
    encoder = DualEncoder(looking(mirrored=mirrored)).eval()
    site = noise_site(1)
    found = encoded_site(site, encoder, config_for(model=encoder.config), CPU)
    with torch.inference_mode():
        for flip in (False, True):
            pictures = torch.from_numpy(site.clouds[0].astype(np.float32))
            encoded = encoder.encode_cloud(pictures.flip(-1) if flip else pictures)
            np.testing.assert_allclose(
                found.cloud_tokens[int(flip)], encoded.tokens, atol=2e-3)
            if not flip:
                np.testing.assert_allclose(
                    found.cloud_descriptors, encoded.descriptor, atol=1e-5)


def test_what_was_encoded_is_kept_for_the_same_encoders(_cache, tmp_path):
    def kept() -> int:
        return len(list((tmp_path / 'cache' / 'tokens').iterdir()))

    torch.manual_seed(0)
    encoder, site = DualEncoder(looking()).eval(), noise_site(1)
    encoded_site(site, encoder, config_for(), CPU)
    with torch.no_grad():
        for weight in verifier_weights(encoder).values():
            weight.add_(1.0)
    encoded_site(site, encoder, config_for(), CPU)
    assert kept() == 1
    with torch.no_grad():
        encoder.image.encoder.cls_token.add_(1.0)
    encoded_site(site, encoder, config_for(), CPU)
    assert kept() == 2


def test_the_same_weights_used_otherwise_are_other_encoders(_cache):
    torch.manual_seed(0)
    twice = DualEncoder(looking()).eval()
    once = DualEncoder(looking(mirrored=False).model_copy(update={'descriptor_dim': 8})).eval()
    once.load_state_dict(twice.state_dict())
    for encoder in (twice, once):
        found = encoded_site(noise_site(1), encoder, config_for(model=encoder.config), CPU)
        assert found.cloud_descriptors.shape == (40, encoder.config.descriptor_dim)


def test_candidates_are_own_places_and_the_most_alike_of_others(encoded):
    config = config_for(batch=60, candidates=10, mirror=0.0)
    drawn = draw_candidates(encoded, config, 3)
    again = draw_candidates(encoded, config, 3)
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))
    assert not torch.equal(drawn.image[:5], draw_candidates(encoded, config, 4).image[:5])
    assert drawn.image.shape == (60, 12, 32) and drawn.places.shape == (60, 10, 12, 32)

    tokens = np.concatenate([site.image_tokens[0] for site in encoded]).astype(np.float32)
    views = np.concatenate([site.cloud_tokens[0] for site in encoded]).astype(np.float32)
    every = [(i, j) for i in range(2) for j in range(40)]
    descriptors = np.concatenate([site.cloud_descriptors for site in encoded])
    elsewhere = 0
    for image, places, right in zip(*(part.numpy() for part in drawn), strict=True):
        city, row = every[int(np.flatnonzero((tokens == image).all((1, 2)))[0])]
        found = [every[int(np.flatnonzero((views == place).all((1, 2)))[0])] for place in places]
        likeness = descriptors @ encoded[city].image_descriptors[row]
        other = []
        for (where, view), is_right in zip(found, right, strict=True):
            apart = 1e6 * (where != city) + 4.0 * abs(view - row)
            same_way = (view - row) % 2 == 0
            assert is_right == (apart < 6.0 and same_way)
            assert is_right or apart > 11.0 or not same_way
            elsewhere += where != city
            other += [] if is_right else [every.index((where, view))]
        assert 1 <= right.sum() <= 3
        # The nearest of all other places come first.
        allowed = [k for k, (where, view) in enumerate(every)
                   if where != city or 4.0 * abs(view - row) > 11.0 or (view - row) % 2]
        hardest = sorted(allowed, key=lambda k: -likeness[k])[:(len(other) + 1) // 2]
        assert other[:len(hardest)] == hardest
        assert len(set(other)) == len(other)
    assert elsewhere > 50


def test_drives_of_one_frame_are_not_each_others_wrong_places(encoded):
    """The second drive goes the first one's way: its places there are right, or left out."""
    config = config_for(batch=80, candidates=10, mirror=0.0)
    images = np.concatenate([site.image_tokens[0] for site in encoded]).astype(np.float32)
    views = np.concatenate([site.cloud_tokens[0] for site in encoded]).astype(np.float32)

    def of_the_other(sites):
        """Return how many places of the other drive are right, and how near the wrong ones."""
        right_ones, nearest = 0, np.inf
        for image, places, right in zip(*(part.numpy() for part in draw_candidates(
                sites, config, 3)), strict=True):
            one = int(np.flatnonzero((images == image).all((1, 2)))[0])
            for place, is_right in zip(places, right, strict=True):
                other = int(np.flatnonzero((views == place).all((1, 2)))[0])
                if one // 40 == other // 40:
                    continue
                right_ones += is_right
                if not is_right and (one - other) % 2 == 0:  # which look the same way
                    nearest = min(nearest, 4.0 * abs(one % 40 - other % 40))
        return right_ones, nearest

    right_ones, nearest = of_the_other([replace(site, frame='one') for site in encoded])
    assert right_ones > 20 and nearest > 11.0
    right_ones, nearest = of_the_other(encoded)
    assert right_ones == 0 and nearest == 0.0


def test_a_mirror_turns_images_and_places_together(encoded):
    drawn = draw_candidates(encoded, config_for(mirror=1.0), 0)
    tokens = np.concatenate([site.image_tokens[1] for site in encoded]).astype(np.float32)
    views = np.concatenate([site.cloud_tokens[1] for site in encoded]).astype(np.float32)
    assert (tokens == drawn.image[0].numpy()).all((1, 2)).any()
    assert (views == drawn.places[0, 0].numpy()).all((1, 2)).any()


def test_sites_with_too_few_places_are_refused(encoded):
    with pytest.raises(InputError, match='fewer candidates'):
        draw_candidates(encoded, config_for(candidates=100), 0)


def test_the_loss_is_that_of_brute_force():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
    right = torch.tensor([[True, False, False], [True, True, False]])
    among, each = [], []
    for row, own in zip(logits.tolist(), right.tolist(), strict=True):
        total = sum(math.exp(x) for x in row)
        among.append(-math.log(sum(math.exp(x) for x, o in zip(row, own, strict=True) if o)
                               / total))
        each += [3.0 * math.log1p(math.exp(-x)) if o else math.log1p(math.exp(x))
                 for x, o in zip(row, own, strict=True)]
    wanted = sum(among) / 2 + sum(each) / 6
    assert float(verifier_loss(logits, right)) == pytest.approx(wanted, rel=1e-6)
    assert float(verifier_loss(torch.where(right, 30.0, -30.0), right)) < 1e-6


@pytest.fixture
def _sites(monkeypatch):
    """Let the trainer take streets of noise for its sites."""
    def prepared(site, config, as_map=False):
        return noise_site(int(site.root))
    monkeypatch.setattr(trainer, 'prepare_site', prepared)


def streets(**changes) -> TrainingConfig:
    sites = [{'root': str(i), 'map_drive': 'a', 'query_drives': ['a']} for i in (1, 2)]
    return config_for(sites=sites, held_out=sites, evaluate_every=1000, recall_m=2.0, **changes)


def test_it_learns_and_leaves_the_encoders_as_they_are(_cache, _sites, tmp_path):
    torch.manual_seed(5)
    before = DualEncoder(looking(verifier=False))
    save_model(before, tmp_path / 'before', {})
    config = streets(steps=150, batch=16)
    folder = train(config, tmp_path / 'run', init=tmp_path / 'before')
    log = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').open()]
    weights = load_model(folder).state_dict()
    for name, value in before.state_dict().items():
        assert torch.equal(value, weights[name]), name
    alone = evaluate(before, [noise_site(1), noise_site(2)], config.model_copy(
        update={'model': looking(verifier=False)}), CPU)
    # The untrained encoders find what they find; the verifier knows which of it is right.
    assert log[-1]['recall@1'] > alone['recall@1'] + 0.2
    assert log[-1]['recall@20'] == pytest.approx(alone['recall@20'], abs=1e-4)


def test_held_out_images_are_verified_as_the_localizer_does():
    """Logits beyond 8 all say the same: the descriptors decide."""
    torch.manual_seed(5)
    encoder, sites = DualEncoder(looking()), [noise_site(1)]
    config = config_for(recall_m=2.0)
    with torch.no_grad():
        encoder.verifier.logit.weight.normal_(std=1.0)
    differently = evaluate(encoder, sites, config, CPU)
    with torch.no_grad():
        encoder.verifier.logit.bias.fill_(1e4)
    clipped = evaluate(encoder, sites, config, CPU)
    encoder.verifier = None
    alone = evaluate(encoder, sites, config, CPU)
    assert clipped == alone != differently


@pytest.mark.parametrize('init', [None, 'weights.safetensors'])
def test_without_encoders_that_are_done_there_is_nothing_to_verify(tmp_path, init):
    if init is not None:
        init = tmp_path / init
        init.touch()
    with pytest.raises(InputError, match='folder of their model with --init'):
        train(streets(), tmp_path / 'run', init=init)
    assert not (tmp_path / 'run').exists()


def test_resuming_equals_never_having_stopped(_cache, _sites, tmp_path, monkeypatch):
    config, init = streets(steps=6), tmp_path / 'init'
    save_model(DualEncoder(looking(verifier=False)), init, {})
    whole = load_model(train(config, tmp_path / 'whole', init=init)).state_dict()
    one_step = trainer.Trainer.one_step

    def stopping(self, gradient):
        if self.step == 3:
            self.interrupted.append(2)
        return one_step(self, gradient)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, 'one_step', stopping)
        train(config, tmp_path / 'halves', init=init)
    halves = load_model(train(config, tmp_path / 'halves', resume=True)).state_dict()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_what_is_trained_must_be_there():
    with pytest.raises(InputError, match='model.verifier='):
        TrainingTask(config_for(model=looking(verifier=False)))
    with pytest.raises(InputError, match="trains to 'verifier'"):
        TrainingTask(config_for(trains='encoders'))


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(InputError, match='without torchrun'):
        train(config_for(), tmp_path / 'run')


def test_a_verifier_comes_and_goes(tmp_path):
    torch.manual_seed(1)
    plain, verified = DualEncoder(looking(verifier=False)), DualEncoder(looking())
    save_model(plain, tmp_path / 'plain', {})
    save_model(verified, tmp_path / 'verified', {})
    own = {name: value.clone() for name, value in verifier_weights(verified).items()}
    start_from(tmp_path / 'plain', verified)
    assert all(torch.equal(value, own[name])
               for name, value in verifier_weights(verified).items())
    assert torch.equal(verified.image.encoder.cls_token, plain.image.encoder.cls_token)
    start_from(tmp_path / 'verified', plain)
    assert all(torch.equal(value, load_model(tmp_path / 'verified').state_dict()[name])
               for name, value in plain.state_dict().items())
