"""MODEL_CARD.md: what somebody must know who is given a model and nothing else; made from the summary of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logreg.errors import name_list
from logreg.reports.markdown import markdown_table
from logreg.reports.wording import (
    calibration_lines,
    class_table,
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
from logreg.terminal import on_one_line

FEW_ROWS = 100
"""Rows of the scored split below which the scores themselves are doubtful."""

RARE = 0.01
"""Part of train below which a class is rare."""

MOST_CLASSES = 20
"""Number of classes that the card lists."""

GAP = 0.05
"""How much lower than on train an accuracy is when the model has learned its rows by heart."""


def model_card(
    summary: Mapping[str, Any], file: str, agreement: float, in_double: bool = False, given: Sequence[str] = ()
) -> str:
    """The card.

    Args:
        summary: The content of summary.json.
        file: The exported model's name.
        agreement: Largest difference of a probability between it and the model that was trained.
        in_double: Whether numbers must be given in double precision.
        given: What to pass to it, a line of Markdown each.
    """
    data, found = summary["dataset"], summary["evaluation"]
    classes = data["classes"]
    lines = [
        f"# {title(dict(summary))}",
        "",
        f"A logistic regression of {data['features']:,} features that gives the probability of each of "
        f"{len(classes)} classes: {name_list(classes, MOST_CLASSES)}.",
        "",
        f"`{file}` was read again after it was written, and gives the probabilities of the trained model to "
        f"{agreement:.1g} on held-out rows. Made by `{summary['command']}`.",
        "",
        *(
            ["Give it numbers in double precision: single precision loses the digits that tell them apart.", ""]
            * in_double
        ),
        *(["## What to pass", "", *_spaced(given), ""] if given else []),
        "## Data",
        "",
        *(f"- {rows:,} rows of {split}" for split, rows in data["rows"].items()),
        *(f"- {note}" for note in data["notes"]),
        *(
            [f"- features are made of images by {data['backbone']['name']}, which is not in the file"]
            if data["backbone"]
            else []
        ),
        "",
        "## Training",
        "",
        f"Loss: {loss_in_words(dict(summary))}. {settings_in_words(dict(summary))}",
        "",
        f"Certificate: {optimality_in_words(dict(summary))}.",
        "",
        "## Scores",
        "",
        *markdown_table(*score_table(dict(summary))),
        "",
    ]
    if found:
        lines += [
            f"On {found['split']}, {found['rows']:,} rows, intervals of {found['confidence']:.0%}; the baseline gives "
            "every row the rates of train:",
            "",
            *markdown_table(*evaluation_table(found)),
            "",
            *markdown_table(*class_table(found)),
            "",
        ]
        if found["threshold"]:
            lines += [f"{threshold_in_words(found['threshold'])}.", ""]
        for words in [*weight_lines(found), *calibration_lines(found)]:
            lines += [f"{words[:1].upper()}{words[1:]}.", ""]
    if largest := summary["largest_coefficients"]:
        rows = [[row["feature"], row["class"], f"{row['coef']:.4g}"] for row in largest]
        lines += [
            "## Largest coefficients, per unit of the feature",
            "",
            *markdown_table(["feature", "class", "coefficient"], rows, 2),
            "",
        ]
    lines += ["## When not to use it", "", *(f"- {reason}" for reason in warnings(summary)), ""]
    versions = ", ".join(f"{package} {number}" for package, number in summary["versions"].items())
    lines += [f"Commit {summary['git_commit'] or 'unknown'}, seed {summary['seed']}, {versions}.", ""]
    return "\n".join(map(on_one_line, lines))


def _spaced(lines: Sequence[str]) -> list[str]:
    """Paragraphs and lists of Markdown, with an empty line between those that are not of one list."""
    spaced: list[str] = []
    for line in lines:
        if spaced and not (line.startswith("- ") and spaced[-1].startswith("- ")):
            spaced.append("")
        spaced.append(line)
    return spaced


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """Where the model must not be trusted, as far as its own numbers tell."""
    found, data, metrics = summary["evaluation"], summary["dataset"], summary["metrics"]
    lines = [
        "On rows of another origin than the data above: nothing here says how it fares there.",
        "To tell causes: a coefficient says what goes with a class in these data, the other features being equal.",
    ]
    optimality = summary["optimality"]
    if optimality["separation"]:
        lines.append(f"For its probabilities: {optimality['separation']}.")
    elif not optimality["converged"]:
        lines.append("For its coefficients: the training ended before the optimum was certified.")
    if data["class_weight"] and not is_corrected(found):
        lines.append(
            "For frequencies: class weights make its probabilities and labels those of the weighted problem, in which "
            "each class has so many times its rows."
        )
    if summary["objective"]["loss"] == "bce" and len(data["classes"]) > 2:
        lines.append("Where classes compete: one-vs-rest fits each class for itself and divides by the sum afterwards.")
    if found is None or found["split"] == "train":
        lines.append("For anything that matters: it was scored on the rows that it learned from alone.")
        return lines
    split = found["split"]
    if found["rows"] < FEW_ROWS:
        lines.append(
            f"For fine distinctions: {found['rows']} rows of {split} leave the scores uncertain, see their intervals."
        )
    ours, baseline = found["metrics"]["log_loss"], found["baseline"]["log_loss"]
    if ours["high"] >= baseline:
        lines.append(
            f"Instead of the base rates: its log-loss on {split}, up to {ours['high']:.4f}, is not surely below "
            f"theirs, {baseline:.4f}."
        )
    if metrics["train"]["accuracy"] - metrics[split]["accuracy"] > GAP:
        lines.append(
            f"Without a stronger penalty: it is right in {metrics['train']['accuracy']:.1%} of train and "
            f"{metrics[split]['accuracy']:.1%} of {split}."
        )
    total = sum(one["weight"] for one in found["classes"])
    lines += [
        f"To find {one['class']!r}: {one['weight']:,.6g} rows of {split}, found {one['recall']['value']:.0%}."
        for one in found["classes"]
        if one["weight"] < RARE * total or not one["recall"]["value"] > 0
    ]
    return lines
