"""A finished run as a person reads it: summary.json, report.md, pictures, the table at the end."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from logreg.advice import has_risen, next_commands, overfits
from logreg.config import EXACT, SELECT, RunConfig
from logreg.data import KnownAnswer, TensorDataModule
from logreg.data.blocks import BlockDataset
from logreg.errors import shell_line
from logreg.evaluation import Evaluation, Predicted
from logreg.facts import SPLITS, Split
from logreg.folder import CHECKPOINTS, shown, write_whole
from logreg.losses import LOSSES
from logreg.metrics import Scores
from logreg.module import LogisticModule
from logreg.optimality import Certificate
from logreg.page import as_html
from logreg.path import CAP, PathRow, path_csv, path_summary
from logreg.terminal import on_one_line
from logreg.tracking import HPARAMS_METRICS, RunLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Summary = dict[str, Any]
"""The content of summary.json."""

METRICS = ("loss", "accuracy", "auroc")
"""Columns of every table, in this order; a column that no split has is left out."""

FEW_FEATURES = 4
"""Up to so many features the learned equation is written out."""

FEW_CLASSES = 10
"""Up to so many classes their weights are written out."""

MISTAKES = 8
"""Rows that the model is surest of and wrong about, in report.md."""

THUMBNAILS = 24
"""The same as pictures."""

MOST_CURVES = 20
"""Up to so many classes each has its precision against recall."""

FEW_ROWS = 30
"""Below so many rows val says little."""

LARGEST = 10
"""Coefficients in report.md; all of them stand in coefficients.csv."""

BARS = 20
"""The same as bars."""


@dataclass(frozen=True)
class RunResult:
    """A finished run, with its objects still in memory."""

    config: RunConfig
    folder: Path
    overrides: Sequence[str]
    module: LogisticModule
    data: TensorDataModule
    scores: Mapping[Split, Scores]
    """Of the parameters at the end of training."""
    certificate: Certificate
    """Of the same parameters."""
    best: Mapping[str, float]
    """Epoch and loss/val of best.ckpt."""
    epochs: int
    resumed_from: Path | None = None
    """The checkpoint that the run went on from."""
    path: Sequence[PathRow] | None = None
    """The regularisation path that l2 was chosen from."""
    predicted: Predicted | None = None
    """The last split (test, or val, or train where there is no other) as the model sees it."""
    evaluation: Evaluation | None = None
    """All scores of that split."""
    l2_reason: str = ""
    """Why l2 is what it is, where nobody said what it shall be and none was chosen."""

    @property
    def place(self) -> int:
        """Of what was chosen, in the path."""
        return [row.l2 for row in self.path or ()].index(self.module.objective.l2)

    @property
    def scored(self) -> Split:
        """The last split."""
        return self.data.splits[-1]


def summarise(result: RunResult, seconds: Mapping[str, float]) -> Summary:
    """All that is worth keeping of a run, as plain values.

    Args:
        result: The run.
        seconds: How long what took.
    """
    module, facts = result.module, result.module.facts
    summary: Summary = {
        "status": "finished",
        "folder": shown(result.folder),
        "resumed_from": shown(result.resumed_from) if result.resumed_from else None,
        "command": shell_line(["python", "scripts/train.py", *result.overrides]),
        "overrides": list(result.overrides),
        "dataset": {
            "name": facts.name,
            "source": facts.source,
            "rows": dict(facts.rows),
            "features": facts.num_features,
            "classes": list(facts.class_names),
            "class_weight": dict(zip(facts.class_names, facts.class_weight, strict=True))
            if facts.class_weight
            else None,
            "backbone": dict(facts.backbone) or None,
            "notes": list(result.data.notes),
            "leak": result.data.leaks.advice,
        },
        "majority": _majority(result),
        "largest_coefficients": largest_coefficients(module),
        "metrics": {split: dict(scores) for split, scores in result.scores.items()},
        "evaluation": None
        if result.evaluation is None
        else {
            "split": result.scored,
            "calibration": module.calibration.as_dict(),
            "calibrated": module.calibration.in_words(facts.class_names),
            **result.evaluation.as_dict(),
        },
        "mistakes": mistakes(result),
        "objective": {
            **dataclasses.asdict(module.objective),
            "train": result.scores["train"]["loss"]
            + float(module.objective.penalty(module.model.coef.detach().double())),
        },
        "optimality": result.certificate.as_dict(),
        "reason": module.reason or None,
        "l2_reason": result.l2_reason or None,
        "path": path_summary(result.path, result.config.select, result.place) if result.path else None,
        "equation": equation(module),
        "example": example(result),
        "known_answer": _against(result.data.answer, result) if result.data.answer else None,
        "expected": _expected(result.config.expected, result.scores),
        "best": dict(result.best) or None,
        "checkpoints": [f"{CHECKPOINTS}/best.ckpt", f"{CHECKPOINTS}/last.ckpt"],
        "epochs": result.epochs,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "seed": result.config.seed,
        "config": dataclasses.asdict(result.config),
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,  # says which CUDA it was built for, unlike the package's number
            **{package: version(package) for package in ("lightning", "torchmetrics", "numpy")},
        },
    }
    return summary


def write_report(result: RunResult, summary: Summary, figures: Sequence[str], logger: RunLogger) -> None:
    """Writes summary.json and report.md, and closes TensorBoard's file.

    Args:
        result: The run.
        summary: Of the same run.
        figures: File names of its pictures.
        logger: Still open.
    """
    curves = logger.history
    for split, scores in result.scores.items():
        last = {f"{name}/{split}": value for name, value in scores.items()}
        if split != "test":  # these have curves, but the accuracy on train of an exact optimizer
            last = {tag: value for tag, value in last.items() if tag in HPARAMS_METRICS and tag not in curves}
        if last:
            logger.log_metrics(last, result.epochs)
    logger.flush()
    logger.writer.close()
    if result.path:
        table = path_csv(result.path, result.module.facts.rows["train"])
        write_whole(result.folder / "path.csv", lambda file: file.write(table.encode()))
    if result.module.facts.feature_names:
        text = coefficients_csv(result.module)
        write_whole(result.folder / "coefficients.csv", lambda file: file.write(text.encode()))
    page = as_markdown(summary, figures)
    write_whole(result.folder / "report.md", lambda file: file.write(page.encode()))
    if result.config.report == "full":
        html = as_html(summary, page, {name: result.folder / "figures" / name for name in figures})
        write_whole(result.folder / "report.html", lambda file: file.write(html.encode()))
    plain = json.dumps(summary, indent=2, ensure_ascii=False)
    # last, since it says that the run has come to its end
    write_whole(result.folder / "summary.json", lambda file: file.write((plain + "\n").encode()))


def draw(result: RunResult, logger: RunLogger) -> list[str]:
    """Draws what there is to see into figures/*.png and TensorBoard; returns the names of the files."""
    from logreg.figures import label, lettered

    facts = result.module.facts
    names = [facts.title, *facts.class_names, *facts.feature_names]
    with lettered(names) as missing:
        drawn = _drawn(result, logger, label(facts.title, 50))
        files = [_save(figure, name, result, logger) for name, figure in drawn.items() if figure is not None]
    if missing:
        letters = on_one_line(missing[:10])
        sys.stderr.write(
            f"pictures: no font of this machine has {letters}, so boxes stand there. "
            "Install one that has, such as Noto Sans CJK.\n"
        )
    return files


def _drawn(result: RunResult, logger: RunLogger, of: str) -> dict[str, Figure | None]:
    """The pictures by name; ``None`` is one that has nothing to show.

    Args:
        result: The run.
        logger: Has its curves.
        of: What the data is called over each picture.
    """
    from logreg import diagnostics, figures

    facts, data, module = result.module.facts, result.data, result.module
    drawn: dict[str, Figure | None] = {}
    if facts.num_features == 1 and facts.is_binary:
        slope, offset = _calibrated_log_odds(module)
        rows = next(iter(data.blocks("train")))
        features, labels = facts.stored.source(rows.features), rows.labels.cpu()
        title = figures.label(f"{facts.name}: {equation(module)}", 80)
        drawn["probability"] = figures.probability_curve(
            float(slope[0]), offset, facts, features, labels, title, data.axis
        )
    elif facts.image_shape:
        drawn["coefficients"] = figures.coefficient_images(module.model.in_source_units()[0], facts)
    elif largest := largest_coefficients(module, BARS):
        all_of_them = module.model.coef.numel()
        which = (
            "coefficients" if len(largest) == all_of_them else f"{len(largest)} largest of {all_of_them:,} coefficients"
        )
        drawn["coefficients"] = diagnostics.coefficient_bars(largest, f"{of}: {which}")
    if result.path:
        drawn["path"] = figures.path_curve(
            result.path, f"{of}: loss and accuracy along l2", result.config.select, result.place
        )
    else:  # a fit that begins at the end of a path has no curve worth seeing
        drawn["loss"] = diagnostics.loss_curves(logger.history, f"{of}: loss")
    if result.predicted is not None and result.evaluation is not None and result.scored != "train":
        predicted, evaluation, title = result.predicted, result.evaluation, f"{of}, {result.scored}"
        drawn["reliability"] = diagnostics.reliability(predicted, evaluation, facts, title)
        drawn["confusion"] = diagnostics.confusion_matrix(evaluation, facts, title)
        if facts.is_binary:
            drawn["roc"] = diagnostics.roc_and_precision_recall(predicted, evaluation, facts, title)
        wrong = diagnostics.confident_mistakes(predicted, THUMBNAILS)
        if wrong and facts.image_shape:
            pixels = _features(data, result.scored, [one.position for one in wrong])
            drawn["mistakes"] = diagnostics.mistakes_as_images(pixels, wrong, facts, f"{title}: the surest mistakes")
        _log_curves(predicted, result, logger)
    for name, row in zip(module.output_names, module.model.coef.detach().cpu(), strict=True):
        logger.writer.add_histogram(f"coefficients/{name}", row, result.epochs)
    return drawn


def _log_curves(predicted: Predicted, result: RunResult, logger: RunLogger) -> None:
    """Precision against recall for TensorBoard's PR CURVES: of the positive class, or of each of a few."""
    facts = result.module.facts
    classes = [1] if facts.is_binary else range(facts.num_classes)
    for label in classes if facts.num_classes <= MOST_CURVES else ():
        tag = f"{result.scored}/{facts.class_names[label]}"
        of_class, weight = predicted.labels == label, predicted.sample_weight
        logger.writer.add_pr_curve(
            tag,
            of_class.numpy(),
            predicted.probabilities[:, label].numpy(),
            result.epochs,
            weights=None if weight is None else weight.numpy(),
        )


def _features(data: TensorDataModule, split: Split, positions: Sequence[int]) -> torch.Tensor:
    """Some rows of a split as they are stored, shape (M, D)."""
    blocks = data.blocks(split).dataset
    assert isinstance(blocks, BlockDataset)
    return blocks[torch.tensor(positions, dtype=torch.int64)].features.cpu()


def mistakes(result: RunResult) -> list[dict[str, Any]] | None:
    """The rows that the model is wrong about and surest of, surest first.

    Returns:
        The row as it was read, counted from 1; its class, the predicted one and its probability; and, where
        features have names, the three that spoke most for the wrong class.  ``None`` where no rows were held out.
    """
    from logreg.diagnostics import confident_mistakes

    if result.predicted is None or result.scored == "train":
        return None
    module, table = result.module, result.data.tables[result.scored]
    facts, wrong = module.facts, confident_mistakes(result.predicted, MISTAKES)
    listed: list[dict[str, Any]] = []
    if not wrong:
        return listed
    features = _features(result.data, result.scored, [one.position for one in wrong])
    coef = module.model.coef.detach().cpu().double()
    coef = torch.cat([-coef / 2, coef / 2]) if len(coef) == 1 else coef
    standardised = module.model.cpu().standardise(features.double())
    for one, source, x in zip(wrong, facts.stored.source(features), standardised, strict=True):
        said = (coef[one.predicted] - coef[one.true]) * x
        most = said.topk(min(3, len(said))).indices.tolist() if facts.feature_names else []
        listed.append(
            {
                "row": 1 + (one.position if table.rows is None else int(table.rows[one.position])),
                "true": facts.class_names[one.true],
                "predicted": facts.class_names[one.predicted],
                "probability": one.probability,
                "because": [f"{facts.feature_names[place]} = {float(source[place]):.4g}" for place in most],
            }
        )
    return listed


def _save(figure: Figure, name: str, result: RunResult, logger: RunLogger) -> str:
    """Writes a figure to figures/<name>.png and to TensorBoard; returns the file's name."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(130)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # a name may be in any script, and `draw` has said so
        warnings.filterwarnings("ignore", "Glyph .* missing from font|Matplotlib currently does not support")
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    path = result.folder / "figures" / f"{name}.png"
    write_whole(path, lambda file: Image.fromarray(pixels).save(file, format="png"))
    logger.writer.add_image(name, pixels, result.epochs, dataformats="HWC")
    return path.name


def equation(module: LogisticModule) -> str | None:
    """The fitted model in words, for two classes and few features: what it predicts, calibrated if it is.

    Returns:
        Such as "p(pass) = sigmoid(1.50 * hours - 4.08), even odds at 2.72 hours", or ``None``.
    """
    facts = module.facts
    if not facts.is_binary or facts.num_features > FEW_FEATURES or not facts.feature_names:
        return None
    slope, offset = _calibrated_log_odds(module)
    terms = [(float(value), f" * {name}") for value, name in zip(slope, facts.feature_names, strict=True)]
    written = ""
    for value, name in [*terms, (offset, "")]:
        sign = "-" if value < 0 else "+"
        written += (
            f" {sign} {_short(abs(value))}{name}"
            if written
            else f"{'-' if value < 0 else ''}{_short(abs(value))}{name}"
        )
    text = f"p({facts.class_names[1]}) = sigmoid({written})"
    if facts.num_features == 1 and slope[0]:
        text += f", even odds at {_short(-offset / float(slope[0]))} {facts.feature_names[0]}"
    return text


def example(result: RunResult) -> dict[str, float] | None:
    """The first row of train, as `scripts/predict.py` takes one; ``None`` where it is not a few numbers with names."""
    facts = result.module.facts
    few = 0 < len(facts.feature_names) <= FEW_FEATURES
    if not few or tuple(column.name for column in facts.columns) not in ((), facts.feature_names):
        return None
    row = facts.stored.source(_features(result.data, "train", [0]))[0]
    return dict(zip(facts.feature_names, row.tolist(), strict=True))


def coefficients_csv(module: LogisticModule) -> str:
    """Intercept and coefficients in source units, a line per feature, a column per output."""
    facts = module.facts
    coef, intercept = module.model.in_source_units()
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["feature", *(facts.class_names if len(coef) > 1 else facts.class_names[1:])])
    writer.writerow(["intercept", *intercept.tolist()])
    writer.writerows([name, *row] for name, row in zip(facts.feature_names, coef.T.tolist(), strict=True))
    return lines.getvalue()


def largest_coefficients(module: LogisticModule, most: int = LARGEST) -> list[dict[str, Any]] | None:
    """The features that say most, where they have names.

    Returns:
        Feature, class, coefficient in source units, and coefficient per standard deviation (``None`` where
        the features are not standardised), by the size of what the model multiplies; at most ``most``.
    """
    facts = module.facts
    if not facts.feature_names:
        return None
    own, (coef, _) = module.model.coef.detach().cpu().double(), module.model.in_source_units()
    names = facts.class_names if len(coef) > 1 else facts.class_names[1:]
    largest = own.abs().flatten().topk(min(most, own.numel())).indices
    return [
        {
            "feature": facts.feature_names[place % own.shape[1]],
            "class": names[place // own.shape[1]],
            "coef": float(coef.flatten()[place]),
            "coef_per_std": float(own.flatten()[place]) if facts.std else None,
        }
        for place in largest.tolist()
    ]


def loss_in_words(summary: Summary) -> str:
    """What the column "loss" is, such as "softmax cross-entropy, mean over rows"."""
    objective, classes = summary["objective"], len(summary["dataset"]["classes"])
    loss = LOSSES[objective["loss"]]
    return f"{loss.described(loss.num_outputs(classes))}, {objective['reduction']} over rows"


def settings_in_words(summary: Summary) -> str:
    """How it was trained, in one sentence."""
    config = summary["config"]
    if config["optimizer"]["name"] in EXACT:
        why = f" ({summary['reason']})" if summary["reason"] else ""
        return (
            f"Trained by {config['optimizer']['name']}{why} to a relative gap of {config['tolerance']:g}, "
            f"{summary['epochs']} passes, l2 {config['l2']:g}, l1 {config['l1']:g}."
        )
    batches = "full batches" if config["batch_size"] == "full" else f"batches of {config['batch_size']}"
    return (
        f"Trained by {config['optimizer']['name']} with lr {config['lr']:g} ({config['schedule']['name']}), {batches}, "
        f"{summary['epochs']} epochs, l2 {config['l2']:g}, l1 {config['l1']:g}."
    )


def score_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the one table: a row per split that there is, a column per metric that there is."""
    metrics = summary["metrics"]
    columns = [name for name in METRICS if any(name in scores for scores in metrics.values())]
    header = ["split", "rows", *columns]
    rows = [
        [split, f"{summary['dataset']['rows'][split]:,}", *(_cell(name, metrics[split].get(name)) for name in columns)]
        for split in SPLITS
        if split in metrics
    ]
    return header, rows


def is_corrected(found: Mapping[str, Any] | None) -> bool:
    """Whether class weights were taken out of the probabilities of an evaluation."""
    return bool(found and found.get("calibration", {}).get("class_weight"))


def remarks(summary: Summary) -> list[str]:
    """What the table does not say, a line each."""
    lines = []
    if summary["equation"]:
        lines.append(summary["equation"])
    majority = summary["majority"]
    split, accuracy = list(majority["accuracy"].items())[-1]
    lines.append(f"always {majority['class']!r}, most frequent in train, is right in {accuracy:.2%} of {split}")
    if weights := summary["dataset"]["class_weight"]:
        shown = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
        if len(weights) > FEW_CLASSES:
            shown = f"from {min(weights.values()):.3g} to {max(weights.values()):.3g}"
        lines.append(f"class weights {shown} count in the loss")
        if not is_corrected(summary["evaluation"]):
            lines[-1] += (
                ": probabilities and predicted labels are those of the weighted problem, in which each class has so "
                "many times its rows, not frequencies; calibrate=temperature takes the weights out of them"
            )
    found = summary["evaluation"]
    lines += calibration_lines(found)
    if found and found["split"] != "train":
        intervals = ", ".join(
            f"{name.replace('_', ' ')} {scored(name, one['low'])} to {scored(name, one['high'])}"
            for name in ("accuracy", "log_loss")
            for one in [found["metrics"][name]]
        )
        lines.append(f"{found['confidence']:.0%} intervals on {found['split']}: {intervals}")
        lines += weight_lines(found)
    objective = summary["objective"]
    if objective["l2"] or objective["l1"]:
        penalty = objective["train"] - summary["metrics"]["train"]["loss"]
        lines.append(f"objective on train {objective['train']:.4f}, of it penalty {penalty:.4f}")
    if answer := summary["known_answer"]:
        line = f"the best classifier scores {answer['accuracy']:.2%} on unseen rows"
        if answer["coef_error"] is not None:
            line += f"; the distance from its coefficients is {answer['coef_error']:.1%} of their norm"
        lines.append(line)
    lines += _path_lines(summary)
    exact = summary["config"]["optimizer"]["name"] in EXACT
    if best := summary["best"]:
        lines.append(f"lowest loss/val {best['loss/val']:.4f} after epoch {best['epoch']:.0f} of {summary['epochs']}")
        if has_risen(summary):
            now, held = summary["metrics"]["val"]["loss"], f"best.ckpt is that of epoch {best['epoch']:.0f}"
            lines[-1] += f", and {now:.4f} at the end{': the model overfits' if overfits(summary) else ''}; {held}"
        elif not exact and best["epoch"] == summary["epochs"]:
            lines[-1] += ": it still falls, so longer training may lower it"
        elif not exact:
            lines[-1] += ": it no longer falls, so longer training changes little"
    lines.append(optimality_in_words(summary))
    for check in summary["expected"] or []:
        got = "nothing" if check["got"] is None else f"{check['got']:.4g}"
        verdict = "reached" if check["reached"] else "NOT reached"
        lines.append(f"expected {check['metric']} {check['value']:g} ± {check['tolerance']:g}: {verdict}, got {got}")
    seconds = summary["seconds"]
    lines.append(f"took {seconds['total']:.1f} s, {seconds['fit']:.1f} s of it training")
    return lines


def _path_lines(summary: Summary) -> list[str]:
    """How l2 was chosen where nobody typed it, and whether to trust that."""
    path = summary["path"]
    if not path:
        return [summary["l2_reason"]] if summary.get("l2_reason") else []
    rows, best, simplest = path["rows"], path["rows"][path["best"]], path["rows"][path["one_standard_error"]]
    select, val = path["select"], summary["dataset"]["rows"]["val"]
    name, _ = SELECT[select]
    value = f"{best['loss_val']:.4f} ± {best['error']:.4f}" if name == "loss" else _cell(name, best[f"{name}_val"])
    parts = [f"l2={best['l2']:.3g}, chosen among {len(rows)} strengths by {select.replace('_', '-')} on val: {value}"]
    if name == "loss":
        parts.append(f"l2={simplest['l2']:.3g} is the strongest within one standard error, {simplest['loss_val']:.4f}")
    sure, worst = sum(row["converged"] for row in rows), max(row["relative_gap"] for row in rows)
    if sure < len(rows):
        parts.append(f"{sure} of {len(rows)} are within the tolerance")
    else:
        about = "is optimal to" if worst <= summary["config"]["tolerance"] else "fitted to about"
        parts.append(f"each {about} {worst:.0e}")
    lines = [f"{'; '.join(parts)} [path.csv]"]
    if name == "loss" and any((row["capped_val"] or 0) < row["loss_val"] for row in rows):
        lines.append(f"to choose l2, a row of val counts {CAP:g} nats at most: some have more with weak penalties")
    if val < FEW_ROWS:
        lines.append(f"val has {val} rows, so the choice of l2 means little: type l2, or get more rows")
    return [*lines, f"ALARM: {path['alarm']}"] if path["alarm"] else lines


def optimality_in_words(summary: Summary) -> str:
    """The verdict, with what it rests on."""
    found = summary["optimality"]
    at_most = "<=" if found["rigorous"] else "about"
    line = (
        f"{found['verdict']} [objective {found['value']:.6g}, gap {at_most} {found['gap']:.2g}, largest slope "
        f"{found['max_abs_gradient']:.2g}, in float64 over {found['rows']:,} rows; {found['passes']} passes, "
        f"{found['seconds']:.2g} s]"
    )
    exact = summary["config"]["optimizer"]["name"] in EXACT or summary["config"]["polish"]
    if not exact or found["converged"] or found["separation"]:
        return line
    if not found["rigorous"] and found["relative_gap"] <= found["tolerance"]:
        return f"WARNING: {line}"
    return f"WARNING: not within tolerance={found['tolerance']:g}: {line}"


def print_summary(summary: Summary, console: Console) -> None:
    """The end of a run on the terminal."""
    header, rows = score_table(summary)
    console.print(f"{title(summary)}: {loss_in_words(summary)}", markup=False, highlight=False)
    print_table(console, header, rows)
    for line in remarks(summary):  # in a terminal it is wrapped between words, in a pipe it is one line
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    console.print(summary["folder"], markup=False, highlight=False, soft_wrap=True)
    console.print("next:")
    for command in next_commands(summary):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal; all but the first column lean to the right."""
    table = Table()
    for position, name in enumerate(header):
        table.add_column(escape(name), justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def as_markdown(summary: Summary, figures: Sequence[str]) -> str:
    """report.md: the same, to keep."""
    header, rows = score_table(summary)
    lines = [
        f"# {title(summary)}",
        "",
        f"`{summary['command']}`",
        "",
        *([f"Goes on from `{summary['resumed_from']}`.", ""] if summary["resumed_from"] else []),
        f"Loss: {loss_in_words(summary)}. {settings_in_words(summary)}",
        "",
        *markdown_table(header, rows),
        "",
        *(f"- {line}" for line in [*summary["dataset"]["notes"], *remarks(summary)]),
        "",
        *_evaluation_lines(summary),
        *_coefficient_lines(summary),
        *_mistake_lines(summary),
        *(["## Pictures", ""] if figures else []),
        *(line for figure in figures for line in (f"![{Path(figure).stem}](figures/{figure})", "")),
        f"Commit {summary['git_commit'] or 'unknown'}, seed {summary['seed']}, "
        + ", ".join(f"{package} {number}" for package, number in summary["versions"].items())
        + ".",
        "",
    ]
    return "\n".join(map(on_one_line, lines))


def title(summary: Summary) -> str:
    """The dataset and what was read: ``table diamonds.csv``, ``image_folder birds by resnet18``."""
    dataset = summary["dataset"]
    by = f" by {dataset['backbone']['name']}" if dataset["backbone"] else ""
    return f"{dataset['name']} {dataset['source']}".rstrip() + by


def _evaluation_lines(summary: Summary) -> list[str]:
    """Every score of the last split with its interval, beside what the base rates alone would score."""
    found = summary["evaluation"]
    if found is None or found["split"] == "train":
        return []
    lines = [
        f"## Scores on {found['split']}",
        "",
        f"{found['rows']:,} rows, intervals of {found['confidence']:.0%}; "
        "the baseline gives every row the rates of train.",
        "",
        *markdown_table(*evaluation_table(found)),
        "",
    ]
    if threshold := found["threshold"]:
        lines += [f"{threshold_in_words(threshold)}.", ""]
    return [*lines, *markdown_table(*class_table(found)), ""]


def evaluation_table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all scores with their intervals, beside the baseline's."""
    rows = [
        [
            name.replace("_", " "),
            scored(name, one["value"]),
            f"{scored(name, one['low'])} to {scored(name, one['high'])}",
            scored(name, found["baseline"][name]),
        ]
        for name, one in found["metrics"].items()
    ]
    return ["metric", "value", "interval", "baseline"], rows


def class_table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what each class scores."""
    rows = [
        [
            one["class"],
            f"{one['weight']:,.6g}",
            *(
                f"{one[what]['value']:.2f} [{one[what]['low']:.2f},{one[what]['high']:.2f}]"
                for what in ("precision", "recall", "f1")
            ),
        ]
        for one in found["classes"]
    ]
    return ["class", "rows", "precision", "recall", "F1"], rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table; all but the first columns lean to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = "|" + "".join("---|" if number < left else "--:|" for number in range(len(header)))
    first, *others = ("| " + " | ".join(row) + " |" for row in cells)
    return [first, rule, *others]


def weight_lines(found: Mapping[str, Any]) -> list[str]:
    """What the weights of the rows mean to the intervals, where they have some."""
    weights = found.get("weights")
    if weights is None:
        return []
    if weights["counts"]:
        return [
            f"weights are counts of rows, since all are whole numbers: the {found['rows']:,} lines are "
            f"{weights['rows']:,.0f} rows"
        ]
    return [
        f"weights are sampling weights, since not all are whole numbers: intervals are those of {weights['rows']:,.1f} "
        f"equal rows (Kish's effective sample size of {found['rows']:,})"
    ]


def calibration_lines(found: Mapping[str, Any] | None) -> list[str]:
    """How probabilities were calibrated, and how well that is known; nothing where they were not."""
    if found is None:
        return []
    if "calibrated" in found:
        return list(found["calibrated"])
    heat = found.get("temperature", 1)  # the summary of an older run
    return [] if heat == 1 else [f"calibrated on val: temperature {heat:.4g}"]


def threshold_in_words(threshold: Mapping[str, Any]) -> str:
    """Where to say yes, and what it saves."""
    ratio = threshold["cost_ratio"]
    return (
        f"Where a miss costs {ratio:g} false alarm{'s' if ratio != 1 else ''}, the best threshold is "
        f"{threshold['value']:.4f} (chosen on {threshold['chosen_on']}): {threshold['cost']:.4g} a row, "
        f"against {threshold['cost_at_half']:.4g} at 0.5"
    )


def scored(name: str, value: float) -> str:
    """A score as it is written: accuracies in percent."""
    return f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4f}"


def _mistake_lines(summary: Summary) -> list[str]:
    if not summary["mistakes"]:
        return []
    rows = [
        [f"{one['row']:,}", one["true"], one["predicted"], f"{one['probability']:.1%}", ", ".join(one["because"])]
        for one in summary["mistakes"]
    ]
    header = ["row, from 1", "is", "taken for", "with", "because of"]
    if not any(one["because"] for one in summary["mistakes"]):
        header, rows = header[:-1], [row[:-1] for row in rows]
    split = summary["evaluation"]["split"]
    return [f"## The surest mistakes on {split}", "", *markdown_table(header, rows, left=len(header)), ""]


def _coefficient_lines(summary: Summary) -> list[str]:
    largest = summary["largest_coefficients"]
    if not largest:
        return []
    per_std = largest[0]["coef_per_std"] is not None
    return [
        "## Largest coefficients" + (" per standard deviation of the feature" if per_std else ""),
        "",
        *markdown_table(
            ["feature", "class", "per unit", *(["per standard deviation"] if per_std else [])],
            [
                [
                    row["feature"],
                    row["class"],
                    f"{row['coef']:.4g}",
                    *([f"{row['coef_per_std']:.4g}"] if per_std else []),
                ]
                for row in largest
            ],
            left=2,
        ),
        "",
        "All of them: coefficients.csv.",
        "",
    ]


def _majority(result: RunResult) -> dict[str, Any]:
    """The most frequent class of train, and how often it is right in each split: what any model must beat."""
    facts, tables = result.module.facts, result.data.tables
    counts = {}
    for split, table in tables.items():
        weights = None if table.sample_weight is None else table.chosen(table.sample_weight)
        counts[split] = torch.bincount(table.chosen(table.labels), weights, facts.num_classes).double()
    most = int(counts["train"].argmax())
    return {
        "class": facts.class_names[most],
        "accuracy": {split: float(count[most] / count.sum()) for split, count in counts.items()},
    }


def _log_odds(module: LogisticModule) -> tuple[torch.Tensor, float]:
    """Slope (D,) and offset of the log-odds of class 1, in source units; with K = 2 a difference."""
    coef, intercept = module.model.in_source_units()
    if len(coef) == 1:
        return coef[0], float(intercept[0])
    return coef[1] - coef[0], float(intercept[1] - intercept[0])


def _calibrated_log_odds(module: LogisticModule) -> tuple[torch.Tensor, float]:
    """The same of the probabilities as they are predicted."""
    slope, offset = _log_odds(module)
    calibration = module.calibration
    if calibration.log_weight is not None:
        offset -= float(calibration.log_weight.diff())
    return slope / calibration.temperature, offset / calibration.temperature


def _against(answer: KnownAnswer, result: RunResult) -> dict[str, Any]:
    """The learned coefficients against the best ones; error relative to the norm of the latter."""
    slope, offset = _log_odds(result.module)
    best = torch.cat([answer.coef, torch.tensor([answer.intercept], dtype=torch.float64)])
    learned = torch.cat([slope, torch.tensor([offset], dtype=torch.float64)])
    few = len(answer.coef) <= 100
    return {
        "accuracy": answer.accuracy,
        "coef": answer.coef.tolist() if few else None,
        "intercept": answer.intercept,
        "learned_coef": slope.tolist() if few else None,
        "learned_intercept": offset,
        "coef_error": float((learned - best).norm() / best.norm()) if float(best.norm()) else None,
    }


def _expected(expected: Mapping[str, Any], scores: Mapping[Split, Scores]) -> list[dict[str, Any]] | None:
    """What an experiment promised against what came out."""
    checks = []
    for metric, value in expected.items():
        if metric == "tolerance":
            continue
        name, split = metric.split("/")
        got = scores.get(split, {}).get(name)  # type: ignore[call-overload]  # any text
        tolerance = expected["tolerance"]
        reached = got is not None and abs(got - value) <= tolerance
        checks.append({"metric": metric, "value": value, "tolerance": tolerance, "got": got, "reached": reached})
    return checks or None


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def _short(value: float) -> str:
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.3g}"


def _git_commit() -> str | None:
    """The commit of the code, where the code is a git checkout; with "+changes" if it is not clean."""
    here = os.fspath(Path(__file__).parent)
    try:
        commit = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()
