"""A prior: what it makes of a belief, which messages are refused, and a node that is told."""

from dataclasses import replace
import json
import logging
import math
import time
from types import SimpleNamespace

from geometry_msgs.msg import PoseWithCovarianceStamped
from helpers_drives import START_NS
from helpers_ros import camera_info, client_in, image_at, new_domain
from helpers_running import localizer_of
import numpy as np
import pytest
from test_belief import drive, loop, total
from test_sequence import answer, CONFIG, Places
from test_sequence_node import odometry, write_alike

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import inverse, planar
from saliency_i2ploc_ros.localization.belief import Belief, BeliefConfig
from saliency_i2ploc_ros.localization.fix import Answer, Candidates
from saliency_i2ploc_ros.localization.sequence import Prior, Sequence
from saliency_i2ploc_ros.ros.conversions import header_at, message_to_pose, pose_to_message
from saliency_i2ploc_ros.ros.inference import Inference
from saliency_i2ploc_ros.ros.motion import ByOdometry, ConstantVelocity, Follower
from saliency_i2ploc_ros.ros.odometry import OdometryTopic
from saliency_i2ploc_ros.ros.pipeline import Answered, rejection
from saliency_i2ploc_ros.ros.prior import MAX_AGE_S, Priors, Told

S = 1_000_000_000
ANY = 100.0  # variance of a heading that is not known
KNOWN = Prior(np.eye(4), np.zeros((3, 3)))
STREET = np.stack([planar(5.0 * i, 0.0, 0.0) for i in range(40)])


def about(x, y, sigma, yaw=0.0, heading=ANY):
    return np.array([x, y, yaw]), np.diag([sigma ** 2, sigma ** 2, heading])


def beliefs(belief):
    """Return the belief in each place."""
    each = np.full(len(belief._xy), belief._each)
    each[belief.places] = belief.weights
    return each


def test_of_a_vehicle_that_knows_nothing_by_hand():
    belief = Belief(STREET, 5.0)
    before = belief.told(*about(52.0, 1.0, 3.0))
    # Half the spacing is between two places: 3^2 + 2.5^2.
    squared = ((5.0 * np.arange(40) - 52.0) ** 2 + 1.0) / 15.25
    region = squared <= 9.0
    gauss = np.exp(-0.5 * squared) * region
    r = 0.9 * region.mean()
    raised = (0.9 - r) / (1.0 - r)
    expected = raised * gauss / gauss.sum() + (1.0 - raised) * 0.9 / 40
    assert before == pytest.approx(r)
    assert expected[region].sum() == pytest.approx(0.9)
    np.testing.assert_allclose(beliefs(belief), expected, atol=1e-6)
    assert total(belief) == pytest.approx(1.0)
    # What is elsewhere, and outside the map, keeps its odds.
    assert belief.outside / belief._each == pytest.approx(0.1 / (0.9 / 40), rel=1e-4)


def test_said_again_or_vaguely_it_changes_nothing():
    belief = Belief(loop(), 5.0)
    drive(belief, np.arange(10), np.random.default_rng(0))
    before, at = beliefs(belief), belief.located(8.0)
    assert belief.told(*about(*at.pose[:2], 30.0)) > 0.99
    np.testing.assert_array_equal(beliefs(belief), before)
    other = Belief(loop(), 5.0)
    other.told(*about(*loop()[20][:2, 3], 4.0))
    first = beliefs(other)
    for _ in range(50):
        assert other.told(*about(*loop()[20][:2, 3], 4.0)) == pytest.approx(0.9)
    np.testing.assert_allclose(beliefs(other), first, rtol=1e-6)


def test_a_heading_counts_as_far_as_it_is_known():
    places = loop(40, headings=4)
    x, y = places[0, :2, 3]
    known, unknown = Belief(places, 5.0), Belief(places, 5.0)
    known.told(*about(x, y, 2.0, yaw=math.pi / 2, heading=0.01))
    unknown.told(*about(x, y, 2.0))
    headings = beliefs(known)[:4], beliefs(unknown)[:4]
    assert headings[0][0] > 50 * headings[0][1:].max()
    np.testing.assert_allclose(headings[1], headings[1][0], rtol=0.06)
    assert known.located(8.0).place == 0


def test_it_is_of_now_not_of_when_places_were_last_moved():
    belief = Belief(STREET, 5.0)
    belief.moved(planar(2.0, 0.0, 0.0))  # less than makes places move
    belief.told(*about(52.0, 0.0, 2.0, heading=0.01))
    assert belief.located(20.0).pose[0] == pytest.approx(52.0, abs=0.1)
    assert belief.located(20.0).place == 10


def test_without_a_place_near_it_nothing_changes():
    belief = Belief(STREET, 5.0)
    before = beliefs(belief)
    assert math.isnan(belief.told(*about(0.0, 400.0, 10.0)))
    np.testing.assert_array_equal(beliefs(belief), before)
    # A place is there, that looks the other way.
    assert math.isnan(belief.told(*about(50.0, 0.0, 5.0, yaw=math.pi, heading=0.01)))


@pytest.mark.parametrize('again', [False, True])
def test_a_wrong_prior_hides_no_answer(again):
    """Of a vehicle that knows nothing, and told with each step of one that drives."""
    belief, places = Belief(loop(), 5.0), loop()
    rng = np.random.default_rng(1)
    for i in range(6):
        if i == 0 or again:
            belief.told(*about(*places[25][:2, 3], 5.0))
        drive(belief, [i], rng)
        belief.moved(planar(5.0, 0.0, 2 * math.pi / 40))
    assert belief.located(8.0).place in (4, 5, 6)
    assert belief.located(8.0).probability > (0.9 if again else 0.99)


def test_a_belief_that_is_firmly_wrong_is_set_right():
    belief, places = Belief(loop(), 5.0), loop()
    drive(belief, np.arange(10), np.random.default_rng(0))
    assert belief.located(8.0).place in (8, 9, 10) and belief.located(8.0).probability > 0.99
    belief.told(*about(*places[30][:2, 3], 3.0))
    assert belief.located(8.0).probability == pytest.approx(0.9, abs=0.08)
    assert belief.located(8.0).place in (29, 30, 31)


@pytest.mark.parametrize('heading', [0.0, math.pi / 2])
def test_a_prior_is_of_the_vehicle_wherever_its_camera_looks(heading):
    """Two places look alike: the one that the prior is about is believed."""
    places = Places()
    sequence = Sequence(places, CONFIG)
    at = places.T_map_base[25] @ planar(0.0, 0.0, -heading)
    prior = Prior(at, np.diag([4.0, 4.0, 0.05]))
    first = sequence.joined(answer(places, [5, 25], [0.8, 0.8], heading), None, prior)
    assert sequence.agreed == pytest.approx(0.9 * 5 / 40, rel=0.5)
    np.testing.assert_allclose(first.estimate.T_map_base[:2, 3], at[:2, 3], atol=2.0)
    assert first.confidence > 0.9
    undecided = Sequence(places, CONFIG).joined(
        answer(places, [5, 25], [0.8, 0.8], heading), None)
    assert undecided.confidence < 0.6


def test_a_share_of_all_would_hide_the_rest():
    with pytest.raises(ValueError, match='less than 1'):
        BeliefConfig(prior_share=1.0)


def message(T=None, stamp_ns=START_NS, frame='map', **changes):
    """Return a prior's message as RViz sends it; changes: of the covariance, by row and column."""
    made = PoseWithCovarianceStamped(header=header_at(stamp_ns, frame))
    made.pose.pose = pose_to_message(planar(1.0, 2.0, 0.5) if T is None else T)
    covariance = np.zeros((6, 6))
    covariance[[0, 1, 5], [0, 1, 5]] = 0.25, 0.25, 0.0685
    for place, value in changes.items():
        covariance[int(place[1]), int(place[2])] = value
    made.pose.covariance = covariance.reshape(36)
    return made


def test_what_rviz_sends_is_taken_once():
    priors = Priors('map')
    assert priors.take(START_NS) is None
    priors.add(message(frame='/map'))
    told = priors.take(START_NS + S)
    np.testing.assert_allclose(told.prior.covariance, np.diag([0.25, 0.25, 0.0685]))
    np.testing.assert_allclose(told.prior.T_map_base, planar(1.0, 2.0, 0.5), atol=1e-9)
    assert told.stamp_ns == START_NS and priors.take(START_NS + S) is None
    priors.keep(told)
    assert priors.take(START_NS) is told
    priors.add(message())
    priors.keep(told)  # a newer one has come
    assert priors.take(START_NS) is not told
    priors.add(message(stamp_ns=0))
    assert priors.take(START_NS + 100 * S).stamp_ns == 0
    priors.add(message())
    priors.forget()
    assert priors.take(START_NS) is None


@pytest.mark.parametrize(('bad', 'why'), [
    ({'frame': 'odom'}, "in the frame 'odom': send it in 'map'"),
    ({'c00': math.nan}, 'not finite'), ({'c55': math.inf}, 'not finite'),
    ({'c00': 0.0}, 'positive definite'), ({'c11': -1.0}, 'positive definite'),
    ({'c01': 0.2}, 'symmetric'), ({'c01': 0.3, 'c10': 0.3}, 'positive definite')])
def test_what_cannot_be_used_is_refused_with_the_reason(bad, why):
    priors = Priors('map')
    with pytest.raises(InputError, match=f'a prior was refused: .*{why}'):
        priors.add(message(**bad))
    assert priors.take(START_NS) is None


@pytest.mark.parametrize('seconds', [-MAX_AGE_S - 0.1, MAX_AGE_S + 0.1, -1e6])
def test_a_prior_of_another_time_is_refused(seconds):
    priors = Priors('map')
    priors.add(message(stamp_ns=START_NS + round(seconds * S)))
    with pytest.raises(InputError, match='its stamp is .* s from the image'):
        priors.take(START_NS)
    assert priors.take(START_NS) is None


def test_a_prior_of_now_that_waited_is_refused():
    priors, prior = Priors('map'), Prior(np.eye(4), np.eye(3))
    priors.keep(Told(prior, 0, time.monotonic() - MAX_AGE_S - 0.1))
    with pytest.raises(InputError, match='has no stamp and waited 5.1'):
        priors.take(START_NS)
    assert priors.take(START_NS) is None
    # Of one with a stamp that alone counts: images may wait for their odometry.
    priors.keep(Told(prior, START_NS, time.monotonic() - MAX_AGE_S - 0.1))
    assert priors.take(START_NS + S).stamp_ns == START_NS


class Joins:
    """A sequence that keeps what it is given."""

    agreed = 1.0

    def joined(self, answer, T_before_after, prior):
        self.prior = prior
        return answer


def seen(stamp_ns):
    """Return an image that was searched, as the pipeline answers it."""
    found = Candidates(np.array([3]), np.ones(1, np.float32), np.eye(4)[None])
    return Answered(Answer(None, 'ambiguous', '', found, {}), stamp_ns, '')


def test_a_prior_goes_along_with_odometry():
    heard = OdometryTopic('odom', 'base_link')
    moves = ByOdometry(heard, patience_s=0.0)
    for at in np.arange(1.0, 3.1, 0.4):
        heard.add(odometry(at, planar(7.0, 10.0 * at, 0.5 * math.pi)))
    moves.to(START_NS + 3 * S)
    for since, x in ((S, 20.0), (2 * S + S // 2, 5.0)):
        np.testing.assert_allclose(moves.moved(KNOWN, START_NS + since).T_map_base,
                                   planar(x, 0.0, 0.0), atol=1e-9)

    sequence = Joins()
    follower = Follower(sequence, moves)
    # 20 m: 0.4^2 + 0.02^2 * 20 along the way; 0.0780 aside, by the heading (see test_sequence).
    for heading, x, P in ((1e-6, 20.0, [9.168, 9.078]), (ANY, 0.0, [209.123, 209.123])):
        told = Told(Prior(np.eye(4), np.diag([9.0, 9.0, heading])), START_NS + S)
        follower.follow(seen(0).answer, START_NS + 3 * S, told)
        np.testing.assert_allclose(sequence.prior.T_map_base[:2, 3], [x, 0.0], atol=1e-3)
        np.testing.assert_allclose(np.diag(sequence.prior.covariance)[:2], P, atol=1e-3)
    follower.follow(seen(0).answer, START_NS + 3 * S, replace(told, stamp_ns=0))
    np.testing.assert_array_equal(sequence.prior.covariance, told.prior.covariance)


@pytest.mark.parametrize('seconds', [0, 5])
def test_a_prior_without_odometry_of_its_time_is_not_taken_as_exact(seconds):
    """Before all odometry, or after all that has come: of 2 s the vehicle may have driven 16 m."""
    heard, sequence = OdometryTopic('odom', 'base_link'), Joins()
    for at in np.arange(1.0, 3.1, 0.4):
        heard.add(odometry(at, planar(7.0, 10.0 * at, 0.5 * math.pi)))
    told = Told(replace(KNOWN, covariance=np.diag([9.0, 9.0, 1e-6])), START_NS + seconds * S)
    image = 2 if seconds == 0 else 3
    follower = Follower(sequence, ByOdometry(heard, patience_s=0.0))
    follower.follow(seen(0).answer, START_NS + image * S, told)
    np.testing.assert_array_equal(sequence.prior.T_map_base, np.eye(4))
    turn = math.radians(10.0) ** 2
    np.testing.assert_allclose(np.diag(sequence.prior.covariance),
                               [9.0 + 16.0 ** 2, 9.0 + 16.0 ** 2, turn * 16.0], rtol=1e-5)


def test_a_prior_waits_for_an_image_with_odometry():
    heard, priors, sequence = OdometryTopic('odom', 'base_link'), Priors('map'), Joins()
    thread = Inference.__new__(Inference)  # without its thread, and a model to load
    thread._follower = Follower(sequence, ByOdometry(heard, patience_s=0.0))
    thread._priors = priors
    thread._node = SimpleNamespace(get_logger=lambda: logging.getLogger('test'))
    priors.add(message())
    unseen = replace(seen(START_NS), answer=rejection('no_texture', ''))
    assert thread._followed(unseen).answer.rejection == 'no_odometry'
    assert thread._followed(seen(START_NS)).answer.rejection == 'no_odometry'
    heard.add(odometry(1, np.eye(4)))
    assert thread._followed(seen(START_NS + S)).answer.rejection == 'ambiguous'
    np.testing.assert_allclose(sequence.prior.T_map_base, planar(1.0, 2.0, 0.5), atol=1e-9)
    assert priors.take(START_NS + S) is None


def test_a_prior_goes_along_with_a_guess():
    moves = ConstantVelocity()
    moves.to(START_NS)
    step = moves.to(START_NS + S)
    np.testing.assert_allclose(moves.moved(KNOWN, START_NS).T_map_base, step, atol=1e-9)
    np.testing.assert_allclose(moves.moved(KNOWN, START_NS + 2 * S).T_map_base, inverse(step),
                               atol=1e-9)
    sequence = Joins()
    told = Told(Prior(np.eye(4), np.diag([9.0, 9.0, 1e-6])), START_NS)
    Follower(sequence, moves).follow(seen(0).answer, START_NS + S, told)
    # 8 m in a second: the speed is known to a half, the heading to 10 degrees a metre.
    turn = math.radians(10.0) ** 2
    np.testing.assert_allclose(
        np.diag(sequence.prior.covariance),
        [9.0 + 4.0 ** 2, 9.0 + turn * 8.0 ** 3 / 3, turn * 8.0], rtol=1e-4)


def test_a_node_that_is_told_which_of_two_places_it_is(tmp_path):
    temperature = write_alike(tmp_path)
    domain = new_domain()
    process = localizer_of(tmp_path, domain, sequence='constant_velocity', top_k=6,
                           temperature=temperature, merge_radius_m=8.0,
                           sequence_min_probability=0.8)
    try:
        with client_in(domain) as client:
            client.listen_to_localizer()
            image, info = client.camera()
            prior = client.node.create_publisher(
                PoseWithCovarianceStamped, '/localizer/prior', 10)
            answers = client.got['/localizer/answer']
            assert client.until(lambda: image.get_subscription_count()
                                and info.get_subscription_count()
                                and prior.get_subscription_count(), 60), process.log
            stamps = iter(range(START_NS, START_NS + S, 1_000_000))

            def said():
                """Publish the image of a place until one was looked at; return its answer."""
                before = len(answers)

                def answered():
                    image.publish(image_at(next(stamps), 3))
                    return len(answers) > before

                assert client.until(answered, 60), process.log
                return json.loads(answers[-1].data)

            def undecided():
                info.publish(camera_info())  # may come after an image that was sent after it
                return said()['rejection'] == 'undecided'

            assert client.until(undecided, 60), process.log
            there = planar(20.0, 400.0, 0.0)
            prior.publish(message(there, frame='world'))
            assert client.until(lambda: 'a prior was refused: it is in the frame' in process.log,
                                60), process.log
            assert said()['rejection'] == 'undecided'
            assert client.until(lambda: prior.publish(message(there, stamp_ns=0))
                                or said()['accepted'], 60), process.log
            fixes = client.got['/localizer/fix']
            assert client.until(lambda: fixes, 60), process.log
            np.testing.assert_allclose(
                message_to_pose(fixes[-1].pose.pose)[:2, 3], there[:2, 3], atol=3.0)
        assert process.interrupt() == 0, process.log
    finally:
        process.close()
