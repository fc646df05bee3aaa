"""
The places whose descriptors are most like a query's.

A small map is compared place by place. In a large one that would take too long (170 ns a place on
one core), so it is searched in two steps: a coarse index names some hundred candidates, and these
are compared by their whole descriptors. The scores are cosines in either case; what a large map
may do is miss a place. `bench/search_cost.py` measures how often, docs/performance.md says.

The coarse index is an inverted file (Sivic, Zisserman, "Video Google", ICCV 2003; Jegou, Douze,
Schmid, "Product quantization for nearest neighbor search", PAMI 2011) over the projections of the
descriptors to their principal directions, of 8 bits a number.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

Descriptors = NDArray[np.float32]

LARGE = 20_000  # places; with more the coarse index is used
# The first 64 directions of the shipped model's 512 hold 99 % of its descriptors' square norm.
DIRECTIONS = 64
LISTS, PROBES = 1024, 64  # of the inverted file, and how many of them a query looks into
CANDIDATES = 500  # compared exactly
MOST = CANDIDATES // 5  # of a wider answer the candidates would miss too much: exact search
_SAMPLE = 50_000  # descriptors from which the directions are taken
_PER_LIST = 40  # descriptors for each list's centre: faiss warns below 39
_BLOCK = 65_536


class Nearest:
    """
    Finds places by their descriptors (n, D) float32, of unit length, which may be memory-mapped.

    They are kept as they are; a small map's are copied, of a large one 64 bytes a place. What
    decides between two maps of the same descriptors is fixed: the same answers at each load.
    """

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        n, dimension = descriptors.shape
        self._is_large = n > LARGE
        self._index: faiss.Index
        if not self._is_large:
            self._index = faiss.IndexFlatIP(dimension)
            self._index.add(np.ascontiguousarray(descriptors))
            return
        rng = np.random.default_rng(0)
        width = min(DIRECTIONS, dimension)
        sample = descriptors[_some(rng, n, _SAMPLE)]
        self._directions = np.ascontiguousarray(
            np.linalg.eigh(sample.T @ sample)[1][:, :-width - 1:-1])
        lists = max(1, min(LISTS, n // _PER_LIST))
        self._centres = faiss.IndexFlatIP(width)  # kept, for the index holds no reference to it
        lists_of = faiss.IndexIVFScalarQuantizer(
            self._centres, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        lists_of.nprobe = PROBES
        lists_of.cp.niter = 6
        lists_of.train(descriptors[_some(rng, n, lists * _PER_LIST)] @ self._directions)
        self._index = lists_of
        for start in range(0, n, _BLOCK):
            self._index.add(descriptors[start:start + _BLOCK] @ self._directions)

    def search(
        self, queries: Descriptors, k: int,
    ) -> tuple[Descriptors, NDArray[np.int64]]:
        """
        Return cosines (m, k) and places (m, k), best first.

        queries: (m, D) float32, contiguous, of unit length. 1 <= k <= n.
        """
        if not self._is_large:
            scores, places = self._index.search(queries, k)
            return scores, places
        found = [self._of_large(query, k) for query in queries]
        scores = np.array([score for score, _ in found], np.float32).reshape(len(queries), k)
        return scores, np.array([place for _, place in found], np.int64).reshape(scores.shape)

    def _of_large(self, query: Descriptors, k: int) -> tuple[Descriptors, NDArray[np.int64]]:
        """Return cosines (k,) and places (k,) of one query (D,)."""
        candidates = np.zeros(0, np.int64)
        if k <= MOST:
            candidates = self._index.search((query @ self._directions)[None], CANDIDATES)[1][0]
            candidates = np.sort(candidates[candidates >= 0])
        if len(candidates) < k:
            candidates = np.arange(len(self._descriptors))
            scores = np.concatenate([
                self._descriptors[start:start + _BLOCK] @ query
                for start in range(0, len(self._descriptors), _BLOCK)])
        else:
            scores = self._descriptors[candidates] @ query
        order = np.argsort(-scores, kind='stable')[:k]
        return scores[order], candidates[order]


def _some(rng: np.random.Generator, n: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` of 0 .. n - 1, each once, rising (a file is read in order)."""
    return np.sort(rng.choice(n, min(n, most), replace=False))
