from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from logreg.training.tracking import RunLogger
from whole_runs import Run


def test_the_points_of_a_step_are_one_event(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    logger.log_metrics({"loss/train": 0.5, "lr": 0.1, "epoch": 1.0}, step=1)
    logger.log_metrics({"loss/train": 0.25, "lr": 0.1}, step=2)
    logger.log_metrics({"loss/val": 0.75}, step=2)
    logger.flush()
    logger.writer.close()
    (file,) = tmp_path.glob("events.*")
    events = [event for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    tags = [[value.tag for value in event.summary.value] for event in events if event.step]
    assert tags == [["loss/train", "lr"], ["loss/train", "lr"], ["loss/val"]]
    assert Run(tmp_path).curve("loss/train") == {1: 0.5, 2: 0.25}
    assert logger.history == {"loss/train": {1: 0.5, 2: 0.25}, "lr": {1: 0.1, 2: 0.1}, "loss/val": {2: 0.75}}
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "epoch,loss/train,lr,loss/val"
