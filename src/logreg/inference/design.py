"""The parameters of a model without redundancy: treatment contrasts, and coefficients in source units.

A fit has one coefficient for each level of a category, and of a softmax one row for each class.  The likelihood does
not determine them: a number added to all levels and taken from the intercept changes no probability.  Inference is
about the differences from a reference level and a reference class, as in R's `contr.treatment`.  The coefficients of
the reference are 0, so that the rest are these differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.errors import ConfigError, did_you_mean, name_list
from logreg.facts import Column, DataFacts
from logreg.inference.results import INTERCEPT
from logreg.solvers.problem import Coordinates


@dataclass(frozen=True)
class Term:
    """One column of the table, or one feature: what a likelihood-ratio test drops as a whole."""

    name: str
    positions: tuple[int, ...]
    """Its parameters, among those of one class."""


@dataclass(frozen=True)
class Design:
    """The parameters of one class against the reference class: coefficients of the kept features, then the intercept.

    Attributes:
        features: Position among the D features of each kept one, (P - 1,).
        names: Names of the P parameters.
        terms: The columns, each with its parameters.
        references: The reference level of each categorical column.
        outputs: The rows of the coefficients that are kept: all but the reference class, M of K.
        classes: Name of the class of each kept output.
        reference_class: Name of the class that these are compared with.
        sign: -1 where the reference of two classes is the second, and there is only its logit; 1 else.
    """

    features: tuple[int, ...]
    names: tuple[str, ...]
    terms: tuple[Term, ...]
    references: Mapping[str, str]
    outputs: tuple[int, ...]
    classes: tuple[str, ...]
    reference_class: str
    sign: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """M and P."""
        return len(self.outputs), len(self.features) + 1

    @property
    def kept(self) -> Tensor:
        """Positions of the parameters among the D + 1 columns of a point, (P,)."""
        return torch.tensor([*self.features, -1])

    def of_point(self, point: Tensor, facts: DataFacts) -> Tensor:
        """The parameters (M, P) that have the logits of a point (K, D + 1), both by features in source units.

        The coefficients of reference levels go into the intercept, and those of the reference class into the others.
        """
        point = point.clone()
        for first, column in columns_of(facts):
            if column.name in self.references:
                levels = slice(first, first + len(column.all_levels))
                reference = point[:, first + column.all_levels.index(self.references[column.name])].clone()
                point[:, levels] -= reference.unsqueeze(1)
                point[:, -1] += reference
        if len(point) > len(self.outputs):
            (left_out,) = set(range(len(point))) - set(self.outputs)
            point = point - point[left_out]
        return point[list(self.outputs)][:, self.kept]

    def to_point(self, parameters: Tensor, num_outputs: int, num_features: int) -> Tensor:
        """The point (K, D + 1) with 0 for all references."""
        point = parameters.new_zeros(num_outputs, num_features + 1)
        point[torch.tensor(self.outputs).unsqueeze(1), self.kept] = parameters
        return point

    def columns(self, features: Tensor, coordinates: Coordinates) -> Tensor:
        """The columns that the parameters multiply, (n, P), of features (n, D): standardized, and 1 for the intercept.

        Args:
            features: Shape (n, D).
            coordinates: The coordinates of the parameters, relative to these features.
        """
        center, scale = coordinates
        columns = features.new_ones(len(features), len(self.features) + 1)
        mine = columns[:, :-1]
        if len(self.features) == features.shape[1]:
            torch.sub(features, center, out=mine).div_(scale)
        else:
            which = torch.tensor(self.features)
            mine.copy_(features[:, which]).sub_(center[which]).div_(scale[which])
        return columns


def columns_of(facts: DataFacts) -> list[tuple[int, Column]]:
    """The columns of a table, each with the position of its first feature; without an offset."""
    places, first = [], 0
    for column in facts.columns:
        if column.is_offset:  # the last one
            break
        places.append((first, column))
        first += len(column.feature_names)
    return places


def choose_design(facts: DataFacts, num_outputs: int, reference: Mapping[str, object], reference_class: str) -> Design:
    """The parameters that the likelihood determines, unless columns are linearly dependent.

    Args:
        facts: The facts of the data.
        num_outputs: K.
        reference: The level that a categorical column is compared with, by the name of the column; the first level
            where it is not there.
        reference_class: The class that the others are compared with; empty for the first.

    Raises:
        ConfigError: A column, a level or a class of that name is not there.
    """
    references = _references(facts, reference)
    names = facts.feature_names or tuple(f"feature {number}" for number in range(facts.num_coef))
    features: list[int] = []
    terms: list[Term] = []
    for first, column in columns_of(facts):
        of_column = [first + number for number in range(len(column.feature_names))]
        if column.name in references:
            del of_column[column.all_levels.index(references[column.name])]
        terms.append(Term(column.name, tuple(range(len(features), len(features) + len(of_column)))))
        features += of_column
    if not facts.columns:
        features = list(range(facts.num_coef))
        terms = [Term(name, (place,)) for place, name in enumerate(names)]
    chosen = reference_class or facts.class_names[0]
    if chosen not in facts.class_names:
        raise ConfigError.not_a_choice("reference_class", facts.class_names, chosen)
    place = facts.class_names.index(chosen)
    outputs = (0,) if num_outputs == 1 else tuple(output for output in range(num_outputs) if output != place)
    classes = tuple(name for name in facts.class_names if name != chosen)
    sign = -1.0 if num_outputs == 1 and place == 1 else 1.0
    kept = (*(names[feature] for feature in features), INTERCEPT)
    return Design(tuple(features), kept, tuple(terms), references, outputs, classes, chosen, sign)


def _references(facts: DataFacts, reference: Mapping[str, object]) -> dict[str, str]:
    """The reference level of each column that has levels.

    Raises:
        ConfigError: A column or a level is not there.
    """
    with_levels = {column.name: column for column in facts.columns if column.all_levels and not column.constant}
    found = {name: column.all_levels[0] for name, column in with_levels.items()}
    for name, level in reference.items():
        text = str(level).lower() if isinstance(level, bool) else str(level)
        if name not in with_levels:
            kinds = {column.name: column.kind for column in facts.columns}
            if kinds.get(name) == "text":
                raise ConfigError(f"`reference` must name columns with levels, and {name!r} is a text. Leave it out.")
            if name in kinds:
                raise ConfigError(
                    f"`reference` must name columns with levels, and {name!r} is a column of numbers. "
                    f"Leave it out, or train with dataset.categorical=[{name}]."
                )
            there = name_list(with_levels) if with_levels else "none"
            raise ConfigError.broken(
                "reference",
                f"name a column with levels, of which there are {there}",
                name,
                did_you_mean(name, with_levels),
            )
        if text not in with_levels[name].all_levels:
            raise ConfigError.not_a_choice(f"reference.{name}", with_levels[name].all_levels, text)
        found[name] = text
    return found


def to_source_units(design: Design, mean: Tensor, std: Tensor) -> Tensor:
    """The matrix (P, P) that takes parameters by standardized features to those by features in source units.

    The sign of the design is not in it.

    Args:
        design: The parameters.
        mean: Shape (D,), subtracted from the features, in source units.
        std: Shape (D,), their divisor.
    """
    which = list(design.features)
    matrix = torch.diag(torch.cat([1 / std[which], std.new_ones(1)]))
    matrix[-1, :-1] = -mean[which] / std[which]
    return matrix
