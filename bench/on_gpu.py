"""
What only a GPU can show: does it answer as the processor does, how fast, and is it given back?

    python bench/on_gpu.py [--json FILE] [--city CITY --map MAP] [--device cuda:1]

Four tables in Markdown. Preparation: the model's input made on the device beside the processor's,
for several cameras. Encoder: descriptors beside the processor's in fp32 and milliseconds, by
precision and acceleration. Localizer: answers and milliseconds from a raw image to a fix. Memory:
what is still held after each localizer was closed. Exits with 2 where something differs or is not
given back. `--device cpu` runs the same code on the processor, as a trial of the script itself.
"""

import argparse
import gc
import json
from pathlib import Path
import platform
import sys
import tempfile
import time

import cv2
from live import world
import numpy as np
import torch

from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.encoders.files import load_model
from saliency_i2ploc_ros.encoders.image_input import prepare_image
from saliency_i2ploc_ros.export.acceleration import ACCELERATIONS, agreement, PRECISIONS
from saliency_i2ploc_ros.export.device_input import DeviceInput
from saliency_i2ploc_ros.export.parity import LIMIT
from saliency_i2ploc_ros.export.runtime import open_runtime
from saliency_i2ploc_ros.geometry.cameras import Panorama, Pinhole
from saliency_i2ploc_ros.geometry.lenses import Brown, Fisheye, Mei
from saliency_i2ploc_ros.geometry.poses import R_base_optical, transform
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import open_localizer
from saliency_i2ploc_ros.storage import shared_directory

CAMERAS = {
    'pinhole 1408 x 376': Pinhole(1408, 376, 552.6, 552.6, 682.0, 238.8),
    'pinhole 1920 x 1200': Pinhole(1920, 1200, 1000.0, 1005.0, 955.0, 610.0),
    'pinhole 64 x 48': Pinhole(64, 48, 30.0, 30.0, 31.0, 23.0),
    'Brown 1280 x 720': Brown(1280, 720, 700.0, 700.0, 640.0, 360.0, -0.3, 0.1, 0.001, 0.001),
    'fisheye 1400 x 1400': Fisheye(1400, 1400, 420.0, 420.0, 699.0, 699.0, 0.01, 0.0, 0.0, 0.0),
    'Mei 1400 x 1400': Mei(1400, 1400, 2.2, 0.01, 0.1, 0.0, 0.0, 1336.0, 1336.0, 716.0, 705.0),
    'panorama 2000 x 400': Panorama(2000, 400, 30.0, -40.0),
}
# Of pictures (edges, shades, grain): grey levels, and cosine of their descriptors.
GREY_MAX, GREY_MEAN, COSINE = 3.0, 0.2, 0.9999
WARM_UP = 10
LEAK_MIB = 1.0
LIMITS = {'fp32': LIMIT['float32'], 'fp16': LIMIT['float16'], 'bf16': LIMIT['bfloat16']}


def main():
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description='A CUDA device beside the processor.')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--model', type=Path, default=shared_directory('models') / 'city')
    parser.add_argument('--city', type=Path, help='a city of i2ploc city; default: a new one')
    parser.add_argument('--map', type=Path, help='a map of its drive 0000; default: a new one')
    parser.add_argument('--drive', default='0001', help='whose images are taken')
    parser.add_argument('--images', type=int, default=20)
    parser.add_argument('--runs', type=int, default=200)
    parser.add_argument('--acceleration', nargs='+', choices=ACCELERATIONS, default=ACCELERATIONS)
    parser.add_argument('--json', type=Path)
    given = parser.parse_args()
    if given.device != 'cpu' and not torch.cuda.is_available():
        sys.exit(f'on_gpu: PyTorch {torch.__version__} finds no CUDA device here, so nothing was '
                 'measured: run it where there is one, with a PyTorch built for CUDA '
                 '(--device cpu tries the script itself)')
    name = torch.cuda.get_device_name(given.device) if given.device != 'cpu' else 'the processor'
    print(f'{name}, torch {torch.__version__} (CUDA {torch.version.cuda}), '
          f'{platform.processor() or platform.machine()}\n')
    with tempfile.TemporaryDirectory() as folder:
        city, map_path = world(Path(folder), given.city, given.map)
        drive = open_drive(city, given.drive)
        of, stream = next(iter(drive.cameras.items()))
        images = [drive.image(of, i) for i in range(min(given.images, len(stream.stamps_ns)))]
        found = {'device': name, 'torch': torch.__version__, 'cuda': torch.version.cuda,
                 'preparation': preparation(given), 'encoder': [], 'localizer': []}
        for precision in PRECISIONS[1:]:
            for acceleration in given.acceleration:
                found['encoder'].append(encoder(given, images, stream.camera, precision,
                                                acceleration))
        table('Encoder', found['encoder'])
        for precision, acceleration in (('fp32', 'none'), ('auto', 'none'), ('auto', 'graph')):
            found['localizer'].append(localizer(given, images, stream.camera, map_path, precision,
                                                acceleration))
        table('Localizer', found['localizer'])
    rows = [*found['preparation'], *found['encoder'], *found['localizer']]
    found['faults'] = [f'{row["what"]}: {row["fault"]}' for row in rows if row.get('fault')]
    print('\n'.join(found['faults']) or 'equal within tolerance, and all memory was given back')
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + '\n')
    sys.exit(2 if found['faults'] else 0)


def preparation(given):
    """Return how the input of each camera's pictures differs, and how long it takes."""
    model = load_model(given.model).eval()
    config, rows = model.config.image, []
    on_device = DeviceInput(config, given.device)
    rng = np.random.default_rng(0)
    for name, camera in CAMERAS.items():
        coarse = rng.integers(30, 226, (6, 12, 3)).astype(np.uint8)
        large = cv2.resize(coarse, (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)
        image = np.clip(large + rng.normal(0.0, 4.0, large.shape), 0, 255).astype(np.uint8)
        a, b = prepare_image(image, camera, config), on_device(image, camera).cpu().numpy()
        grey = 255.0 * np.abs(a - b) * np.array(config.std, np.float32)[:, None, None]
        with torch.inference_mode():
            described = [model.image(torch.from_numpy(x)[None]).descriptor.numpy()
                         for x in (a, b)]
        cosine = agreement(*described)
        fault = grey.max() > GREY_MAX or grey.mean() > GREY_MEAN or cosine < COSINE
        rows.append({
            'what': name, 'grey_max': float(grey.max()), 'grey_mean': float(grey.mean()),
            'cosine': cosine,
            'cpu_ms': spread(timed(lambda i=image, c=camera: prepare_image(i, c, config),
                                   min(20, given.runs))),
            'device_ms': spread(timed(lambda i=image, c=camera: (
                on_device(i, c), synchronise(given.device)), min(20, given.runs))),
            'fault': 'not prepared alike' if fault else ''})
    on_device.close()
    table('Preparation', rows)
    return rows


def encoder(given, images, camera, precision, acceleration):
    """Return how the image branch answers, how fast, and what it leaves behind."""
    before = held(given.device)
    plain = open_runtime(given.model, 'torch')
    prepared = np.stack([plain.prepare(image, camera) for image in images])
    wanted = np.concatenate([plain.run(one[None]).descriptor for one in prepared])
    started = time.perf_counter()
    opened = open_runtime(given.model, 'torch', given.device, precision, acceleration)
    opening = time.perf_counter() - started
    found = np.concatenate([opened.run(one[None]).descriptor for one in prepared])
    cosine = agreement(found, wanted)
    ms = encoding(opened, torch.from_numpy(prepared).to(given.device), given.runs)
    row = {'what': f'{precision}, {acceleration}', 'runs_as': f'{opened.precision}, '
           f'{opened.acceleration}', 'cosine': cosine, 'ms': spread(ms), 'opened_in_s': opening,
           'held_mib': held(given.device) - before, 'notes': list(opened.notes)}
    opened.close()
    return judged(row, cosine < LIMITS[opened.precision], given.device, before)


def encoding(opened, prepared, runs):
    """Return the milliseconds of one image at a time, (n, 3, H, W), already on the device."""
    turn = iter(range(10**9))
    return timed(lambda: opened.run(prepared[next(turn) % len(prepared)][None]), runs)


def localizer(given, images, camera, map_path, precision, acceleration):
    """Return how answers differ from the processor's, how long they take, and what is left."""
    lax = LocalizerConfig(min_weight=0.0, min_score=-1.0, min_contrast=0.0,
                          min_visible=0.0)
    mount = transform(R_base_optical)
    before = held(given.device)
    plain = open_localizer(given.model, map_path, lax)
    wanted = [plain.localize(image, camera, mount) for image in images]
    opened = open_localizer(given.model, map_path, lax, given.device, 'torch', precision,
                            acceleration)
    found = [opened.localize(image, camera, mount) for image in images]
    turn, stages = iter(range(10**9)), []

    def one():
        answer = opened.localize(images[next(turn) % len(images)], camera, mount)
        stages.append(answer.milliseconds)

    ms = timed(one, given.runs)
    same = np.mean([a.candidates.indices[0] == b.candidates.indices[0]
                    for a, b in zip(wanted, found, strict=True)])
    scores = [abs(a.candidates.scores[0] - b.candidates.scores[0])
              for a, b in zip(wanted, found, strict=True)]
    apart = [np.linalg.norm(a.fix.T_map_base[:3, 3] - b.fix.T_map_base[:3, 3])
             for a, b in zip(wanted, found, strict=True)]
    row = {'what': f'localizer {precision}, {acceleration}',
           'runs_as': f'{opened.model.precision}, {opened.model.acceleration}',
           'same_best_place': float(same), 'score_difference': float(max(scores)),
           'metres_apart_median': float(np.median(apart)), 'ms': spread(ms),
           **{f'{stage}_ms': float(np.median([s[stage] for s in stages[-given.runs:]]))
              for stage in stages[0]},
           'held_mib': held(given.device) - before, 'notes': list(opened.model.notes)}
    opened.close()
    return judged(row, max(scores) > 0.02 or same < 0.9, given.device, before)


def judged(row, differs, device, before):
    """Return a row with what is still held, and what is wrong."""
    gc.collect()
    left = held(device) - before
    # A process's own memory is the allocator's: only the device's is exact.
    keeps = device != 'cpu' and left > LEAK_MIB
    return {**row, 'left_mib': left, 'fault': 'answers differ' if differs else (
        f'{left:.1f} MiB are still held' if keeps else '')}


def held(device):
    """Return MiB of tensors on a device; of the processor: the process's own memory."""
    if device != 'cpu':
        return torch.cuda.memory_allocated(device) / 2**20
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1]) / 1024
    return 0.0


def synchronise(device):
    """Wait for the device."""
    if device != 'cpu':
        torch.cuda.synchronize(device)


def timed(function, count):
    """Return the milliseconds of `count` calls, after some that do not count."""
    spent = []
    for i in range(-min(WARM_UP, count), count):
        started = time.perf_counter()
        function()
        if i >= 0:
            spent.append(1e3 * (time.perf_counter() - started))
    return spent


def spread(values):
    """Return p50, p95 and p99."""
    return [float(v) for v in np.percentile(values, [50, 95, 99])]


def table(title, rows):
    """Print rows of like keys as Markdown; triples are p50 / p95 / p99."""
    keys = [key for key in rows[0] if key not in ('fault', 'notes')]
    print(f'{title} (ms: p50 / p95 / p99)\n\n| ' + ' | '.join(k.replace('_', ' ') for k in keys)
          + ' |\n|' + ' --- |' * len(keys))
    for row in rows:
        print('| ' + ' | '.join(_cell(key, row[key]) for key in keys) + ' |')
    for row in rows:
        for note in row.get('notes', ()):
            print(f'{row["what"]}: {note}')
    print()


def _cell(key, value):
    if isinstance(value, list):
        return ' / '.join(f'{v:.2f}' for v in value)
    if isinstance(value, float):
        return f'{value:.6f}' if key == 'cosine' else f'{value:.3f}'
    return str(value)


if __name__ == '__main__':
    main()
