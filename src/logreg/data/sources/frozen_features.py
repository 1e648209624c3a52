"""Frozen features: a torchvision model without its last layer turns images into features, and is not trained.

A logistic regression on frozen features is also called a linear probe.

References:
    torchvision, models and pretrained weights, https://pytorch.org/vision/stable/models.html
    Alain and Bengio (2016), Understanding intermediate layers using linear classifier probes, arXiv:1610.01644.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from logreg.constraints import check, text, whole
from logreg.data.augmentation import Augmentation, copies_key
from logreg.data.base import Dataset, RawData, Table
from logreg.data.download import DownloadError, RemoteFile, download_lock, fetch, print_line
from logreg.data.formats.cache import CacheEntry, load_or_compute
from logreg.data.formats.images import (
    DecodingOptions,
    ImageDecoder,
    ImageListing,
    ImageSource,
    ImageSplit,
    image_to_tensor,
    to_8_bits,
)
from logreg.errors import ConfigError
from logreg.facts import SPLITS, Split
from logreg.fast_import import import_torchvision

if TYPE_CHECKING:
    from PIL.Image import Image


FEATURES_VERSION = 3
"""Version of the computed features, which is part of the cache's key: raise it when their computation changes."""

RANDOM_WEIGHTS = "none"
"""Value of ``backbone.weights`` for weights that were never trained; they are always the same."""

WRITE_STATE_DICT = "Write it with torch.save(model.state_dict(), FILE)."
"""Next step after a file that is not a state dict."""


@dataclass(frozen=True)
class Backbone:
    """A model without its last layer, and the preprocessing of its images.

    Attributes:
        model: Maps images of shape (N, 3, crop, crop) to features of shape (N, F).
        facts: Plain values from which `from_facts` builds the same backbone: ``name``, ``weights`` and their
            ``checksum``, ``resize`` and ``crop`` in pixels, ``interpolation``, ``mean`` and ``std`` of the three
            channels, and ``num_features``, which is F.
        device: Device of the model.
    """

    model: nn.Module
    facts: Mapping[str, Any]
    device: torch.device

    @classmethod
    def build(cls, name: str, weights: str = "DEFAULT", device: str | torch.device = "cpu") -> Backbone:
        """A backbone by its name.

        Args:
            name: A classification model of torchvision.
            weights: DEFAULT or another name of weights in torchvision; or a file with a state dict, whose last layer
                may have any number of classes or be missing; or "none" for random weights.
            device: Device for the model.

        Raises:
            ConfigError: There is no such model or no such weights; the file is broken or of another model; the
                download failed.
        """
        torchvision = import_torchvision()
        names = torchvision.models.list_models(module=torchvision.models)
        if name not in names:
            raise ConfigError.not_a_choice("backbone", names, name)
        weights_enum = torchvision.models.get_model_weights(name)
        is_pretrained = weights in weights_enum.__members__
        member = weights_enum[weights] if is_pretrained else weights_enum.DEFAULT
        if is_pretrained:
            model = _load_pretrained(name, weights, member)
            head, num_features = remove_head(model)
        else:
            if weights != RANDOM_WEIGHTS and not Path(weights).is_file():
                choices = ", ".join(("DEFAULT", *(other.name for other in weights_enum)))
                raise ConfigError.broken(
                    "backbone.weights", f"be one of {choices}, {RANDOM_WEIGHTS}, or a file with a state dict", weights
                )
            model = new_model(name, member.transforms().crop_size[0])
            head, num_features = remove_head(model)
            if weights != RANDOM_WEIGHTS:
                _load_state_dict(model, head, weights)
        transforms = member.transforms()
        facts = {
            "name": name,
            "weights": member.name if is_pretrained else weights,
            "checksum": _checksum(model),
            "resize": transforms.resize_size[0],
            "crop": transforms.crop_size[0],
            "interpolation": transforms.interpolation.value,
            "mean": list(transforms.mean),
            "std": list(transforms.std),
            "num_features": num_features,
        }
        model = model.eval().requires_grad_(False).to(device)
        if torch.device(device).type == "cpu":
            model = model.to(memory_format=torch.channels_last)  # convolutions on a CPU are faster in this layout
        return cls(model, facts, torch.device(device))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], device: str | torch.device = "cpu") -> Backbone:
        """The backbone whose `facts` a trained model stores.

        Raises:
            ConfigError: As `build`; or the weights have changed.
        """
        built = cls.build(facts["name"], facts["weights"], device)
        if built.facts["checksum"] != facts["checksum"]:
            raise ConfigError.broken(
                "backbone.weights",
                f"be those that the linear model was trained on, with checksum {facts['checksum']}",
                facts["weights"],
                f"Their checksum is {built.facts['checksum']}: find the old file, or train again.",
            )
        return cls(built.model, facts, built.device)

    def prepare(self, image: Image) -> Tensor:
        """Resizes and crops an image of any size: shape (3, crop, crop), uint8."""
        transforms = import_torchvision().transforms
        functional = transforms.functional
        mode = transforms.InterpolationMode(self.facts["interpolation"])
        image = functional.resize(image.convert("RGB"), [self.facts["resize"]], mode)
        return image_to_tensor(functional.center_crop(image, [self.facts["crop"]]))

    def features(self, prepared: Iterable[Tensor], batch_size: int = 64) -> Iterator[Tensor]:
        """The features of prepared images, batch by batch: float32 on the CPU, shape (<= batch_size, F)."""
        functional = import_torchvision().transforms.functional
        images = iter(prepared)
        # Without TF32 a GPU agrees with a CPU up to rounding: a model may be trained on one and used on the other.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            while batch := list(islice(images, batch_size)):
                pixels = functional.convert_image_dtype(torch.stack(batch).to(self.device), torch.float32)
                outputs: Tensor = self.model(functional.normalize(pixels, self.facts["mean"], self.facts["std"]))
                yield outputs.float().cpu()


@dataclass(frozen=True)
class FrozenFeatures:
    """A dataset of images whose features are computed by a backbone.

    Attributes:
        source: The images.  The features are kept in the cache of the source.
        backbone: Name of the model.
        weights: See ``Backbone.build``.
        batch_size: Images that go through the model at once.
        device: Device of the model.
    """

    source: Dataset
    backbone: str = "resnet18"
    weights: str = "DEFAULT"
    batch_size: int = 64
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        check("backbone.name", self.backbone, text())
        check("backbone.weights", self.weights, text())
        check("backbone.batch_size", self.batch_size, whole(at_least=1))
        if not isinstance(self.source, ImageSource):
            raise ConfigError.broken(
                "backbone", f"be none with dataset={self.source.name}, which has no images", self.backbone
            )

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.name

    def read(self) -> RawData:
        """The rows and classes of the source; features of shape (N, F), float32.

        Raises:
            LogregError: As ``Backbone.build`` and ``read`` of the source.
        """
        listing, entry = self._listing, self._entry
        tables = {}
        for split in SPLITS:
            if f"{split}.labels" in entry.tensors:
                groups = listing.groups[split][entry.tensors[f"{split}.rows"]] if listing.groups else None
                features, labels = (entry.tensors[f"{split}.{part}"] for part in ("features", "labels"))
                tables[split] = Table(features, labels, groups=groups)
        options = DecodingOptions(**entry.metadata["decoding"])
        return RawData(
            tables,
            class_names=listing.class_names,
            source=listing.source,
            notes=(*listing.notes, *entry.metadata["notes"]),
            backbone={**entry.metadata["backbone"], "size": listing.size, "grayscale": listing.grayscale},
            pixels=options.facts,
        )

    @cached_property
    def _listing(self) -> ImageListing:
        assert isinstance(self.source, ImageSource)
        return self.source.list_images()

    @cached_property
    def _entry(self) -> CacheEntry:
        """Rows, features and labels of each split."""
        return self._load_or_compute("", {}, lambda: self._compute(self._listing))

    def _load_or_compute(self, kind: str, key: Mapping[str, Any], compute: Callable[[], CacheEntry]) -> CacheEntry:
        """An entry of the source's cache that depends on the images, the backbone and ``key``."""
        assert isinstance(self.source, ImageSource)
        name = f"{self.name}-{self.backbone}{kind}"
        return load_or_compute(self.source.cache, name, {**self._cache_key(self._listing), **key}, compute)

    def features_of_copies(self, rows: Tensor, augmentation: Augmentation, copies: int, seed: int) -> Tensor:
        """Features of changed copies of train images, as `FeatureSource` has it.

        Images are changed as the model receives them, resized and cropped.
        """
        key = {"copies": copies_key(rows, augmentation, copies, seed)}

        def compute() -> CacheEntry:
            return CacheEntry({"features": self._compute_copies(rows, augmentation, copies, seed)})

        return self._load_or_compute("-copies", key, compute).tensors["features"]

    def _compute_copies(self, rows: Tensor, augmentation: Augmentation, copies: int, seed: int) -> Tensor:
        backbone = Backbone.build(self.backbone, self.weights, self.device)
        decoder = _only(self._listing.make_decoder(), self._entry.tensors["train.rows"][rows])
        features = torch.empty(copies, len(rows), backbone.facts["num_features"])
        draws, done = [augmentation.draws(len(rows), seed, number) for number in range(copies)], 0
        decoded = decoder.decode(
            lambda image: backbone.prepare(to_8_bits(image, decoder.options)),
            f"{self.backbone}, copies",
            backbone.facts["resize"],
        )
        with closing(decoded):
            while batch := [image for _, _, image in islice(decoded, self.batch_size)]:
                part, images = slice(done, done := done + len(batch)), torch.stack(batch)
                for number in range(copies):
                    changed = augmentation(images, draws[number][part])
                    features[number, part] = next(backbone.features(changed, self.batch_size))
        return features.flatten(0, 1)

    def _cache_key(self, listing: ImageListing) -> dict[str, Any]:
        """Plain values on which the features depend."""
        key: dict[str, Any] = {
            "images": listing.key,
            "format": FEATURES_VERSION,
            "backbone": self.backbone,
            "weights": self.weights,
            # torchvision chooses the default weights, and torch draws the random ones.
            "versions": [version("torch"), version("torchvision")],
        }
        if Path(self.weights).is_file():
            status = Path(self.weights).stat()
            key["weights"] = [str(Path(self.weights).resolve()), status.st_size, status.st_mtime_ns]
        return key

    def _compute(self, listing: ImageListing) -> CacheEntry:
        """Rows, features and labels of the images of each split that can be read."""
        backbone = Backbone.build(self.backbone, self.weights, self.device)
        decoder = listing.make_decoder()
        rows: dict[Split, list[int]] = {split: [] for split in decoder.splits}

        def prepare(image: Image) -> Tensor:
            return backbone.prepare(to_8_bits(image, decoder.options))

        def prepared(decoded: Iterable[tuple[Split, int, Tensor]]) -> Iterator[Tensor]:
            for split, row, image in decoded:
                rows[split].append(row)
                yield image

        num_images = sum(len(images.labels) for images in decoder.splits.values())
        features = torch.empty(num_images, backbone.facts["num_features"])
        done = 0
        with closing(decoder.decode(prepare, self.backbone, backbone.facts["resize"])) as decoded:
            for batch in backbone.features(prepared(decoded), self.batch_size):
                features[done : done + len(batch)] = batch
                done += len(batch)
        parts = features[:done].split([len(split_rows) for split_rows in rows.values()])
        tensors = {}
        for (split, split_rows), part in zip(rows.items(), parts, strict=True):
            positions = torch.tensor(split_rows, dtype=torch.int64)
            tensors[f"{split}.rows"], tensors[f"{split}.features"] = positions, part
            tensors[f"{split}.labels"] = decoder.splits[split].labels[positions]
        metadata = {
            "backbone": dict(backbone.facts),
            "decoding": asdict(decoder.options),
            "notes": decoder.report.notes(decoder.options),
        }
        return CacheEntry(tensors, metadata)


def _only(decoder: ImageDecoder, rows: Tensor) -> ImageDecoder:
    """A decoder of some images of train, by their positions (n,), all of which can be read."""
    train, kept = decoder.splits["train"], rows.tolist()

    def image(row: int, min_side: int) -> Image:
        return train.image(kept[row], min_side)

    names = [train.names[row] for row in kept] if train.names else ()
    return replace(decoder, splits={"train": ImageSplit(train.labels[rows], image, names)}, skip_broken=False)


def new_model(name: str, crop: int) -> nn.Module:
    """A model with the architecture of torchvision's pretrained weights and random weights, which are always the same.

    Args:
        name: A classification model of torchvision.
        crop: Side of the model's images, in pixels.
    """
    arguments: dict[str, Any] = {}
    if name.startswith("vit"):
        arguments["image_size"] = crop
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": False, "transform_input": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = import_torchvision().models.get_model(name, weights=None, **arguments)
    return model


def remove_head(model: nn.Module) -> tuple[str, int]:
    """Replaces the classification layer, which is the last linear layer, by the identity.

    Returns:
        The name of the layer, and the width of its input, which is F.
    """
    linear = [(name, module.in_features) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    # SqueezeNet has no linear layer: its classification layer is a 1 x 1 convolution.
    convs = [(name, module.in_channels) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    name, width = (linear or convs)[-1]
    model.set_submodule(name, nn.Identity())
    return name, width


def _load_pretrained(name: str, weights: str, member: Any) -> nn.Module:
    """A model with weights of torchvision, which are downloaded if their file is missing."""
    file = Path(torch.hub.get_dir(), "checkpoints", Path(member.url).name)
    key = f"`backbone.weights={weights}`"
    try:
        if not file.exists():
            with download_lock(file.parent, name):
                if not file.exists():  # another process may have downloaded the file in the meantime
                    remote = RemoteFile((member.url,), "".join(re.findall(r"-([0-9a-f]*)\.", file.name)))
                    print_line(f"{name}: downloading its weights from {remote.folder} to {file.parent}")
                    fetch(remote, file)
    except (DownloadError, OSError) as error:
        raise ConfigError(
            f"{key} could not be downloaded: {error}. Put {member.url} into {file.parent}, or set "
            "`backbone.weights` to a file with a state dict, or to none for random weights."
        ) from error
    try:
        model: nn.Module = import_torchvision().models.get_model(name, weights=member, progress=False)
    except Exception as error:  # unpickling a broken file raises exceptions of many kinds
        raise ConfigError(f"{key} must be a complete file, and {file} is broken. Remove it.") from error
    return model


def _load_state_dict(model: nn.Module, head: str, file: str) -> None:
    """Loads weights from a file into a model whose layer ``head`` has been removed.

    Raises:
        ConfigError: The file is not a state dict, or is one of another model.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a broken file raises exceptions of many kinds
        raise ConfigError.broken(
            "backbone.weights", "be a file that torch.load reads with weights_only=True", file, WRITE_STATE_DICT
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError.broken("backbone.weights", "be a file with a state dict", file, WRITE_STATE_DICT)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    for key in list(state):  # in place, since load_state_dict reads an attribute of the dict
        # torchvision's files of DenseNet have names of an earlier version of the model.
        new = re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key)
        value = state.pop(key)
        if not re.match(rf"(?:{re.escape(head)}|AuxLogits|aux1|aux2)\.", new):
            state[new] = value
    expected = f"`backbone.weights={file}` must hold the weights of the model"
    for key, value in state.items():
        if key in shapes and value.shape != shapes[key]:
            got, wanted = (" x ".join(map(str, shape)) or "one number" for shape in (value.shape, shapes[key]))
            raise ConfigError(f"{expected}, and {key} is {got}, not {wanted}.")
    mismatch = model.load_state_dict(state, strict=False)
    if mismatch.missing_keys:
        raise ConfigError(f"{expected}, and {mismatch.missing_keys[0]} is missing.")
    if mismatch.unexpected_keys:
        raise ConfigError(f"{expected}, and {mismatch.unexpected_keys[0]} is not one of them.")


def _checksum(model: nn.Module) -> int:
    """CRC-32 of all weights."""
    checksum = 0
    for value in model.state_dict().values():
        checksum = zlib.crc32(value.contiguous().numpy().tobytes(), checksum)
    return checksum
