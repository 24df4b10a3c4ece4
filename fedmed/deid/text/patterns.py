"""Building fast patterns out of lists of words.

Why it exists: Python's `re` skips to the first character of a match only if the pattern begins with a
character or a set of them; a look-behind or a nested choice in front makes it try every position.

Rules:
    * `at_word_start` puts the set of first letters in front, and checks the border after it has consumed one.

What it does not do: match anything.
"""

import re
from collections.abc import Iterable


def listed(words: str, *, by: str | None = None) -> tuple[str, ...]:
    """Return the words of a list that is written as one string, separated by white space or by `by`.

    >>> listed("a b"), listed("a b,c", by=",")
    (('a', 'b'), ('a b', 'c'))
    """
    return tuple(word.strip() for word in words.split(by))


def any_of(words: Iterable[str]) -> str:
    r"""Return a choice of literal words, longer ones first.

    >>> any_of(["a", "ab", "a."])
    'a\\.|ab|a'
    """
    return "|".join(sorted({re.escape(word) for word in words}, key=lambda word: (-len(word), word)))


def at_word_start(words: Iterable[str], *, border: str = "a-z0-9") -> str:
    """Return a choice of patterns that only match where no character of `border` stands before.

    Each word is a pattern that begins with a literal character.

    >>> bool(re.search(at_word_start(["dr", "mrs?"]), "mr roe")), bool(re.search(at_word_start(["dr"]), "hydra"))
    (True, False)
    """
    rest: dict[str, list[str]] = {}
    for word in sorted({word.strip() for word in words}, key=lambda word: (-len(word), word)):
        rest.setdefault(word[0], []).append(word[1:])
    choices = "|".join(f"(?<={re.escape(first)})(?:{'|'.join(ends)})" for first, ends in rest.items())
    return f"[{''.join(map(re.escape, rest))}](?<![{border}].)(?:{choices})"
