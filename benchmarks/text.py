"""Classifies texts by TF-IDF and logistic regression: our command against a script with scikit-learn, whole processes.

--text names a CSV with the columns text and topic, of which a stratified 60 % are train and the others test.  The
script reads both, makes features with TfidfVectorizer(sublinear_tf=True), fits LogisticRegression with its default
solver and scores it; ours is train.py dataset=text with the same penalty, l2 = 1 / (C N), which also certifies, reports
and writes its checkpoints.

f* comes from a certified fit of ours.  scikit-learn gets the loosest tolerance whose answer is within the relative gap
(f - f*) / f*, ours that gap as its tolerance.  The ratios are of processor time, imports included; the gaps are
computed here in float64 from the coefficients that both wrote.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from common import SCRIPTS, Target, alternate, new_parser, print_ratios, print_versions, process_use
from logreg.csr import as_scipy, of_scipy
from logreg.losses.objective import Objective
from logreg.run_folder import latest_run
from map import TOLERANCES, Answer
from sparse import SparseProblem

GAPS = (1e-3, 1e-5)
"""Relative gaps to reach."""

TARGET = Target(0.7)

SKLEARN = """
import csv, sys
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["topic"] for row in rows]

train, test, strength, tolerance, output = sys.argv[1:]
texts, topics = read(train)
vectorizer = TfidfVectorizer(sublinear_tf=True)
features = vectorizer.fit_transform(texts)
model = LogisticRegression(C=float(strength), tol=float(tolerance), max_iter=100_000).fit(features, topics)
texts, topics = read(test)
accuracy = model.score(vectorizer.transform(texts), topics)
np.savez(output, coef=model.coef_, intercept=model.intercept_, accuracy=accuracy)
"""
"""The script that a person would write."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints a table for each gap; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=3)
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="CSV with the columns text and topic")
    parser.add_argument("--c", type=float, default=10.0, metavar="C", help="penalty (default: 10, better than 1)")
    parser.add_argument("--gap", action="append", type=float, metavar="GAP", help="a relative gap (again for more)")
    arguments = parser.parse_args(typed)
    print_versions()
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        problem = prepare(arguments.text, here, arguments.c)
        print(f"{problem.shape}; f* is certified to {problem.optimum.gap:.0e}")
        for gap in arguments.gap or GAPS:
            compare_at(gap, problem, here, arguments.c, arguments.repeats)
    return 0


def prepare(file: Path, here: Path, strength: float) -> SparseProblem:
    """Writes train.csv and test.csv, and returns the problem of train."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import train_test_split

    with file.open(encoding="utf-8", newline="") as opened:
        rows = [(row["text"], row["topic"]) for row in csv.DictReader(opened)]
    parts = train_test_split(rows, test_size=0.4, stratify=[topic for _, topic in rows], random_state=0)
    for name, part in zip(("train", "test"), parts, strict=True):
        with (here / f"{name}.csv").open("w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([("text", "topic"), *part])
    texts, topics = zip(*parts[0], strict=True)
    features = sparse.csr_array(TfidfVectorizer(sublinear_tf=True).fit_transform(texts))
    names, labels = np.unique(topics, return_inverse=True)
    loss = "bce" if len(names) == 2 else "cross_entropy"
    return SparseProblem(of_scipy(features), torch.from_numpy(labels), Objective(loss, l2=1 / (strength * len(labels))))


def compare_at(gap: float, problem: SparseProblem, here: Path, strength: float, repeats: int) -> None:
    """Times both processes, and prints the ratio, the accuracies and the true gaps."""
    loosest = loosest_tolerance(gap, problem, strength)
    theirs = here / "theirs.npz"
    ours = ["train.py", "dataset=text", f"dataset.train_path={here / 'train.csv'}"]
    ours += [f"dataset.test_path={here / 'test.csv'}", "dataset.split.val=0", "dataset.text=[text]"]
    ours += ["dataset.target=topic", f"l2={problem.objective.l2!r}", f"tolerance={gap}", "report=brief"]
    script = [str(here / "train.csv"), str(here / "test.csv"), str(strength), str(loosest), str(theirs)]
    arms = {
        "ours": partial(seconds_of, [str(SCRIPTS / ours[0]), *ours[1:]], here),
        "scikit-learn": partial(seconds_of, ["-c", SKLEARN, *script], here),
    }
    seconds = alternate(arms, repeats)
    print_ratios(f"relative gap {gap:.0e}: processor seconds", seconds, {"scikit-learn": TARGET})
    run = latest_run(here / "runs")
    assert run is not None
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    accuracy = summary["evaluation"]["metrics"]["accuracy"]
    with np.load(theirs) as held:
        answer = Answer(torch.from_numpy(held["coef"]), torch.from_numpy(held["intercept"]))
        their_accuracy = float(held["accuracy"])
    mine = Answer(state["model.coef"].double(), state["model.intercept"].double())
    print(
        f"ours: accuracy {accuracy['value']:.2%} ({accuracy['low']:.2%} to {accuracy['high']:.2%}), true gap "
        f"{problem.gap(mine):.1e}, certified {summary['optimality']['relative_gap']:.1e}"
    )
    print(f"scikit-learn: accuracy {their_accuracy:.2%}, true gap {problem.gap(answer):.1e}, tol={loosest:g}")


def seconds_of(arguments: Sequence[str], folder: Path) -> list[float]:
    """Processor seconds of a process."""
    return [process_use(arguments, folder).processor_seconds]


def loosest_tolerance(gap: float, problem: SparseProblem, strength: float) -> float:
    """The loosest tolerance with which scikit-learn reaches the gap."""
    from sklearn.linear_model import LogisticRegression

    features, labels = as_scipy(problem.features), problem.labels.numpy()
    for tolerance in TOLERANCES:
        model = LogisticRegression(C=strength, tol=tolerance, max_iter=100_000).fit(features, labels)
        if problem.gap(Answer(torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_))) <= gap:
            return tolerance
    raise RuntimeError(f"scikit-learn did not reach a gap of {gap:g}")


if __name__ == "__main__":
    sys.exit(main())
