"""
How long an image and a submap take, by each runtime: a table in Markdown.

    python bench/latency.py [MODEL] [--threads 1 2] [--runs 100]

Exports the model to a temporary folder in float32 and float16, and runs torch, pt2 and onnxruntime
on the same real inputs, one at a time as a vehicle does, in turns, so that what else the machine
does hits all alike. Milliseconds are the median of the runs, and in brackets the fastest. Of a
model with a verifier: also how long it takes for the places found.
"""

import argparse
from collections import defaultdict
from pathlib import Path
import platform
import tempfile
import time

import numpy as np
import onnxruntime
import torch

from saliency_i2ploc_ros.data.submaps import submaps_of_drive
from saliency_i2ploc_ros.encoders.cloud_input import cloud_input
from saliency_i2ploc_ros.encoders.files import load_model
from saliency_i2ploc_ros.encoders.image_input import prepare_image
from saliency_i2ploc_ros.export.runners import run_onnx, run_pt2, run_torch, run_verifier
from saliency_i2ploc_ros.export.samples import clouds_of_drive, default_drive, images_of_drive
from saliency_i2ploc_ros.export.writer import export_model, FORMATS
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.storage import shared_directory

WARM_UP = 10
BRANCHES = {'image': 'image', 'cloud': 'submap'}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description='Milliseconds of each runtime.')
    parser.add_argument('model', nargs='?', type=Path, default=shared_directory('models') / 'city')
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    parser.add_argument('--runs', type=int, default=100)
    given = parser.parse_args()
    model, drive = load_model(given.model), default_drive()
    inputs = {'image': images_of_drive(drive, model.config),
              'cloud': clouds_of_drive(drive, model.config)}
    with tempfile.TemporaryDirectory() as folder:
        exports = {precision: Path(folder) / precision for precision in ('float32', 'float16')}
        manifests = {precision: export_model(
            given.model, out, FORMATS, precision == 'float16', inputs['image'], inputs['cloud'],
            drive.source) for precision, out in exports.items()}
        ms: dict[tuple[str, str, str], dict[int, np.ndarray]] = defaultdict(dict)
        for threads in given.threads:
            torch.set_num_threads(threads)
            runs = {}
            for branch in BRANCHES:
                runs[branch, 'torch', 'float32'] = run_torch(getattr(model, branch))
                for precision, out in exports.items():
                    runs[branch, 'pt2', precision] = run_pt2(out / f'{branch}.pt2')
                    runs[branch, 'onnx', precision] = run_onnx(out / f'{branch}.onnx')
            for key, spent in timed(runs, inputs, given.runs).items():
                ms[key][threads] = spent
    sizes = {(branch, suffix, precision): manifest['files'][f'{branch}.{suffix}']['bytes']
             for precision, manifest in manifests.items() for branch in BRANCHES
             for suffix in FORMATS}
    for branch in BRANCHES:
        state = getattr(model, branch).state_dict().values()
        sizes[branch, 'torch', 'float32'] = sum(t.numel() * t.element_size() for t in state)
    print(f'{model.config.name}, {platform.processor() or platform.machine()}, torch '
          f'{torch.__version__}, onnxruntime {onnxruntime.__version__}, {given.runs} runs\n')
    titles = [f'ms, {n} thread{"s" * (n > 1)}' for n in given.threads]
    print('| of | runtime | precision | MB | ' + ' | '.join(titles) + ' |')
    print('| --- | --- | --- | ---: | ' + ' | '.join('---:' for _ in titles) + ' |')
    for key, by_threads in ms.items():
        branch, runtime, precision = key
        cells = [f'{np.median(t):.2f} ({t.min():.2f})' for t in by_threads.values()]
        print(f'| {BRANCHES[branch]} | {runtime} | {precision} | {sizes[key] / 1e6:.1f} | '
              + ' | '.join(cells) + ' |')
    print(f'\nBefore that, whichever runtime: {preparation(model.config, drive)}')
    if model.verifier is not None:
        verification(model, inputs, given.threads, given.runs)


def timed(runs: dict, inputs: dict, count: int) -> dict:
    """Return the milliseconds (count,) of each of `runs` on one input after the other."""
    spent = {key: np.zeros(count) for key in runs}
    for i in range(-WARM_UP, count):
        for key, run in runs.items():
            one = tuple(value[i % len(value)][None] for value in inputs[key[0]])
            started = time.perf_counter()
            run(*one)
            if i >= 0:
                spent[key][i] = 1e3 * (time.perf_counter() - started)
    return spent


def preparation(config, drive, count: int = 20) -> str:
    """Return in words what `prepare_image` and `cloud_input` take, on one thread."""
    stream = next(iter(drive.cameras.values()))
    image = drive.image(next(iter(drive.cameras)), 0)
    points = submaps_of_drive(drive, config.submap).above_ground(0)
    parts = {'prepare_image': lambda: prepare_image(image, stream.camera, config.image),
             'cloud_input': lambda: cloud_input(points, config)}
    words = []
    for name, part in parts.items():
        spent = []
        for _ in range(count):
            started = time.perf_counter()
            part()
            spent.append(1e3 * (time.perf_counter() - started))
        words.append(f'{name} {np.median(spent):.1f} ms')
    return ', '.join(words)


def verification(model, inputs: dict, threads: list[int], count: int) -> None:
    """Print how long the verifier takes for as many places as the localizer asks it about."""
    verify = run_verifier(model.verifier)
    image, places = (run_torch(getattr(model, branch))(*inputs[branch]).details
                     for branch in BRANCHES)
    found = np.resize(places, (LocalizerConfig().top_k, *places.shape[1:])).astype(np.float16)
    for number in threads:
        torch.set_num_threads(number)
        spent = []
        for i in range(-WARM_UP, count):
            started = time.perf_counter()
            verify(image[i % len(image)], found)
            if i >= 0:
                spent.append(1e3 * (time.perf_counter() - started))
        print(f'After the search: verifying {len(found)} places, {number} '
              f'thread{"s" * (number > 1)}, {np.median(spent):.2f} ms ({min(spent):.2f})')


if __name__ == '__main__':
    main()
