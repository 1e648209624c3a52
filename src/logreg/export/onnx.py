"""Exports a model as an ONNX graph that takes rows before encoding, as they are in the source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from logreg.errors import ConfigError
from logreg.export.base import Sample, spelling_coefficients, spellings
from logreg.losses import BinaryLink
from logreg.training.linear import Array, Linear, classes_of


def write_onnx(model: Linear, file: Path) -> None:
    """Writes a graph that takes rows before encoding: columns of a table by name, images as bytes, or a matrix.

    Outputs: ``label`` (N,), as the classes are in the data; ``probabilities`` (N, C), float32, in the order of the
    metadata's ``classes``.
    """
    from onnx import checker, helper, save

    graph = _Graph()
    if model.facts.columns:
        total = graph.from_columns(model)
    elif model.facts.image_shape and not model.facts.backbone:
        total = graph.from_images(model)
    else:
        total = graph.from_matrix(model)
    graph.link(total, model)
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "logreg", graph.inputs, graph.outputs, graph.constants),
        producer_name="logreg",
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=8,
    )
    helper.set_model_props(
        proto,
        {"classes": json.dumps(list(model.facts.class_names), ensure_ascii=False), "data": model.facts.title},
    )
    checker.check_model(proto)
    save(proto, file)


class _Graph:
    """Builds an ONNX graph; each method returns the name of the value that it adds."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = f"logreg.{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, values: Array) -> str:
        from onnx import helper, numpy_helper

        name = f"logreg.constant.{len(self.constants)}"
        if values.dtype.kind in "UO":
            from onnx import TensorProto

            texts: Any = [str(text).encode() for text in values]
            self.constants.append(helper.make_tensor(name, TensorProto.STRING, values.shape, texts))
        else:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        from onnx import helper

        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def double(self, name: str) -> str:
        from onnx import TensorProto

        return self.node("Cast", name, to=TensorProto.DOUBLE)

    def linear(self, features: str, coef: Array, intercept: Array) -> str:
        return self.node("Gemm", features, self.constant(coef.T), self.constant(intercept))

    def from_matrix(self, model: Linear) -> str:
        features = self.input("features", _float(model), ["rows", model.facts.num_features])
        stored = self.stored(self.double(features), model, slice(None))
        return self.linear(stored, model.coef.numpy(), model.intercept.numpy())

    def stored(self, numbers: str, model: Linear, places: slice) -> str:
        """Features in source units, (N, n) of double -> stored features, (N, n)."""
        from onnx import TensorProto

        if model.facts.stored.is_plain:
            return numbers
        shift, unit = (self.constant(part[places].numpy()) for part in model.facts.stored)
        scaled = self.node("Div", self.node("Sub", numbers, shift), unit)
        if model.dtype == torch.float32:  # rounded as the features that the model was trained on
            scaled = self.double(self.node("Cast", scaled, to=TensorProto.FLOAT))
        return scaled

    def from_images(self, model: Linear) -> str:
        from onnx import TensorProto

        kind = TensorProto.UINT16 if model.facts.pixels.get("white_level") else TensorProto.UINT8
        images = self.input("images", kind, ["rows", *model.facts.image_shape])
        features = self.node("Flatten", self.double(images), axis=1)
        return self.linear(features, model.coef.numpy() / white_level(model), model.intercept.numpy())

    def from_columns(self, model: Linear) -> str:
        """Logits of a table's columns.

        The graph fills missing values: nan in numbers; in text, an empty string or a word for a missing value.
        """
        from onnx import TensorProto

        coef, intercept = model.coef.numpy(), model.intercept.numpy()
        parts, weights, start = [], [], 0
        for column in model.facts.columns:
            if column.kind == "text":
                raise ConfigError(
                    "`format=onnx` must have operators for all columns, and ONNX has none that takes n-grams of text "
                    "as scikit-learn does. Use format=sklearn, sklearn_only or json."
                )
            if column.name in OUTPUTS:
                raise ConfigError(f"`format=onnx` must not have a column {column.name!r}, as an output is called so.")
        for column in model.facts.columns:
            width, first = column.num_features, start
            mine, start = coef[:, start : start + width], start + width
            if column.kind == "number":
                given = self.double(self.input(column.name, _float(model), ["rows", 1]))
                if column.is_offset:  # of which no value takes the place of a missing one
                    parts.append(self.stored(given, model, slice(first, first + 1)))
                    weights.append(mine)
                    continue
                is_missing = self.node("IsNaN", given)
                if not column.constant:
                    fill = self.constant(np.array(float(column.fill)))
                    filled = self.node("Where", is_missing, fill, given)
                    parts.append(self.stored(filled, model, slice(first, first + 1)))
                if column.indicator:
                    parts.append(self.double(is_missing))
                weights.append(mine)
                continue
            given = self.input(column.name, TensorProto.STRING, ["rows", 1])
            places = spellings(column, model.facts)
            known = self.node("OneHotEncoder", given, domain="ai.onnx.ml", cats_strings=list(places), zeros=1)
            parts.append(self.node("Flatten", self.double(known), axis=1))
            of_spelling, of_other = spelling_coefficients(column, places, mine)
            weights.append(of_spelling)
            intercept = intercept + of_other
        features = self.node("Concat", *parts, axis=1)
        return self.linear(features, np.concatenate(weights, axis=1), intercept)

    def link(self, logits: str, model: Linear) -> None:
        from onnx import TensorProto, helper

        classes = len(model.facts.class_names)
        if model.row_loss.couples_outputs:
            probabilities = self.node("Softmax", logits, axis=1)
        elif isinstance(model.row_loss, BinaryLink):
            yes = model.row_loss.probability(_Value(self, logits), _Functions()).name
            probabilities = self.node("Concat", self.node("Sub", self.constant(np.array(1.0)), yes), yes, axis=1)
            if model.divisor is not None:
                chances = self.node("Div", probabilities, self.constant(model.divisor.numpy()))
                total = self.node("ReduceSum", chances, self.constant(np.array([1])), keepdims=1)
                probabilities = self.node("Div", chances, total)
        elif len(model.coef) == 1:
            no = self.node("Sigmoid", self.node("Neg", logits))
            probabilities = self.node("Concat", no, self.node("Sigmoid", logits), axis=1)
        else:  # the sigmoids divided by their sum, also where all of them round to 0
            log_chances = self.log_sigmoid(logits)
            if model.divisor is not None:
                log_chances = self.node("Sub", log_chances, self.constant(model.divisor.log().numpy()))
            probabilities = self.node("Softmax", log_chances, axis=1)
        # As in `losses.decided`: ArgMax takes the first of equal values, which is the first class at even odds.
        best = self.node("ArgMax", probabilities, axis=1, keepdims=0)
        names, kind = classes_of(model.facts), TensorProto.STRING
        if names.dtype.kind in "biuf":
            kind = helper.np_dtype_to_tensor_dtype(names.dtype)
        self.nodes.append(helper.make_node("Gather", [self.constant(names), best], ["label"]))
        self.nodes.append(helper.make_node("Cast", [probabilities], ["probabilities"], to=TensorProto.FLOAT))
        self.outputs += [
            helper.make_tensor_value_info("label", kind, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", classes]),
        ]

    def log_sigmoid(self, logits: str) -> str:
        """The logarithm of the sigmoid, min(z, 0) - log(1 + exp(-|z|)), also where the sigmoid rounds to 0."""
        power = self.node("Exp", self.node("Neg", self.node("Abs", logits)))
        rest = self.node("Log", self.node("Add", power, self.constant(np.array(1.0))))
        return self.node("Sub", self.node("Min", logits, self.constant(np.array(0.0))), rest)


@dataclass(frozen=True)
class _Value:
    """A value of a graph, of double, with the arithmetic operators."""

    graph: _Graph
    name: str

    def _with(self, kind: str, other: _Value | float) -> _Value:
        name = other.name if isinstance(other, _Value) else self.graph.constant(np.array(float(other)))
        return _Value(self.graph, self.graph.node(kind, self.name, name))

    def __add__(self, other: _Value | float) -> _Value:
        return self._with("Add", other)

    def __mul__(self, other: _Value | float) -> _Value:
        return self._with("Mul", other)

    def __truediv__(self, other: _Value | float) -> _Value:
        return self._with("Div", other)

    def __neg__(self) -> _Value:
        return self.of("Neg")

    def of(self, kind: str) -> _Value:
        """A function of the value."""
        return _Value(self.graph, self.graph.node(kind, self.name))

    def of_float(self, kind: str) -> _Value:
        """A function that onnxruntime has for float32 alone."""
        from onnx import TensorProto

        narrow = self.graph.node("Cast", self.name, to=TensorProto.FLOAT)
        return _Value(self.graph, self.graph.double(self.graph.node(kind, narrow)))


class _Functions:
    """The functions of `BinaryLink.probability` as nodes of a graph."""

    def exp(self, value: _Value) -> _Value:
        return value.of("Exp")

    def sqrt(self, value: _Value) -> _Value:
        return value.of("Sqrt")

    def abs(self, value: _Value) -> _Value:
        return value.of("Abs")

    def tanh(self, value: _Value) -> _Value:
        return value.of("Tanh")

    def erf(self, value: _Value) -> _Value:
        return value.of_float("Erf")

    def arctan(self, value: _Value) -> _Value:
        return value.of_float("Atan")


OUTPUTS = ("label", "probabilities")
"""Names of the outputs of an ONNX graph."""


def white_level(model: Linear) -> int:
    """The whole number that is white, 1 in source units, in the pixels that a graph takes: bytes, or 16 bits."""
    return int(model.facts.pixels.get("white_level") or model.facts.white_byte)


def _float(model: Linear) -> int:
    from onnx import TensorProto

    return int(TensorProto.DOUBLE if model.input_dtype == torch.float64 else TensorProto.FLOAT)


def read_onnx(file: Path, model: Linear, sample: Sample) -> Array:
    """Probabilities of a sample, shape (n, C), by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    kind = np.float64 if model.input_dtype == torch.float64 else np.float32
    if sample.columns:
        feed = {
            name: np.array([[one if is_number else one or ""] for one in values], kind if is_number else object)
            for name, values in sample.columns.items()
            for is_number in [values.dtype.kind == "f"]
        }
    elif model.facts.image_shape and not model.facts.backbone:
        pixels = (sample.features.double() * white_level(model)).round().numpy()
        whole = np.uint16 if model.facts.pixels.get("white_level") else np.uint8
        feed = {"images": pixels.reshape(-1, *model.facts.image_shape).astype(whole)}
    else:
        feed = {"features": sample.features.numpy().astype(kind)}
    return np.asarray(session.run(["probabilities"], feed)[0])
