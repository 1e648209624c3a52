"""Watches tensors of an accelerator: what is copied to the host, and what was made on the wrong device.

Without an accelerator the CPU stands in for it.  Tensors are then marked: those that a test puts on the device, and
all that are computed from them or made with an explicit ``device``.  An operation on a marked tensor and an unmarked
one fails, as it would on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

TO_PYTHON = frozenset({"item", "tolist", "numpy", "__float__", "__bool__", "__int__", "__index__", "__array__"})
"""Methods whose result is no tensor but copies the tensor to the host."""

ABOUT = frozenset({"__get__", "__set__", "__len__", "__repr__", "size", "dim", "numel", "stride", "is_contiguous"})
"""Methods that read no element."""

INDEXING = frozenset({"__getitem__", "__setitem__", "index_put", "index_put_"})
"""Methods that take indices of the host."""

FROM_HOST = frozenset({"copy_", "to", "cuda", "_to_copy", "type_as"})
"""Methods that copy between devices."""


class WatchedDevice(TorchFunctionMode):
    """A device whose tensors are watched while the mode is active.

    Attributes:
        device: The device; its type is "cpu" where the CPU stands in for an accelerator.
        largest_copy: Elements of the largest tensor that was copied from the device to the host.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.largest_copy = torch.device(device), 0

    @property
    def is_pretended(self) -> bool:
        """Whether the CPU stands in."""
        return self.device.type == "cpu"

    def put(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor on the device."""
        return self._mark(tensor.to(self.device, copy=True))

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the device."""
        return getattr(tensor, "_on_device", False) if self.is_pretended else tensor.device.type == self.device.type

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls a function of torch, and marks its result."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        given = list(_tensors((args, kwargs)))
        on_device = any(self.holds(tensor) for tensor in given)
        if self.is_pretended and on_device and name not in ABOUT | INDEXING | FROM_HOST:
            strange = [tensor for tensor in given if tensor.dim() and not self.holds(tensor)]
            assert not strange, f"{name} of tensors on two devices, of shapes {[tuple(one.shape) for one in given]}"
        result = func(*args, **kwargs)
        leaves = name in TO_PYTHON
        if on_device and not leaves:
            leaves = self._goes_to_host(name, args, kwargs) if self.is_pretended else self._is_on_host(result)
        if leaves and on_device and name not in ABOUT:
            self.largest_copy = max([self.largest_copy, *(one.numel() for one in given if self.holds(one))])
        if self.is_pretended and leaves and isinstance(result, Tensor):
            return result.view_as(result)  # without the mark
        if self.is_pretended and not leaves:
            moved = name == "to" and any(isinstance(one, torch.device | Tensor) for one in args[1:])
            if on_device or moved or isinstance(kwargs.get("device"), torch.device):
                for tensor in _tensors(result):
                    self._mark(tensor)
        return result

    @staticmethod
    def _goes_to_host(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call on the pretended device asks for the CPU by its name."""
        return name == "cpu" or (
            name == "to" and "cpu" in (*(one for one in args[1:] if isinstance(one, str)), kwargs.get("device"))
        )

    def _is_on_host(self, result: Any) -> bool:
        return any(tensor.device.type == "cpu" for tensor in _tensors(result))

    @staticmethod
    def _mark(tensor: Tensor) -> Tensor:
        tensor._on_device = True  # type: ignore[attr-defined]  # a mark of this class's own
        return tensor


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in a value and in its sequences and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
