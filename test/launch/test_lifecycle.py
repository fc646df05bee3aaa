"""Every transition of the localizer's lifecycle, as a lifecycle manager asks for them."""

from helpers_launch import in_domain, include, LONG_S
from helpers_ros import Client, client_in, EXTRINSICS, new_domain
from launch.actions import GroupAction
import launch_pytest
from launch_pytest.actions import ReadyToTest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

DOMAIN = new_domain()
NAMES = ('one', 'two')


@launch_pytest.fixture(scope='module')
def managed(world):
    """Two localizers that wait for a manager; the first one names a map that is not there."""
    arguments = {'model': world / 'model', 'params_file': world / 'lax.yaml',
                 'camera_extrinsics': EXTRINSICS, 'autostart': 'false'}
    return in_domain(DOMAIN, *(
        GroupAction([include('localization.launch.py', namespace=name, **arguments,
                             database=world / ('nowhere' if name == 'one' else 'map'))])
        for name in NAMES), ReadyToTest())


def state(client: Client, name: str) -> str:
    return client.call(GetState, f'/{name}/localizer/get_state', GetState.Request(),
                       LONG_S).current_state.label


def ask(client: Client, name: str, label: str) -> tuple[bool, str]:
    """Ask for a transition and return whether it succeeded, and the state thereafter."""
    number = {'configure': Transition.TRANSITION_CONFIGURE,
              'activate': Transition.TRANSITION_ACTIVATE,
              'deactivate': Transition.TRANSITION_DEACTIVATE,
              'cleanup': Transition.TRANSITION_CLEANUP}.get(label)
    if label == 'shutdown':
        number = {'unconfigured': Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
                  'inactive': Transition.TRANSITION_INACTIVE_SHUTDOWN,
                  'active': Transition.TRANSITION_ACTIVE_SHUTDOWN}[state(client, name)]
    request = ChangeState.Request(transition=Transition(id=number))
    success = client.call(ChangeState, f'/{name}/localizer/change_state', request, LONG_S).success
    return success, state(client, name)


@pytest.mark.launch(fixture=managed)
def test_every_transition(world):
    with client_in(DOMAIN) as client:
        assert [state(client, name) for name in NAMES] == ['unconfigured'] * 2
        # What is not allowed is refused and changes nothing.
        for label in ('activate', 'deactivate', 'cleanup'):
            assert ask(client, 'one', label) == (False, 'unconfigured')
        # No map: configuring fails, with the node ready to be configured again.
        assert ask(client, 'one', 'configure') == (False, 'unconfigured')
        path = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(world / 'map'))
        result, = client.call(
            SetParameters, '/one/localizer/set_parameters', SetParameters.Request(
                parameters=[Parameter(name='database', value=path)])).results
        assert result.successful
        for _ in range(2):
            assert ask(client, 'one', 'configure') == (True, 'inactive')
            assert ask(client, 'one', 'configure') == (False, 'inactive')
            for _ in range(2):
                assert ask(client, 'one', 'activate') == (True, 'active')
                assert ask(client, 'one', 'cleanup') == (False, 'active')
                assert ask(client, 'one', 'deactivate') == (True, 'inactive')
            assert ask(client, 'one', 'cleanup') == (True, 'unconfigured')
        # Shutdown, from the states that allow it.
        assert ask(client, 'two', 'shutdown') == (True, 'finalized')
        assert ask(client, 'one', 'configure') == (True, 'inactive')
        assert ask(client, 'one', 'activate') == (True, 'active')
        assert ask(client, 'one', 'shutdown') == (True, 'finalized')
        assert ask(client, 'one', 'configure') == (False, 'finalized')
