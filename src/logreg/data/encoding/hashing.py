"""Hashes levels into a fixed number of buckets (feature hashing), alike in every process and version.

References:
    Weinberger, Dasgupta, Langford, Smola, Attenberg (2009), Feature hashing for large scale multitask learning.
    Appleby (2011), MurmurHash3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from logreg.data.encoding.columns import Values


def buckets_of(levels: Sequence[str], buckets: int) -> Values:
    """The bucket of each level, blanks around it left out: the column that scikit-learn's FeatureHasher gives it.

    It is the absolute value of MurmurHash3 (32 bits, signed, seed 0) of the text in UTF-8, modulo the number of
    buckets.

    Args:
        levels: The texts, L of them.
        buckets: Number of buckets.

    Returns:
        Shape (L,), int64, in [0, buckets).
    """
    from sklearn.utils import murmurhash3_32

    hashes = np.fromiter((murmurhash3_32(level.strip()) for level in levels), np.int64, len(levels))
    return np.abs(hashes) % buckets


def bucket_names(buckets: Values) -> list[str]:
    """The names of buckets: ``#12``."""
    return [f"#{bucket}" for bucket in buckets.tolist()]
