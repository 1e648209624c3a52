"""A trained model in the formats of others: written, and read again by those who will read it.

All of them hold the model as one linear map of features in source units (mean, deviation and calibration are folded
in) in float64, and the link to the probability of each class.  Where the model stores a column as its distance from a
shift or in another unit, programs (ONNX, torch.export) take numbers in double precision and do the same first; bare
coefficients are to be multiplied with numbers in double precision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from logreg.data.columns import few
from logreg.data.files import gap_words
from logreg.errors import ConfigError
from logreg.facts import Column, DataFacts
from logreg.losses import LOSSES
from logreg.module import DTYPES, LogisticModule

Array = np.ndarray[Any, Any]

AGREEMENT = 1e-6
"""Largest difference of a probability between the model and what was read again."""


@dataclass(frozen=True)
class Linear:
    """The model as it is exported.

    Attributes:
        coef: Shape (K, D), float64, of the features as they are stored; the temperature is in it.
        intercept: Shape (K,), float64.
        loss: Says the link.
        facts: Of the data.
        precision: "32" or "64": the floating type in which the model reads features.
        divisor: Of a calibrated one-vs-rest model with class weights, shape (C,): sigmoids are divided by it before
            they are divided by their sum; ``None`` elsewhere, where the intercept has such a correction in it.
    """

    coef: Tensor
    intercept: Tensor
    loss: str
    facts: DataFacts
    precision: str
    divisor: Tensor | None = None

    @classmethod
    def of(cls, module: LogisticModule) -> Linear:
        """That of a trained module."""
        coef, intercept = (part.detach().cpu() for part in module.model.of_stored())
        calibration, loss = module.calibration, module.objective.loss
        heat, log_weight = calibration.temperature, calibration.log_weight
        divisor = None
        if log_weight is not None and loss == "bce" and len(coef) > 1:
            divisor = (log_weight / heat).exp()
        elif log_weight is not None:
            intercept = intercept - (log_weight.diff() if len(coef) == 1 else log_weight)
        return cls(coef / heat, intercept / heat, loss, module.facts, module.hparams["precision"], divisor)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the features as they are stored."""
        return DTYPES[self.precision]

    @property
    def input_dtype(self) -> torch.dtype:
        """Floating type in which a program takes features in source units without losing a digit of what is stored."""
        return self.dtype if self.facts.stored.is_plain else torch.float64

    def in_source_units(self) -> tuple[Tensor, Tensor]:
        """``coef`` (K, D) and ``intercept`` (K,) of features in source units."""
        coef = self.coef / self.facts.stored.unit
        return coef, self.intercept - coef @ self.facts.stored.shift

    def probabilities(self, features: Tensor) -> Tensor:
        """Features (N, D) in source units -> probability of each class (N, C), in float64."""
        stored = self.facts.stored.of(features, self.dtype).double()
        logits = torch.addmm(self.intercept, stored, self.coef.T)
        return LOSSES[self.loss].class_probabilities(logits, 1.0, self.log_divisor)

    @property
    def log_divisor(self) -> Tensor | None:
        """As `Loss.class_probabilities` takes it, shape (C,)."""
        return None if self.divisor is None else self.divisor.log()

    def described(self) -> dict[str, Any]:
        """What somebody must know to use the numbers, as plain values."""
        links = {"cross_entropy": "softmax", "bce": "sigmoid"}
        link = links[self.loss] if len(self.coef) > 1 or self.loss == "cross_entropy" else "sigmoid"
        if self.loss == "bce" and len(self.coef) > 1:
            link = "sigmoid, divided by the sum over the classes"
            if self.divisor is not None:
                link = "sigmoid, divided by divisor, divided by the sum over the classes"
        return {
            "made_by": "logreg",
            "data": self.facts.title,
            "classes": list(self.facts.class_names),
            "link": link,
            **({} if self.divisor is None else {"divisor": self.divisor.tolist()}),
            "outputs": list(self.facts.class_names if len(self.coef) > 1 else self.facts.class_names[1:]),
            "features": list(self.facts.feature_names),
            "image_shape": list(self.facts.image_shape),
            "columns": self.facts.as_dict()["columns"],
            "backbone": dict(self.facts.backbone),
            "pixels": dict(self.facts.pixels),
        }


def classes_of(facts: DataFacts) -> Array:
    """The classes as what they are in the data: numbers, booleans or text; shape (C,)."""
    if facts.class_kind == "boolean":
        return np.array([name == "true" for name in facts.class_names])
    convert = {"integer": int, "float": float}.get(facts.class_kind, str)
    return np.array([convert(name) for name in facts.class_names])


def spellings(column: Column, facts: DataFacts, any_case: bool = False) -> dict[str, int]:
    """What a column of text or booleans may hold, without blanks around it, and the place of the level that it is.

    A gap has the place -1; what is not there is no level.  `logreg.data.columns.encode` reads a text file so.

    Args:
        column: How it was learned.
        facts: Of the data.
        any_case: Whether booleans will be in small letters; else they are there in every case.

    Raises:
        ConfigError: A level is written as a gap is.
    """
    if column.indicator and "" in column.levels:
        raise ConfigError(
            f"`format` must tell a gap of {column.name!r} from its level '', and onnx and sklearn have '' for both. "
            "Use format=json, safetensors or torch_export, or give the level a name in the file."
        )
    places = {level.strip(): place for place, level in enumerate(column.levels)}
    places |= {level: place for place, level in enumerate(column.levels)}
    gaps = gap_words(facts.missing_values)
    if column.kind == "boolean":
        digits = {"false": "0", "true": "1"}
        for level, place in list(places.items()):
            places[digits[level]] = place
            if not any_case:
                letters = product(*zip(level, level.upper(), strict=True))
                places |= {"".join(spelled): place for spelled in letters}
        gaps = [gap.lower() for gap in gaps] if any_case else gaps
    return dict.fromkeys(gaps, -1) | places


@dataclass(frozen=True)
class Sample:
    """Held-out rows to compare on.

    Attributes:
        features: Shape (n, D), in source units, float64.
        columns: The same rows as they stand in the table, arrays (n,) of numbers or text by name; none elsewhere.
    """

    features: Tensor
    columns: Mapping[str, Array]


@dataclass(frozen=True)
class Format:
    """A way to write a model.

    Attributes:
        suffix: Of the file.
        packages: That it takes besides ours.
        write: Writes a model.
        read: Reads the file again as its user would, and gives the probabilities of a sample (n, C).
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Linear, Path], None]
    read: Callable[[Path, Linear, Sample], Array]


def check_installed(name: str) -> None:
    """A format's packages are there.

    Raises:
        ConfigError: Names the extra to install.
    """
    from importlib.util import find_spec

    for package in FORMATS[name].packages:
        if find_spec(package) is None:
            raise ConfigError(f'`format={name}` must have the package {package}: pip install -e ".[export]".')


def write_json(model: Linear, file: Path) -> None:
    """Coefficients and all that it takes to use them, as JSON."""
    coef, intercept = model.in_source_units()
    plain = {**model.described(), "coef": coef.tolist(), "intercept": intercept.tolist()}
    file.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(file: Path, model: Linear, sample: Sample) -> Array:
    """With the standard library and NumPy."""
    held = json.loads(file.read_text(encoding="utf-8"))
    return _linked(np.array(held["coef"]), np.array(held["intercept"]), held["link"], sample, held.get("divisor"))


def write_safetensors(model: Linear, file: Path) -> None:
    """Tensors ``coef`` and ``intercept``, and the rest as JSON under ``logreg`` in the metadata."""
    from safetensors.torch import save_file

    coef, intercept = model.in_source_units()
    tensors = {"coef": coef.contiguous(), "intercept": intercept.contiguous()}
    save_file(tensors, file, metadata={"logreg": json.dumps(model.described(), ensure_ascii=False)})


def read_safetensors(file: Path, model: Linear, sample: Sample) -> Array:
    """With the package safetensors and NumPy."""
    from safetensors import safe_open

    with safe_open(file, "np") as held:
        described = json.loads(held.metadata()["logreg"])
        return _linked(
            held.get_tensor("coef"), held.get_tensor("intercept"), described["link"], sample, described.get("divisor")
        )


def _linked(coef: Array, intercept: Array, link: str, sample: Sample, divisor: Sequence[float] | None) -> Array:
    """Probabilities in NumPy, by the words of `Linear.described`."""
    logits = sample.features.double().numpy() @ coef.T + intercept
    if link == "softmax":
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))
    sigmoid = (1 + np.tanh(logits / 2)) / 2
    if sigmoid.shape[1] == 1:
        return np.hstack([1 - sigmoid, sigmoid])
    if divisor is not None:
        sigmoid = sigmoid / np.array(divisor)
    return np.asarray(sigmoid / sigmoid.sum(1, keepdims=True))


def write_sklearn(model: Linear, file: Path) -> None:
    """A fitted estimator, by joblib: of a table's rows as they are, else of features under their names."""
    import joblib

    joblib.dump(as_sklearn(model), file)


def as_sklearn(model: Linear) -> Any:
    """A fitted LogisticRegression; one-vs-rest with several classes is a OneVsRestClassifier of them.

    Of a table it is a Pipeline that takes the columns in their order, as an array of objects or a data frame.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import LabelBinarizer

    facts = model.facts
    coef, intercept = (part.numpy() for part in model.in_source_units())
    names, encoder = facts.feature_names, None
    if facts.columns:
        encoder, coef = _encoder(model, coef)
        names = ()
    classes = classes_of(facts)
    order = np.argsort(classes)  # scikit-learn sorts its classes, ours have the order of the source
    classes = classes[order]

    def fitted(coef: Array, intercept: Array, classes: Array) -> Any:
        one = LogisticRegression(C=np.inf)
        one.coef_, one.intercept_, one.classes_ = coef, intercept, classes
        one.n_features_in_, one.n_iter_ = coef.shape[1], np.array([0], dtype=np.int32)
        if names:
            one.feature_names_in_ = np.array(names, dtype=object)
        return one

    def whole(estimator: Any) -> Any:
        return estimator if encoder is None else Pipeline([("columns", encoder), ("model", estimator)])

    if facts.is_binary:
        if len(coef) == 2 and model.loss == "cross_entropy":
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        sign = 1 if order[1] == 1 else -1
        return whole(fitted(sign * coef, sign * intercept, classes))
    coef, intercept = coef[order], intercept[order]
    if model.loss == "cross_entropy":
        return whole(fitted(coef, intercept, classes))
    if model.divisor is not None:
        raise ConfigError(
            "`format=sklearn` must be a model that scikit-learn has, and its OneVsRestClassifier has no place for the "
            "class weights that calibrate=temperature takes out. Use format=onnx, json or torch_export."
        )
    several = OneVsRestClassifier(LogisticRegression())
    ends = np.array([0, 1])
    several.estimators_ = [fitted(coef[k : k + 1], intercept[k : k + 1], ends) for k in range(len(coef))]
    several.label_binarizer_ = LabelBinarizer(sparse_output=True).fit(classes)
    several.classes_, several.n_features_in_ = classes, coef.shape[1]
    return whole(several)


def _encoder(model: Linear, coef: Array) -> tuple[Any, Array]:
    """What makes numbers of the columns of a table, fitted, and the coefficients of these (K, n).

    Made of scikit-learn and NumPy alone, so that who has the file needs nothing of ours.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    def by(function: Callable[..., Array], **arguments: Any) -> Any:
        return FunctionTransformer(function, kw_args=arguments)

    stored = model.facts.stored
    parts, weights, start = [], [], 0
    for place, column in enumerate(model.facts.columns):
        first, start = start, start + len(column.feature_names)
        mine = coef[:, first:start]
        if column.kind == "number":
            # A column far from zero is stored less its offset, which single precision would round away before.
            is_plain = bool((stored.shift[first:start] == 0).all() and (stored.unit[first:start] == 1).all())
            number = np.float32 if is_plain and model.dtype == torch.float32 else np.float64
            steps = [] if column.constant else [SimpleImputer(strategy="constant", fill_value=number(column.fill))]
            steps += [MissingIndicator(features="all")] if column.indicator else []
            branch = make_pipeline(by(np.asarray, dtype=number), make_union(*steps))
            weights.append(mine)
        else:
            places = dict.fromkeys(GAPS, -1) | spellings(column, model.facts, any_case=True)
            if column.kind == "boolean":
                places = {spelled.lower(): level for spelled, level in places.items()}
            small = [by(np.char.lower)] if column.kind == "boolean" else []
            text = make_pipeline(by(np.asarray, dtype=str), by(np.char.strip), *small, by(np.asarray, dtype=object))
            levels = OneHotEncoder(categories=[np.array(list(places), dtype=object)], handle_unknown="ignore")
            branch = make_pipeline(text, levels)
            weights.append(_of_spellings(column, places, mine))
        parts.append((f"column {place}", branch, [place]))
    row = [[0.0 if column.kind == "number" else "" for column in model.facts.columns]]
    encoder = ColumnTransformer(parts, sparse_threshold=0).fit(np.array(row, dtype=object))
    return encoder, np.concatenate(weights, axis=1)


GAPS = ("None", "nan", "<NA>")
"""What ``str`` makes of a gap in Python, NumPy and pandas."""


def read_sklearn(file: Path, model: Linear, sample: Sample) -> Array:
    """As whoever has scikit-learn would, and back into our order of the classes."""
    import warnings

    import joblib

    estimator = joblib.load(file)
    given = sample.features.double().numpy()
    if sample.columns:
        given = np.column_stack([values.astype(object) for values in sample.columns.values()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array has no names of features, and says so
        probabilities = estimator.predict_proba(given)
    place = {one: number for number, one in enumerate(estimator.classes_.tolist())}
    return np.asarray(probabilities[:, [place[one] for one in classes_of(model.facts).tolist()]])


class _Probabilities(nn.Module):
    """Features -> probabilities, for torch.export."""

    def __init__(self, model: Linear) -> None:
        super().__init__()
        self.loss = model.loss
        self.dtype, stored = model.dtype, model.facts.stored
        self.is_plain = stored.is_plain
        self.register_buffer("shift", stored.shift)
        self.register_buffer("unit", stored.unit)
        self.register_buffer("coef", model.coef)
        self.register_buffer("intercept", model.intercept)
        self.register_buffer("log_divisor", model.log_divisor)

    def forward(self, features: Tensor) -> Tensor:
        """Shape (N, D), in source units -> (N, C), float64."""
        if not self.is_plain:
            features = ((features - self.shift) / self.unit).to(self.dtype)  # type: ignore[operator]  # buffers
        logits = torch.addmm(self.intercept, features.double(), self.coef.T)  # type: ignore[arg-type]  # buffers
        return LOSSES[self.loss].class_probabilities(logits, 1.0, self.log_divisor)  # type: ignore[arg-type]  # a buffer


def write_torch_export(model: Linear, file: Path) -> None:
    """A program of any number of rows; classes and names lie beside it in ``logreg.json``."""
    example = (torch.zeros(2, model.facts.num_features, dtype=model.input_dtype),)
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(_Probabilities(model), example, dynamic_shapes={"features": {0: rows}})
    described = json.dumps(model.described(), ensure_ascii=False)
    torch.export.save(program, file, extra_files={"logreg.json": described})


def read_torch_export(file: Path, model: Linear, sample: Sample) -> Array:
    """With torch alone."""
    program = torch.export.load(file).module()
    return np.asarray(program(sample.features.to(model.input_dtype)).detach().numpy())


def write_onnx(model: Linear, file: Path) -> None:
    """A graph that takes rows as they are: the columns of a table by name, pictures in bytes, or a matrix.

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
    """An ONNX graph in the making; a method returns the name of what it made."""

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
        """Numbers in source units, (N, n) of double -> those of these features as the model stores them, (N, n)."""
        from onnx import TensorProto

        if model.facts.stored.is_plain:
            return numbers
        shift, unit = (self.constant(part[places].numpy()) for part in model.facts.stored)
        near = self.node("Div", self.node("Sub", numbers, shift), unit)
        if model.dtype == torch.float32:  # rounded as what the model learned from
            near = self.double(self.node("Cast", near, to=TensorProto.FLOAT))
        return near

    def from_images(self, model: Linear) -> str:
        from onnx import TensorProto

        level = model.facts.pixels.get("white_level")
        kind = TensorProto.UINT16 if level else TensorProto.UINT8
        images = self.input("images", kind, ["rows", *model.facts.image_shape])
        features = self.node("Flatten", self.double(images), axis=1)
        return self.linear(features, model.coef.numpy() / (level or 255), model.intercept.numpy())

    def from_columns(self, model: Linear) -> str:
        """Gaps are nan in numbers, and nothing or a word for it in text; what fills them stands in the graph."""
        from onnx import TensorProto

        coef, parts, weights, start = model.coef.numpy(), [], [], 0
        for column in model.facts.columns:
            if column.name in OUTPUTS:
                raise ConfigError(f"`format=onnx` must not have a column {column.name!r}, as an output is called so.")
        for column in model.facts.columns:
            width, first = len(column.feature_names), start
            mine, start = coef[:, start : start + width], start + width
            if column.kind == "number":
                given = self.double(self.input(column.name, _float(model), ["rows", 1]))
                gap = self.node("IsNaN", given)
                if not column.constant:
                    fill = self.constant(np.array(float(column.fill)))
                    filled = self.node("Where", gap, fill, given)
                    parts.append(self.stored(filled, model, slice(first, first + 1)))
                if column.indicator:
                    parts.append(self.double(gap))
                weights.append(mine)
                continue
            given = self.input(column.name, TensorProto.STRING, ["rows", 1])
            places = spellings(column, model.facts)
            known = self.node("OneHotEncoder", given, domain="ai.onnx.ml", cats_strings=list(places), zeros=1)
            parts.append(self.node("Flatten", self.double(known), axis=1))
            weights.append(_of_spellings(column, places, mine))
        features = self.node("Concat", *parts, axis=1)
        return self.linear(features, np.concatenate(weights, axis=1), model.intercept.numpy())

    def link(self, logits: str, model: Linear) -> None:
        from onnx import TensorProto, helper

        classes = len(model.facts.class_names)
        if model.loss == "cross_entropy":
            probabilities = self.node("Softmax", logits, axis=1)
        elif len(model.coef) == 1:
            no = self.node("Sigmoid", self.node("Neg", logits))
            probabilities = self.node("Concat", no, self.node("Sigmoid", logits), axis=1)
        else:
            sigmoid = self.node("Sigmoid", logits)
            if model.divisor is not None:
                sigmoid = self.node("Div", sigmoid, self.constant(model.divisor.numpy()))
            total = self.node("ReduceSum", sigmoid, self.constant(np.array([1])), keepdims=1)
            probabilities = self.node("Div", sigmoid, total)
        # As `losses.decided`: ArgMax takes the first of equal ones, which is the first class at even odds.
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


def _of_spellings(column: Column, places: Mapping[str, int], coef: Array) -> Array:
    """Coefficients (K, n) of features that say which of n spellings is there; ``coef`` (K, d) those of the column."""
    of_level = np.zeros((len(coef), len(column.levels))) if column.constant else coef[:, : len(column.levels)]
    # A gap counts as the level that fills it, and as a gap.
    of_gap = of_level[:, column.levels.index(str(column.fill))] + (coef[:, -1] if column.indicator else 0)
    every: Array = np.column_stack([of_level, of_gap])[:, list(places.values())]
    return every


OUTPUTS = ("label", "probabilities")
"""Of an ONNX graph."""


def _float(model: Linear) -> int:
    from onnx import TensorProto

    return int(TensorProto.DOUBLE if model.input_dtype == torch.float64 else TensorProto.FLOAT)


def read_onnx(file: Path, model: Linear, sample: Sample) -> Array:
    """With onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    kind = np.float64 if model.input_dtype == torch.float64 else np.float32
    if sample.columns:
        feed = {
            name: (values.astype(kind) if values.dtype.kind == "f" else values.astype(object)).reshape(-1, 1)
            for name, values in sample.columns.items()
        }
    elif model.facts.image_shape and not model.facts.backbone:
        level = model.facts.pixels.get("white_level")
        pixels = (sample.features.double() * (level or 255)).round().numpy()
        feed = {"images": pixels.reshape(-1, *model.facts.image_shape).astype("uint16" if level else "uint8")}
    else:
        feed = {"features": sample.features.numpy().astype(kind)}
    return np.asarray(session.run(["probabilities"], feed)[0])


def what_to_pass(name: str, model: Linear) -> list[str]:
    """What a program that reads a format must give to the model, a line of Markdown each.

    Args:
        name: Of the format.
        model: That was exported.
    """
    facts, lines = model.facts, list[str]()
    if name == "sklearn":
        import sklearn

        lines.append(f"Made with scikit-learn {sklearn.__version__}: load it with that version, by `joblib.load`.")
    if not facts.columns or name not in ("onnx", "sklearn"):
        if facts.columns:
            lines.append(
                "It takes features, not rows of the table: `columns` in it says of each column its levels, what fills "
                "a gap, and whether the gap is a feature; `features` has their names in order."
            )
        return lines
    number = "float64" if model.input_dtype == torch.float64 else "float32"
    if name == "onnx":
        lines.append(f"An input of shape (rows, 1) for each column; numbers are {number}, a gap in them is nan.")
    else:
        order = ", ".join(f"`{column.name}`" for column in facts.columns)
        lines.append(f"`predict_proba` takes a data frame or an array of objects with the columns, in order: {order}.")
        lines.append("A gap is None, nan, or one of the words below. Blanks around text do not count.")
    for column in facts.columns:
        if column.kind == "number":
            lines.append(f"- `{column.name}`: a number")
        elif column.kind == "boolean":
            truth = "True or False, or " if name == "sklearn" else ""
            lines.append(f"- `{column.name}`: {truth}text: true or false in any case, 1 or 0; anything else is neither")
        else:
            levels = few(f"`{level}`" for level in column.levels)
            lines.append(f"- `{column.name}`: text, written so: {levels}; anything else is no level")
    if any(column.kind != "number" for column in facts.columns):
        words = ", ".join(f"`{word}`" for word in dict.fromkeys(gap_words(facts.missing_values)) if word)
        lines.append(f"A gap in text is nothing, or one of {words}, unless that is a level.")
        if name == "onnx":
            lines.append("Take away blanks around text first.")
        else:
            lines.append("Give codes as text: pandas gives out whole numbers with gaps as 1.0, which is no level 1.")
    return lines


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxruntime"), write_onnx, read_onnx),
    "torch_export": Format(".pt2", (), write_torch_export, read_torch_export),
    "safetensors": Format(".safetensors", (), write_safetensors, read_safetensors),
    "json": Format(".json", (), write_json, read_json),
    "sklearn": Format(".joblib", (), write_sklearn, read_sklearn),
}
"""The formats by the name a person types."""
