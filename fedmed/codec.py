"""Records to canonical JSON and back, strictly, and their digest.

Why it exists: two machines must agree byte for byte on what was planned or stored, and a mistake in a
configuration must become one line that names the key.

Rules:
    * Equal records that are made here have equal bytes and digests.
    * A record that is signed or named by its digest (`AsRead`) keeps the bytes that it was read from where they lack
      fields that a later version added: what an older version signed or stored verifies, and is passed on as it was.
      So the default of a field never changes.
    * Nothing is guessed: an unknown key, a missing one or another type is refused.

What it does not do: know any record, read YAML (see `config`) or touch files.
"""

import dataclasses
import functools
import hashlib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from fedmed.errors import ConfigError, IntegrityError

Record = TypeVar("Record")


class AsRead:
    """Base of records that keep the form they were read in; a copy with other fields (`replace`) has none."""

    __slots__ = ("_form",)


def canonical_json(record: object) -> bytes:
    """Return the one JSON encoding of `record`: UTF-8, sorted keys, no white space.

    Of a record that an older version wrote, it is what that version wrote.

    >>> canonical_json({"b": 1, "a": [0.5]})
    b'{"a":[0.5],"b":1}'
    """
    kept = record if _has_form(record) else None
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        record = msgspec.convert(
            msgspec.to_builtins(record), type(record)
        )  # a whole number in a float field is a float
    return msgspec.json.encode(record if kept is None else _with_forms(kept, _plain(record)), order="sorted")


def digest(record: object) -> str:
    """Return the SHA-256 of the canonical JSON of `record`, as 64 hexadecimal digits.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(record)).hexdigest()


def decode(data: bytes, kind: type[Record]) -> Record:
    """Parse canonical JSON into a record of type `kind`.

    Raises:
        IntegrityError: The bytes are not JSON or not a valid `kind`.
    """
    try:
        return restore(msgspec.json.decode(data), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError) as error:
        raise IntegrityError(f"expected a {kind.__name__} record as JSON; {error}") from None


def restore(value: object, kind: type[Record]) -> Record:
    """Return the record that was stored or sent as the JSON `value`; `AsRead` ones in it keep an older form.

    Raises:
        ConfigError: As `build`.
    """
    record = build(value, kind)
    anything: Any = kind
    if _may_have_form(anything):
        _keep_forms(record, value)
    return record


def build(value: object, kind: type[Record], *, at: str = "") -> Record:
    """Turn plain mappings, lists and scalars into a record of type `kind`, strictly.

    Args:
        value: What a YAML or JSON reader returned.
        kind: The record to build.
        at: The dotted key under which `value` stands, for messages.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or range;
            the message names the key, what it got and what it takes.
    """
    _refuse_unknown(value, kind, at)
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_complaint(str(error), value, kind, at)) from None


def _keep_forms(record: object, value: object) -> None:
    """Let every `AsRead` in `record` keep its part of `value`, where that lacks fields that are at their defaults."""
    if isinstance(record, list | tuple) and isinstance(value, list):
        for one, part in zip(record, value, strict=True):
            _keep_forms(one, part)
    if not isinstance(value, Mapping):
        return
    if isinstance(record, AsRead):
        now = _plain(record)
        if value != now and _lacks_only(value, now):
            object.__setattr__(record, "_form", value)
    if not dataclasses.is_dataclass(record):
        return
    for field in dataclasses.fields(record):
        if field.name in value:
            _keep_forms(getattr(record, field.name), value[field.name])


def _lacks_only(older: object, now: object) -> bool:
    """Return whether `older` differs from `now` by keys that it lacks alone, in the same types and order."""
    if isinstance(older, Mapping) and isinstance(now, Mapping):
        return set(older) <= set(now) and all(_lacks_only(older[key], now[key]) for key in older)
    if isinstance(older, list) and isinstance(now, list):
        return len(older) == len(now) and all(map(_lacks_only, older, now))
    return type(older) is type(now) and older == now


def _plain(record: object) -> Any:
    """Return what JSON makes of a record: mappings, lists and scalars."""
    return msgspec.json.decode(msgspec.json.encode(record))


def _has_form(record: object) -> bool:
    """Return whether a record in `record` was read in an older form."""
    if isinstance(record, Mapping):
        return any(map(_has_form, record.values()))
    if isinstance(record, list | tuple):
        return any(map(_has_form, record))
    kind: Any = type(record)
    if not dataclasses.is_dataclass(record) or not _may_have_form(kind):
        return False
    if getattr(record, "_form", None) is not None:
        return True
    return any(_has_form(getattr(record, field.name)) for field in dataclasses.fields(record))


def _with_forms(record: object, plain: Any) -> Any:
    """Return `plain`, which is `record` in full, with the form in its place wherever one was kept."""
    form = getattr(record, "_form", None)
    if form is not None:
        return form
    if isinstance(record, list | tuple):
        return [_with_forms(one, part) for one, part in zip(record, plain, strict=True)]
    if isinstance(record, Mapping):
        return {key: _with_forms(one, plain[key]) for key, one in record.items()}
    if dataclasses.is_dataclass(record):
        names = [field.name for field in dataclasses.fields(record)]
        return {name: _with_forms(getattr(record, name), plain[name]) for name in names}
    return plain


@functools.cache
def _may_have_form(kind: Any) -> bool:
    """Return whether a value of this type may hold an `AsRead`."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return issubclass(kind, AsRead) or any(map(_may_have_form, _hints(kind).values()))
    return isinstance(kind, typing.TypeVar) or any(map(_may_have_form, typing.get_args(kind)))


def _complaint(text: str, value: object, kind: Any, at: str) -> str:
    """Return msgspec's complaint as `key: what it takes, got ...`, or a record's own with its key in front."""
    text, _, path = text.partition(" - at `$")
    path = path.strip("`.")
    key = ".".join(part for part in (at, path) if part) or kind.__name__
    if text.startswith("Invalid enum value"):
        options = ", ".join(str(option) for option in typing.get_args(_kind_at(kind, path)))
        return f"{key}: expected one of: {options}; got {_show(value, path)}"
    if text.startswith("Expected"):
        expected = text.split(", got ")[0].replace("Expected ", "").replace("`", "").replace(" | ", " or ")
        return f"{key}: expected {expected}, got {_show(value, path)}"
    if text.startswith("Object missing"):
        return f"{key}: {text[:1].lower()}{text[1:]}"
    if re.match(r"[a-z_]+ must ", text):
        return f"{at}.{path}.{text}".replace("..", ".").lstrip(".")
    return f"{key}: {text}"


def _kind_at(kind: Any, path: str) -> Any:
    """Return the type of the field at msgspec's `path` below the record type `kind`."""
    for part in re.split(r"[.\[]", path):
        if part.endswith("]"):
            kind = typing.get_args(kind)[0]
        elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
            kind = _hints(kind).get(part, kind)
    return kind


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Return the types of a record's fields: reading a schema of 80 columns asks for them some 200 times."""
    return typing.get_type_hints(kind)


def _refuse_unknown(value: object, kind: Any, at: str) -> None:
    """Raise on a key that no field of the dataclass `kind` (or of a nested one) has."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        if len(options) == 1 and value is not None:
            _refuse_unknown(value, options[0], at)
        return
    if typing.get_origin(kind) in (tuple, list):
        item = typing.get_args(kind)[0]
        if isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                _refuse_unknown(entry, item, f"{at}[{index}]")
        return
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping)):
        return
    hints = _hints(kind)
    for key, entry in value.items():
        if key not in hints:
            known = ", ".join(sorted(hints))
            name = f"{at}.{key}" if at else str(key)
            raise ConfigError(f"{name}: unknown key; expected one of: {known}")
        _refuse_unknown(entry, hints[key], f"{at}.{key}" if at else str(key))


def _show(value: object, path: str) -> str:
    """Return the scalar at msgspec's `path` inside `value`, or the kind of thing found there."""
    for part in path.strip("`").strip(".").replace("[", ".[").split("."):
        if part.startswith("[") and isinstance(value, list | tuple) and part[1:-1].isdigit():
            value = value[int(part[1:-1])]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
    if isinstance(value, str | int | float | bool) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"


def require(condition: bool, message: str) -> None:  # noqa: FBT001  a predicate reads best in first place
    """Raise `ValueError(message)` unless `condition` holds; for `__post_init__` checks."""
    if not condition:
        raise ValueError(message)


def require_digest(name: str, value: str) -> None:
    """Raise `ValueError` unless `value` is a SHA-256 in hexadecimal; digests name folders, so nothing else passes."""
    require(re.fullmatch("[0-9a-f]{64}", value) is not None, f"{name} must be 64 hexadecimal digits")
