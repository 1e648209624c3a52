"""The sentences and tables of a report, the same in the terminal and in report.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from logreg.config import SELECT
from logreg.evaluation.measured import NUM_NOTABLE, Threshold
from logreg.evaluation.path_row import PathRow, varied
from logreg.evaluation.path_selection import MAX_ROW_LOSS
from logreg.losses import LOSSES
from logreg.reports.advice import has_risen, overfits
from logreg.reports.summary_schema import CoefficientSummary, CrossValidationSummary, EvaluationSummary, Summary
from logreg.terminal import counted

METRICS = ("loss", "accuracy", "auroc")
"""Columns of the table of scores, in this order; a metric that no split has is left out."""

SCORED = ("train", "cv", "val", "test")
"""Rows of the table of scores, in this order; those of cv are means over the folds of train."""

MAX_LISTED_WEIGHTS = 10
"""Largest number of classes whose weights are written out; of more the range is given."""

MIN_VAL_ROWS = 30
"""Rows of val below which the report calls the choice of l2 unreliable."""


def loss_in_words(summary: Summary) -> str:
    """The meaning of the column "loss", such as "softmax cross-entropy, mean over rows"."""
    objective = summary.objective
    return described_loss(objective.loss, objective.reduction, summary.dataset.number_of_classes)


def described_loss(name: str, reduction: str, num_classes: int) -> str:
    """The data term of an objective in words, such as "softmax cross-entropy, mean over rows"."""
    loss = LOSSES[name]
    return f"{loss.described(loss.num_outputs(num_classes))}, {reduction} over rows"


def settings_in_words(summary: Summary) -> str:
    """Optimizer, its settings and the penalties, in one sentence."""
    config = summary.config
    if summary.is_exact:
        why = f" ({summary.reason})" if summary.reason else ""
        return (
            f"Trained by {config['optimizer']['name']}{why} to a relative gap of {config['tolerance']:g}, "
            f"{counted(summary.epochs, 'pass')}, l2 {config['l2']:g}, l1 {config['l1']:g}."
        )
    batches = "full batches" if config["batch_size"] == "full" else f"batches of {config['batch_size']}"
    return (
        f"Trained by {config['optimizer']['name']} with lr {config['lr']:g} ({config['schedule']['name']}), {batches}, "
        f"{counted(summary.epochs, 'epoch')}, l2 {config['l2']:g}, l1 {config['l1']:g}."
    )


def score_table(
    metrics: Mapping[str, Mapping[str, float]], num_rows: Mapping[str, int]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of scores: a row for each split, a column for each metric that some split has.

    Args:
        metrics: Scores by split, then by name.
        num_rows: Number of rows by split, with "cv" where it has scores.
    """
    columns = [name for name in METRICS if any(name in scores for scores in metrics.values())]
    header = ["split", "rows", *columns]
    rows = [
        [
            split,
            f"{num_rows[split]:,}",
            *(_cell(name, metrics[split].get(name)) for name in columns),
        ]
        for split in SCORED
        if split in metrics
    ]
    return header, rows


def token_lines(summary: Summary, most: int) -> list[str]:
    """The most telling n-grams of text of each class, a line each; of at most ``most`` classes."""
    found = list((summary.tokens or {}).items())
    lines = [f"largest for {name}: {', '.join(tokens) or 'none'}" for name, tokens in found[:most]]
    if len(found) > most:
        lines.append(f"report.md has the largest n-grams of {len(found) - most} more classes")
    return lines


def units_in_words(coefficients: Sequence[CoefficientSummary]) -> str:
    """The units of `CoefficientSummary.of_fit`, for a heading."""
    standardized = [one.coef_per_std is not None for one in coefficients]
    if not any(standardized):
        return "per unit"
    return f"per standard deviation{'' if all(standardized) else ', or per unit where not standardized'}"


def is_corrected(evaluation: EvaluationSummary | None) -> bool:
    """Whether class weights were taken out of the probabilities of an evaluation."""
    return bool(evaluation and evaluation.calibration.class_weight)


def remarks(summary: Summary) -> list[str]:
    """The lines below the table of scores."""
    lines = []
    if summary.equation:
        lines.append(summary.equation)
    majority = summary.majority
    split, accuracy = list(majority.accuracy.items())[-1]
    lines.append(
        f"baseline: always predicting {majority.class_name!r} (most frequent in train) scores {accuracy:.2%} on {split}"
    )
    if weights := summary.dataset.class_weight:
        shown = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
        if summary.dataset.number_of_classes > MAX_LISTED_WEIGHTS:
            shown = f"from {min(weights.values()):.3g} to {max(weights.values()):.3g}"
        lines.append(f"class weights {shown} are part of the loss")
        if not is_corrected(summary.evaluation):
            lines[-1] += (
                ": probabilities and predicted labels are those of the weighted problem, not frequencies; "
                "calibrate=temperature removes the weights from them"
            )
    evaluation = summary.evaluation
    lines += evaluation.calibrated if evaluation else []
    if evaluation and evaluation.split != "train":
        intervals = ", ".join(
            f"{name.replace('_', ' ')} {scored(name, one.low)} to {scored(name, one.high)}"
            for name in ("accuracy", "log_loss")
            for one in [evaluation.metrics[name]]
        )
        lines.append(f"{evaluation.confidence:.0%} intervals on {evaluation.split}: {intervals}")
        lines += weight_lines(evaluation)
    objective = summary.objective
    if objective.l2 or objective.l1:
        penalty = objective.train - summary.metrics["train"]["loss"]
        lines.append(f"objective on train {objective.train:.4f}, of which penalty {penalty:.4f}")
    if answer := summary.known_answer:
        line = f"the best classifier scores {answer.accuracy:.2%} on unseen rows"
        if answer.coef_error is not None:
            line += f"; the distance from its coefficients is {answer.coef_error:.1%} of their norm"
        lines.append(line)
    lines += _path_lines(summary)
    if (scores := summary.cross_validation) is not None and scores.typed:
        lines.append(_cross_validation_line(scores, bool(summary.path)))
    if (best := summary.best) and (
        has_risen(summary) or not summary.is_exact
    ):  # an exact optimizer ends at its optimum
        lines.append(f"lowest loss/val {best.loss_val:.4f} after epoch {best.epoch:.0f} of {summary.epochs}")
        if has_risen(summary):
            now, held = summary.metrics["val"]["loss"], f"best.ckpt is from epoch {best.epoch:.0f}"
            lines[-1] += f", and {now:.4f} at the end{': the model overfits' if overfits(summary) else ''}; {held}"
        elif best.epoch == summary.epochs:
            lines[-1] += ": loss/val is still falling, so longer training may lower it"
        else:
            lines[-1] += ": loss/val no longer falls, so longer training changes little"
    lines.append(optimality_in_words(summary))
    for check in summary.expected or ():
        got = "nothing" if check.got is None else f"{check.got:.4g}"
        verdict = "reached" if check.reached else "NOT reached"
        lines.append(f"expected {check.metric} {check.value:g} ± {check.tolerance:g}: {verdict}, got {got}")
    lines.append(f"took {summary.seconds.total:.1f} s, of which training {summary.seconds.fit:.1f} s")
    return lines


def _path_lines(summary: Summary) -> list[str]:
    """Lines on the choice of a strength, where it was not typed, with warnings where the choice is unreliable."""
    path = summary.path
    if not path:
        return [summary.l2_reason] if summary.l2_reason else []
    rows, best, simplest = path.rows, path.rows[path.best], path.rows[path.one_standard_error]
    scores, select, along = summary.cross_validation, path.select, varied(path.rows)
    name, _ = SELECT[select]
    by = f"{select.replace('_', ' ')} {'on val' if scores is None else f'of {folds_in_words(scores)}'}"
    within = _strengths(simplest, rows)
    chosen = f"chosen among {len(rows)} strengths"
    if path.rule == "one_se":
        parts = [f"{within}, {chosen} as the strongest within one standard error of the best {by}"]
        parts[0] += f": {_mean_of(simplest, select)}"
    else:
        parts = [f"{_strengths(best, rows)}, {chosen} by {by}: {_mean_of(best, select)}"]
        # A search takes a stronger penalty whose score is as good as the best, which may be further off than its error.
        if (name == "loss" or scores is not None) and simplest.order >= best.order:
            value = _cell(name, simplest.mean_and_error(select)[0])
            parts.append(f"{within} is the strongest within one standard error, {value}")
    if any(row.l1 for row in rows):
        outputs = LOSSES[summary.objective.loss].num_outputs(summary.dataset.number_of_classes)
        kept = simplest if path.rule == "one_se" else best
        parts.insert(1, f"{kept.nonzero:,} of {summary.dataset.features * outputs:,} coefficients are not 0")
    sure, worst = sum(row.converged for row in rows), max(row.relative_gap for row in rows)
    if not LOSSES[summary.objective.loss].is_convex:
        parts.append("the loss is not convex, so no fit is known to be the best of its strength")
    elif sure < len(rows):
        parts.append(f"{sure} of {len(rows)} fits are within the tolerance")
    else:
        about = "is optimal to" if worst <= summary.config["tolerance"] else "is optimal to about"
        parts.append(f"each fit {about} {worst:.0e}")
    lines = [f"{'; '.join(parts)} [path.csv]"]
    if name == "loss" and any((row.capped_val or 0) < row.loss_val for row in rows):
        held_out = "val" if scores is None else "held-out"
        lines.append(
            f"to choose {along}, the loss of a {held_out} row is capped at {MAX_ROW_LOSS:g} nats: with weak penalties, "
            "some rows exceed it"
        )
    if scores is None and (val := summary.dataset.rows["val"]) < MIN_VAL_ROWS:
        lines.append(
            f"val has {counted(val, 'row')}, too few for a reliable choice of l2: type cv=5 or l2, or get more rows"
        )
    return [*lines, f"ALARM: {path.alarm}"] if path.alarm else lines


def _strengths(row: PathRow, rows: Sequence[PathRow]) -> str:
    """The strengths that change along a path: "l2=0.1", or those of an elastic net."""
    names = [name for name in ("l1", "l2") if len({getattr(one, name) for one in rows}) > 1] or [varied(rows)]
    return " ".join(f"{name}={getattr(row, name):.3g}" for name in names)


def folds_in_words(scores: CrossValidationSummary) -> str:
    """Such as "10-fold cross-validation", with the number of repetitions where there are several."""
    times = f"{scores.repeats} times " if scores.repeats > 1 else ""
    return f"{times}{scores.folds}-fold cross-validation"


def _mean_of(row: PathRow, select: str) -> str:
    """The score of a strength, with its standard error where it is known."""
    name, (value, error) = SELECT[select][0], row.mean_and_error(select)
    return _cell(name, value) if error != error else f"{_cell(name, value)} ± {_cell(name, error)}"


def _cross_validation_line(scores: CrossValidationSummary, has_path: bool) -> str:
    """Means over the folds with their intervals."""
    parts = [
        f"{'log loss' if name == 'loss' else 'AUROC' if name == 'auroc' else name} {_cell(name, one.mean)} "
        f"({_cell(name, one.low)} to {_cell(name, one.high)})"
        for name, one in scores.metrics.items()
    ]
    line = f"{folds_in_words(scores)} on train, means and {scores.confidence:.0%} intervals: {', '.join(parts)}"
    return f"{line}; the choice of the strength makes them slightly optimistic" if has_path else line


def optimality_in_words(summary: Summary) -> str:
    """The verdict of the certificate, with the numbers it rests on."""
    found = summary.optimality
    at_most = "<=" if found.rigorous else "about"
    gap = f"gap {at_most} {found.gap:.2g}, " if found.is_convex else ""
    line = (
        f"{found.verdict} [objective {found.value:.6g}, {gap}max |gradient| "
        f"{found.max_abs_gradient:.2g}, in float64 over {counted(found.rows, 'row')}; {counted(found.passes, 'pass')}, "
        f"{found.seconds:.2g} s]"
    )
    exact = summary.is_exact or summary.config["polish"]
    if not exact or found.converged or found.separation or found.is_stationary:
        return line
    if not found.rigorous and found.relative_gap <= found.tolerance:
        return f"WARNING: {line}"
    return f"WARNING: not within tolerance={found.tolerance:g}: {line}"


def title(summary: Summary) -> str:
    """The dataset and its source, such as "table diamonds.csv" or "image_folder birds by resnet18"."""
    dataset = summary.dataset
    by = f" by {dataset.backbone['name']}" if dataset.backbone else ""
    return f"{dataset.name} {dataset.source}".rstrip() + by


def evaluation_table(evaluation: EvaluationSummary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of all scores with their intervals, beside those of the baseline."""
    rows = [
        [
            name.replace("_", " "),
            scored(name, one.value),
            f"{scored(name, one.low)} to {scored(name, one.high)}",
            scored(name, evaluation.baseline[name]),
        ]
        for name, one in evaluation.metrics.items()
    ]
    return ["metric", "value", "interval", "baseline"], rows


def class_table(evaluation: EvaluationSummary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of the scores of each class."""
    rows = [
        [
            one.name,
            f"{one.weight:,.6g}",
            *(f"{score.value:.2f} [{score.low:.2f},{score.high:.2f}]" for score in (one.precision, one.recall, one.f1)),
        ]
        for one in evaluation.classes
    ]
    return ["class", "rows", "precision", "recall", "F1"], rows


def class_table_in_words(evaluation: EvaluationSummary, file: str = "") -> list[str]:
    """The sentence on the classes that `class_table` lists, where it does not list all; else no sentence.

    Args:
        evaluation: The scores.
        file: The file that has all classes; empty for none.
    """
    if evaluation.num_classes is None:
        return []
    rest = f"; {file} has all" if file else ""
    return [
        f"Of {evaluation.num_classes:,} classes, the {NUM_NOTABLE} with the most rows, and the {NUM_NOTABLE} with the "
        f"lowest F1{rest}."
    ]


def weight_lines(evaluation: EvaluationSummary) -> list[str]:
    """The meaning of the rows' weights for the intervals; no line without weights."""
    weights = evaluation.weights
    if weights is None:
        return []
    if weights.counts:
        return [
            f"weights are counts of rows, since all are whole numbers: the {evaluation.rows:,} lines are "
            f"{weights.rows:,.0f} rows"
        ]
    return [
        f"weights are sampling weights, since not all are whole numbers: intervals are those of {weights.rows:,.1f} "
        f"equal rows (Kish's effective sample size of {evaluation.rows:,})"
    ]


def threshold_in_words(threshold: Threshold) -> str:
    """The best threshold and its cost, against that of 0.5."""
    ratio = threshold.cost_ratio
    return (
        f"Where a false negative costs {ratio:g} false positive{'s' if ratio != 1 else ''}, the best threshold is "
        f"{typed_threshold(threshold.value)} (chosen on {threshold.chosen_on}; predict threshold=... takes it): "
        f"the mean cost of a row is {threshold.cost:.4g}, against {threshold.cost_at_half:.4g} at 0.5"
    )


def typed_threshold(threshold: float) -> str:
    """A threshold with four digits of its distance from 0 or 1, whichever is nearer: no such text is 0 or 1."""
    return f"{threshold:.{3 - math.floor(math.log10(max(1 - threshold, 1e-13)))}g}"


def scored(name: str, value: float) -> str:
    """A score as text; accuracies in percent."""
    return f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4f}"


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
