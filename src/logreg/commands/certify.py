"""`scripts/certify.py`: how far coefficients, of this program or another, are from the optimum of a stated problem."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from logreg.commands.command_line import ROOT, importing_libraries, parse_arguments, run_command
from logreg.commands.config_files import own_folder
from logreg.commands.overrides import check_groups, composed_config, resumed_overrides
from logreg.constraints import Constraint, flag, number, text
from logreg.errors import ConfigError
from logreg.run_folder import find_checkpoint, run_folder_of
from logreg.settings import Setting, help_lines

if TYPE_CHECKING:
    from logreg.run.certifying import CertifyRequest

COEFFICIENTS = {
    "ckpt_path": Setting(
        "latest",
        text(),
        "latest, best, last, a run folder or a .ckpt file; data and objective are those of its run, unless typed",
    ),
    "coef": Setting(
        None,
        text(),
        ".npz or .json with coef (K, D) or (D,) and intercept (K,) or a number, for the features as they are in the "
        "source (pixels in [0, 1]). scikit-learn's coef_ and intercept_, torch's weight and bias will do. K is 1 for "
        "two classes: the logit of the second. Else there is a row for each class, in the order that is printed: "
        "numbers ascending, text alphabetic, as in scikit-learn's classes_. Two rows for two classes are a softmax.",
        shown="",
    ),
}
"""Keys that name the coefficients; one of them is typed."""

INVERSE_STRENGTH = Constraint(
    "be a number > 0, or inf for no penalty",
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value > 0,
)

L2_CONVENTIONS = {
    "l2": Setting(None, number(at_least=0), "mean loss + l2/2 |coef|^2; 0 for none", shown=""),
    "C": Setting(None, INVERSE_STRENGTH, "scikit-learn: 1 / (N * l2); inf for none", shown=""),
    "lambda": Setting(None, number(at_least=0), "glmnet with alpha=0: l2", shown=""),
    "weight_decay": Setting(None, number(at_least=0), "torch's SGD on a mean loss: l2", shown=""),
}
"""Names of the strength of the l2 penalty in several programs; at most one of them may be typed."""

PENALTY = {
    **L2_CONVENTIONS,
    "l1": Setting(None, number(at_least=0), "beside one of them, or alone: + l1 |coef|_1", shown=""),
}

OTHERS = {
    "tolerance": Setting(
        1e-6, number(above=0, below=1), "gap, relative to the value, up to which coefficients are optimal"
    ),
    "json": Setting(False, flag(), "true: prints one JSON object"),
}

OWN = {**COEFFICIENTS, **PENALTY, **OTHERS}
"""The keys of this command alone."""

RUN_KEYS = (
    "dataset",
    "backbone",
    "experiment",
    "config_dir",
    "seed",
    "loss",
    "link",
    "reduction",
    "intercept",
    "precision",
    "accelerator",
)
"""Keys of ``scripts/train.py`` that choose the data and the loss."""

DEFAULTS_OF_FILES = ("dataset.standardize=false", "reduction=mean", "precision=64")
"""Overrides for coefficients of other programs, unless the user types others."""


def help_text() -> str:
    """The text of ``--help``."""
    return f"""\
Certifies how far coefficients are from the optimum of the problem that they are meant to solve.

usage: python scripts/certify.py [ckpt_path=...] [key=value ...]
       python scripts/certify.py coef=FILE dataset=... PENALTY [key=value ...]

examples
  python scripts/certify.py                                            the newest run: its data and its objective
  python scripts/certify.py l2=1e-3                                    the same, against another penalty
  python scripts/certify.py coef=model.npz dataset=breast_cancer C=1 dataset.split.val=0 dataset.split.test=0
  python scripts/certify.py coef=probe.json dataset=features dataset.path=embeddings.npz weight_decay=1e-4

coefficients
{help_lines(COEFFICIENTS)}

the penalty that coef= was fitted with, on the coefficients and not on the intercept
{help_lines(PENALTY)}

the data and the loss, all as in scripts/train.py
  {", ".join(("dataset", "dataset.<key>", *RUN_KEYS[1:4]))},
  {", ".join(RUN_KEYS[4:])}
               The rows are those of train: dataset.split.val=0 dataset.split.test=0 takes the held-out ones too.
               Beside coef=, the penalty is on the raw features (dataset.standardize=true: on the standardized ones),
               the loss is a mean over the rows, and features are read with precision=64.

keys
{help_lines(OTHERS)}

Where the gap is larger, the stated problem is solved, so that the gap is known and not only bounded, and a penalty
is looked for whose problem the coefficients do solve.  Nothing is written.  Exit code 0 whatever the verdict, 2 for
a mistake.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/certify.py``; the exit code is that of `run_command`, 0 whatever the verdict.

    Args:
        arguments: The words after the command's name; ``sys.argv`` when ``None``.
    """
    return run_command(help_text, _run, arguments)


def _run(arguments: list[str]) -> int:
    request, as_json = _parse(arguments)
    from logreg.reports.coefficient_certificate import certificate_table
    from logreg.run.certifying import certify

    found = certify(request)
    print(json.dumps(dataclasses.asdict(found)) if as_json else certificate_table(found))
    return 0


def _parse(arguments: Sequence[str]) -> tuple[CertifyRequest, bool]:
    """The typed request, checked and completed from the run of the checkpoint; and whether to print JSON.

    torch is imported only after these checks.

    Raises:
        ConfigError: A key, a value or a combination of keys is not allowed.
    """
    typed = parse_arguments(arguments, "certify", OWN, RUN_KEYS)
    penalty = {key: float(typed.values[key]) for key in PENALTY if key in typed.given}
    stated = [key for key in L2_CONVENTIONS if key in penalty]
    if len(stated) > 1:
        raise ConfigError(f"`{stated[0]}` must be the only name for the penalty, got {' and '.join(stated)}.")
    if {"coef", "ckpt_path"} <= typed.given:
        raise ConfigError("`coef` or `ckpt_path` must name the coefficients, not both. Leave one out.")
    check_groups(typed.overrides)
    given = {override.key_or_group for override in typed.overrides}
    checkpoint, coef = None, None
    if "coef" in typed.given:
        if not penalty:
            raise ConfigError("`l2` must be stated, or C, lambda or weight_decay: see --help. l2=0 is no penalty.")
        coef = Path(typed.values["coef"])
        before = [line for line in DEFAULTS_OF_FILES if line.partition("=")[0] not in given]
    else:
        checkpoint = find_checkpoint(typed.values["ckpt_path"], ROOT)
        kept = resumed_overrides(checkpoint, given, own_folder(typed.overrides))
        before = [line for line in kept if _group(line) in RUN_KEYS]
    if not given & {"dataset", "experiment"} and (checkpoint is None or run_folder_of(checkpoint) is None):
        raise ConfigError("`dataset` must be given: the data that the coefficients were fitted to.")
    config = composed_config([*before, *(override.input_line or "" for override in typed.overrides)])
    with importing_libraries():
        from logreg.run.certifying import CertifyRequest

    tolerance = float(typed.values["tolerance"])
    return CertifyRequest(config, checkpoint, coef, frozenset(given), penalty, tolerance), typed.values["json"]


def _group(line: str) -> str:
    """The first part of the key of an override: ``dataset`` of ``+dataset.path=FILE``."""
    return line.partition("=")[0].lstrip("+~").partition(".")[0]
