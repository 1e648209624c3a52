"""What a weight is: weight 2 is the row twice, weight 0 is no row, and class weights are scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from logreg.data import RawData, Table, TensorDataModule
from logreg.data.selection import class_weights
from logreg.errors import DataError
from logreg.evaluation.scores import SplitScorer
from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective, Reduction
from logreg.rows import row_weights
from logreg.training.model import LogisticModel
from logreg.training.module import LogisticModule
from whole_runs import Run, train

WEIGHTS = torch.tensor([2.0, 1.0, 0.0, 3.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 1.0], dtype=torch.float64)
"""Weights that are whole numbers, so that a row of weight w can also be repeated w times."""

TIMES = torch.repeat_interleave(torch.arange(len(WEIGHTS)), WEIGHTS.long())
"""Positions of the rows, each as often as its weight counts."""

KINDS: list[tuple[str, int]] = [("bce", 1), ("bce", 3), ("cross_entropy", 3)]


def rows(draw: torch.Generator, outputs: int) -> tuple[Tensor, Tensor]:
    """Features (12, 3), float64, and labels (12,); the rows that weigh nothing are far from all others."""
    labels = torch.arange(len(WEIGHTS)) % max(outputs, 2)
    features = torch.randn(len(WEIGHTS), 3, generator=draw, dtype=torch.float64) + 0.5 * labels.unsqueeze(1)
    features[WEIGHTS == 0] += 100
    return features, labels


class Given:
    """A dataset of given tensors, with weights or without."""

    name = "given"

    def __init__(self, features: Tensor, labels: Tensor, weight: Tensor | None = None) -> None:
        names = tuple(str(label) for label in range(int(labels.max()) + 1))
        self.raw = RawData({"train": Table(features, labels, sample_weight=weight)}, names)

    def read(self) -> RawData:
        return self.raw


def given(
    features: Tensor, labels: Tensor, weight: Tensor | None = None, class_weight: object = "none"
) -> TensorDataModule:
    """Float64, all rows in train."""
    return TensorDataModule(
        Given(features, labels, weight),
        split={"val": 0, "test": 0},
        dtype=torch.float64,
        class_weight=class_weight,  # type: ignore[arg-type]  # a word or a mapping
    )


# the objective


@pytest.mark.parametrize(("loss", "outputs"), KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_objective_of_a_weighted_row_is_that_of_the_row_so_many_times(
    loss: str, outputs: int, reduction: Reduction, draw: torch.Generator
) -> None:
    features, labels = rows(draw, outputs)
    targets = one_vs_rest(labels, outputs, torch.float64)
    coef = torch.randn(outputs, 3, generator=draw, dtype=torch.float64)
    intercept = torch.randn(outputs, generator=draw, dtype=torch.float64)
    objective = Objective(loss, reduction, l2=0.3, l1=0.2)
    weighted = objective.value(features, targets, coef, intercept, WEIGHTS)
    torch.testing.assert_close(weighted, objective.value(features[TIMES], targets[TIMES], coef, intercept))


@pytest.mark.parametrize(("loss", "outputs"), KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("l2", "l1"), [(0.0, 0.0), (0.3, 0.2)])
def test_the_weighted_gradient_in_closed_form_is_that_of_autograd(
    loss: str, outputs: int, reduction: Reduction, l2: float, l1: float, draw: torch.Generator
) -> None:
    features, labels = rows(draw, outputs)
    targets = one_vs_rest(labels, outputs, torch.float64)
    coef = torch.randn(outputs, 3, generator=draw, dtype=torch.float64).requires_grad_()
    intercept = torch.randn(outputs, generator=draw, dtype=torch.float64).requires_grad_()
    objective = Objective(loss, reduction, l2, l1)
    value = objective.value(features, targets, coef, intercept, WEIGHTS)
    theirs = torch.autograd.grad(value, (coef, intercept))
    coef.grad, intercept.grad = torch.full_like(coef, 7.0), torch.full_like(intercept, 7.0)
    mean_weight = float(WEIGHTS.mean())
    with torch.no_grad():
        objective.gradient_(features, targets, coef, intercept, 1.0, torch.empty_like(targets), WEIGHTS, mean_weight)
    torch.testing.assert_close(coef.grad, theirs[0])
    torch.testing.assert_close(intercept.grad, theirs[1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_weighted_batches_of_an_epoch_make_up_the_gradient_of_all_rows(
    reduction: Reduction, draw: torch.Generator
) -> None:
    # Divided by its own weights, a batch of light rows would pull as hard as one of heavy rows.
    features, labels = rows(draw, 1)
    targets = one_vs_rest(labels, 1, torch.float64)
    coef, intercept = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    coef.grad, intercept.grad = torch.zeros_like(coef), torch.zeros_like(intercept)
    objective = Objective("bce", reduction, l2=0.3)

    def gradient(part: slice) -> Tensor:
        size = len(labels[part])
        objective.gradient_(
            features[part], targets[part], coef, intercept, size / 12, torch.empty_like(targets[part]),
            WEIGHTS[part], float(WEIGHTS.mean()),
        )  # fmt: skip
        assert coef.grad is not None
        return coef.grad * (size / 12 if reduction == "mean" else 1)

    torch.testing.assert_close(gradient(slice(0, 8)) + gradient(slice(8, 12)), gradient(slice(0, 12)))


def test_training_on_weights_is_training_on_the_rows_so_many_times(draw: torch.Generator) -> None:
    features, labels = rows(draw, 1)
    fitted = []
    for data in (given(features, labels, WEIGHTS), given(features[TIMES], labels[TIMES])):
        module = LogisticModule(data.facts, l2=0.1, precision="64")
        (block,) = data.blocks("train")
        fitted.append(descend(module, block.features, block.labels, block.sample_weight))
    for ours, theirs in zip(*fitted, strict=True):
        torch.testing.assert_close(ours, theirs)


def descend(module: LogisticModule, features: Tensor, labels: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Full-batch steps as ``training_step`` takes them."""
    model: LogisticModel = module.model
    targets = one_vs_rest(labels, 1, features.dtype)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        for _ in range(20):
            weights = row_weights(Batch(features, labels, weight), module.facts.class_weight, features.dtype)
            scratch, mean = torch.empty_like(targets), module.facts.mean_weight
            module.objective.gradient_(features, targets, model.coef, model.intercept, 1.0, scratch, weights, mean)
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=0.1)
    return model.coef.detach().clone(), model.intercept.detach().clone()


# the scores


@pytest.mark.parametrize(("loss", "outputs"), KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_scores_of_weighted_rows_are_those_of_the_rows_so_many_times(
    loss: str, outputs: int, reduction: Reduction, draw: torch.Generator
) -> None:
    logits = torch.randn(len(WEIGHTS), outputs, generator=draw, dtype=torch.float64)
    labels = torch.arange(len(WEIGHTS)) % max(outputs, 2)
    weighted, repeated = (SplitScorer(Objective(loss, reduction), auroc=True) for _ in range(2))
    for part in (slice(0, 5), slice(5, 12)):  # blocks of different weight
        weighted.update(logits[part], labels[part], sample_weight=WEIGHTS[part])
    repeated.update(logits[TIMES], labels[TIMES])
    assert weighted.compute() == pytest.approx(repeated.compute())


def test_weighted_scores_are_those_of_scikit_learn(draw: torch.Generator) -> None:
    logits = torch.randn(len(WEIGHTS), 1, generator=draw, dtype=torch.float64)
    weight = torch.rand(len(WEIGHTS), generator=draw, dtype=torch.float64)
    labels = torch.arange(len(WEIGHTS)) % 2
    scorer = SplitScorer(Objective("bce"), auroc=True)
    scorer.update(logits, labels, sample_weight=weight)
    probabilities = torch.sigmoid(logits)[:, 0].numpy()
    assert scorer.compute() == pytest.approx(
        {
            "loss": log_loss(labels, probabilities, sample_weight=weight),
            "accuracy": accuracy_score(labels, probabilities > 0.5, sample_weight=weight),
            "auroc": roc_auc_score(labels, probabilities, sample_weight=weight),
        }
    )


def test_a_class_that_weighs_nothing_has_no_auroc() -> None:
    scorer = SplitScorer(Objective("bce"), auroc=True)
    weight = torch.tensor([1.0, 0.0, 1.0])
    scorer.update(torch.tensor([[0.1], [0.9], [0.3]]), torch.tensor([0, 1, 0]), sample_weight=weight)
    assert "auroc" not in scorer.compute()


def test_class_weights_count_in_the_loss_alone(draw: torch.Generator) -> None:
    logits = torch.randn(len(WEIGHTS), 1, generator=draw, dtype=torch.float64)
    labels = torch.arange(len(WEIGHTS)) % 2
    plain, weighted = (SplitScorer(Objective("bce"), True, weights) for weights in ((), (1.0, 4.0)))
    for scorer in (plain, weighted):
        scorer.update(logits, labels)
    without, scores = plain.compute(), weighted.compute()
    assert (scores["accuracy"], scores["auroc"]) == (without["accuracy"], without["auroc"])
    of_class = np.where(labels == 1, 4.0, 1.0)
    assert scores["loss"] == pytest.approx(
        log_loss(labels, torch.sigmoid(logits)[:, 0].numpy(), sample_weight=of_class)
    )


@pytest.mark.parametrize("size", [1e-300, 1e-31, 1e31, 1e300])
def test_weights_that_the_arithmetic_cannot_hold_are_refused(size: float, draw: torch.Generator) -> None:
    features, labels = rows(draw, 1)
    sentence = rf"`dataset.weight` must give rows a mean weight of 1e-30 to 1e30, got {size:.2g} \[in train\]. Multiply"
    with pytest.raises(DataError, match=sentence.replace("+", r"\+")):
        given(features, labels, torch.full((len(labels),), size, dtype=torch.float64)).setup()
    with pytest.raises(DataError, match=r"`dataset.class_weight` must give rows a mean weight of 1e-30 to 1e30"):
        given(features, labels, class_weight={"0": size, "1": size}).setup()


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_weights_of_one_size_change_no_fit(size: float, optimizer: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=60)
    y = draw.random(60) < 1 / (1 + np.exp(-x))
    lines = [f"{a},{b},{size!r}" for a, b in zip(x, np.where(y, "yes", "no"), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y,w", *lines]) + "\n")
    run = train(
        tmp_path, "dataset=table", "dataset.path=t.csv", "dataset.target=y", "dataset.weight=w", "l2=0",
        "dataset.split={val: 0, test: 0}", f"optimizer={optimizer}",
    )  # fmt: skip
    theirs = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x[:, None], y)
    loss = log_loss(y, theirs.predict_proba(x[:, None]))
    assert run.summary["optimality"]["value"] == pytest.approx(loss, rel=1e-6)
    assert run.summary["optimality"]["converged"]


# class weights


@pytest.mark.parametrize("counts", [[3, 9], [1, 5, 30], [4, 4, 4]])
def test_balanced_is_what_scikit_learn_calls_balanced(counts: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    names = tuple("abcdef"[: len(counts)])
    theirs = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels.numpy())
    assert class_weights("balanced", labels, names) == pytest.approx(theirs.tolist())


def test_balanced_counts_a_row_of_weight_two_as_two_rows(draw: torch.Generator) -> None:
    features, labels = rows(draw, 3)
    weighted = given(features, labels, WEIGHTS, "balanced").facts
    repeated = given(features[TIMES], labels[TIMES], None, "balanced").facts
    assert weighted.class_weight == pytest.approx(repeated.class_weight)


def test_a_class_that_is_not_named_weighs_one_and_names_may_be_numbers() -> None:
    labels = torch.tensor([0, 1, 2])
    assert class_weights({7: 2, "8": 0.5}, labels, ("7", "8", "9")) == (2.0, 0.5, 1.0)
    assert class_weights({True: 2}, labels[:2], ("false", "true")) == (1.0, 2.0)
    assert class_weights("none", labels, ("7", "8", "9")) == ()


def test_a_class_weight_multiplies_the_weight_of_the_row(draw: torch.Generator) -> None:
    features, labels = rows(draw, 1)
    data = given(features, labels, WEIGHTS, {"1": 5.0})
    (block,) = data.blocks("train")
    weights = row_weights(block, data.facts.class_weight, torch.float64)
    assert weights is not None
    torch.testing.assert_close(weights, WEIGHTS * torch.where(labels == 1, 5.0, 1.0))
    assert data.facts.mean_weight == pytest.approx(float(weights.mean()))


# whole runs, against scikit-learn


def parameters_of(run: Run) -> tuple[np.ndarray, np.ndarray]:
    module = LogisticModule.load_from_checkpoint(run.folder / "checkpoints" / "last.ckpt", map_location="cpu")
    coef, intercept = module.model.in_source_units()
    return coef.numpy(), intercept.numpy()


MOMENTUM = ("batch_size=full", "lr=1", "optimizer.momentum=0.7", "max_epochs=200")
"""Settings with enough steps to minimize a strongly convex objective to machine precision."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("class_weight", "recipe", "near"),
    [
        ("none", MOMENTUM, 1e-9),
        ("balanced", MOMENTUM, 1e-9),
        ("{no: 3}", MOMENTUM, 1e-9),
        # sqrt(2 * gap / l2) away at most
        ("balanced", ("optimizer=newton", "tolerance=1e-12"), 3e-6),
    ],
)
def test_a_weighted_run_ends_at_scikit_learns_optimum(
    tmp_path: Path, class_weight: str, recipe: tuple[str, ...], near: float, draw: torch.Generator
) -> None:
    labels = torch.randint(0, 5, (40,), generator=draw) == 0
    features = torch.randn(40, 2, generator=draw, dtype=torch.float64) + labels.unsqueeze(1)
    weight = torch.randint(0, 4, (40,), generator=draw).double()
    lines = [
        f"{first},{second},{'yes' if label else 'no'},{weigh}"
        for (first, second), label, weigh in zip(features.tolist(), labels, weight.tolist(), strict=True)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y,w", *lines, ""]), encoding="utf-8")
    l2 = 0.1
    run = train(
        tmp_path, "dataset=table", "dataset.path=t.csv", "dataset.target=y", "dataset.weight=w", f"l2={l2}",
        f"dataset.class_weight={class_weight}", "dataset.split.val=0", "dataset.split.test=0",
        "dataset.standardize=false", "precision=64", *recipe, "accelerator=cpu",
    )  # fmt: skip
    coef, intercept = parameters_of(run)
    y, s = np.where(labels.numpy(), "yes", "no"), weight.numpy()
    theirs: str | dict[str, float] | None = {"none": None, "{no: 3}": {"no": 3.0}}.get(class_weight, "balanced")
    names = np.array(["no", "yes"])
    balanced = compute_class_weight(theirs, classes=names, y=y, sample_weight=s).tolist()
    of_class = dict(zip(names.tolist(), balanced, strict=True))
    # Our data term is a mean over the weights, theirs a sum: C = 1 / (weights * l2).
    total = sum(weigh * of_class[label] for weigh, label in zip(s, y, strict=True))
    model = LogisticRegression(C=1 / (total * l2), class_weight=theirs, tol=1e-12, solver="newton-cholesky")
    model.fit(features.numpy(), y, sample_weight=s)
    np.testing.assert_allclose(coef, model.coef_, atol=near)
    np.testing.assert_allclose(intercept, model.intercept_, atol=near)
    assert run.summary["optimality"]["converged"]
    assert run.summary["optimality"]["value"] == pytest.approx(run.summary["objective"]["train"], rel=1e-12)
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert ("those of the weighted problem" in page) == (class_weight != "none")
