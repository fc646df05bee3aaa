"""The inference thread where the clock goes back under it."""

import threading
from types import SimpleNamespace

from helpers_localizer import VERIFYING, verifying_model
from helpers_ros import image_at
import pytest
from rclpy.serialization import serialize_message
from rclpy.time import Time

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.export.runtime import torch_runtime
from saliency_i2ploc_ros.ros import inference
from saliency_i2ploc_ros.ros.conversions import header_at, stamp_of
from saliency_i2ploc_ros.ros.diagnostics import Health
from saliency_i2ploc_ros.ros.moments import Moment
from saliency_i2ploc_ros.ros.pipeline import Answered, rejection

S = 1_000_000_000


class PipelineStandIn:
    """Answers when the test lets it."""

    def __init__(self, localizer, *rest):
        self.localizer, self.last_stamp_ns = localizer, None
        self.seen, self.begun, self.go_on = [], threading.Event(), threading.Event()

    def answer(self, images):
        stamp = self.last_stamp_ns = stamp_of(images[''].header)
        self.seen.append(stamp)
        self.begun.set()
        assert self.go_on.wait(60)
        return Answered(rejection('uncertain', ''), stamp, '')


@pytest.fixture
def made(monkeypatch):
    """Return an inference with a stand-in for its pipeline, and the stamps that it answered."""
    monkeypatch.setattr(inference, 'Pipeline', PipelineStandIn)
    monkeypatch.setattr(inference, 'load_localizer',
                        lambda given: SimpleNamespace(config=None, close=lambda: None))
    monkeypatch.setattr(inference.parameters, 'localizer_config', lambda values: None)
    node = SimpleNamespace(get_clock=lambda: SimpleNamespace(now=lambda: Time(nanoseconds=0)),
                           get_parameter=lambda name: SimpleNamespace(value=None),
                           get_logger=lambda: None)
    answered = []
    given = {'image_transport': 'raw', 'camera_frame': '', 'image_is_rectified': True,
             'sequence': 'none'}
    result = inference.Inference(node, given, [''], Health(), None, None,
                                 lambda a: answered.append(a.stamp_ns))
    yield result, result._pipeline, answered
    result._pipeline.go_on.set()
    result.close()


@pytest.mark.parametrize('verifier', [VERIFYING.verifier, None])
def test_verify_stays_with_a_calibration_only_where_it_makes_a_difference(tmp_path, verifier):
    model = torch_runtime(verifying_model(VERIFYING.model_copy(update={'verifier': verifier})))
    thread = SimpleNamespace(
        model=model, config=model.config, _given={'model': '/model'},
        database=SimpleNamespace(path=tmp_path),
        calibration=SimpleNamespace(top_k=20, temperature=0.03, merge_radius_m=20.0, verify=True,
                                    map_identity='', headings=12))
    # Put beside the map after the model's was read: that is not the one that holds.
    (tmp_path / 'calibration.json').write_text('{}')

    def change(**values):
        inference.Inference.check_change(thread, values)

    change(top_k=20, verify=True)
    with pytest.raises(InputError, match='20: .* in /model .* take calibration-12.json out of'):
        change(top_k=5)
    thread.calibration.map_identity = 'this map'
    with pytest.raises(InputError, match=f'in {tmp_path} .* take calibration.json out of'):
        change(top_k=5)
    if verifier is None:
        change(verify=False)
    else:
        with pytest.raises(InputError, match='verify stays True'):
            change(verify=False)


def moment(stamp_ns):
    message = image_at(0)
    message.header = header_at(stamp_ns, '')
    return Moment(stamp_ns, 0.0, {'': serialize_message(message)})


def test_images_of_the_time_before_a_jump_of_the_clock_are_not_answered(made):
    thread, pipeline, answered = made
    thread.offer(moment(100 * S))
    assert pipeline.begun.wait(60)
    thread.offer(moment(101 * S))
    thread.forget(50 * S)
    pipeline.go_on.set()
    thread._worker.call(lambda: None)
    assert pipeline.seen == [100 * S] and answered == [] and thread.dropped == 2
    assert pipeline.last_stamp_ns is None
    # Offered after it, stamps ahead of the clock are the camera's own affair.
    for stamp in (51 * S, 99 * S):
        thread.offer(moment(stamp))
        thread._worker.call(lambda: None)
    assert answered == [51 * S, 99 * S] and thread.dropped == 2


def test_an_image_of_the_new_time_that_came_before_its_clock_is_answered(made):
    thread, pipeline, answered = made
    thread.offer(moment(50 * S))
    assert pipeline.begun.wait(60)
    thread.forget(50 * S)
    thread.forget()  # by a stamp that went back: nothing is known of the clock
    pipeline.go_on.set()
    thread._worker.call(lambda: None)
    assert answered == [50 * S] and thread.dropped == 0
