"""`scripts/export.py`: writes a trained model in a format of another program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from logreg.commands.command_line import ROOT, TypedArguments, importing_libraries, parse_arguments, run_command
from logreg.commands.rows_for_model import data_of
from logreg.constraints import flag, one_of, optional, text
from logreg.errors import ConfigError, LogregError
from logreg.files import check_output, shown, unfinished, write_text
from logreg.run_folder import CKPT_PATH, find_checkpoint, run_folder_of
from logreg.settings import Setting, help_lines
from logreg.terminal import on_one_line

if TYPE_CHECKING:
    from logreg.export.base import Sample
    from logreg.training.checkpoint_reading import TrainedModel
    from logreg.training.linear import Linear

OWN = {
    "ckpt_path": CKPT_PATH,
    "format": Setting(
        None,
        optional(one_of(("onnx", "torch_export", "safetensors", "json", "sklearn", "sklearn_only"))),
        "one of the formats below",
        shown="",
    ),
    "output": Setting(None, optional(text()), "the file; null: export/model.<suffix> in the run folder"),
    "overwrite": Setting(False, flag(), "true: the files may exist"),
}
"""The keys of this command alone."""

MAX_ROWS = 1000
"""Rows at most on which the written file is compared with the model."""

MAX_NUMBERS = 2**22
"""Numbers of those rows at most, where each has many features: 32 MiB in float64."""

CARD = "MODEL_CARD.md"
"""The file name of the model card, beside the written model."""

CARD_MARK = "was read again after it was written"
"""Text in every model card that logreg writes: a file without it is not overwritten."""


def help_text() -> str:
    """The text of ``--help``."""
    return f"""\
Writes a trained model for another program, reads it again as that program does, and refuses what does not agree.

usage: python scripts/export.py [ckpt_path=latest] format=FORMAT [output=FILE] [key=value ...]

examples
  python scripts/export.py format=onnx                      runs/.../export/model.onnx and MODEL_CARD.md beside it
  python scripts/export.py format=sklearn output=model.joblib ckpt_path=best

keys
{help_lines(OWN)}

formats
  onnx         takes rows as they are in the source (columns by name with missing values and levels, images as bytes, or
               a matrix), gives `label` and `probabilities`; pip install onnx onnxruntime
  torch_export a program of features, for torch.export.load
  safetensors  coefficients of features in source units, and how to use them
  json         the same as text
  sklearn      a fitted logreg.LogisticRegression, for joblib.load where logreg is installed; of a table a Pipeline that
               takes a data frame as it stands
  sklearn_only the same of scikit-learn's own parts, which need no logreg

the held-out rows to compare on are those of the run, unless they lie elsewhere now
  dataset.<key>          such as dataset.root or dataset.path

Mean, deviation and calibration are folded into the coefficients; all is float64 inside.  Where a column lies far from
zero for how little it varies, such as seconds since 1970, the inputs of a program are numbers in double precision, and
those that bare coefficients are multiplied with must be.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/export.py``; the exit code is that of `run_command`."""
    return run_command(help_text, _run, arguments)


def _run(arguments: list[str]) -> int:
    typed = parse_arguments(arguments, "export", OWN, ("dataset",))
    name, overwrite = typed.values["format"], typed.values["overwrite"]
    if name is None:
        raise ConfigError(f"`format` must be given: one of {', '.join(OWN['format'].constraint.choices)}.")
    checkpoint = find_checkpoint(typed.values["ckpt_path"], ROOT)
    run = run_folder_of(checkpoint)
    with importing_libraries():
        from logreg.export.formats import FORMATS, check_installed, check_link, describe_inputs
        from logreg.reports.model_card import model_card
        from logreg.reports.summary_schema import Summary, read_summary, reading_summary
        from logreg.training.checkpoint_reading import TrainedModel
        from logreg.training.linear import Linear

    check_installed(name)
    suffix = FORMATS[name].suffix
    folder = checkpoint.parent if run is None else run / "export"
    output = Path(typed.values["output"] or folder / f"model{suffix}")
    check_output(output, overwrite, (suffix,))
    summary = None if run is None or not (run / "summary.json").is_file() else read_summary(run)
    if not isinstance(summary, Summary):  # of a job of a sweep that was not finished
        summary = None
    card = output.parent / CARD
    if card.exists() and not overwrite and CARD_MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"`output` must leave {card} as it is, which logreg did not write. Name another folder.")
    trained = TrainedModel.load(checkpoint)
    model = Linear.of(trained.module)
    check_link(name, model.loss)
    if run is not None and summary is not None:
        with reading_summary(run / "summary.json"):  # before anything is written
            model_card(summary, output.name, 0.0)
    agreement = export(name, model, _held_out(trained, typed), output)
    line = f"{shown(output)}: agrees to {agreement:.1g} with the trained model, {output.stat().st_size:,} bytes"
    print(on_one_line(line))
    if summary is None:
        print(f"no {CARD}: there is no summary.json beside the checkpoint", file=sys.stderr)
    else:
        in_double, given = not model.facts.stored.is_plain, describe_inputs(name, model)
        page = model_card(summary, output.name, agreement, in_double, given)
        write_text(card, page)
        print(on_one_line(shown(card)))
    return 0


def export(name: str, model: Linear, sample: Sample, output: Path) -> float:
    """Writes a model in a format, reads it again, and keeps the file if its probabilities agree with the model.

    Returns:
        The largest difference of a probability on the sample.

    Raises:
        LogregError: They do not agree; no file is left.
    """
    import numpy as np

    from logreg.export.formats import AGREEMENT, FORMATS

    with unfinished(output) as temporary:
        FORMATS[name].write(model, temporary)
        written = FORMATS[name].read(temporary, model, sample)
        expected = model.probabilities(sample.features).numpy()
        difference = float(np.abs(written - expected).max())
        if not difference <= AGREEMENT:
            others = " or ".join(other for other in ("onnx", "torch_export") if other != name)
            raise LogregError(
                f"`format={name}` must give the probabilities of the model to {AGREEMENT:g}, and is off by "
                f"{difference:.2g} on {len(expected):,} rows. Subtract an offset from the features, or use "
                f"format={others}."
            )
        temporary.replace(output)
    return difference


def _held_out(trained: TrainedModel, typed: TypedArguments) -> Sample:
    """Rows of the last split: their features and, of a table, their columns as they are in the file."""
    from logreg.export.base import Sample

    _, data, _ = data_of(trained, typed)
    data.keep_columns()
    split = data.splits[-1]
    rows = min(MAX_ROWS, max(1, MAX_NUMBERS // data.facts.num_features), data.facts.rows[split])
    positions = range(rows)
    features = data.facts.stored.inverse_transform(data.rows(split, positions).features)
    return Sample(features, data.source_columns(split, positions))
