"""
What exact ranks among a million descriptors take: memory and time.

    OMP_NUM_THREADS=1 python bench/ranks_of_a_million.py [FOLDER] [QUERIES]

Writes 1 000 000 x 256 float32 unit vectors (1 GiB) into FOLDER (default: a temporary one), maps
them, and ranks QUERIES of them (default 500) against all under `revisit`'s rule. The peak is that
of the whole process (ru_maxrss), the mapped file's pages included, which the system may drop.
"""

from pathlib import Path
import resource
import sys
import tempfile
import time

import numpy as np

from saliency_i2ploc_ros.evaluation.ranking import Allowed, rank_places

PLACES, DIMENSION, SPACING_M = 1_000_000, 256, 3.0


def main() -> None:
    """Print the peak before and after, and the time."""
    queries = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(sys.argv[1] if len(sys.argv) > 1 else temporary) / 'descriptors.npy'
        write(path)
        descriptors = np.load(path, mmap_mode='r')
        # A way that comes by the same streets ten times: 300 km in rows of 1 km, again and again.
        i = np.arange(PLACES) % (PLACES // 10)
        poses = np.zeros((PLACES, 4, 4))
        poses[:] = np.eye(4)
        poses[:, 0, 3], poses[:, 1, 3] = SPACING_M * (i % 333), 50.0 * (i // 333)
        chosen = np.linspace(PLACES // 10, PLACES - 1, queries).astype(np.int64)
        allowed = Allowed(np.maximum(chosen - 4, 0), np.full(queries, -1))
        asked = np.array(descriptors[chosen])
        before = peak_gib()
        started = time.perf_counter()
        ranks = rank_places(asked, descriptors, poses[chosen], poses, allowed)
        spent = time.perf_counter() - started
        print(f'{queries} queries among {PLACES} places of {DIMENSION} numbers: {spent:.1f} s, '
              f'{1e3 * spent / queries:.1f} ms each')
        print(f'peak of the process: {peak_gib():.2f} GiB, before the ranks {before:.2f} GiB; '
              f'of them anonymous (not the file) now {anonymous_gib():.2f} GiB')
        print(f'median rank of the best place within 20 m: {np.median(ranks.first[:, 2]):.0f} '
              f'of {PLACES}: random vectors, as they should be')


def write(path: Path) -> None:
    """Write random unit vectors, a little at a time."""
    rng = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, 'w+', np.float32, (PLACES, DIMENSION))
    for start in range(0, PLACES, 50_000):
        block = rng.standard_normal((50_000, DIMENSION), np.float32)
        rows[start:start + 50_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows.flush()


def peak_gib() -> float:
    """Return the largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20


def anonymous_gib() -> float:
    """Return the resident size that no file backs."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1]) / 2 ** 20
    return float('nan')


if __name__ == '__main__':
    main()
