"""What the localizer's services answer, where time decides."""

from types import SimpleNamespace

from std_srvs.srv import Trigger

from saliency_i2ploc_ros.ros.diagnostics import Health
from saliency_i2ploc_ros.ros.services import Services


class NodeStandIn:
    """A node whose callbacks the test calls, in the order that it is about."""

    def __init__(self):
        self.served, self.timers = {}, []

    def create_guard_condition(self, callback):
        return SimpleNamespace(trigger=callback)

    def create_service(self, kind, name, callback, callback_group=None):
        self.served[name] = callback

    def get_parameter(self, name):
        return SimpleNamespace(value=5.0)

    def create_timer(self, period, callback, clock):
        self.timers.append(callback)
        return callback

    def destroy_timer(self, timer):
        self.timers.remove(timer)


def asked(*events):
    """Return the response of ~/localize after `events` before it looks again."""
    node, health = NodeStandIn(), Health()
    services = Services(node, health, lambda: '')
    health.state = 'active'
    waiting = node.served['~/localize'](None, Trigger.Response())
    waiting.send(None)
    for event in events:
        event(node, services)
    try:
        waiting.send(None)
    except StopIteration as ended:
        assert node.timers == [] and not services.wants_answers
        return ended.value
    raise AssertionError('it still waits')


def answer(node, services):
    services.answered('{"accepted": true}')


def time_out(node, services):
    for timer in list(node.timers):
        timer()


def test_an_answer_is_not_overwritten_by_the_time_that_runs_out():
    assert asked(answer, time_out).success and asked(answer).message == '{"accepted": true}'
    late = asked(time_out, answer)
    assert not late.success and late.message == 'no image came in time'
