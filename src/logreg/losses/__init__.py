"""The losses by the names that users type; nothing else in the code branches on a name."""

from logreg.losses.base import Loss, RowTerms, decided, one_vs_rest
from logreg.losses.logistic import LogisticLoss
from logreg.losses.softmax import SoftmaxLoss

__all__ = [
    "LOSSES",
    "LogisticLoss",
    "Loss",
    "RowTerms",
    "SoftmaxLoss",
    "decided",
    "default_loss",
    "one_vs_rest",
    "register",
]

LOSSES: dict[str, Loss] = {}


def register(loss: Loss) -> None:
    """Makes a loss known by its name."""
    LOSSES[loss.name] = loss


def default_loss(num_classes: int) -> str:
    """The name of the loss that "auto" selects: logistic for two classes, softmax for more."""
    return LogisticLoss.name if num_classes == 2 else SoftmaxLoss.name


for _loss in (LogisticLoss(), SoftmaxLoss()):
    register(_loss)
