"""Frozen features: images through a model of torchvision that is not trained any further."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from logreg.constraints import check, text, whole
from logreg.data.base import Dataset, RawData, Table
from logreg.data.download import DownloadError, RemoteFile, download_lock, fetch, print_line
from logreg.data.formats.cache import Cached, cached
from logreg.data.formats.images import Decoding, ImageSource, Listing, in_bytes, pixels_of
from logreg.errors import ConfigError
from logreg.facts import SPLITS, Split

if TYPE_CHECKING:
    from PIL.Image import Image


FORMAT = 2
"""Part of the cache's key: raise it when what is kept changes its meaning."""

RANDOM = "none"
"""Weights that nobody trained; always the same ones."""


@dataclass(frozen=True)
class Backbone:
    """A model without its last layer, and what it wants its images to be like.

    Attributes:
        model: From (N, 3, crop, crop) to (N, F).
        plain: All that it takes to have it again: ``name``, ``weights`` and their ``checksum``,
            ``resize``, ``crop``, ``interpolation``, ``mean``, ``std`` and ``num_features``.
        device: Where the model is.
    """

    model: nn.Module
    plain: Mapping[str, Any]
    device: torch.device

    @classmethod
    def build(cls, name: str, weights: str = "DEFAULT", device: str | torch.device = "cpu") -> Backbone:
        """A model by name.

        Args:
            name: Any classification model of torchvision.
            weights: DEFAULT or another name that torchvision has weights under; a file with a state
                dict, whose last layer may have any number of classes or be missing; "none".
            device: Where the model shall be.

        Raises:
            ConfigError: There is no such model, or no such weights; a file is broken or is another
                model's; a download failed.
        """
        import torchvision

        names = torchvision.models.list_models(module=torchvision.models)
        if name not in names:
            raise ConfigError.not_a_choice("backbone", names, name)
        enum = torchvision.models.get_model_weights(name)
        member = enum.DEFAULT
        if weights in enum.__members__:
            member = enum[weights]
            model = _fetched(name, weights, member)
            head, width = remove_head(model)
        else:
            if weights != RANDOM and not Path(weights).is_file():
                named = ", ".join(("DEFAULT", *(other.name for other in enum)))
                raise ConfigError.broken(
                    "backbone.weights", f"be one of {named}, {RANDOM}, or a file with a state dict", weights
                )
            model = new_model(name, member.transforms().crop_size[0])
            head, width = remove_head(model)
            if weights != RANDOM:
                _load(model, head, weights)
        presets = member.transforms()
        plain = {
            "name": name,
            "weights": member.name if weights in enum.__members__ else weights,
            "checksum": _checksum(model),
            "resize": presets.resize_size[0],
            "crop": presets.crop_size[0],
            "interpolation": presets.interpolation.value,
            "mean": list(presets.mean),
            "std": list(presets.std),
            "num_features": width,
        }
        model = model.eval().requires_grad_(False).to(device)
        if torch.device(device).type == "cpu":
            model = model.to(memory_format=torch.channels_last)  # convolutions take less time this way
        return cls(model, plain, torch.device(device))

    @classmethod
    def rebuild(cls, plain: Mapping[str, Any], device: str | torch.device = "cpu") -> Backbone:
        """The backbone that ``plain`` tells of.

        Raises:
            ConfigError: As ``build``; or the weights are no longer the same.
        """
        built = cls.build(plain["name"], plain["weights"], device)
        if built.plain["checksum"] != plain["checksum"]:
            raise ConfigError.broken(
                "backbone.weights",
                f"be those that the linear model was trained on, with checksum {plain['checksum']}",
                plain["weights"],
                f"Their checksum is {built.plain['checksum']}: find the old file, or train again.",
            )
        return cls(built.model, plain, built.device)

    def prepare(self, image: Image) -> Tensor:
        """An image of any size as the model wants it: shape (3, crop, crop), uint8."""
        from torchvision.transforms import InterpolationMode, functional

        mode = InterpolationMode(self.plain["interpolation"])
        image = functional.resize(image.convert("RGB"), [self.plain["resize"]], mode)
        return pixels_of(functional.center_crop(image, [self.plain["crop"]]))

    def features(self, prepared: Iterable[Tensor], batch_size: int = 64) -> Iterator[Tensor]:
        """What the model makes of images, batch by batch: float32 on the CPU, shape (<= batch_size, F)."""
        from torchvision.transforms import functional

        images = iter(prepared)
        # Without TF32 a GPU gives what a CPU gives, to rounding: a model may be trained on one and used on the other.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            while batch := list(islice(images, batch_size)):
                pixels = functional.convert_image_dtype(torch.stack(batch).to(self.device), torch.float32)
                outputs: Tensor = self.model(functional.normalize(pixels, self.plain["mean"], self.plain["std"]))
                yield outputs.float().cpu()


@dataclass(frozen=True)
class FrozenFeatures:
    """A dataset of images, whose features are what a backbone makes of them.

    Attributes:
        source: The images.  What is computed is kept in its ``cache``.
        backbone: Name of the model.
        weights: As ``Backbone.build`` takes them.
        batch_size: Images that go through the model at once.
        device: Where it runs.
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
        """The source's."""
        return self.source.name

    def read(self) -> RawData:
        """The source's rows and classes; features of shape (N, F), float32.

        Raises:
            LogregError: As ``Backbone.build`` and the source's own ``read``.
        """
        assert isinstance(self.source, ImageSource)
        listing = self.source.listing()
        key: dict[str, Any] = {
            "images": listing.key,
            "format": FORMAT,
            "backbone": self.backbone,
            "weights": self.weights,
            # which weights are the default, and what random ones are, is theirs to say
            "versions": [version("torch"), version("torchvision")],
        }
        if Path(self.weights).is_file():
            status = Path(self.weights).stat()
            key["weights"] = [str(Path(self.weights).resolve()), status.st_size, status.st_mtime_ns]
        kept = cached(self.source.cache, f"{self.name}-{self.backbone}", key, lambda: self._compute(listing))
        tables = {}
        for split in SPLITS:
            if f"{split}.labels" in kept.tensors:
                groups = listing.groups[split][kept.tensors[f"{split}.rows"]] if listing.groups else None
                features, labels = (kept.tensors[f"{split}.{part}"] for part in ("features", "labels"))
                tables[split] = Table(features, labels, groups=groups)
        decoding = Decoding(**kept.facts["decoding"])
        return RawData(
            tables,
            class_names=listing.class_names,
            source=listing.source,
            notes=(*listing.notes, *kept.facts["notes"]),
            backbone={**kept.facts["backbone"], "size": listing.size, "grey": listing.grey},
            pixels=decoding.plain,
        )

    def _compute(self, listing: Listing) -> Cached:
        backbone = Backbone.build(self.backbone, self.weights, self.device)
        opened = listing.open()
        rows: dict[Split, list[int]] = {split: [] for split in opened.splits}

        def prepared(image: Image) -> Tensor:
            return backbone.prepare(in_bytes(image, opened.decoding))

        def taken(images: Iterable[tuple[Split, int, Tensor]]) -> Iterator[Tensor]:
            for split, row, image in images:
                rows[split].append(row)
                yield image

        images_of = opened.splits.values()
        features = torch.empty(sum(len(images.labels) for images in images_of), backbone.plain["num_features"])
        done = 0
        with closing(opened.decoded(prepared, self.backbone, backbone.plain["resize"])) as images:
            for batch in backbone.features(taken(images), self.batch_size):
                features[done : done + len(batch)] = batch
                done += len(batch)
        parts = features[:done].split([len(mine) for mine in rows.values()])
        tensors = {}
        for (split, mine), part in zip(rows.items(), parts, strict=True):
            positions = torch.tensor(mine, dtype=torch.int64)
            tensors[f"{split}.rows"], tensors[f"{split}.features"] = positions, part
            tensors[f"{split}.labels"] = opened.splits[split].labels[positions]
        notes = opened.found.notes(opened.decoding)
        return Cached(tensors, {"backbone": dict(backbone.plain), "decoding": asdict(opened.decoding), "notes": notes})


def new_model(name: str, crop: int) -> nn.Module:
    """A model as torchvision builds it for its own weights, but with random ones, always the same.

    Args:
        name: One of torchvision's classification models.
        crop: Side of its images.
    """
    import torchvision

    arguments: dict[str, Any] = {}
    if name.startswith("vit"):
        arguments["image_size"] = crop
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": False, "transform_input": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return model


def remove_head(model: nn.Module) -> tuple[str, int]:
    """Takes out the layer that tells classes apart, whatever the model calls it.

    Returns:
        The layer's name, and the width of its input: F.
    """
    linear = [(name, module.in_features) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    # SqueezeNet has none: there a 1 x 1 convolution tells classes apart
    convs = [(name, module.in_channels) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    name, width = (linear or convs)[-1]
    model.set_submodule(name, nn.Identity())
    return name, width


def _fetched(name: str, weights: str, member: Any) -> nn.Module:
    """A model with torchvision's weights, downloaded once."""
    import torchvision

    file = Path(torch.hub.get_dir(), "checkpoints", Path(member.url).name)
    key = f"`backbone.weights={weights}`"
    try:
        if not file.exists():
            with download_lock(file.parent, name):
                if not file.exists():  # another process may have fetched it meanwhile
                    remote = RemoteFile((member.url,), "".join(re.findall(r"-([0-9a-f]*)\.", file.name)))
                    print_line(f"{name}: downloading its weights from {remote.folder} to {file.parent}")
                    fetch(remote, file)
    except (DownloadError, OSError) as error:
        raise ConfigError(
            f"{key} could not be downloaded: {error}. Put {member.url} into {file.parent}, or set "
            "`backbone.weights` to a file with a state dict, or to none for random ones."
        ) from error
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=member, progress=False)
    except Exception as error:  # unpicklers fail in ways of their own
        raise ConfigError(f"{key} must be a whole file, and {file} is broken. Remove it.") from error
    return model


def _load(model: nn.Module, head: str, file: str) -> None:
    """Fills a model, whose head is gone, from a file."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers fail in ways of their own
        raise ConfigError.broken(
            "backbone.weights",
            "be a file that torch.load reads with weights_only=True",
            file,
            "Write it with torch.save(model.state_dict(), FILE).",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError.broken(
            "backbone.weights",
            "be a file with a state dict",
            file,
            "Write it with torch.save(model.state_dict(), FILE).",
        )
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    for key in list(state):  # in place, since load_state_dict looks at an attribute of the dict
        new = re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key)  # DenseNet's own files are older than it
        value = state.pop(key)
        if not re.match(rf"(?:{re.escape(head)}|AuxLogits|aux1|aux2)\.", new):
            state[new] = value
    must = "hold the weights of the model"
    for key, value in state.items():
        if key in shapes and value.shape != shapes[key]:
            got, wanted = (" x ".join(map(str, shape)) or "one number" for shape in (value.shape, shapes[key]))
            raise ConfigError(f"`backbone.weights={file}` must {must}, and {key} is {got}, not {wanted}.")
    wrong = model.load_state_dict(state, strict=False)
    if wrong.missing_keys:
        raise ConfigError(f"`backbone.weights={file}` must {must}, and {wrong.missing_keys[0]} is missing.")
    if wrong.unexpected_keys:
        raise ConfigError(f"`backbone.weights={file}` must {must}, and {wrong.unexpected_keys[0]} is none of them.")


def _checksum(model: nn.Module) -> int:
    """CRC-32 of all weights."""
    checksum = 0
    for value in model.state_dict().values():
        checksum = zlib.crc32(value.contiguous().numpy().tobytes(), checksum)
    return checksum
