"""What a localizer refuses to start with, why, and what is left of it when it is taken down."""

from collections.abc import Iterator
import gc
import json
from pathlib import Path
import shutil
import sys
import threading
import weakref

from helpers_ros import client_in, new_domain, TINY, write_world
from helpers_running import Inside
import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rosgraph_msgs.msg import Clock
import torch

from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import (
    encoder_hash,
    load_model,
    preprocessing_hash,
    save_model,
)
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.mapping.database import write_database

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture(scope='module')
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('world')
    write_world(root, 2)
    return root


@pytest.fixture(scope='module')
def shared(world) -> Iterator[Inside]:
    inside = Inside(world, new_domain())
    yield inside
    inside.close()


@pytest.fixture
def inside(shared) -> Iterator[Inside]:
    yield shared
    shared.down()


def altered(name):
    """Return what turns one number of an array of a map's copy."""
    def change(folder):
        array = np.load(folder / name)
        array.flat[0] += 0.5
        np.save(folder / name, array)
    return change


def cut(name):
    """Return what cuts a file short."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:100])


def schema(**values):
    """Return what writes other values into schema.json."""
    def change(folder):
        content = json.loads((folder / 'schema.json').read_text())
        (folder / 'schema.json').write_text(json.dumps({**content, **values}))
    return change


def made_otherwise(**values):
    """Return what writes a whole and sound map, that is none of this model."""
    def change(folder):
        shutil.rmtree(folder)
        model = load_model(folder.parent.parent / 'model')
        given = {'dimension': TINY.descriptor_dim, 'encoder_hash': encoder_hash(model),
                 'preprocessing_hash': preprocessing_hash(TINY), **values}
        write_database(folder, np.eye(given.pop('dimension'), dtype=np.float32)[:3],
                       np.stack([planar(5.0 * i, 0.0, 0.0) for i in range(3)]),
                       [np.zeros((1, 3), np.float32)] * 3, model_name='m', submap={},
                       spacing_m=5.0, **given)
    return change


@pytest.mark.parametrize(('change', 'said'), [
    (shutil.rmtree, 'is not a map (it has no schema.json)'),
    (lambda folder: (folder / 'schema.json').unlink(), 'is not a map (it has no schema.json)'),
    (lambda folder: (folder / 'schema.json').write_text('{'), 'schema.json'),
    (schema(format=99), 'update this package'), (schema(places=11), 'was altered'),
    (schema(spacing_m='wide'), 'is not the schema of a map'),
    (altered('descriptors.npy'), 'altered or truncated'),
    (altered('poses.npy'), 'altered or truncated'), (cut('clouds.npy'), 'altered or truncated'),
    (lambda folder: (folder / 'poses.npy').unlink(), 'poses.npy'),
    (made_otherwise(encoder_hash='0123456789abcdef'), 'was built with encoder 0123456789abcdef'),
    (made_otherwise(preprocessing_hash='0123'), 'was built with preprocessing 0123'),
    (made_otherwise(dimension=12), "descriptors have 12 numbers, the model's 16")])
def test_a_bad_map_fails_to_configure_with_the_reason(inside, tmp_path, change, said):
    folder = inside.root / 'changed' / tmp_path.name
    shutil.copytree(inside.root / 'map', folder)
    change(folder)
    inside.set(database=str(folder))
    assert_refused(inside, said)


def other_weights(folder):
    torch.manual_seed(5)
    save_model(DualEncoder(TINY), folder.parent / 'another', {})
    (folder / 'model.safetensors').write_bytes(
        (folder.parent / 'another' / 'model.safetensors').read_bytes())


def config(text, by):
    def change(folder):
        content = (folder / 'config.json').read_text()
        assert text in content
        (folder / 'config.json').write_text(content.replace(text, by, 1))
    return change


@pytest.mark.parametrize(('change', 'said'), [
    (shutil.rmtree, 'changed/'), (cut('model.safetensors'), 'model.safetensors'),
    (lambda folder: (folder / 'model.safetensors').unlink(), 'model.safetensors'),
    (lambda folder: (folder / 'config.json').unlink(), 'config.json'),
    (cut('config.json'), 'config.json'), (other_weights, 'changed/'),
    (config('"depth": 1', '"deep": 1'), 'config.json'),
    (config('"width": 32', '"width": 64'), 'config.json')])
def test_a_bad_model_fails_to_configure_with_the_reason(inside, tmp_path, change, said):
    folder = inside.root / 'changed' / tmp_path.name
    shutil.copytree(inside.root / 'model', folder)
    change(folder)
    inside.set(model=str(folder))
    assert_refused(inside, said)


@pytest.mark.parametrize(('values', 'said'), [
    ({'database': ''}, 'the parameter database is empty'),
    ({'runtime': 'pt2'}, 'has no export'), ({'runtime': 'onnx'}, 'has no export'),
    ({'cameras': ['a', 'b']}, 'camera_extrinsics has 7 numbers for 2 cameras'),
    ({'camera_extrinsics': [0.0] * 7}, 'the quaternion of length 1'),
    ({'cameras': ['a'], 'camera_frame': 'x'}, 'camera_frame is of one camera'),
    ({'publish_tf': 'map_to_base'}, 'needs the package tf2_msgs'),
    ({'publish_tf': 'map_to_odom', 'odometry': 'topic'}, 'needs the package tf2_msgs'),
    pytest.param({'device': 'cuda'}, "'cuda' cannot be used", marks=pytest.mark.skipif(
        torch.cuda.is_available(), reason='there is a CUDA device'))])
def test_what_does_not_go_together_fails_to_configure(inside, monkeypatch, values, said):
    monkeypatch.setitem(sys.modules, 'tf2_msgs.msg', None)
    inside.set(**values)
    assert_refused(inside, said)


def assert_refused(inside, said):
    """Configure in vain; then all is as before, and configures with what is right."""
    node = inside.node
    before = things_of(node)
    assert node.trigger_configure() == FAILURE
    assert node._health.error.startswith('configuring failed: ') and said in node._health.error
    assert 'Error:' not in node._health.error  # a sentence, not a defect
    assert node._health.state == 'unconfigured'
    assert things_of(node) == before


def things_of(node):
    """Return how many things of each kind a node holds, and the threads of the inference."""
    kinds = (node.publishers, node.subscriptions, node.timers, node.guards, node.services)
    threads = [t for t in threading.enumerate() if t.name.startswith('inference')]
    return [len(list(kind)) for kind in kinds], len(threads)


def test_down_and_up_leaves_nothing_behind(inside):
    """The model and the map are gone after cleanup, and nothing piles up."""
    node = inside.node
    before = things_of(node)
    gc.disable()  # what is freed is freed by cleanup
    try:
        for _ in range(3):
            inside.set()
            assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
            assert things_of(node) > before
            held = [weakref.ref(thing) for thing in (
                node._inference.model, node._inference.database, node._outputs, node._inputs,
                node._inference.database.descriptors, node._inference)]
            assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
            assert [ref() for ref in held] == [None] * len(held)
            assert things_of(node) == before
    finally:
        gc.enable()


def test_what_cannot_be_activated_stays_inactive_with_the_reason(inside, monkeypatch):
    node = inside.node
    inside.set()
    assert node.trigger_configure() == SUCCESS
    heard, timers = list(node.subscriptions), list(node.timers)
    create = node.create_subscription

    def broken(kind, topic, *args, **kwargs):
        if topic.endswith('image'):
            raise InputError('no such quality of service')
        return create(kind, topic, *args, **kwargs)

    monkeypatch.setattr(node, 'create_subscription', broken)
    assert node.trigger_activate() == FAILURE
    assert node._health.error == 'activating failed: no such quality of service'
    assert node._health.state == 'inactive'
    assert list(node.subscriptions) == heard and list(node.timers) == timers
    monkeypatch.undo()
    assert node.trigger_activate() == SUCCESS and node._health.error == ''


def test_a_clock_that_goes_back_starts_anew(shared, inside):
    node = inside.node
    inside.set(use_sim_time=True)
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    try:
        with client_in(node.context.get_domain_id()) as client:
            clock = client.node.create_publisher(Clock, '/clock', 1)

            def told(seconds):
                message = Clock()
                message.clock.sec = seconds

                def heard() -> bool:
                    clock.publish(message)
                    return node.get_clock().now().nanoseconds == seconds * 10**9
                assert inside.until(client, heard)

            told(100)
            node._inference._pipeline.last_stamp_ns = 99 * 10**9
            node._health.last_fix_at = 1.0
            told(101)
            assert node._health.clock_jumps == 0
            told(50)
            assert node._health.clock_jumps == 1 and node._health.last_fix_at is None
            assert node._inference._pipeline.last_stamp_ns is None
    finally:
        inside.set(use_sim_time=False)


@pytest.mark.parametrize('steps', [(), ('configure',), ('configure', 'activate')])
def test_shutdown_frees_too_and_can_come_at_any_time(world, steps):
    inside = Inside(world, new_domain())
    try:
        inside.set()
        for step in steps:
            assert getattr(inside.node, f'trigger_{step}')() == SUCCESS
        assert inside.node.trigger_shutdown() == SUCCESS
        assert inside.node._health.state == 'finalized' and inside.node._inference is None
    finally:
        inside.close()
