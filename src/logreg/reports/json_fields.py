"""Frozen dataclasses to plain JSON values and back; types are checked on the way back."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Part = TypeVar("Part")

KEY = "key"
"""Metadata of a field: its key in JSON, where that is no Python name."""

OMIT_NONE = "omit_none"
"""Metadata of a field: whether its key is left out of JSON where the value is ``None``."""


def to_json(value: Any) -> Any:
    """Plain values of a dataclass, its parts included; keys are in the order of the fields."""
    if dataclasses.is_dataclass(value):
        return {
            _key(field): to_json(part)
            for field in dataclasses.fields(value)
            if (part := getattr(value, field.name)) is not None or not field.metadata.get(OMIT_NONE)
        }
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: to_json(part) for name, part in zip(value._fields, value, strict=True)}
    if isinstance(value, Mapping):
        return {name: to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value


def from_json(cls: type[Part], plain: Any) -> Part:
    """The dataclass that `to_json` made plain values of.

    Keys that the class does not know are ignored: a later version may write more.  A field with a default may be
    missing: an earlier version did not write it.

    Raises:
        LookupError: A key without a default is missing.
        TypeError: A value has another type.
    """
    found: Part = _read(cls, plain)
    return found


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get(KEY, field.name))


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def _read(kind: Any, plain: Any) -> Any:
    """A plain value as the type ``kind``, an annotation of a field."""
    if kind is Any:
        return plain
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # X | None
        return None if plain is None else _read(next(each for each in arguments if each is not types.NoneType), plain)
    if origin is tuple:
        return tuple(_read(arguments[0], part) for part in _checked(plain, list, tuple))
    if origin is Mapping:
        return {str(name): _read(arguments[1], part) for name, part in _checked(plain, Mapping).items()}
    if dataclasses.is_dataclass(kind):
        known, hints = _checked(plain, Mapping), _hints(kind)  # type: ignore[arg-type]  # a class, not an instance
        values = {}
        for field in dataclasses.fields(kind):
            has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            if _key(field) in known or not has_default:
                values[field.name] = _read(hints[field.name], known[_key(field)])
        return kind(**values)  # type: ignore[operator]  # a class, not an instance
    if hasattr(kind, "_fields"):  # a NamedTuple
        known, hints = _checked(plain, Mapping), _hints(kind)
        return kind(*(_read(hints[name], known[name]) for name in kind._fields))
    return _checked(plain, int, float) if kind is float else _checked(plain, kind)


def _checked(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{' or '.join(kind.__name__ for kind in kinds)} expected, got {type(value).__name__}")
    return value
