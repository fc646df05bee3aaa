"""Cached-gradient steps: the gradient of the whole batch, in the memory of a chunk."""

from itertools import pairwise

from helpers_training import noise_batch, noise_config
import pytest
import torch

from saliency_i2ploc_ros.distributed import World
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.training.ema import follow
from saliency_i2ploc_ros.training.optimizer import layer_numbers, make_optimizer, schedule
from saliency_i2ploc_ros.training.steps import CachedStep, recompute_blocks
from saliency_i2ploc_ros.training.task import TrainingTask

ALONE = World()
EVERYTHING = {'batch': 7, 'geometry_weight': 0.7, 'relation_distance': 3.0, 'relation_angle': 2.0,
              'relation_geodesic': 5.0, 'graded': 'distance'}


def task_of(config) -> TrainingTask:
    torch.manual_seed(1)
    return TrainingTask(config)


def gradients(task) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def whole_batch(config, batch) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return gradients and losses of the batch in one graph, the plain way."""
    task = task_of(config)
    image, cloud = task.encode(batch)
    losses = {**task.contrast(image.descriptor, cloud.descriptor, image.features, cloud.features,
                              batch, 0.0), **task.local(image, cloud, batch, 0.0)}
    sum(losses.values()).backward()
    return gradients(task), {name: float(value.detach()) for name, value in losses.items()}


def assert_alike(got, expected):
    assert got.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name in expected:
        assert torch.allclose(got[name], expected[name], rtol=1e-3, atol=1e-5 * largest), name


@pytest.mark.parametrize(
    ('objective', 'chunk'),
    [('infonce', None), ('infonce', 3), ('infonce', 1), ('paper', 3), ('lip', 3)])
def test_the_gradient_is_that_of_the_whole_batch(objective, chunk):
    config = noise_config(**EVERYTHING, objective=objective, chunk=chunk)
    batch = noise_batch(config)
    expected, losses = whole_batch(config, batch)
    task = task_of(config)
    told = CachedStep(task, batch, 0, ALONE).run()
    assert_alike(gradients(task), expected)
    assert ('temperature.log' in expected) == (objective == 'infonce')
    assert told.pop('loss') == pytest.approx(sum(losses.values()), rel=1e-4)
    assert told == {name: pytest.approx(value, rel=1e-3) for name, value in losses.items()}
    assert len(losses) == 6


def test_recomputed_blocks_give_the_same_gradient():
    config = noise_config(**EVERYTHING, chunk=4)
    batch = noise_batch(config)
    expected, _ = whole_batch(config, batch)
    task = task_of(config)
    names = list(task.state_dict())
    recompute_blocks(task.encoder)
    CachedStep(task, batch, 0, ALONE).run()
    assert_alike(gradients(task), expected)
    assert list(task.state_dict()) == names


def with_dropout(config):
    task = task_of(config)
    for part in task.encoder.modules():
        if isinstance(part, torch.nn.LayerNorm) and part.normalized_shape == (64,):
            part.register_forward_hook(lambda module, inputs, output: torch.dropout(
                output, 0.3, module.training))
    return task


def test_dropout_falls_alike_in_both_passes():
    """Else gradients would belong to descriptors that the second pass never has."""
    config = noise_config(batch=6, chunk=2, geometry_weight=0.0)
    batch = noise_batch(config)
    task = with_dropout(config)
    CachedStep(task, batch, 3, ALONE).run()
    got = gradients(task)

    # The same chunks, with the same seeds, in one graph.
    other = with_dropout(config)
    step = CachedStep(other, batch, 3, ALONE)
    pairs = [step._forward(step._rows(i), i) for i in range(len(step.chunks))]
    sides = [(torch.cat([pair[side].descriptor for pair in pairs]),
              torch.cat([pair[side].features for pair in pairs])) for side in (0, 1)]
    (images, image_features), (clouds, cloud_features) = sides
    sum(other.contrast(images, clouds, image_features, cloud_features, batch, 0.3).values()
        ).backward()
    assert_alike(got, gradients(other))

    again, later = with_dropout(config), with_dropout(config)
    CachedStep(again, batch, 3, ALONE).run()
    CachedStep(later, batch, 4, ALONE).run()
    assert all(torch.equal(value, got[name]) for name, value in gradients(again).items())
    assert not all(torch.equal(value, got[name]) for name, value in gradients(later).items())


@pytest.mark.parametrize('stop', [1, 3, 4, 6])
def test_another_process_ends_a_step_as_if_it_had_begun_it(stop):
    class Killed(Exception):
        pass

    def kill(step):
        if step.part == stop:
            raise Killed

    config = noise_config(**EVERYTHING, chunk=2)
    batch = noise_batch(config)
    task = task_of(config)
    losses = CachedStep(task, batch, 2, ALONE).run()

    killed = CachedStep(task_of(config), batch, 2, ALONE)
    with pytest.raises(Killed):
        killed.run(kill)
    other = task_of(config)
    going_on = CachedStep(other, batch, 2, ALONE)
    going_on.restore(killed.state())
    seen = []
    assert going_on.run(lambda step: seen.append(step.part)) == losses
    assert seen == list(range(stop + 1, 9))
    got = gradients(other)
    for name, value in gradients(task).items():
        assert torch.equal(got[name], value), name


def test_an_infinite_loss_is_said_and_not_descended():
    config = noise_config(batch=4)
    task = task_of(config)
    with torch.no_grad():
        task.encoder.image.aggregation.project.weight.fill_(torch.nan)
    with pytest.raises(InputError, match='lower the learning rates'):
        CachedStep(task, noise_batch(config), 0, ALONE).run()


def test_layers_are_counted_from_the_input():
    encoder = task_of(noise_config()).encoder
    numbers = layer_numbers(encoder.image.encoder)
    assert {numbers[name] for name in ('cls_token', 'pos_embed', 'patch_embed.layers.0.weight')
            } == {0}
    assert numbers['blocks.0.norm1.weight'] == 1 and numbers['blocks.1.mlp.fc2.weight'] == 2
    assert numbers['norm.weight'] == 3
    plain = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    assert list(layer_numbers(plain).values()) == [0, 0, 1, 1]


def rates_of(task, config) -> dict[str, float]:
    optimizer = make_optimizer(task, config)
    rate = {id(p): group['peak_lr'] for group in optimizer.param_groups for p in group['params']}
    return {name: rate[id(p)] for name, p in task.named_parameters() if id(p) in rate}


def test_each_part_has_its_rate_and_each_layer_its_share_of_it():
    config = noise_config(lr_image=1e-4, lr_cloud=1e-5, lr_aggregation=5e-4, lr_temperature=1e-2,
                          layer_decay=0.5)
    rates = rates_of(task_of(config), config)
    assert rates['encoder.image.encoder.norm.weight'] == pytest.approx(1e-4)
    assert rates['encoder.image.encoder.blocks.1.attn.qkv.weight'] == pytest.approx(0.5e-4)
    assert rates['encoder.image.encoder.pos_embed'] == pytest.approx(0.125e-4)
    assert rates['encoder.cloud.encoder.blocks.0.attn.qkv.weight'] == pytest.approx(0.25e-5)
    assert rates['encoder.cloud.aggregation.centres'] == 5e-4
    assert rates['temperature.log'] == 1e-2
    assert rates['geometry.image.out.weight'] == 1e-4
    assert rates['geometry.cloud.out.weight'] == 1e-5


def test_frozen_parts_stay_as_they_were():
    config = noise_config(batch=4, chunk=2, trained_image_blocks=1, trained_cloud_blocks=0)
    task = task_of(config)
    before = {name: value.clone() for name, value in task.encoder.state_dict().items()}
    optimizer = make_optimizer(task, config)
    CachedStep(task, noise_batch(config), 0, ALONE).run()
    optimizer.step()
    changed = {name for name, value in task.encoder.state_dict().items()
               if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith('cloud.encoder') for name in changed)
    of_image = {name for name in changed if name.startswith('image.encoder')}
    assert of_image and all('blocks.1.' in name or 'encoder.norm' in name for name in of_image)
    assert any(name.startswith('cloud.aggregation') for name in changed)
    with pytest.raises(InputError, match='has 2 blocks'):
        TrainingTask(noise_config(trained_image_blocks=3))


def test_the_average_follows_by_its_formula():
    average, model = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    expected = average.weight.detach().double()
    for step in range(30):
        with torch.no_grad():
            model.weight.add_(1.0)
        follow(average, model, 0.7, step)
        d = min(0.7, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * model.weight.detach().double()
    assert torch.allclose(average.weight.double(), expected, rtol=1e-5)


def test_what_is_exported_is_the_average():
    config = noise_config(batch=4, ema_decay=0.9)
    task = task_of(config)
    optimizer = make_optimizer(task, config)
    start = {name: value.clone() for name, value in task.average.state_dict().items()}
    assert all(torch.equal(value, start[name])
               for name, value in task.encoder.state_dict().items())
    CachedStep(task, noise_batch(config), 0, ALONE).run()
    optimizer.step()
    task.after_step(0)
    name = 'image.encoder.norm.bias'
    # The first step counts nine parts of ten: 1 - (1 + 0) / (10 + 0).
    expected = 0.1 * start[name] + 0.9 * task.encoder.state_dict()[name]
    assert torch.allclose(task.exported.state_dict()[name], expected)
    assert not any(p.requires_grad for p in task.average.parameters())


def test_schedule_warms_up_and_ends_at_zero():
    config = noise_config(steps=100, warmup_steps=10)
    factors = [schedule(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == 1.0
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert all(later < before for before, later in pairwise(factors[10:]))
