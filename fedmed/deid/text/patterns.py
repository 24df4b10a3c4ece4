"""Building fast patterns out of lists of words.

Why it exists: Python's `re` skips to the first character of a match only if the pattern begins with a
character or a set of them; a look-behind or a nested choice in front makes it try every position.

Rules:
    * `at_word_start` puts the set of first letters in front, and checks the border after it has consumed one.
    * `WordSearch` divides a text into words once for all patterns, and tries each only where one of its words begins.
      It finds what the pattern finds, no more and no less.

What it does not do: match anything.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final


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


_WORD: Final = re.compile("[a-z]+")
_LITERAL: Final = re.compile("[a-z]+")
_WORDS_KEPT: Final = 1 << 15


class WordSearch:
    """A pattern that begins with one of some words, in a text of small letters.

    >>> [match[0] for match in WordSearch(["dr", "mrs?"], rest=" [a-z]").finditer("dr x, hydr y, mr z")]
    ['dr x', 'mr z']
    """

    def __init__(self, words: Iterable[str], *, rest: str = "", group: str = "", border: str = "a-z0-9") -> None:
        """Build the pattern.

        Args:
            words: As `at_word_start` takes them, each beginning with small letters.
            rest: What follows.
            group: The name of the group that holds the word, if any.
            border: What may not stand before; at least all small letters.
        """
        known = [word.strip() for word in words]
        start = at_word_start(known, border=border)
        self._pattern = re.compile((f"(?P<{group}>{start})" if group else start) + rest)
        self._prefixes = tuple(sorted({_prefix(word) for word in known}))
        self._number = len(_searches)
        _searches.append(self)
        _wanted.cache_clear()  # what was found before this search was there is not what is found now
        _starts.cache_clear()

    def begins(self, word: str) -> bool:
        """Say whether a match may begin with this word."""
        return word.startswith(self._prefixes)

    def match(self, text: str, at: int) -> re.Match[str] | None:
        """Return the match that begins at `at`."""
        return self._pattern.match(text, at)

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the matches that don't overlap, as a pattern does."""
        end = 0
        for start in _starts(text).get(self._number, ()):
            if start >= end and (match := self._pattern.match(text, start)):
                yield match
                end = match.end()


_searches: list[WordSearch] = []


def _prefix(word: str) -> str:
    """Return the letters that a pattern must begin with.

    >>> _prefix("labell?ed"), _prefix("next of kin"), _prefix("june?")
    ('label', 'next', 'jun')
    """
    literal = _LITERAL.match(word)
    if literal is None:
        raise ValueError("expected a word that begins with a small letter")
    return literal[0][:-1] if word[literal.end() : literal.end() + 1] in {"?", "*", "{"} else literal[0]


@lru_cache(maxsize=_WORDS_KEPT)
def _wanted(word: str) -> tuple[int, ...]:
    """Return the searches that a word may begin a match of."""
    return tuple(number for number, search in enumerate(_searches) if search.begins(word))


@lru_cache(maxsize=4)
def _starts(text: str) -> dict[int, list[int]]:
    """Return where the words of each search begin."""
    found: dict[int, list[int]] = {}
    for word in _WORD.finditer(text):
        for number in _wanted(word[0]):
            found.setdefault(number, []).append(word.start())
    return found
