from __future__ import annotations

import csv
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from logreg.reports import writing

NAMES = ('text:say "no"', "a, b", "two\nlines", "text:über", "")


@pytest.mark.parametrize("classes", [("no", "yes"), ("a", 'b "c"', "d, e")])
def test_arrow_writes_the_coefficients_that_csv_writes(
    monkeypatch: pytest.MonkeyPatch, classes: tuple[str, ...]
) -> None:
    outputs = 1 if len(classes) == 2 else len(classes)
    coef = torch.randn(outputs, len(NAMES), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coef[0, :4] = torch.tensor([0.0, 1.0, 1e-7, -1e300])
    units = coef, torch.arange(outputs, dtype=torch.float64)
    module: Any = SimpleNamespace(
        facts=SimpleNamespace(feature_names=NAMES),
        output_names=classes[-outputs:],
        model=SimpleNamespace(in_source_units=lambda: units),
    )
    pages = [writing.coefficients_csv(module)]
    monkeypatch.setattr(writing, "MANY_NUMBERS", coef.numel())
    pages.append(writing.coefficients_csv(module))
    assert pages[0] != pages[1]  # Arrow quotes the names
    one, other = (list(csv.reader(io.StringIO(page, newline=""))) for page in pages)
    assert one[0] == other[0] == ["feature", *classes[-outputs:]]
    assert [line[0] for line in one[1:]] == [line[0] for line in other[1:]] == ["intercept", *NAMES]
    assert [[*map(float, line[1:])] for line in one[1:]] == [[*map(float, line[1:])] for line in other[1:]]
