"""A trained model in the format of somebody else: `scripts/export.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.commands.command_line import ROOT, TypedArguments, read_typed, run_command, say_importing
from logreg.commands.overrides import read_summary, reading_summary
from logreg.commands.rows_for_model import data_of
from logreg.constraints import Constraint, flag, one_of, optional, text
from logreg.errors import ConfigError, LogregError
from logreg.files import check_free, shown, unfinished, write_whole
from logreg.run_folder import find_checkpoint, run_folder_of
from logreg.terminal import on_one_line

if TYPE_CHECKING:
    from logreg.export.linear import Linear, Sample
    from logreg.training.trained import Trained

HELP = """\
Writes a trained model for somebody else, reads it again as they would, and refuses what does not agree.

usage: python scripts/export.py [ckpt_path=latest] format=FORMAT [output=FILE] [key=value ...]

examples
  python scripts/export.py format=onnx                      runs/.../export/model.onnx and MODEL_CARD.md beside it
  python scripts/export.py format=sklearn output=model.joblib ckpt_path=best

keys
  ckpt_path    latest    latest, best, last, a run folder or a .ckpt file
  format                 onnx: takes rows as they are (columns by name with their gaps and levels, pictures as bytes, or
                               a matrix), gives `label` and `probabilities`; pip install -e ".[export]"
                         torch_export: a program of features, for torch.export.load
                         safetensors, json: coefficients of features in source units, and how to use them
                         sklearn: a fitted LogisticRegression, for joblib.load; of a table a Pipeline of its rows as
                               they are, columns in order
  output       null      the file; null: export/model.<suffix> in the run folder
  overwrite    false     true: the files may exist

the held-out rows to compare on are those of the run, unless they lie elsewhere now
  dataset.<key>          such as dataset.root or dataset.path

Mean, deviation and calibration are folded into the coefficients; all is float64 inside.  Where a column lies far from
zero for how little it varies, such as seconds since 1970, the inputs of a program are numbers in double precision, and
those that bare coefficients are multiplied with must be.
"""

OWN: dict[str, tuple[Constraint, Any]] = {
    "ckpt_path": (text(), "latest"),
    "format": (optional(one_of(("onnx", "torch_export", "safetensors", "json", "sklearn"))), None),
    "output": (optional(text()), None),
    "overwrite": (flag(), False),
}

ROWS = 1000
"""At most so many rows are compared."""

CARD = "MODEL_CARD.md"

SIGN = "was read again after it was written"
"""What every card of ours has in it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/export.py``; the exit code is that of `run_command`."""
    return run_command(HELP, _work, arguments)


def _work(arguments: list[str]) -> int:
    typed = read_typed(arguments, "export.py", OWN, ("dataset",))
    name, overwrite = typed.values["format"], typed.values["overwrite"]
    if name is None:
        raise ConfigError(f"`format` must be given: one of {', '.join(OWN['format'][0].choices)}.")
    checkpoint = find_checkpoint(typed.values["ckpt_path"], ROOT)
    run = run_folder_of(checkpoint)
    say_importing()
    from logreg.training.fast_import import import_lightning

    import_lightning()
    from logreg.export.formats import FORMATS, check_installed, what_to_pass
    from logreg.export.linear import Linear
    from logreg.reports.model_card import model_card
    from logreg.training.trained import Trained

    check_installed(name)
    suffix = FORMATS[name].suffix
    folder = checkpoint.parent if run is None else run / "export"
    output = Path(typed.values["output"] or folder / f"model{suffix}")
    check_free("output", output, overwrite, (suffix,))
    summary = None if run is None or not (run / "summary.json").is_file() else read_summary(run)
    if summary is not None and summary.get("status") != "finished":
        summary = None
    card = output.parent / CARD
    if card.exists() and not overwrite and SIGN not in card.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"`output` must leave {card} as it is, which is no card of ours. Name another folder.")
    trained = Trained.load(checkpoint)
    model = Linear.of(trained.module)
    if run is not None and summary is not None:
        with reading_summary(run / "summary.json"):  # before anything is written
            model_card(summary, output.name, 0.0)
    agreement = export(name, model, _held_out(trained, typed), output)
    line = f"{shown(output)}: agrees to {agreement:.1g} with the trained model, {output.stat().st_size:,} bytes"
    print(on_one_line(line))
    if summary is None:
        print(f"no {CARD}: there is no summary.json beside the checkpoint", file=sys.stderr)
    else:
        in_double, given = not model.facts.stored.is_plain, what_to_pass(name, model)
        page = model_card(summary, output.name, agreement, in_double, given)
        write_whole(card, lambda file: file.write(page.encode()))
        print(on_one_line(shown(card)))
    return 0


def export(name: str, model: Linear, sample: Sample, output: Path) -> float:
    """Writes a model in a format, reads it again, and keeps it if it agrees.

    Returns:
        The largest difference of a probability on the sample.

    Raises:
        LogregError: It does not agree; nothing is left.
    """
    import numpy as np

    from logreg.export.formats import AGREEMENT, FORMATS

    with unfinished(output) as temporary:
        FORMATS[name].write(model, temporary)
        theirs = FORMATS[name].read(temporary, model, sample)
        ours = model.probabilities(sample.features).numpy()
        difference = float(np.abs(theirs - ours).max())
        if not difference <= AGREEMENT:
            others = " or ".join(other for other in ("onnx", "torch_export") if other != name)
            raise LogregError(
                f"`format={name}` must give the probabilities of the model to {AGREEMENT:g}, and is off by "
                f"{difference:.2g} on {len(ours):,} rows. Subtract an offset from the features, or use format={others}."
            )
        temporary.replace(output)
    return difference


def _held_out(trained: Trained, typed: TypedArguments) -> Sample:
    """Rows of the last split, as features and, of a table, as they stand in it."""
    import numpy as np
    import torch

    from logreg.data.blocks import BlockDataset
    from logreg.data.encoding.columns import Columns
    from logreg.export.linear import Sample

    _, data, _ = data_of(trained, typed)
    split = data.splits[-1]
    blocks = data.blocks(split).dataset
    assert isinstance(blocks, BlockDataset)
    features = data.facts.stored.source(blocks[torch.arange(min(ROWS, len(blocks)))].features)
    columns = {}
    if trained.facts.columns:
        table = data.tables[split]
        read = data.raw.tables["train"].features  # as it stands in the file, before it was encoded
        assert isinstance(read, Columns)
        rows = (torch.arange(len(table)) if table.rows is None else table.rows)[: len(features)].numpy()
        for column in trained.facts.columns:
            series = next(series for series in read.series if series.name == column.name)
            if column.kind == "number":
                columns[column.name] = series.values[rows].astype(np.float64)
                continue
            levels = [level.lower() if column.kind == "boolean" else level for level in series.levels]
            columns[column.name] = np.array([*levels, ""], dtype=object)[series.values[rows]]
    return Sample(features, columns)
