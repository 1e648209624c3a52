"""MODEL_CARD.md: describes an exported model to its users; made from the summary of its run."""

from __future__ import annotations

from collections.abc import Sequence

from logreg.errors import name_list
from logreg.losses import LOSSES
from logreg.reports.markdown import inference_lines, markdown_table, token_table
from logreg.reports.summary_schema import Summary
from logreg.reports.wording import (
    class_table,
    class_table_in_words,
    evaluation_table,
    is_corrected,
    loss_in_words,
    optimality_in_words,
    score_table,
    settings_in_words,
    threshold_in_words,
    title,
    weight_lines,
)
from logreg.terminal import counted, on_one_line

MIN_SCORED_ROWS = 100
"""Rows of the scored split below which the card warns of wide intervals."""

RARE_CLASS_FRACTION = 0.01
"""Fraction of the scored rows below which a class is called rare."""

MAX_CLASSES = 20
"""Number of classes that the card lists."""

MAX_ACCURACY_GAP = 0.05
"""Difference of the accuracies on train and on the scored split above which the card warns of overfitting."""


def model_card(
    summary: Summary, file: str, agreement: float, in_double: bool = False, given: Sequence[str] = ()
) -> str:
    """The text of the card.

    Args:
        summary: Summary of the run.
        file: The exported model's name.
        agreement: Largest difference between a probability of the exported model and of the trained one.
        in_double: Whether inputs must be in double precision.
        given: The inputs of the exported model, a line of Markdown each.
    """
    data, evaluation = summary.dataset, summary.evaluation
    classes, others = data.classes[:MAX_CLASSES], data.number_of_classes - MAX_CLASSES
    more = f" and {others:,} more" if others > 0 else ""
    loss = LOSSES[summary.objective.loss]
    regression = "A logistic regression" if loss.gives_log_odds else f"A regression with the {loss.name} link"
    lines = [
        f"# {title(summary)}",
        "",
        f"{regression} of {counted(data.features, 'feature')} that gives the probability of each of "
        f"{data.number_of_classes:,} classes: {name_list(classes, MAX_CLASSES)}{more}.",
        "",
        f"`{file}` was read again after it was written, and gives the probabilities of the trained model to "
        f"{agreement:.1g} on held-out rows. Made by `{summary.command}`.",
        "",
        *(["Give it numbers in double precision: single precision loses digits that matter here.", ""] * in_double),
        *(["## What to pass", "", *_spaced(given), ""] if given else []),
        "## Data",
        "",
        *(f"- {counted(rows, 'row')} of {split}" for split, rows in data.rows.items()),
        *(f"- {note}" for note in data.notes),
        *(
            [f"- features are made of images by {data.backbone['name']}, which is not in the file"]
            if data.backbone
            else []
        ),
        "",
        "## Training",
        "",
        f"Loss: {loss_in_words(summary)}. {settings_in_words(summary)}",
        "",
        f"Certificate: {optimality_in_words(summary)}.",
        "",
        "## Scores",
        "",
        *markdown_table(*score_table(summary.metrics, data.scored_rows)),
        "",
    ]
    if evaluation:
        lines += [
            f"On {evaluation.split}, {counted(evaluation.rows, 'row')}, intervals of {evaluation.confidence:.0%}; "
            "the baseline predicts the class rates of train for every row:",
            "",
            *markdown_table(*evaluation_table(evaluation)),
            "",
            *(line for words in class_table_in_words(evaluation) for line in (words, "")),
            *markdown_table(*class_table(evaluation)),
            "",
        ]
        if evaluation.threshold:
            lines += [f"{threshold_in_words(evaluation.threshold)}.", ""]
        for words in [*weight_lines(evaluation), *evaluation.calibrated]:
            lines += [f"{words[:1].upper()}{words[1:]}.", ""]
    lines += token_table(summary)
    if largest := summary.largest_coefficients:
        rows = [[row.feature, row.class_name, f"{row.coef:.4g}"] for row in largest]
        lines += [
            "## Largest coefficients, per unit of the feature",
            "",
            *markdown_table(["feature", "class", "coefficient"], rows, 2),
            "",
        ]
    lines += inference_lines(summary.inference)
    lines += ["## When not to use it", "", *(f"- {reason}" for reason in warnings(summary)), ""]
    versions = ", ".join(f"{package} {number}" for package, number in summary.versions.items())
    lines += [f"Commit {summary.git_commit or 'unknown'}, seed {summary.seed}, {versions}.", ""]
    return "\n".join(map(on_one_line, lines))


def _spaced(lines: Sequence[str]) -> list[str]:
    """Lines of Markdown with an empty line between them, except between items of one list."""
    spaced: list[str] = []
    for line in lines:
        if spaced and not (line.startswith("- ") and spaced[-1].startswith("- ")):
            spaced.append("")
        spaced.append(line)
    return spaced


def warnings(summary: Summary) -> list[str]:
    """Uses that the model is not fit for, as far as its summary shows."""
    evaluation, data, metrics = summary.evaluation, summary.dataset, summary.metrics
    lines = [
        "For rows from another source than the data above: its scores there are unknown.",
        "For causal claims: a coefficient is an association with a class in these data, other features held fixed.",
    ]
    optimality = summary.optimality
    if optimality.separation:
        lines.append(f"For its probabilities: {optimality.separation}.")
    elif not optimality.is_convex:
        lines.append("For its coefficients: the loss is not convex, and other coefficients may fit better.")
    elif not optimality.converged:
        lines.append("For its coefficients: the training ended before the optimum was certified.")
    if data.class_weight and not is_corrected(evaluation):
        lines.append(
            "For frequencies: with class weights, its probabilities and labels are those of the weighted problem, not "
            "of the data."
        )
    if not LOSSES[summary.objective.loss].couples_outputs and data.number_of_classes > 2:
        lines.append(
            "For probabilities of exclusive classes: one-vs-rest fits each class alone, and normalizes afterwards."
        )
    if evaluation is None or evaluation.split == "train":
        lines.append("Without further tests: it was scored on the rows that it was trained on, and on no others.")
        return lines
    split = evaluation.split
    if evaluation.rows < MIN_SCORED_ROWS:
        lines.append(
            f"For fine distinctions: with {counted(evaluation.rows, 'row')} of {split} the intervals of the scores are "
            "wide."
        )
    ours, baseline = evaluation.metrics["log_loss"], evaluation.baseline["log_loss"]
    if ours.high >= baseline:
        lines.append(
            f"In place of the base rates: its log loss on {split}, up to {ours.high:.4f}, is not significantly below "
            f"theirs, {baseline:.4f}."
        )
    if metrics["train"]["accuracy"] - metrics[split]["accuracy"] > MAX_ACCURACY_GAP:
        lines.append(
            f"Without a stronger penalty: it overfits, with accuracy {metrics['train']['accuracy']:.1%} on train and "
            f"{metrics[split]['accuracy']:.1%} on {split}."
        )
    if evaluation.num_classes is not None:
        return [*lines, "To detect the classes of the lowest F1 above, and others with few rows."]
    total = sum(one.weight for one in evaluation.classes)
    lines += [
        f"To detect {one.name!r}: {one.weight:,.6g} rows of {split}, recall {one.recall.value:.0%}."
        for one in evaluation.classes
        if one.weight < RARE_CLASS_FRACTION * total or not one.recall.value > 0
    ]
    return lines
