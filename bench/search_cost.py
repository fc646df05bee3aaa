"""
What answering costs beside the encoder in a large map, and what the faster search misses: tables
in Markdown.

    python bench/search_cost.py CITY [CITY ...] [--locations 10000 100000] [--headings 12]

One thread. CITY: cities of `i2ploc city`, whose first drive becomes places, and whose second's
images are the queries. Their places are multiplied to the size asked for: each new descriptor is a
place's plus 0.15 times the difference of two others', and noise of length 0.1. It is as like its
origin as places of the same street are, and spread over the directions as places are. The table
therefore says how the search does beside the exact one, not how well a map of that size would be
recognised. The belief walks along streets of as many places, half of what each image finds being
where it is and half anywhere.

All that a search found is verified: its details are read from a file as large as that of such a
map (only what is asked for is written, so that it takes little of the disk), once from memory and
once, "cold", from the disk, after the system was asked to forget them. They are random, and so is
the verifier of a model that has none: neither changes what it costs.

Milliseconds are the median and, in brackets, the 95th percentile of single images.
"""

import argparse
import mmap
import os
from pathlib import Path
import tempfile
import time

import cv2
import faiss
import numpy as np
import torch

from saliency_i2ploc_ros.data.readers import drive_names, open_drive
from saliency_i2ploc_ros.distributed import World
from saliency_i2ploc_ros.encoders.config import VerifierConfig
from saliency_i2ploc_ros.encoders.files import load_model
from saliency_i2ploc_ros.encoders.verifier import Verifier
from saliency_i2ploc_ros.evaluation.calibrating import described_site
from saliency_i2ploc_ros.evaluation.described import ByModel
from saliency_i2ploc_ros.export.runners import run_verifier
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.localization.belief import Belief
from saliency_i2ploc_ros.localization.calibration import read_calibration
from saliency_i2ploc_ros.localization.hypotheses import (
    estimate,
    join,
    LocalizerConfig,
    mixture_weights,
    Retrieved,
)
from saliency_i2ploc_ros.localization.trust import judged
from saliency_i2ploc_ros.localization.verification import Verification
from saliency_i2ploc_ros.mapping.nearest import Nearest
from saliency_i2ploc_ros.storage import shared_directory

K, SPACING_M, STREET = 20, 5.0, 200  # places found; metres; locations of a street
CONFIG = LocalizerConfig()


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description='Cost and recall of the search in large maps.')
    parser.add_argument('cities', nargs='+', type=Path)
    parser.add_argument('--model', type=Path, default=shared_directory('models') / 'city')
    parser.add_argument('--locations', nargs='+', type=int, default=[1000, 10_000, 100_000])
    parser.add_argument('--headings', type=int, default=12)
    parser.add_argument('--queries', type=int, default=300)
    parser.add_argument('--folder', type=Path, help='where the file of details is made; default: '
                        "the system's own for such files")
    given = parser.parse_args()
    for library in (torch.set_num_threads, faiss.omp_set_num_threads, cv2.setNumThreads):
        library(1)
    model = load_model(given.model)
    places, queries = described(given.cities, model)
    verification, shape, note = verifier_of(model)
    print(note)
    rng = np.random.default_rng(0)
    queries = queries[rng.permutation(len(queries))[:given.queries]]
    calibration = read_calibration(given.model)
    print('| places | load, s | exact, ms | search, ms | true first | of the first 20 | '
          'verify, ms | cold, ms | hypotheses and trust, ms | belief, ms | all, ms | '
          'all cold, ms |\n' + 12 * '| ---: ' + '|')
    for locations in given.locations:
        rows = locations * given.headings
        x = multiplied(places, rows, rng)
        started = time.perf_counter()
        nearest = Nearest(x)
        load = time.perf_counter() - started
        scores, found, search = answered(nearest, queries)
        exact = faiss.IndexFlatIP(x.shape[1])
        exact.add(x)
        _, truth, flat = answered(exact, queries)
        first = np.mean(found[:, 0] == truth[:, 0])
        common = np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)])
        del exact
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            details = details_of(found, (rows, *shape), Path(folder) / 'details.npy', rng)
            # Before the disk is read: for seconds after that all else may take longer, too.
            warm, best = verified(verification, details, scores, found, rng)
            cold, _ = verified(verification, details, scores, found, rng, forget=True)
        poses = streets(locations, given.headings)
        begun = time.perf_counter()
        belief = Belief(poses, SPACING_M)
        load += time.perf_counter() - begun
        thought, walked = walk(belief, poses, best, given.headings, calibration, rng)
        print(f'| {rows} | {load:.1f} | {words(flat)} | {words(search)} | {100 * first:.1f} % | '
              f'{100 * common:.1f} % | {words(warm)} | {words(cold)} | {words(thought)} | '
              f'{words(walked)} | {words(search + warm + thought + walked)} | '
              f'{words(search + cold + thought + walked)} |', flush=True)


def described(cities, model):
    """Return descriptors of places (n, D) and of images (m, D)."""
    describer, places, queries = ByModel(model), [], []
    for city in cities:
        mapped, asked = (open_drive(city, name) for name in drive_names(city)[:2])
        site = described_site(city.name, mapped, [asked], describer, World())
        places.append(site.places.descriptors)
        queries.append(site.queries[0][0].descriptors)
    return np.concatenate(places), np.concatenate(queries)


def multiplied(places, rows, rng, block=20_000):
    """Return descriptors (rows, D): the places, and others like them."""
    made = np.empty((rows, places.shape[1]), np.float32)
    for start in range(0, rows, block):
        m = min(block, rows - start)
        i = rng.integers(len(places), size=(3, m))
        x = places[i[0]] + 0.15 * (places[i[1]] - places[i[2]])
        x += rng.normal(0.0, 0.1 / np.sqrt(x.shape[1]), x.shape)
        made[start:start + m] = x / np.linalg.norm(x, axis=1, keepdims=True)
    made[:len(places)] = places[:rows]
    return made


def answered(index, queries):
    """Return cosines and places (m, K) and the milliseconds (m,) of each query."""
    answers, ms = [], []
    index.search(queries[:1], K)
    for query in queries:
        started = time.perf_counter()
        answers.append(index.search(query[None], K))
        ms.append(1e3 * (time.perf_counter() - started))
    scores, places = (np.concatenate(each) for each in zip(*answers, strict=True))
    return scores, places, np.array(ms)


def verifier_of(model):
    """Return how what was found is verified, the shape (N, c) of details, and what to say."""
    network, config = model.verifier, model.config.verifier
    note = "Verified by the model's own verifier.\n"
    if network is None:
        config = VerifierConfig()
        network = Verifier(config, model.config.image.grid)
        note = 'The model has no verifier: verified by one of random weights at the same cost.\n'
    rows, columns = model.config.image.grid
    return (Verification(run_verifier(network), config.weight), (rows * columns, config.details),
            note)


def details_of(found, shape, path, rng):
    """Return a map's details (n, N, c), memory-mapped, of which those of `found` are written."""
    made = np.lib.format.open_memmap(path, 'w+', np.float16, shape)
    for place in np.unique(found):
        made[place] = rng.normal(size=shape[1:])
    made.flush()
    return opened(path)


def opened(path):
    """Return details on disk as a map opens them."""
    details = np.load(path, mmap_mode='r')
    details.base.madvise(mmap.MADV_RANDOM)
    return details


def verified(verification, details, scores, found, rng, forget=False):
    """
    Return the milliseconds (m,) of each query, and its scores (m, K) anew.

    forget: the system has none of the details in memory when they are asked for.
    """
    ms, new = [], []
    path = details.filename
    for i in range(-1, len(found)):  # once before, to warm up
        image = rng.normal(size=details.shape[1:]).astype(np.float32)
        if forget:
            del details
            with Path(path).open('rb') as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            details = opened(path)
        started = time.perf_counter()
        best, _ = verification(image, details, scores[max(i, 0)], found[max(i, 0)])
        if i >= 0:
            ms.append(1e3 * (time.perf_counter() - started))
            new.append(best)
    return np.array(ms), np.stack(new)


def streets(locations, headings):
    """Return poses (locations * headings, 4, 4) on parallel streets 50 m apart."""
    i = np.arange(locations)
    poses = np.stack([planar(0.0, 0.0, turn) for turn in np.arange(headings)
                      * 2.0 * np.pi / headings])
    poses = np.tile(poses, (locations, 1, 1))
    poses[:, 0, 3] = np.repeat(SPACING_M * (i % STREET), headings)
    poses[:, 1, 3] = np.repeat(50.0 * (i // STREET), headings)
    return poses


def walk(belief, poses, scores, headings, calibration, rng):
    """Return the milliseconds (m,) of hypotheses with trust, and of the belief, of each image."""
    thought, walked = [], []
    for step, row in enumerate(scores):
        here = (step // 5 % STREET) * headings
        near = here + headings * np.arange(K // 2)
        far = rng.choice(len(poses), K - len(near), replace=False)
        places = np.unique(np.concatenate([near, far])[rng.permutation(K)])
        best = row[:len(places)]
        started = time.perf_counter()
        found = join([Retrieved(best, places, poses[places], 0.0, float(best[-1]))], CONFIG)
        result = estimate(found.evidence, found.T_map_place, SPACING_M, CONFIG)
        judged(found, result, found.T_map_place, result.T_map_place, CONFIG, calibration)
        between = time.perf_counter()
        belief.moved(planar(SPACING_M / 5, 0.0, 0.0))
        ratios = 0.95 * len(poses) * mixture_weights(best, CONFIG.temperature) + 0.05
        belief.saw(places, ratios, 0.05, 0.1)
        belief.located(CONFIG.merge_radius_m)
        ended = time.perf_counter()
        thought.append(1e3 * (between - started))
        walked.append(1e3 * (ended - between))
    return np.array(thought), np.array(walked)


def words(ms):
    """Return median and 95th percentile as the table shows them."""
    return f'{np.median(ms):.2f} ({np.percentile(ms, 95):.2f})'


if __name__ == '__main__':
    main()
