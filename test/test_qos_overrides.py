"""An override of one topic's QoS is that topic's alone: rclpy writes it into the profile given."""

from helpers_ros import client_in, new_domain
import pytest
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy

from saliency_i2ploc_ros.ros import parameters
from saliency_i2ploc_ros.ros.complaints import Complaints
from saliency_i2ploc_ros.ros.diagnostics import Health
from saliency_i2ploc_ros.ros.inputs import Inputs
from saliency_i2ploc_ros.ros.outputs import Outputs


@pytest.fixture
def make_node():
    with client_in(new_domain()) as client:
        nodes = []

        def make(**overrides: str) -> LifecycleNode:
            nodes.append(LifecycleNode('n', context=client.context, parameter_overrides=[
                Parameter(f'qos_overrides.{name}', value=value)
                for name, value in overrides.items()]))
            return nodes[-1]

        yield make
        for node in nodes:
            node.destroy_node()


def given(**changes) -> dict:
    return {**{s.name: s.default for s in parameters.LOCALIZER}, **changes}


def test_of_subscriptions(make_node):
    node = make_node(**{'/a/image.subscription.reliability': 'reliable'})
    inputs = Inputs(node, given(cameras=['a', 'b']), Health(), Complaints(node.get_logger()),
                    lambda *_: None, lambda *_: None, None)
    found = {topic: node.get_subscriptions_info_by_topic(topic)[0].qos_profile.reliability
             for topic in ('/a/camera_info', '/a/image', '/b/camera_info', '/b/image')}
    inputs.close()
    assert [t for t, r in found.items() if r == ReliabilityPolicy.RELIABLE] == ['/a/image']


def test_of_publishers(make_node):
    # These two are made with one profile.
    node = make_node(**{'/n/retrieved_submap.publisher.reliability': 'best_effort'})
    outputs = Outputs(node, given(), Complaints(node.get_logger()))
    found = {name: node.get_publishers_info_by_topic(f'/n/{name}')[0].qos_profile.reliability
             for name in ('retrieved_submap', 'map')}
    outputs.close()
    assert found == {'retrieved_submap': ReliabilityPolicy.BEST_EFFORT,
                     'map': ReliabilityPolicy.RELIABLE}
