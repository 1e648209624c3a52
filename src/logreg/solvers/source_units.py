"""Rows in memory whose features are scaled well, and the way of a point from source units and back.

Features that are very large, very small or far from 0 are stored in other units (`logreg.stored_form`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.csr import is_sparse
from logreg.errors import DataError
from logreg.rows import MemoryRows, part_rows
from logreg.solvers.bounds.base import Bound
from logreg.solvers.exact_sums import moved_to
from logreg.solvers.passes.precise import UNIT_ROUNDOFF
from logreg.solvers.problem import Coordinates, Problem
from logreg.stored_form import (
    Blocks,
    Moments,
    StoredForm,
    choose_form_of_sparse,
    choose_stored_form,
    is_plain_by_sample,
    moments,
)

MAX_DOT_NUMEL = 2**30
"""Largest number of products in one sum: BLAS counts in 32 bits."""


def stored_rows(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    intercept: bool = True,
    offset: Tensor | None = None,
) -> tuple[MemoryRows, StoredForm]:
    """The rows of a fit with features that are well scaled, and the form that they are stored in.

    Args:
        features: As of `logreg.solvers.fit.fit`; `in_source_units` takes a point back to their units.
        labels: Shape (N,), int64.
        sample_weight: As of `logreg.solvers.fit.fit`.
        intercept: As of `logreg.solvers.fit.fit`.
        offset: As of `logreg.solvers.fit.fit`.

    Raises:
        DataError: A feature is not finite, or larger or smaller than float64 can compute with.
    """
    stored = (
        choose_form_of_sparse(features) if is_sparse(features) else _stored_form(features, sample_weight, intercept)
    )
    features = features if stored.is_plain else stored.transform(features, features.dtype)
    return MemoryRows(features, labels, sample_weight, offset), stored


def _stored_form(features: Tensor, sample_weight: Tensor | None, intercept: bool) -> StoredForm:
    """The form in which dense features (N, D) are stored.

    Raises:
        DataError: A feature is not finite, or larger or smaller than float64 can compute with.
    """
    if is_plain_by_sample(features, _size_bound(features)):
        return StoredForm.plain(features.shape[1])
    least, largest = (float(extreme) for extreme in features.aminmax()) if features.numel() else (0.0, 0.0)
    if not (math.isfinite(least) and math.isfinite(largest)):
        finite = features.isfinite()
        row, column = (int(place) for place in (~finite).nonzero()[0])
        raise DataError(f"features must be finite, got {float(features[row, column])} in row {row}, column {column}.")
    if is_plain_by_sample(features, max(-least, largest)):
        return StoredForm.plain(features.shape[1])
    # Only float64 features are stored shifted: a difference of narrower numbers may not fit into their type, and
    # passes subtract the mean from each row anyway.
    shifts = intercept and features.dtype == torch.float64
    return choose_stored_form(_moments(features, sample_weight), shifts).with_exact_shifts(features)


def _size_bound(features: Tensor) -> float:
    """Upper bound of the absolute features (N, D): the root of the sum of squares, which takes less time than extremes.

    It is not finite where a feature is not.
    """
    if not features.is_contiguous() or not features.is_floating_point():  # sums of integers overflow
        return math.inf
    return math.sqrt(sum(float(part @ part) for part in features.view(-1).split(MAX_DOT_NUMEL)))


def _moments(features: Tensor, sample_weight: Tensor | None) -> Moments:
    """Mean and standard deviation of the columns of features (N, D), computed in float64 one block at a time."""
    weights = None if sample_weight is None else sample_weight.double()
    rows = part_rows(features.shape[1], torch.float64)

    def blocks() -> Blocks:
        for first in range(0, len(features), rows):
            part = slice(first, first + rows)
            yield features[part].double(), None if weights is None else weights[part]

    found = moments(blocks)
    return Moments(found.mean.cpu(), found.std.cpu())


def point_from_source_units(problem: Problem, stored: StoredForm, coef: Tensor, intercept: Tensor) -> Tensor:
    """A start in source units, (K, D) and (K,), as a point (K, D + 1) in the model's coordinates."""
    intercept = intercept * problem.intercept  # 0 where there is none, whatever the start
    point = torch.cat([coef, intercept.unsqueeze(1)], dim=1).to(problem.zeros())
    if stored.is_plain:
        return point
    plain, form = _coordinates(problem, stored)
    return moved_to(plain, form, point)


def in_source_units(problem: Problem, stored: StoredForm, point: Tensor, bound: Bound) -> tuple[Tensor, Bound]:
    """The point (K, D + 1) and its bound in source units; the bound includes the rounding of the intercepts there."""
    if stored.is_plain:
        return point, bound
    plain, form = _coordinates(problem, stored)
    point = moved_to(form, plain, point)
    error = 2 * UNIT_ROUNDOFF * point[:, -1].abs()
    total = problem.row_sum_scale * problem.total_weight
    second = problem.loss.curvature_sum(bound.loss, total) / 2 * float(error.square().sum())
    rounding = float(bound.gradient[:, -1].abs() @ error) + second
    return point, bound._replace(rounding=bound.rounding + rounding, error=bound.error + rounding)


def _coordinates(problem: Problem, stored: StoredForm) -> tuple[Coordinates, Coordinates]:
    """The coordinates of source units, and those of the model, both relative to the features in source units."""
    shift, unit = (part.to(problem.model.scale.device) for part in stored)
    plain = Coordinates(torch.zeros_like(shift), torch.ones_like(unit))
    return plain, Coordinates(shift, unit * problem.model.scale)
