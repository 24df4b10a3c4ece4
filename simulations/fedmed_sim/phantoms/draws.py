"""Small random choices from a generator that the caller injects.

Why it exists: `Generator.choice` on a list costs more than the sentence it
chooses; these cost one integer draw.

Rules:
    * Every function takes the generator first and draws a fixed number of times for the same arguments.

What it does not do: hold state.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TypeVar

from numpy.random import Generator

T = TypeVar("T")


def pick(rng: Generator, items: Sequence[T]) -> T:
    """Return one of `items`, each equally likely."""
    return items[int(rng.integers(len(items)))]


def some(rng: Generator, items: Sequence[T], count: int) -> list[T]:
    """Return `count` different ones of `items`, or all, in random order."""
    order = rng.permutation(len(items))[: min(count, len(items))]
    return [items[int(index)] for index in order]


def chance(rng: Generator, probability: float) -> bool:
    """Return True with this probability."""
    return bool(rng.random() < probability)


def between(rng: Generator, low: int, high: int) -> int:
    """Return an integer from `low` to `high`, both included."""
    return int(rng.integers(low, high + 1))


def digits(rng: Generator, count: int) -> str:
    """Return `count` decimal digits, the first of them not 0."""
    first, rest = between(rng, 1, 9), rng.integers(0, 10, count - 1)
    return str(first) + "".join(map(str, rest.tolist()))


def day_between(rng: Generator, first: date, last: date) -> date:
    """Return a day from `first` to `last`, both included."""
    return first + timedelta(days=between(rng, 0, (last - first).days))


def words(text: str) -> tuple[str, ...]:
    """Return the words of `text`: the way in which the pools are written down.

    >>> words("one two")
    ('one', 'two')
    """
    return tuple(text.split())
