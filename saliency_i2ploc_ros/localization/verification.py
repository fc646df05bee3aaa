"""The places that a search found, compared with the image once more, token by token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..export.runners import Verify
from ..export.runtime import ImageRuntime

Floats = NDArray[np.float32]

MOST_LOGIT = 8.0  # beyond, a network that was taught by some thousand pairs says no more


@dataclass(frozen=True)
class Verification:
    """What says a verifier's logits (see `ImageRuntime`), and the cosine that a unit is worth."""

    logits: Verify
    weight: float

    def __call__(
        self, image: NDArray[np.floating], places: NDArray[np.float16], scores: Floats,
        indices: NDArray[np.int64],
    ) -> tuple[Floats, NDArray[np.int64]]:
        """
        Return scores and places anew, best first; all that were found are compared.

        image: (N, c) details of the image. places: (n, N, c) those of the whole map, of which only
        the rows that are asked for are read. scores: (k,) cosines; indices: (k,) places. What is
        returned as scores are cosines plus what the verifier adds, 8 units of it at most. Of equal
        ones the one that was found first stays first.
        """
        # As coarse as a map keeps them: what is judged from a cache has the same bits.
        logits = self.logits(np.asarray(image, np.float16), places[indices])
        verified = scores + np.float32(self.weight) * np.clip(logits, -MOST_LOGIT, MOST_LOGIT)
        order = np.argsort(-verified, kind='stable')
        return verified[order], indices[order]


def verification_of(model: ImageRuntime, wanted: bool) -> Verification | None:
    """Return how a model verifies what it found; None if it cannot, or if it is not wanted."""
    if not wanted or model.config.verifier is None or model.verify is None:
        return None
    return Verification(model.verify, model.config.verifier.weight)
