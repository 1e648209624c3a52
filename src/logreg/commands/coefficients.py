"""`scripts/coefficients.py`: how sure the coefficients of a trained model are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from logreg.commands.command_line import ROOT, TypedArguments, importing_libraries, parse_arguments, run_command
from logreg.commands.inference_settings import CONFIDENCE, COVARIANCE, WEIGHTS
from logreg.commands.overrides import apply_overrides
from logreg.constraints import Constraint, flag, one_of, text, whole
from logreg.errors import ConfigError
from logreg.run_folder import CKPT_PATH, find_checkpoint, run_folder_of
from logreg.settings import Setting, help_lines
from logreg.terminal import terminal

if TYPE_CHECKING:
    from logreg.run.inference_request import InferenceRequest

REFERENCE = Constraint(
    "be levels by column, such as {race:white}",
    lambda value: isinstance(value, dict) and not any(isinstance(level, dict | list) for level in value.values()),
)

OWN = {
    "ckpt_path": CKPT_PATH,
    "confidence": Setting(0.95, CONFIDENCE, "level of the intervals"),
    "covariance": COVARIANCE,
    "interval": Setting(
        "wald",
        one_of(("wald", "profile", "bootstrap")),
        "wald: estimate and standard errors. profile: from the likelihood, which suits few rows better; some passes "
        "over the rows for each limit. bootstrap: from fits to samples of the rows, with the penalty of the fit",
    ),
    "replicates": Setting(999, whole(at_least=1), "samples of interval=bootstrap"),
    "seed": Setting(0, whole(at_least=0), "seed of the samples of interval=bootstrap"),
    "test": Setting(
        "none",
        one_of(("none", "lrt")),
        "lrt: also the likelihood-ratio test of each column, which is dropped as a whole and the rest fitted again",
    ),
    "reference": Setting(
        {}, REFERENCE, "level that a categorical column is compared with, {race:white}; the first of each", shown=""
    ),
    "reference_class": Setting(None, text(), "class that the others are compared with; the first", shown=""),
    "weights": WEIGHTS,
    "effects": Setting(
        "none",
        one_of(("none", "average", "mean")),
        "marginal effects on the probabilities, averaged over the rows or at the mean of the features: derivatives "
        "by numbers, differences for features of 0 and 1 and for levels",
    ),
    "firth": Setting(
        False,
        flag(),
        "true: fits Firth's penalized likelihood to the rows of the run: finite estimates for separated classes, and "
        "less bias for few rows",
    ),
    "checks": Setting(
        False,
        flag(),
        "true: also looks at the assumptions: linearity in each numeric column, influential rows, goodness of fit, "
        "overdispersion; two classes",
    ),
    "report": Setting(
        False,
        flag(),
        "true: also adds columns to coefficients.csv of the run, and a section and a picture to its report",
    ),
    "json": Setting(False, flag(), "true: prints one JSON object"),
}
"""The keys of this command alone."""

RUN_KEYS = ("dataset",)
"""Keys of ``scripts/train.py`` that may be typed as well: where the files of the run are now."""


def help_text() -> str:
    """The text of ``--help``."""
    return f"""\
Shows how sure the coefficients of a fit are, as R's summary(glm) does: standard errors, tests, intervals, odds ratios.

usage: python scripts/coefficients.py [ckpt_path=latest] [key=value ...]

examples
  python scripts/coefficients.py                                  the newest run, which was trained with l2=0
  python scripts/coefficients.py 'reference={{race:white}}'         other races are compared with white
  python scripts/coefficients.py interval=profile test=lrt        profile-likelihood limits, a test of each column
  python scripts/coefficients.py covariance=cluster:school        rows of one school depend on each other
  python scripts/coefficients.py firth=true interval=profile      classes that a column separates
  python scripts/coefficients.py interval=bootstrap               a fit with a penalty
  python scripts/coefficients.py checks=true report=true          the assumptions, with pictures in the report

keys
{help_lines(OWN)}

  dataset.<key>  where the same rows lie now, such as dataset.path=FILE

The rows are those of train: train with dataset.split.val=0 dataset.split.test=0 to take all.  Coefficients are in
source units; of a categorical column they are differences from its reference level.  The fit is polished in float64
before.  Where there is no valid answer (a penalty, separated classes, columns that are combinations of others, a fit
short of its optimum, data that has changed), the command says why, and what to do.  Nothing is written but
with report=true.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/coefficients.py``; the exit code is that of `run_command`."""
    return run_command(help_text, _run, arguments)


def _run(arguments: list[str]) -> int:
    typed = parse_arguments(arguments, "coefficients", OWN, RUN_KEYS)
    request = _request(typed)
    from logreg.reports.coefficient_report import print_coefficients
    from logreg.reports.json_fields import to_json
    from logreg.run.inferring import infer

    table = infer(request)
    if typed.values["report"]:
        from logreg.reports.writing import add_inference

        folder = run_folder_of(request.checkpoint)
        if folder is None:
            raise ConfigError("`report=true` must go with a checkpoint in the folder of its run. Leave it out.")
        add_inference(folder, request.trained.module, table)
    if typed.values["json"]:
        print(json.dumps(to_json(table)))
    else:
        print_coefficients(table, terminal())
    return 0


def _request(typed: TypedArguments) -> InferenceRequest:
    """The typed request, completed from the run of the checkpoint.

    Raises:
        ConfigError: A key or a value is not allowed.
    """
    values = typed.values
    checkpoint = find_checkpoint(values["ckpt_path"], ROOT)
    with importing_libraries():
        from logreg.run.inference_request import InferenceRequest
        from logreg.training.checkpoint_reading import TrainedModel

    trained = TrainedModel.load(checkpoint)
    return InferenceRequest(
        checkpoint=checkpoint,
        config=apply_overrides(trained.run_config(), typed.overrides),
        trained=trained,
        confidence=float(values["confidence"]),
        covariance=None if values["covariance"] == "auto" else values["covariance"],
        profile=values["interval"] == "profile",
        tests=values["test"] == "lrt",
        reference=values["reference"],
        reference_class=values["reference_class"] or "",
        weights=values["weights"],
        effects=values["effects"],
        firth=values["firth"],
        checks=values["checks"],
        replicates=int(values["replicates"]) if values["interval"] == "bootstrap" else 0,
        seed=int(values["seed"]),
    )
