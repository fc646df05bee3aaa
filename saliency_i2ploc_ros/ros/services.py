"""The localizer's services: one image on request, silence, another map."""

from __future__ import annotations

from collections.abc import Callable
import json

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from ..errors import InputError
from .diagnostics import Health


class Services:
    """
    `~/localize`, `~/enable` and `~/reload_database`, as long as the node lives.

    reload: opens the map that the parameter names and returns a sentence about it, or raises an
    InputError that says why the old one stays. `answered` may be called in any thread, all else
    is done in the executor's.
    """

    def __init__(self, node: LifecycleNode, health: Health, reload: Callable[[], str]) -> None:
        self._node, self._health, self._reload = node, health, reload
        self._requests: list[Future] = []
        self._answers: list[str] = []
        self._answer_ready = node.create_guard_condition(self._resolve_requests)
        # It waits for an image, and a group of its own lets the image in meanwhile.
        node.create_service(Trigger, '~/localize', self._on_localize,
                            callback_group=ReentrantCallbackGroup())
        node.create_service(SetBool, '~/enable', self._on_enable)
        node.create_service(Trigger, '~/reload_database', self._on_reload)

    @property
    def wants_answers(self) -> bool:
        """Return whether somebody waits for the next image's answer."""
        return bool(self._requests)

    def answered(self, text: str) -> None:
        """Tell those who wait what became of an image."""
        self._answers.append(text)
        self._answer_ready.trigger()

    async def _on_localize(self, _: Trigger.Request, response: Trigger.Response,
                           ) -> Trigger.Response:
        """Answer with the next image's answer, as JSON."""
        if self._health.state != 'active':
            response.message = f'the node is {self._health.state}: activate it'
            return response
        answered = Future()
        self._requests.append(answered)
        timer = self._node.create_timer(
            self._node.get_parameter('localize_timeout_s').value,
            # The answer may have come, and this goes on until it is seen to.
            lambda: answered.done() or answered.set_result(None),
            clock=Clock(clock_type=ClockType.STEADY_TIME))
        text = await answered
        self._node.destroy_timer(timer)
        self._requests = [other for other in self._requests if other is not answered]
        response.success = text is not None and json.loads(text)['accepted']
        response.message = text or 'no image came in time'
        return response

    def _resolve_requests(self) -> None:
        while self._answers:
            text = self._answers.pop(0)
            waiting, self._requests = self._requests, []
            for request in waiting:
                if not request.done():
                    request.set_result(text)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response,
                   ) -> SetBool.Response:
        self._health.enabled = request.data
        response.success = True
        response.message = 'images are answered' if request.data else 'images are ignored'
        return response

    def _on_reload(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Open the map named by the parameter now; the old one stays if that fails."""
        try:
            response.message = self._reload()
            response.success = True
        except InputError as error:
            response.message = str(error)
            self._node.get_logger().error(response.message)
        return response
