"""The curves of a run: TensorBoard events and metrics.csv, both in the run folder."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from logreg.facts import SPLITS
from logreg.files import write_text

METRICS = "metrics.csv"
"""File of the curves in a run folder."""

HPARAMS_METRICS = (*(f"{metric}/{split}" for split in SPLITS for metric in ("loss", "accuracy")), "optimality/gap")
"""Columns of the HPARAMS tab: the same in every run, since TensorBoard takes them from the first it reads."""

_of_all_threads = threading.excepthook


def _but_of_events(args: threading.ExceptHookArgs) -> None:
    """Shows an exception that ends a thread, but not of the thread that writes events: the next write raises it."""
    if type(args.thread).__module__ != event_file_writer.__name__:
        _of_all_threads(args)


def _rows_until(last: int, file: Path) -> dict[int, dict[str, float]]:
    """The curves in a metrics.csv up to a pass, without scores of test, which the report adds; empty without any.

    Returns:
        Value by tag, by passes over the data.
    """
    if not file.is_file():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = {int(row.pop("epoch")): row for row in csv.DictReader(lines)}
        return {
            step: {tag: float(value) for tag, value in row.items() if value and not tag.endswith("/test")}
            for step, row in rows.items()
            if step <= last
        }
    except (KeyError, TypeError, ValueError):  # the file was edited: the run continues without its curves
        return {}


class RunLogger(Logger):
    """Writes each metric as a TensorBoard scalar and each step as a row of metrics.csv.

    Files lie directly in the run folder: the folder's path is the run's name in TensorBoard.
    """

    def __init__(self, folder: Path, after: int | None = None) -> None:
        """Writes nothing yet.

        Args:
            folder: The run folder.
            after: Passes over the data of a run that continues in the folder, whose later points are dropped; ``None``
                for a new run.
        """
        super().__init__()
        self.folder, self.after = folder, after
        self._rows: dict[int, dict[str, float]] = {} if after is None else _rows_until(after, folder / METRICS)

    @cached_property
    def writer(self) -> SummaryWriter:
        """TensorBoard's writer; its file is made when it is first used."""
        threading.excepthook = _but_of_events
        # The last pass is purged too, since the report may have added points to it.
        writer = SummaryWriter(str(self.folder), flush_secs=5, purge_step=self.after)
        if self.after is None:
            writer.add_custom_scalars({"loss": {"train and val": ["Multiline", ["loss/train", "loss/val"]]}})
        for tag, value in self._rows.get(self.after or 0, {}).items():
            writer.add_scalar(tag, value, self.after)
        return writer

    @property
    def history(self) -> dict[str, dict[int, float]]:
        """Each curve so far: value by passes over the data, by tag."""
        curves: dict[str, dict[int, float]] = {}
        for step, row in self._rows.items():
            for tag, value in row.items():
                curves.setdefault(tag, {})[step] = value
        return curves

    @property
    def name(self) -> str:
        """Empty: the run folder names the run."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the run folder names the run."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @property
    def experiment(self) -> SummaryWriter:
        """TensorBoard's writer, for values other than scalars."""
        return self.writer

    def log_hyperparams(self, params: Mapping[str, Any] | Any, *args: Any, **kwargs: Any) -> None:
        """Lightning offers the module's hyper-parameters; `log_hparams` takes the user's instead."""

    def log_hparams(self, plain: Mapping[str, float | str | bool | None]) -> None:
        """Makes this run a row of the HPARAMS tab.

        The metrics of a row are the last points of the curves of the same names, so a split that
        the dataset lacks stays blank.

        Args:
            plain: Value by column; ``None`` leaves a number blank.  A text there would make the whole column text,
                which TensorBoard cannot sort.
        """
        metrics = dict.fromkeys(HPARAMS_METRICS, 0.0)
        columns, _, _ = hparams_summaries(
            {name: 0.0 if value is None else value for name, value in plain.items()}, metrics
        )
        row = {name: value for name, value in plain.items() if value is not None}
        for summary in (columns, *hparams_summaries(row, metrics)[1:]):
            self.writer._get_file_writer().add_summary(summary)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes one point of each curve, all in one event: an event takes as long as a batch of a small table.

        Args:
            metrics: Value by tag, such as "loss/train".
            step: Passes over the data.
        """
        assert step is not None
        points = {tag: value for tag, value in metrics.items() if tag != "epoch"}  # Lightning adds it; it is the axis
        self._rows.setdefault(int(step), {}).update(points)
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in points.items()])
        self.writer._get_file_writer().add_summary(summary, int(step))

    def log_image(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Writes a picture to TensorBoard as it is encoded; `SummaryWriter.add_image` would encode its pixels again.

        Args:
            tag: Name of the picture.
            png: Content of a PNG file of colors.
            width: Its width in pixels.
            height: Its height in pixels.
            step: Passes over the data.
        """
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self.writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def flush(self) -> None:
        """Brings metrics.csv and the events on disk up to date.

        Not named ``save``: Lightning calls that after every single point.
        """
        self.writer.flush()
        columns = list(dict.fromkeys(tag for row in self._rows.values() for tag in row))
        if not columns:
            return
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, ["epoch", *columns])
        table.writeheader()
        table.writerows({"epoch": step, **row} for step, row in self._rows.items())
        write_text(self.folder / METRICS, text.getvalue())

    def close(self) -> None:
        """Ends the thread that writes events, if it was started; a process may make many runs."""
        if "writer" in self.__dict__:
            self.writer.close()

    def finalize(self, status: str) -> None:
        """Lightning calls this after each fit; the report still has pictures to add."""
        self.flush()
