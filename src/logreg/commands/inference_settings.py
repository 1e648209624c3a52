"""Settings of the commands that state how sure estimates are."""

from __future__ import annotations

from logreg.constraints import Constraint, one_of
from logreg.settings import Setting

COVARIANCES = ("auto", "hessian", "expected", "HC0", "HC1", "HC2", "HC3")
"""Names of covariances, besides cluster:COLUMN."""

CONFIDENCE = Constraint(
    "be a number > 0 and < 1, such as 0.95",
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1,
)

COVARIANCE = Setting(
    "auto",
    Constraint(
        f"be one of {', '.join(COVARIANCES)} or cluster:COLUMN",
        lambda value: value in COVARIANCES or (value.startswith("cluster:") and len(value) > len("cluster:")),
        is_text=True,
    ),
    "hessian: standard errors of maximum likelihood. expected: those of the expected information, which for a "
    "logit link is the Hessian. HC0 to HC3: robust ones. cluster:COLUMN: rows with one value there depend on each "
    "other. auto: hessian for a logit link and expected for others, as R's glm, or HC0 with sampling weights",
)

WEIGHTS = Setting(
    "auto",
    one_of(("auto", "frequency", "sampling")),
    "what dataset.weight is. frequency: a row of weight 3 is three rows. sampling: the inverse of the probability "
    "of being sampled, with robust standard errors. auto: frequency where all are whole numbers",
)
