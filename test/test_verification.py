"""What was found is verified in one way: by the localizer, and wherever it is judged."""

from dataclasses import replace
import json

from helpers_cli import i2ploc
from helpers_localizer import verifying_model
from helpers_street import CAMERA, T_BASE_CAMERA, write_street
import numpy as np
import pytest

from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.distributed import World
from saliency_i2ploc_ros.encoders.files import load_model, save_model
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.calibrating import answers_of, described_site
from saliency_i2ploc_ros.evaluation.described import ByModel, describe_submaps
from saliency_i2ploc_ros.evaluation.offline import answers_to
from saliency_i2ploc_ros.evaluation.protocols import entries_of, submaps_of_entries
from saliency_i2ploc_ros.evaluation.ranking import Allowed, rank_places
from saliency_i2ploc_ros.evaluation.retrieval import describe, judge_all, Question
from saliency_i2ploc_ros.evaluation.sequences import ask
from saliency_i2ploc_ros.export.runtime import torch_runtime
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.localization.calibration import Calibration, Logistic, Power
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import Localizer, open_localizer, STAGES
from saliency_i2ploc_ros.localization.verification import Verification, verification_of
from saliency_i2ploc_ros.mapping.database import PlaceDatabase

CONFIG = LocalizerConfig(top_k=20, min_visible=0.0)  # the images are of noise


class Rows:
    """Details of a map that tell which of them were read."""

    def __init__(self, details):
        self.details, self.read = details, []

    def __getitem__(self, rows):
        self.read.append(rows.tolist())
        return self.details[rows]


def test_a_score_is_the_cosine_and_what_the_verifier_adds():
    asked = []

    def logits(image, places):
        asked.append((image.dtype, image.tolist()))
        return places[:, 0, 0].astype(np.float32)

    there = Rows(np.float16([0.0, 2.0, -3.0, 40.0, -50.0, 2.0]).reshape(6, 1, 1))
    scores, places = Verification(logits, 0.1)(
        np.float32([[1.0 + 1e-6]]), there, np.float32([0.9, 0.8, 0.8, 0.7, 0.6]),
        np.array([2, 1, 5, 4, 3]))
    # 8 units count at most, either way; of equal scores the first that was found is first.
    assert places.tolist() == [3, 1, 5, 2, 4]
    assert scores.dtype == np.float32
    assert scores == pytest.approx([0.6 + 0.8, 1.0, 1.0, 0.9 - 0.3, 0.7 - 0.8], abs=1e-6)
    assert there.read == [[2, 1, 5, 4, 3]]
    assert asked == [(np.float16, [[1.0]])]  # as coarse as it is cached


def test_verified_ranks_are_those_of_sorting_everything():
    rng = np.random.default_rng(3)
    queries, places = (x / np.linalg.norm(x, axis=1, keepdims=True)
                       for x in rng.normal(size=(2, 40, 6)).astype(np.float32))
    at, there = (np.stack([planar(*xy, 0.0) for xy in rng.uniform(0.0, 60.0, (40, 2))])
                 for _ in range(2))
    added = rng.normal(0.0, 0.5, (40, 40)).astype(np.float32)
    allowed = Allowed(rng.integers(0, 41, 40), np.arange(40))

    def reorder(i, scores, found):
        new = scores + added[i, found]
        order = np.argsort(-new, kind='stable')
        return new[order], found[order]

    ranks = rank_places(queries, places, at, there, allowed, (10.0, 20.0), top_k=7,
                        reorder=reorder, memory=40 * 4 * 9)
    cosine = queries @ places.T
    for i in range(40):
        order = [j for j in np.argsort(-cosine[i], kind='stable')
                 if j < allowed.stop[i] and j != i]
        first = sorted(order[:7], key=lambda j: -(cosine[i, j] + added[i, j]))
        order = first + order[7:]
        if not order:
            assert ranks.answer[i] == -1 and ranks.score[i] == -np.inf
            continue
        assert ranks.answer[i] == order[0]
        assert ranks.score[i] == pytest.approx(cosine[i, order[0]] + added[i, order[0]])
        for column, radius in enumerate((10.0, 20.0)):
            right = [rank for rank, j in enumerate(order)
                     if np.hypot(*(there[j] - at[i])[:2, 3]) <= radius]
            assert ranks.first[i, column] == (right[0] if right else -1)
            assert ranks.positives[i, column] == len(right)


# ---- a street driven twice ----

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a folder with a street driven twice, a model that verifies, and their map."""
    root = tmp_path_factory.mktemp('world')
    patch = pytest.MonkeyPatch()
    patch.setenv('I2PLOC_CACHE', str(root / 'cache'))
    save_model(verifying_model(), root / 'model', {})
    write_street(root / 'data', points=9000)
    i2ploc('build-map', root / 'data', '--drive', '0000', '--model', root / 'model', '--out',
           root / 'map')
    yield root
    patch.undo()


@pytest.fixture(scope='module')
def drive(world):
    return open_drive(world / 'data', '0001')


@pytest.fixture(scope='module')
def localizer(world):
    return open_localizer(world / 'model', world / 'map', CONFIG)


@pytest.fixture(scope='module')
def answers(localizer, drive):
    """Return what the localizer answers to each image, those of noise too."""
    return [answer for *_, answer in answers_to(localizer, drive)]


def test_a_map_keeps_details_of_its_places_where_they_lie(world, localizer):
    database, model = localizer.database, load_model(world / 'model')
    assert len(database) > CONFIG.top_k  # else nothing is left out
    assert database.schema.details == model.config.details_shape == (12, 8)
    assert isinstance(database.details, np.memmap) and database.details.dtype == np.float16
    store = submaps_of_entries(entries_of(open_drive(world / 'data', '0000'), 5.0),
                               model.config.submap)
    # Not smoothed, as the descriptors are.
    found = describe_submaps(store, ByModel(model), World(), model.config.views,
                             model.config.smooth_m)
    assert np.array_equal(found.details, database.details)
    np.testing.assert_allclose(found.descriptors, database.descriptors, atol=1e-6)
    assert np.ptp(database.details.astype(np.float32), axis=0).max() > 0.1


def test_the_localizer_asks_the_verifier_about_all_that_it_found(localizer, drive, answers):
    runtime = localizer.model
    changed = 0
    for i, answer in enumerate(answers):
        seen = runtime.run(runtime.prepare(drive.image('image_00', i), CAMERA)[None])
        scores, places = localizer.database.search(seen.descriptor, 20)
        logits = runtime.verify(seen.details[0].astype(np.float16),
                                localizer.database.details[places[0]])
        expected = scores[0] + 0.1 * np.clip(logits, -8.0, 8.0)
        order = np.argsort(-expected)
        assert answer.candidates.indices.tolist() == places[0][order].tolist()
        assert answer.candidates.scores == pytest.approx(expected[order], abs=1e-6)
        assert answer.estimate.score == answer.candidates.scores[0]
        assert tuple(answer.milliseconds) == STAGES and answer.milliseconds['verify'] > 0.0
        changed += int(order[0] != 0)
    assert changed >= 5, 'the test would not see whether anything was verified'


def test_verification_can_be_left_out(world, localizer, drive):
    image = drive.image('image_00', 3)
    without = Localizer(localizer.model, localizer.database,
                        CONFIG.model_copy(update={'verify': False}))
    answer = without.localize(image, CAMERA, T_BASE_CAMERA)
    descriptor = localizer.model.run(localizer.model.prepare(image, CAMERA)[None]).descriptor
    scores, places = localizer.database.search(descriptor, 20)
    assert np.array_equal(answer.candidates.indices, places[0])
    assert np.array_equal(answer.candidates.scores, scores[0])


def test_a_model_without_a_verifier_is_as_it_was(world, localizer, drive):
    config = load_model(world / 'model').config.model_copy(update={'verifier': None})
    plain = torch_runtime(verifying_model(config))
    assert verification_of(plain, True) is None
    bare = replace(localizer.database, details=None)
    found = [Localizer(plain, database, CONFIG.model_copy(update={'verify': wanted})).localize(
        drive.image('image_00', 3), CAMERA, T_BASE_CAMERA)
        for wanted in (True, False) for database in (localizer.database, bare)]
    first = {key: value for key, value in found[0].as_dict().items() if key != 'milliseconds'}
    for answer in found[1:]:
        assert {key: value for key, value in answer.as_dict().items()
                if key != 'milliseconds'} == first


def test_a_map_without_details_is_refused_by_a_model_that_verifies(localizer):
    bare = replace(localizer.database, details=None)
    with pytest.raises(InputError, match='no details.*build-map'):
        Localizer(localizer.model, bare, CONFIG)
    Localizer(localizer.model, bare, CONFIG.model_copy(update={'verify': False}))


def made_up_calibration(localizer):
    """Return a calibration whose probabilities and deviations go by all of the evidence."""
    schema, law = localizer.database.schema, Power(scale=0.7, floor=1.0, power=0.8, growth=0.05)
    return Calibration(
        encoder_hash=schema.encoder_hash, preprocessing_hash=schema.preprocessing_hash,
        top_k=20, temperature=0.03, merge_radius_m=20.0, verify=True, headings=2, spacing_m=5.0,
        smooth_m=3.5, radius_m=20.0, along_m=law, across_m=law, heading_rad=law, nothing=0.1,
        right=Logistic(weights=(0.3, 1.0, 2.0, 0.5, 0.2), bias=-1.0),
        inside=Logistic(weights=(0.1, -1.0, 1.0, 0.2, -0.3), bias=1.0))


def test_a_calibration_holds_for_verifying_or_not_where_the_model_can(world, localizer):
    calibration, database = made_up_calibration(localizer), localizer.database
    unverified = CONFIG.model_copy(update={'verify': False})
    with pytest.raises(InputError, match='made for verify True, and here it is False'):
        Localizer(localizer.model, database, unverified, calibration)
    Localizer(localizer.model, database, unverified,
              calibration.model_copy(update={'verify': False}))
    plain = torch_runtime(verifying_model(
        localizer.model.config.model_copy(update={'verifier': None})))
    for config in (CONFIG, unverified):
        assert Localizer(plain, database, config, calibration).calibration is calibration
    with pytest.raises(InputError, match='made for top_k 20'):
        Localizer(plain, database, CONFIG.model_copy(update={'top_k': 5}), calibration)


@pytest.mark.parametrize('of', ['the map', 'the drive'])
def test_calibration_learns_from_the_answers_of_the_localizer(world, drive, localizer, of):
    calibration = made_up_calibration(localizer)
    calibrated = Localizer(localizer.model, localizer.database, CONFIG, calibration)
    describer = ByModel(load_model(world / 'model'))
    mapped = localizer.database if of == 'the map' else open_drive(world / 'data', '0000')
    site = described_site('s', mapped, [drive], describer, World())
    queries, yaw = site.queries[0]
    found = answers_of(site, site, queries, yaw, 5.0, CONFIG,
                       verification_of(describer.runtime, CONFIG.verify))
    probability = calibration.probability(found.evidence, CONFIG.outside)
    sigma = calibration.sigma(found.spread)
    for i, (_, _, truth, answer) in enumerate(answers_to(calibrated, drive)):
        assert found.scores[i] == pytest.approx(answer.candidates.scores, abs=1e-5)
        assert answer.confidence == pytest.approx(probability[i], rel=1e-3)
        x, y = answer.estimate.T_map_base[:2, 3] - truth[:2, 3]
        assert np.hypot(x, y) == pytest.approx(np.hypot(*found.error[i, :2]), abs=1e-2)
        sides = np.sqrt(np.linalg.eigvalsh(answer.estimate.covariance[:2, :2]))
        assert sides == pytest.approx(np.sort(sigma[i, :2]), rel=1e-3)


def test_evaluation_ranks_as_the_localizer_does(world, drive, localizer, answers):
    model = load_model(world / 'model')
    results = {}
    for database in (localizer.database, open_drive(world / 'data', '0000')):
        prepared = describe(Question(), model, drive, database)
        by_method = {judged.method: judged for judged in judge_all(prepared)}
        assert list(by_method) == ['model', 'descriptor', 'skyline']
        for judged in judge_all(prepared):
            results.setdefault(judged.method, []).append(judged.ranks.first.tolist())
        ranks = by_method['model'].ranks
        assert ranks.answer.tolist() == [int(a.candidates.indices[0]) for a in answers]
        assert ranks.score == pytest.approx([a.candidates.scores[0] for a in answers], abs=1e-5)
        places = localizer.database.T_map_base[:, :2, 3]
        for i, answer in enumerate(answers):
            apart = np.linalg.norm(places[answer.candidates.indices]
                                   - drive.cameras['image_00'].T_map_base[i, :2, 3], axis=1)
            near = np.flatnonzero(apart <= 20.0)
            first = ranks.first[i, ranks.radii_m.index(20.0)]
            assert first == near[0] if len(near) else first >= len(answer.candidates)
    assert results['model'][0] == results['model'][1] != results['descriptor'][0]


def test_a_sequence_is_of_verified_answers(localizer, drive, answers):
    asked = ask(localizer, drive)
    for mine, answer in zip(asked.answers, answers, strict=True):
        assert np.array_equal(mine.candidates.scores, answer.candidates.scores)


def test_the_report_has_the_descriptor_alone_beside_the_model(world, tmp_path):
    said = i2ploc('evaluate', world / 'data', '--drive', '0001', '--map', world / 'map', '--model',
                  world / 'model', '--out', tmp_path / 'out')
    assert 'image to cloud, descriptor' in said
    evaluation = json.loads((tmp_path / 'out' / 'evaluation.json').read_text())
    assert [result['method'] for result in evaluation['results']] == [
        'model', 'descriptor', 'skyline']
    assert evaluation['protocol']['verified'] == 20
    page = (tmp_path / 'out' / 'report.md').read_text()
    assert 'first 20 places are compared' in page and 'descriptor alone' in page


def test_only_images_that_ask_for_clouds_are_verified(world, drive):
    pairings = ('cloud-image', 'image-cloud', 'image-image')
    prepared = describe(Question('same_pass', pairings, baseline=False),
                        load_model(world / 'model'), drive)
    judged = judge_all(prepared)
    assert [(one.pairing, one.method) for one in judged] == [
        ('cloud-image', 'model'), ('image-cloud', 'model'), ('image-cloud', 'descriptor'),
        ('image-image', 'model')]
    # Of itself no place is asked, whatever the verifier thinks of it.
    assert (judged[1].ranks.answer != np.arange(20)).all()
    assert (judged[1].ranks.answer != judged[2].ranks.answer).any()


def test_a_cache_without_details_is_not_met_by_a_model_that_verifies(world, drive):
    model = load_model(world / 'model')
    by = ByModel(model)
    plain = ByModel(torch_runtime(verifying_model(
        model.config.model_copy(update={'verifier': None}))))
    assert by.key != plain.key and by.hashes != plain.hashes
    # Even if it had the same hashes.
    plain.hashes = by.hashes
    assert by.key[:-1] == [*by.hashes, 'torch'] and by.key[-1] == {'details': (12, 8)}
    runtime, pixels = by.runtime, by.runtime.prepare(drive.image('image_00', 0), CAMERA)[None]
    row, seen = by.images(np.asarray(pixels)), runtime.run(pixels)
    assert row.shape == (1, 16 + 12 * 8)
    assert np.array_equal(row[:, :16], seen.descriptor)
    assert np.array_equal(row[0, 16:].reshape(12, 8), seen.details[0])


def test_a_map_altered_in_its_details_is_refused(world, tmp_path):
    import shutil
    shutil.copytree(world / 'map', tmp_path / 'map')
    details = np.load(tmp_path / 'map' / 'details.npy')
    np.save(tmp_path / 'map' / 'details.npy', details + 1)
    with pytest.raises(InputError, match='details.npy.*altered'):
        PlaceDatabase.open(tmp_path / 'map')
    for wrong, match in ((details[1:], 'do not fit'), (details[:, :3], 'do not fit'),
                         (details.astype(np.float32), 'float32')):
        np.save(tmp_path / 'map' / 'details.npy', wrong)
        with pytest.raises(InputError, match=match):
            PlaceDatabase.open(tmp_path / 'map', verify=False)
