"""The text of `scripts/train.py --help`: the settings are those that `RunConfig` declares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from logreg.commands.config_files import config_file, options_of, own_folder, with_bases
from logreg.commands.overrides import parse_overrides
from logreg.config import SETTINGS
from logreg.errors import ConfigError
from logreg.settings import help_lines


def help_text(typed: Sequence[str] = ()) -> str:
    """The text of ``--help``; a test checks that the options of each group are those in conf/.

    Args:
        typed: The words of the command line; the keys of the options that they choose are listed first.
    """
    chosen, own = [argument.partition("=")[::2] for argument in typed], None
    with suppress(ConfigError):  # the command without --help has a message
        own = own_folder(parse_overrides([argument for argument in typed if argument.startswith("config_dir=")]))
    return (
        "".join(line for group, option in chosen for line in _keys_of(group, option, own))
        + f"""\
logreg fits a logistic regression: from data to a trained model that you can look at in TensorBoard.

usage: python scripts/train.py [key=value ...]

examples
  python scripts/train.py                                        three students: hours studied, pass or fail
  python scripts/train.py dataset=breast_cancer l2=1e-3          a table, to its certified optimum
  python scripts/train.py dataset=breast_cancer l1=path cv=10    a lasso path, chosen by 10-fold cross-validation
  python scripts/train.py dataset=mnist lr=0.1 accelerator=gpu   ten digits on a GPU
  python scripts/train.py dataset=mnist loss=bce                 one-vs-rest instead of softmax
  python scripts/train.py dataset=table dataset.path=FILE dataset.target=COLUMN      your own table
  python scripts/train.py -m dataset=digits lr=0.01,0.1,1 seed=0,1,2      nine runs and their ranking
  python scripts/train.py ckpt_path=latest max_epochs=2000       resumes the newest run

groups (name=option)
  dataset      toy | blobs | breast_cancer | iris | wine | digits
               mnist | fashion_mnist | kmnist | qmnist | emnist | usps | svhn | cifar10 | cifar100 | stl10
               table | text | features | image_folder (your own files)
  backbone     none | torchvision; backbone=resnet18 or any other model of torchvision makes features of images first
  optimizer    sgd | adam | adamw
               newton | lbfgs | auto (exact: without lr, they end certified at the optimum; auto chooses by the data)
  schedule     constant | cosine | step
  experiment   toy_tutorial | blobs_best | breast_cancer_l2 | digits_softmax | mnist_softmax | mnist_one_vs_rest

settings (name=value; D: from the dataset's own recipe, which for tables is optimizer=auto)
{help_lines(SETTINGS)}

  dataset.<key>, backbone.<key>, optimizer.<key>, schedule.<key>
               keys of the chosen option: dataset=table --help explains them, dataset=table --cfg job prints them
               dataset.augment=[shift,flip] or 'dataset.augment={{shift: 1, flip: 0.5}}' changes train images at random:
               shift, flip, crop, affine; sgd and adam draw anew in each epoch, or dataset.copies=4 makes copies once
  trainer.<argument>
               further arguments of Lightning's Trainer, whose batches are our blocks of some megabytes:
               trainer.max_time=00:00:10:00

more
  --cfg job                 prints the composed config and stops
  -m key=a,b,c              one run for each value; with hydra/launcher=joblib in parallel
  tensorboard --logdir runs shows all runs
"""
    )


def _keys_of(group: str, option: str, own: Path | None) -> Iterator[str]:
    """The lines of the file of an option with its keys, and those of the files that it begins with.

    Empty where it is no dataset and no backbone.  A value that a later file replaces is left out.
    """
    if group not in ("dataset", "backbone") or option not in options_of(group, own):
        return
    yield f"keys of {group}={option}, as {group}.<key>=value\n"
    seen = set[str]()
    for file in with_bases(config_file(group, option, own)):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        keys = [re.match(r"\w+(?=: )", line) for line in lines]
        yield from (
            f"  {line}"
            for line, key in zip(lines, keys, strict=True)
            if not line.startswith(("defaults:", "#")) and (key is None or key[0] not in seen)
        )
        seen |= {key[0] for key in keys if key}
    yield "\n"
