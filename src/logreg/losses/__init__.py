"""The losses by the names that users type; nothing else in the code branches on a name."""

from logreg.losses.algebraic import AlgebraicLoss
from logreg.losses.base import Loss, RowTerms, decided, one_logit, one_vs_rest
from logreg.losses.binary_link import BinaryLink
from logreg.losses.cauchit import CauchitLoss
from logreg.losses.cloglog import CloglogLoss, LoglogLoss
from logreg.losses.gudermannian import GudermannianLoss
from logreg.losses.logistic import LogisticLoss
from logreg.losses.probit import ProbitLoss
from logreg.losses.rescaled import ArctanLoss, ErfLoss, TanhLoss
from logreg.losses.softmax import SoftmaxLoss
from logreg.losses.softsign import SoftsignLoss

__all__ = [
    "LINKS",
    "LOSSES",
    "BinaryLink",
    "LogisticLoss",
    "Loss",
    "RowTerms",
    "SoftmaxLoss",
    "decided",
    "default_loss",
    "one_logit",
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


LINKS: dict[str, BinaryLink] = {
    link.name: link
    for link in (
        ProbitLoss(),
        CloglogLoss(),
        LoglogLoss(),
        CauchitLoss(),
        ErfLoss(),
        TanhLoss(),
        ArctanLoss(),
        GudermannianLoss(),
        AlgebraicLoss(),
        SoftsignLoss(),
    )
}
"""The links of two classes other than logit, which belongs to the logistic loss; each is a loss of the same name."""

for _loss in (LogisticLoss(), SoftmaxLoss(), *LINKS.values()):
    register(_loss)
