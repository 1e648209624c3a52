"""Draws the pictures of a run, into its folder and into TensorBoard."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from logreg.evaluation.measured import MAX_LISTED_CLASSES
from logreg.evaluation.path_row import varied
from logreg.evaluation.predicted import Predicted
from logreg.files import write_whole
from logreg.reports.fast_matplotlib import import_matplotlib
from logreg.reports.mistakes import confident_mistakes
from logreg.reports.summary import RunResult, calibrated_log_odds, equation, largest_coefficients
from logreg.reports.wording import folds_in_words
from logreg.terminal import on_one_line
from logreg.training.tracking import RunLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NUM_THUMBNAILS = 24
"""Number of the most confident mistakes that are drawn as images."""

NUM_BARS = 20
"""Number of coefficients that are drawn as bars."""


def draw(result: RunResult, logger: RunLogger) -> list[str]:
    """Draws all pictures into figures/*.png and TensorBoard; returns the names of the files."""
    import_matplotlib()
    from logreg.reports.figures import label, lettered

    facts = result.module.facts
    names = [facts.title, *facts.class_names, *facts.feature_names]
    with lettered(names) as missing:
        drawn = _drawn(result, logger, label(facts.title, 50))
        files = [_save(figure, name, result, logger) for name, figure in drawn.items() if figure is not None]
    if missing:
        letters = on_one_line(missing[:10])
        sys.stderr.write(
            f"pictures: no font of this machine has {letters}, so boxes are drawn instead. "
            "Install one that has, such as Noto Sans CJK.\n"
        )
    return files


def _drawn(result: RunResult, logger: RunLogger, of: str) -> dict[str, Figure | None]:
    """The pictures by name; ``None`` for a picture without content.

    Args:
        result: The run.
        logger: Has its curves.
        of: Name of the data, for the titles.
    """
    from logreg.reports import diagnostic_plots as diagnostics
    from logreg.reports import figures

    facts, data, module = result.module.facts, result.data, result.module
    drawn: dict[str, Figure | None] = {}
    loss = module.objective.row_loss
    if facts.num_features == 1 and facts.is_binary:
        slope, offset = calibrated_log_odds(module)
        of_one_logit = None if loss.gives_log_odds else loss  # that of a softmax is a difference of two
        rows = next(iter(data.blocks("train")))
        features, labels = facts.stored.inverse_transform(rows.features), rows.labels.cpu()
        title = figures.label(f"{facts.name}: {equation(module)}", 80)
        drawn["probability"] = figures.probability_curve(
            float(slope[0]), offset, facts, features, labels, title, data.plot_range, of_one_logit
        )
    elif facts.image_shape:
        drawn["coefficients"] = figures.coefficient_images(module.model.in_source_units()[0], facts)
    elif largest := largest_coefficients(module, NUM_BARS):
        all_of_them = module.model.coef.numel()
        which = (
            "coefficients" if len(largest) == all_of_them else f"{len(largest)} largest of {all_of_them:,} coefficients"
        )
        drawn["coefficients"] = diagnostics.coefficient_bars(
            largest, f"{of}: {which}", "log-odds" if loss.gives_log_odds else loss.name
        )
    if result.path:
        folds = "" if result.cross_validation is None else folds_in_words(result.cross_validation)
        drawn["path"] = figures.path_curve(
            result.path,
            f"{of}: loss and accuracy along {varied(result.path)}",
            result.config.select,
            result.place,
            folds,
            result.path_rule,
        )
        if result.path_coef is not None and facts.feature_names:

            def name_of(place: int) -> str:
                output, feature = divmod(place, facts.num_features)
                name = facts.feature_names[feature]
                return name if len(module.output_names) == 1 else f"{module.output_names[output]}: {name}"

            title = f"{of}: coefficients along {varied(result.path)}"
            drawn["coefficient_paths"] = figures.coefficient_paths(
                result.path_coef, result.path, name_of, title, result.place, bool(facts.std)
            )
    else:  # a fit that starts from a path's point is over after few passes
        drawn["loss"] = diagnostics.loss_curves(logger.history, f"{of}: loss")
    if result.predicted is not None and result.evaluation is not None and result.scored != "train":
        predicted, evaluation, title = result.predicted, result.evaluation, f"{of}, {result.scored}"
        drawn["reliability"] = diagnostics.reliability(predicted, evaluation, facts, title)
        drawn["confusion"] = diagnostics.confusion_matrix(evaluation, facts, title)
        if facts.is_binary:
            drawn["roc"] = diagnostics.roc_and_precision_recall(predicted, evaluation, facts, title)
        wrong = confident_mistakes(predicted, NUM_THUMBNAILS)
        if wrong and facts.image_shape:
            pixels = data.rows(result.scored, [one.position for one in wrong]).features
            drawn["mistakes"] = diagnostics.mistakes_as_images(
                pixels, wrong, facts, f"{title}: most confident mistakes"
            )
        _log_curves(predicted, result, logger)
    coef = module.model.coef.detach().cpu()
    few = len(coef) <= MAX_LISTED_CLASSES
    for name, row in zip(module.output_names, coef, strict=True) if few else [("all classes", coef)]:
        logger.writer.add_histogram(f"coefficients/{name}", row, result.epochs)
    return drawn


def _log_curves(predicted: Predicted, result: RunResult, logger: RunLogger) -> None:
    """Logs precision-recall curves to TensorBoard: of the positive class, or of each of a few classes."""
    facts = result.module.facts
    classes = [1] if facts.is_binary else range(facts.num_classes)
    for label in classes if predicted.kept is not None else ():
        tag = f"{result.scored}/{facts.class_names[label]}"
        of_class, weight = predicted.labels == label, predicted.sample_weight
        logger.writer.add_pr_curve(
            tag,
            of_class.numpy(),
            predicted.probabilities[:, label].numpy(),
            result.epochs,
            weights=None if weight is None else weight.numpy(),
        )


def _save(figure: Figure, name: str, result: RunResult, logger: RunLogger) -> str:
    """Writes a figure to figures/<name>.png and to TensorBoard; returns the file's name."""
    path = result.folder / "figures" / f"{name}.png"
    png = write_figure(figure, path)
    logger.log_image(name, png, *figure.canvas.get_width_height(), result.epochs)
    return path.name


def write_figure(figure: Figure, path: Path) -> bytes:
    """Writes a figure to a PNG file; returns the content of the file."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    from logreg.reports.figures import without_warnings_of_letters

    figure.set_dpi(130)
    for axes in figure.axes:  # a spine has the ticks of its axis set anew for its extent, which is that of the axes
        for spine in axes.spines.values():
            spine.set_in_layout(False)
    canvas = FigureCanvasAgg(figure)
    with without_warnings_of_letters():
        canvas.draw()
    png = BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(png, format="png")
    content = png.getvalue()
    write_whole(path, lambda file: file.write(content))
    return content
