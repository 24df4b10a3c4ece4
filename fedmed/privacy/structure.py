"""What a module, a loss and a shape of records are made of, as one comparable value.

Why it exists: whether per-record gradients may be believed follows from how a module is built,
not from its weights. A site builds the same module anew every round; with equal structures, one
trial on synthetic records speaks for all of them.

Rules:
    * Two equal structures run the same code: the same classes, attributes, configuration objects,
      functions, parameter shapes, what is shared, what is frozen, and what each class' `forward` is.
    * Whatever can't be compared by value (hooks, replaced methods, closures over objects, tensors
      outside parameters and buffers) gives no structure, and the trial is made each time.

What it does not do: look at weights or records. Code that reads a global variable escapes it, and
so does a class of which another method than `forward` was replaced while the program ran.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    bool, int, float, complex, str, bytes, type(None), type(...), Enum, type, BuiltinFunctionType, np.ufunc,
    torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout,
)  # fmt: skip
_PLAIN_TYPES = frozenset(_PLAIN)
_BARE = frozenset(vars(nn.Module()))
"""What every module has; all that can differ of it is looked at by name."""

_OF_FILES = frozenset({"_weight_conversions"})
"""What transformers remembers of how a file named its weights; no forward pass reads it."""

_HOOKS = sorted(name for name in _BARE if name.endswith("_hooks"))


class _IncomparableError(Exception):
    """Something here is more than its value."""


def structure(module: nn.Module, loss: Callable[..., Any], *records: Tensor) -> Hashable | None:
    """Return a value that is equal for equal structures, or None where there is none.

    Args:
        module: Whose classes, attributes and shapes count.
        loss: Compared as a function, with its defaults and closure.
        records: Tensors of which the shape of one record, dtype and device count.

    >>> one, other = (structure(nn.Linear(2, 1), torch.dist, torch.ones(size, 2)) for size in (3, 4))
    >>> one == other, one == structure(nn.Linear(2, 1, bias=False), torch.dist, torch.ones(3, 2))
    (True, False)
    """
    facts = _Facts()
    try:
        layers = tuple((name, facts.layer(layer)) for name, layer in module.named_modules(remove_duplicate=False))
        shapes = tuple((value.shape[1:], value.dtype, value.device) for value in records)
        return layers, facts.of(loss), shapes
    except _IncomparableError:
        return None


class _Facts:
    """Turns objects into comparable values, each shared object once."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._known: dict[int, tuple[object, Hashable]] = {}
        self._open: set[int] = set()

    def layer(self, layer: nn.Module) -> Hashable:
        """Return what a layer is made of, without its children.

        Raises:
            _IncomparableError: It has hooks, or an attribute that can't be compared.
        """
        attributes = vars(layer)
        if any(attributes[name] for name in _HOOKS):
            raise _IncomparableError
        kind = type(layer)
        return (
            kind,
            kind.forward,
            kind.__call__,
            layer.training,
            self._number(layer),
            tuple((name, self._tensor(value)) for name, value in attributes["_parameters"].items()),
            tuple((name, self._tensor(value)) for name, value in attributes["_buffers"].items()),
            tuple((name, self.of(attributes[name])) for name in sorted(attributes.keys() - _BARE - _OF_FILES)),
        )

    def of(self, value: object) -> Hashable:
        """Return a comparable value for an attribute.

        Raises:
            _IncomparableError: It has none, or contains itself.
        """
        if type(value) in _PLAIN_TYPES or isinstance(value, _PLAIN):
            return type(value), value
        if id(value) in self._open:
            raise _IncomparableError
        if id(value) not in self._known:
            self._open.add(id(value))
            self._known[id(value)] = (value, self._composite(value))
            self._open.remove(id(value))
        return self._known[id(value)][1]

    def _composite(self, value: object) -> Hashable:
        if isinstance(value, nn.Module):
            return self._seen(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, set | frozenset):
            return type(value), frozenset(map(self.of, value))
        return type(value), tuple(map(self.of, self._parts(value)))

    def _parts(self, value: object) -> Iterable[object]:
        """Return what an object consists of, where that is all it is."""
        if isinstance(value, tuple | list):
            return value
        if isinstance(value, Mapping):
            return [*value.keys(), *value.values()]
        if isinstance(value, functools.partial):
            return value.func, value.args, value.keywords
        if dataclasses.is_dataclass(value):
            return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
        if _is_configuration(value):
            return (vars(value),)
        raise _IncomparableError

    def _function(self, value: FunctionType) -> Hashable:
        """A function is its code and what it closes over, so one made anew by the same line is the same."""
        cells = tuple(self.of(cell.cell_contents) for cell in value.__closure__ or ())
        defaults = (value.__defaults__, value.__kwdefaults__)
        return value.__code__, _Same(value.__globals__), self.of(defaults), cells

    def _tensor(self, value: Tensor | None) -> Hashable:
        if value is None:
            return None
        return self._number(value), type(value), value.shape, value.dtype, value.device.type, value.requires_grad

    def _number(self, value: object) -> int:
        """Number objects in the order of their first appearance, so that sharing shows."""
        return self._numbers.setdefault(id(value), len(self._numbers))

    def _seen(self, value: nn.Module) -> int:
        if id(value) not in self._numbers:  # a layer that isn't (yet) part of the module
            raise _IncomparableError
        return self._numbers[id(value)]


class _Same:
    """Equal to itself-alikes: wrappers of one and the same object, which it keeps alive."""

    def __init__(self, thing: object) -> None:
        self._thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._thing is other._thing

    def __hash__(self) -> int:
        return id(self._thing)


def _is_configuration(value: object) -> bool:
    """Return whether a value is a configuration of transformers or peft: data, and no behaviour of its own."""
    return type(value).__module__.startswith(("transformers.", "peft.")) and callable(getattr(value, "to_dict", None))
