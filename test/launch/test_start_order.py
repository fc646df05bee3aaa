"""What the vehicle needs comes in the wrong order, one after the other; then Ctrl-C."""

from geometry_msgs.msg import TransformStamped
from helpers_launch import launched, LONG_S
from helpers_ros import camera_info, Client, client_in, EXTRINSICS, image_at, new_domain
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import pytest

tf2_ros = pytest.importorskip('tf2_ros')


def images_until(client: Client, camera: tuple, condition) -> bool:
    """Publish images, ever new ones, until the condition holds."""
    count = 0

    def step() -> bool:
        nonlocal count
        if count % 10 == 0:
            for message, publisher in zip((image_at(count + 1), camera_info(count + 1)), camera,
                                          strict=True):
                publisher.publish(message)
        count += 1
        return condition()

    return client.until(step, LONG_S)


def test_map_then_tf_then_another_camera_come_late(world, tmp_path):
    domain = new_domain()
    with client_in(domain) as client:
        client.listen_to_localizer()
        fixes = client.got['/localizer/fix']
        camera = client.camera()  # is there before the node
        arguments = {'model': world / 'model', 'database': tmp_path / 'map',
                     'params_file': world / 'lax.yaml', 'camera': '', 'image': 'image'}
        with launched(domain, tmp_path, 'localization.launch.py', **arguments) as launch:
            def state() -> str:
                return client.call(GetState, '/localizer/get_state', GetState.Request(),
                                   LONG_S).current_state.label

            def change(number: int) -> bool:
                request = ChangeState.Request(transition=Transition(id=number))
                return client.call(ChangeState, '/localizer/change_state', request, LONG_S).success

            # No map: the node says so and waits.
            assert client.until(lambda: 'configuring failed' in launch.log, LONG_S)
            assert state() == 'unconfigured'
            (tmp_path / 'map').symlink_to(world / 'map')
            assert change(Transition.TRANSITION_CONFIGURE)
            assert change(Transition.TRANSITION_ACTIVATE)
            # No TF: no fix, and an error that names both frames.
            assert images_until(client, camera, lambda: 'image_00_optical' in launch.log)
            assert "'base_link'" in launch.log and not fixes
            broadcaster = tf2_ros.StaticTransformBroadcaster(client.node)
            broadcaster.sendTransform(mounting())
            assert images_until(client, camera, lambda: fixes)
            # The camera goes, and another one comes.
            for publisher in camera:
                client.node.destroy_publisher(publisher)
            assert client.until(lambda: client.node.count_publishers('image') == 0)
            seen = len(fixes)
            assert images_until(client, client.camera(best_effort=True),
                                lambda: len(fixes) > seen)
            # Ctrl-C: all of it ends, at once and well.
            assert len(launch.processes()) >= 2
            assert launch.interrupt() == 0
            assert 'process has finished cleanly' in launch.log
            assert client.until(lambda: not launch.processes())
            assert 'escalating' not in launch.log


def mounting() -> TransformStamped:
    """Return where the camera of the tests sits, as a message of /tf_static."""
    message = TransformStamped(child_frame_id='image_00_optical')
    message.header.frame_id = 'base_link'
    t, r = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z, r.x, r.y, r.z, r.w = EXTRINSICS
    return message
