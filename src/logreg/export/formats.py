"""The export formats by name, and the inputs that each of them takes."""

from __future__ import annotations

import torch

from logreg.data.formats.text_tables import missing_words
from logreg.errors import ConfigError, name_list
from logreg.export.base import Format
from logreg.export.onnx import read_onnx, white_level, write_onnx
from logreg.export.plain import read_json, read_safetensors, write_json, write_safetensors
from logreg.export.sklearn import read_sklearn, write_sklearn
from logreg.export.sklearn_only import read_sklearn_only, write_sklearn_only
from logreg.export.torch_program import read_torch_export, write_torch_export
from logreg.losses import LOSSES, BinaryLink
from logreg.training.linear import Linear

SKLEARN = ("sklearn", "sklearn_only")
"""The formats with scikit-learn's interface."""

AGREEMENT = 1e-6
"""Largest allowed difference between a probability of the trained model and of the exported one."""


def check_link(name: str, loss: str) -> None:
    """Checks that a format has the inverse link of a loss.

    Raises:
        ConfigError: It has not.
    """
    if LOSSES[loss].link or name == "torch_export" or (isinstance(LOSSES[loss], BinaryLink) and name != "sklearn_only"):
        return
    raise ConfigError(
        f"`format={name}` must have the inverse link of the loss {loss}, and has not. Use format=torch_export."
    )


def check_installed(name: str) -> None:
    """Checks that a format's packages are installed.

    Raises:
        ConfigError: One is missing; names the extra to install.
    """
    from importlib.util import find_spec

    for package in FORMATS[name].packages:
        if find_spec(package) is None:
            raise ConfigError(f"`format={name}` must have the package {package}: pip install {package}.")


def describe_inputs(name: str, model: Linear) -> list[str]:
    """The inputs of an exported model, a line of Markdown each.

    Args:
        name: Name of the format.
        model: The model.
    """
    facts, lines = model.facts, list[str]()
    if name in SKLEARN:
        import sklearn

        import logreg

        ours = f"logreg {logreg.__version__} and " if name == "sklearn" else ""
        them = "these versions" if ours else "that version"
        lines.append(f"Made with {ours}scikit-learn {sklearn.__version__}: load it with {them}, by `joblib.load`.")
    number = "float64" if model.input_dtype == torch.float64 else "float32"
    if name == "onnx":
        classes = len(facts.class_names)
        lines.append(f"Outputs: `label`, and `probabilities` of shape (rows, {classes}), float32.")
    if name == "onnx" and not facts.columns and (facts.backbone or not facts.image_shape):
        lines.append(f"An input `features` of shape (rows, {facts.num_features}), {number}.")
    if name == "onnx" and facts.image_shape and not facts.backbone:
        kind = "uint16" if facts.pixels.get("white_level") else "uint8"
        shape = ", ".join(map(str, facts.image_shape))
        lines.append(f"An input `images` of shape (rows, {shape}), {kind}: pixels from 0 to {white_level(model):,}.")
    if not facts.columns or name not in ("onnx", *SKLEARN):
        if facts.columns:
            lines.append(
                "It takes features, not rows of the table: `columns` in it has, for each column, its levels, the value "
                "that fills a missing one, and whether a feature marks missing values; `features` has the names of the "
                "features in order."
            )
        return lines
    if name == "onnx":
        lines.append(f"An input of shape (rows, 1) for each column; numbers are {number}, and nan is a missing value.")
    else:
        order = ", ".join(f"`{column.name}`" for column in facts.columns)
        lines.append(f"`predict_proba` takes a data frame with these columns, or an array with them in order: {order}.")
        lines.append("A missing value is None, nan, or one of the words below. Blanks around text do not count.")
    for column in facts.columns:
        if column.kind == "number":
            offset = ", the offset of the logit, which must not be missing" if column.is_offset else ""
            lines.append(f"- `{column.name}`: a number{offset}")
        elif column.kind == "text":
            lines.append(f"- `{column.name}`: text in sentences")
        elif column.kind == "boolean":
            truth = "True or False, or " if name in SKLEARN else ""
            lines.append(f"- `{column.name}`: {truth}text: true or false in any case, 1 or 0; anything else is neither")
        elif column.buckets:
            lines.append(f"- `{column.name}`: any text; it is hashed into {column.buckets:,} buckets")
        else:
            levels = name_list(f"`{level}`" for level in column.levels)
            other = "a rare level" if column.rare_levels else "no level"
            lines.append(f"- `{column.name}`: text, written so: {levels}; anything else is {other}")
    if any(column.kind != "number" for column in facts.columns):
        words = ", ".join(f"`{word}`" for word in dict.fromkeys(missing_words(facts.missing_values)) if word)
        lines.append(f"A missing value in text is empty, or one of {words}, unless that is a level.")
        if name == "onnx":
            lines.append("Take away blanks around text first.")
        elif name == "sklearn_only":
            lines.append(
                "Give codes as text: pandas gives whole numbers beside missing values as 1.0, which is not the level 1."
            )
    return lines


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxruntime"), write_onnx, read_onnx),
    "torch_export": Format(".pt2", (), write_torch_export, read_torch_export),
    "safetensors": Format(".safetensors", (), write_safetensors, read_safetensors),
    "json": Format(".json", (), write_json, read_json),
    "sklearn": Format(".joblib", (), write_sklearn, read_sklearn),
    "sklearn_only": Format(".joblib", (), write_sklearn_only, read_sklearn_only),
}
"""The formats by the name a user types."""
