"""The verifier: what it compares, what it is part of, and that every runtime answers alike."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
import torch
from torch.nn import functional as F

from saliency_i2ploc_ros.cli import model as cli
from saliency_i2ploc_ros.cli.export import table
from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    ImageConfig,
    ModelConfig,
    parse_config,
    RangeConfig,
    VerifierConfig,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import (
    encoder_hash,
    load_model,
    read_identity,
    save_model,
    weights_hash,
)
from saliency_i2ploc_ros.encoders.presets import as_panorama, CITY, OURS_CITY
from saliency_i2ploc_ros.encoders.verifier import CORRELATION, Verifier
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.export import graphs
from saliency_i2ploc_ros.export.acceleration import faster, least_agreement, vectors_of
from saliency_i2ploc_ros.export.parity import answers_of, check_parity, Outputs
from saliency_i2ploc_ros.export.runners import run_pt2
from saliency_i2ploc_ros.export.runtime import open_runtime, RUNTIMES, torch_runtime
from saliency_i2ploc_ros.export.writer import export_model
from saliency_i2ploc_ros.geometry.cameras import Panorama, Pinhole
from saliency_i2ploc_ros.storage import content_hash

GRID = 3, 7
SMALL = VerifierConfig(details=8, width=16, depth=2, reach=2)
TINY = ModelConfig(
    name='tiny', descriptor_dim=16, mirrored=True, verifier=SMALL,
    image=ImageConfig(height=24, width=56, patch=8, dim=32, depth=1, heads=2, stem='conv',
                      camera=Pinhole(56, 24, 20.0, 20.0, 27.5, 11.5)),
    cloud=RangeConfig(height=24, width=56, patch=8, dim=32, depth=1, heads=2, stem='conv'),
    aggregation=AggregationConfig(clusters=4))


def network(round_=False, config=SMALL):
    """Return a verifier all of whose parameters matter."""
    torch.manual_seed(0)
    made = Verifier(config, GRID, round_).eval()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return made


def details(B=3, k=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = GRID[0] * GRID[1], SMALL.details
    return (torch.randn((B, *shape), generator=generator),
            torch.randn((B, k, *shape), generator=generator))


def turned(x, by):
    """Return tokens (..., N, c) as seen after a turn by so many columns."""
    return x.unflatten(-2, GRID).roll(by, -2).flatten(-3, -2)


@torch.no_grad()
def test_a_logit_depends_on_one_image_and_one_place_only():
    compare, (images, places) = network(), details()
    together = compare(images, places)
    assert together.shape == (3, 4) and together.dtype == torch.float32
    assert together.std() > 0.05
    for b in range(3):
        for j in range(4):
            alone = compare(images[b:b + 1], places[b:b + 1, j:j + 1])
            assert float(alone) == pytest.approx(float(together[b, j]), abs=1e-5)
    assert torch.equal(compare(images, places), together)


@pytest.mark.parametrize('round_', [False, True])
def test_correlations_are_cosines_to_the_columns_beside(round_):
    compare, (images, places) = network(round_), details(1, 2)
    found = compare.correlations(images[:, None], places).reshape(2, *GRID, 5)
    a, b = images[0].reshape(*GRID, -1), places[0].reshape(2, *GRID, -1)
    for j, row, column, shift in np.ndindex(2, *GRID, 5):
        other = column + shift - 2
        expected = 0.0
        if round_ or 0 <= other < GRID[1]:
            expected = CORRELATION * float(F.cosine_similarity(
                a[row, column], b[j, row, other % GRID[1]], dim=0))
        assert float(found[j, row, column, shift]) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_a_full_circle_has_no_edge_and_a_narrower_view_has():
    images, places = details()
    for by in (1, 3):
        seen = network(True)(images, places)
        then = network(True)(turned(images, by), turned(places, by))
        torch.testing.assert_close(then, seen, atol=1e-5, rtol=1e-5)
        edged = network()(turned(images, by), turned(places, by)) - network()(images, places)
        assert edged.abs().max() > 1e-3
    # Turning the image alone is another view of the place.
    assert (network(True)(turned(images, 3), places) - seen).abs().max() > 1e-2


def test_only_a_panorama_is_closed():
    assert not DualEncoder(TINY).verifier.round
    config = as_panorama(TINY.model_copy(update={'name': 'x'}), 64, 24)
    assert isinstance(config.image.camera, Panorama)
    made = DualEncoder(config).verifier
    assert made.round and made.grid == (3, 8) and all(block.round for block in made.blocks)


def test_it_starts_undecided_and_everything_learns():
    torch.manual_seed(0)
    compare, (images, places) = Verifier(VerifierConfig(details=8), GRID), details()
    logits = compare(images, places)
    assert logits.abs().max() < 0.05
    assert compare.correlations(images[:, None], places).std() > 0.5
    logits[:, 0].sum().backward()
    assert all(value.grad.abs().max() > 0.0 for value in compare.parameters())


def test_in_bfloat16_cosines_and_logits_are_still_float32():
    compare, (images, places) = network(), details()
    seen = []
    compare.blocks[0].first.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    with torch.no_grad():
        expected = compare(images, places)
        with torch.autocast('cpu', torch.bfloat16):
            found = compare(images, places)
            cosines = compare.correlations(images[:, None], places)
    assert seen == [torch.float32, torch.bfloat16]
    assert found.dtype == cosines.dtype == torch.float32
    assert torch.equal(cosines, compare.correlations(images[:, None], places))
    error = (found - expected).abs().max()
    assert 0.0 < error < 0.05 * expected.std() + 0.02


def test_it_learns_to_tell_a_place_seen_from_beside_from_others():
    """Places are the image turned by a column, with noise; or another image, turned likewise."""
    torch.manual_seed(0)
    compare = Verifier(VerifierConfig(details=8, width=8, depth=1, reach=1), GRID)
    optimiser = torch.optim.Adam(compare.parameters(), 5e-3)

    def batch():
        images = torch.randn(16, GRID[0] * GRID[1], 8)
        same = torch.stack([turned(images, int(by)) for by in (-1, 1)], 1)
        places = torch.cat([same, same.roll(1, 0)], 1)
        return images, places + 0.5 * torch.randn_like(places)

    wanted = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(16, 4)
    for _ in range(60):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(compare(*batch()), wanted).backward()
        optimiser.step()
    with torch.no_grad():
        right = (compare(*batch()) > 0.0) == (wanted > 0.5)
    assert right.float().mean() > 0.95


# ---- the model ----

@pytest.fixture(scope='module')
def tiny():
    torch.manual_seed(0)
    model = DualEncoder(TINY)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def pictures(count=7):
    rng = np.random.default_rng(0)
    return rng.uniform(0.5, 3.0, (count, 3, 24, 56)).astype(np.float32)


def ranges(count=7):
    rng = np.random.default_rng(1)
    return rng.uniform(0.5, 30.0, (count, 1, 24, 56)).astype(np.float32)


@torch.no_grad()
def test_details_are_a_linear_map_of_the_first_looks_tokens(tiny):
    image = tiny.encode_image(torch.from_numpy(pictures()))
    cloud = tiny.encode_cloud(torch.from_numpy(ranges()))
    for found, branch in ((image, tiny.image), (cloud, tiny.cloud)):
        assert found.details.shape == (7, 21, 8)
        expected = found.tokens @ branch.detail.weight.T + branch.detail.bias
        torch.testing.assert_close(found.details, expected, atol=1e-5, rtol=1e-5)
    plain = DualEncoder(TINY.model_copy(update={'verifier': None})).eval()
    assert plain.verifier is None
    plain.load_state_dict({name: value for name, value in tiny.state_dict().items()
                           if name in plain.state_dict()})
    without = plain.encode_image(torch.from_numpy(pictures()))
    assert without.details is None
    assert torch.equal(without.descriptor, image.descriptor)


@pytest.mark.parametrize('change, says', [
    ({'cloud': CITY.cloud.model_dump()}, 'clouds of the kind range'),
    ({'cloud': {**OURS_CITY.cloud.model_dump(), 'patch': 8}},
     'the image has 4 x 13, the cloud 8 x 26'),
    ({'verifier': {'reach': 7}}, 'wider than the 13 columns'),
    ({'verifier': {'width': 20}}, 'verifier.width'),
    ({'verifier': {'widht': 8}}, 'verifier.widht'),
])
def test_models_that_it_cannot_be_part_of_are_refused(change, says):
    # Without a layout, which asks for grids too.
    whole = {**OURS_CITY.model_dump(mode='json'), 'verifier': {},
             'aggregation': {'clusters': 4}}
    assert parse_config(whole, 'test').verifier == VerifierConfig()
    with pytest.raises(InputError, match=says):
        parse_config({**whole, **change}, 'test')


def test_a_model_without_one_keeps_the_hash_it_had_before_there_were_any(tmp_path):
    plain = DualEncoder(TINY.model_copy(update={'verifier': None}))
    shaping = plain.config.model_dump(
        mode='json', exclude={'name', 'submap', 'views', 'smooth_m', 'verifier'})
    before = content_hash({'config': shaping, 'weights': weights_hash(plain.state_dict())})
    save_model(plain, tmp_path, {})
    assert encoder_hash(plain) == read_identity(tmp_path)[1] == before
    written = json.loads((tmp_path / 'config.json').read_text())
    del written['model']['verifier']  # as earlier versions wrote it
    (tmp_path / 'config.json').write_text(json.dumps(written))
    assert encoder_hash(tmp_path) == before and load_model(tmp_path).verifier is None


def test_the_hash_covers_all_of_it(tiny, tmp_path):
    save_model(tiny, tmp_path, {})
    back = load_model(tmp_path)
    hashes = {encoder_hash(back)}
    assert hashes == {encoder_hash(tiny)} == {read_identity(tmp_path)[1]}
    for part in (back.verifier.logit, back.image.detail, back.cloud.detail):
        with torch.no_grad():
            part.bias[0] += 1e-3
        hashes.add(encoder_hash(back))
    back.config = back.config.model_copy(
        update={'verifier': SMALL.model_copy(update={'weight': 0.04})})
    assert len(hashes | {encoder_hash(back)}) == 5


def test_the_command_says_what_it_is(tiny, tmp_path, capsys):
    save_model(tiny, tmp_path, {})
    cli.command(str(tmp_path))
    said = capsys.readouterr().out
    assert '7 x 3 tokens of 8 numbers (0.3 kB a place)' in said and 'verifier network' in said
    cli.command('city')
    assert 'verifier' not in capsys.readouterr().out


# ---- runtimes ----

@pytest.fixture(scope='module')
def folder(tiny, tmp_path_factory):
    """Return a model's folder with its export in it."""
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(name)
    root = tmp_path_factory.mktemp('verifier') / 'model'
    save_model(tiny, root, {})
    manifest = export_model(root, root / 'export', ('pt2', 'onnx'), False, (pictures(),),
                            (ranges(),), 'a test')
    assert manifest['outputs'] == ['descriptor', 'saliency', 'details']
    for name, file in manifest['files'].items():
        if name.endswith(('pt2', 'onnx')):
            assert min(file['parity']['details_cosine'].values()) >= 0.9999
    assert 'verifier.safetensors' in manifest['files']
    assert 'details' in [column.header for column in table(manifest).columns]
    return root


def test_every_runtime_gives_the_same_details_and_logits(folder, tiny, tmp_path):
    shutil.copytree(folder / 'export', tmp_path / 'vehicle')  # without the model's weights
    with torch.inference_mode():
        expected = tiny.encode_image(torch.from_numpy(pictures())).details
        places = tiny.encode_cloud(torch.from_numpy(ranges())).details.numpy()
        logits = tiny.verifier(expected[:1], torch.from_numpy(places)[None])[0].numpy()
    assert logits.std() > 0.02
    for runtime in RUNTIMES:
        opened = open_runtime(folder if runtime == 'torch' else tmp_path / 'vehicle', runtime)
        found = opened.run(pictures())
        assert isinstance(found, Outputs) and found.details.dtype == np.float32
        assert np.abs(found.details - expected.numpy()).max() < 1e-5
        said = opened.verify(found.details[0], places)
        assert said.dtype == np.float32 and said.shape == (7,)
        assert np.abs(said - logits).max() < 1e-4
        # As a map keeps them: half precision, and not to be written to.
        kept = places.astype(np.float16)
        kept.setflags(write=False)
        assert np.abs(opened.verify(found.details[0], kept) - logits).max() < 2e-2
        opened.close()
        with pytest.raises(RuntimeError, match='closed'):
            opened.verify(found.details[0], places)


def test_without_a_verifier_there_is_nothing_to_ask():
    plain = torch_runtime(DualEncoder(TINY.model_copy(update={'verifier': None})))
    assert plain.verify is None and plain.run(pictures(2)).details is None
    plain.close()
    assert plain.verify is None


def test_a_verifier_that_is_not_the_models_is_refused(folder, tmp_path):
    shutil.copytree(folder / 'export', tmp_path / 'export')
    path = tmp_path / 'export' / 'verifier.safetensors'
    state = load_file(path)
    state['logit.bias'] += 0.1
    save_file(state, path)
    with pytest.raises(InputError, match='missing or not what export.json says'):
        open_runtime(tmp_path / 'export', 'onnx')
    path.unlink()
    with pytest.raises(InputError, match='missing or not what export.json says'):
        open_runtime(tmp_path / 'export', 'pt2')


def test_details_that_differ_are_refused(tiny, folder):
    wanted = answers_of(tiny.image, (pictures(),))
    run = run_pt2(folder / 'export' / 'image.pt2')
    assert min(check_parity(run, wanted, 'float32', 'it')['details_cosine'].values()) > 0.9999
    with pytest.raises(InputError, match='its details agree with the model to a cosine'):
        check_parity(lambda x: run(x)._replace(details=run(x).details[:, ::-1]), wanted,
                     'float32', 'it')
    with pytest.raises(InputError, match=r'its details are missing instead of \(1, 21, 8\)'):
        check_parity(lambda x: run(x)._replace(details=None), wanted, 'float32', 'it')


def test_half_precision_is_held_to_details_too(tiny, tmp_path):
    graph = graphs.capture(graphs.in_half_precision(tiny.cloud), (ranges(2),))
    graphs.write_pt2(graph, tmp_path / 'half.pt2')
    figures = check_parity(run_pt2(tmp_path / 'half.pt2'), answers_of(tiny.cloud, (ranges(),)),
                           'float16', 'it')
    assert 0.999 <= min(figures['details_cosine'].values()) < 1.0 - 1e-9
    found = faster(tiny.image, (3, 24, 56), 'cpu', 'bf16', 'none')
    assert found.precision == 'bf16' and 0.999 <= found.parity < 1.0
    vectors = vectors_of(tiny.image, torch.from_numpy(pictures()))
    assert [v.shape for v in vectors] == [(7, 16), (7, 21 * 8)]
    assert least_agreement(vectors, (vectors[0], -vectors[1])) == pytest.approx(-1.0, abs=1e-5)
