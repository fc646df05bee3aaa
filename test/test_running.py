"""What is made up for in some versions of rclpy."""

from helpers_ros import client_in, new_domain
from rclpy.lifecycle import TransitionCallbackReturn

from saliency_i2ploc_ros.ros.running import LifecycleNode


def test_a_transition_that_the_state_does_not_have_is_refused_and_the_node_lives_on():
    with client_in(new_domain()) as client:
        node = LifecycleNode('managed', context=client.context)
        try:
            assert node.trigger_activate() == TransitionCallbackReturn.ERROR
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_configure() == TransitionCallbackReturn.ERROR
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        finally:
            node.destroy_node()
