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
from collections.abc import Callable, Iterable, Iterator
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

    >>> any_of(["b", "a", "ab", "a."])
    'a(?:\\.|b|)|b'
    """
    return by_first(re.escape(word) for word in sorted(set(words), key=lambda word: (-len(word), word)))


def by_first(choices: Iterable[str]) -> str:
    """Return a choice of patterns, each of which begins with one literal character, those with the same one together.

    It means the same as all of them in a row; but `re` skips to one of the first characters, and compares each once.
    """
    rest: dict[str, list[str]] = {}
    for choice in choices:
        first = choice[: 2 if choice[0] == "\\" else 1]
        rest.setdefault(first, []).append(choice[len(first) :])
    return "|".join(f"{first}(?:{'|'.join(ends)})" if ends != [""] else first for first, ends in rest.items())


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
_MARK: Final = re.compile(r"$|(?:[ \-'/#]|\\[^A-Za-z0-9])(?![?*{])")
_DIGITS: Final = re.compile("[0-9]+")
_WORDS_KEPT: Final = 1 << 15


class PlacedSearch:
    """A pattern that is only tried where it can begin: `places` says where, in order, and may name more places."""

    def __init__(self, pattern: str, places: Callable[[str], Iterable[int]]) -> None:
        self.pattern: Final = re.compile(pattern)
        self._places = places

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the matches that don't overlap, as a pattern does."""
        end, match = 0, self.pattern.match
        for start in self._places(text):
            if start >= end and (found := match(text, start)):
                yield found
                end = found.end()


def back_by_spaces(text: str, at: int, spaces: int) -> int:
    """Return where the text begins that goes on to `at` with fewer than so many spaces.

    >>> back_by_spaces("one two three four", 13, 2)
    4
    """
    for _ in range(spaces):
        at = text.rfind(" ", 0, at)
        if at < 0:
            return 0
    return at + 1


@lru_cache(maxsize=4)
def digit_runs(text: str) -> tuple[tuple[int, int], ...]:
    """Return where the runs of decimal digits of a view begin and end.

    >>> digit_runs("a12 3")
    ((1, 3), (4, 5))
    """
    return tuple([run.span() for run in _DIGITS.finditer(text)])


class WordSearch:
    """A pattern that begins with one of some words, in a text of small letters.

    >>> [match[0] for match in WordSearch(["dr", "mrs?"], rest=" [a-z]").finditer("dr x, hydr y, mr z")]
    ['dr x', 'mr z']
    """

    def __init__(
        self,
        words: Iterable[str],
        *,
        lead: str = "",
        longest_lead: int = 0,
        rest: str,
        group: str = "",
        border: str = "a-z0-9",
    ) -> None:
        """Build the pattern.

        Args:
            words: As `at_word_start` takes them, each beginning with small letters.
            lead: What stands before the word, no letter of it; then `border` says nothing.
            longest_lead: How many characters that has at most.
            rest: What follows; it never begins with a small letter, so that a word ends where its letters do.
            group: The name of the group that holds the word, if any.
            border: What may not stand before; at least all small letters.

        Raises:
            ValueError: A word may not begin with small letters, or `rest` may.
        """
        if re.match(rest, "aaaaaaaa"):
            raise ValueError("expected a rest that can't begin with a small letter")
        known = [word.strip() for word in words]
        start = f"(?:{any_pattern(known)})" if lead else at_word_start(known, border=border)
        self.pattern: Final = re.compile(lead + (f"(?P<{group}>{start})" if group else start) + rest)
        self._lead = longest_lead
        prefixes = [_prefix(word) for word in known]
        self._words = frozenset(prefix for prefix, whole in prefixes if whole)
        self._prefixes = tuple(sorted({prefix for prefix, whole in prefixes if not whole}))
        self._number = len(_searches)
        _searches.append(self)
        _wanted.clear()  # what was found before this search was there is not what is found now
        _starts.cache_clear()
        _starts_by_words.cache_clear()

    def begins(self, word: str) -> bool:
        """Say whether a match may begin with this word."""
        return word in self._words or word.startswith(self._prefixes)

    def match(self, text: str, at: int) -> re.Match[str] | None:
        """Return the match that begins at `at`."""
        return self.pattern.match(text, at)

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the matches that don't overlap, as a pattern does."""
        starts = _starts(text).get(self._number)
        if starts is None:
            return
        end, match, lead = 0, self.pattern.match, self._lead
        for word in starts:
            start = max(end, word - lead) if lead else word
            while end <= start <= word:
                if found := match(text, start):
                    yield found
                    end = found.end()
                start += 1


def any_pattern(words: Iterable[str]) -> str:
    """Return a choice of patterns, longer ones first."""
    return "|".join(sorted(set(words), key=lambda word: (-len(word), word)))


_searches: list[WordSearch] = []


def _prefix(word: str) -> tuple[str, bool]:
    """Return the letters that a pattern must begin with, and whether no letter can follow them.

    >>> _prefix("labell?ed"), _prefix("next of kin"), _prefix("june?"), _prefix("fianc[eé]e?")
    (('label', False), ('next', True), ('jun', False), ('fianc', False))
    """
    literal = _LITERAL.match(word)
    if literal is None:
        raise ValueError("expected a word that begins with a small letter")
    behind = word[literal.end() :]
    if behind[:1] in {"?", "*", "{"}:
        return literal[0][:-1], False
    return literal[0], _MARK.match(behind) is not None


class _Wanted(dict[str, tuple[int, ...]]):
    """The searches that a word may begin a match of, by the word."""

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= _WORDS_KEPT:
            self.clear()
        numbers = tuple(number for number, search in enumerate(_searches) if search.begins(word))
        self[word] = numbers
        return numbers


_wanted = _Wanted()


@lru_cache(maxsize=4)
def _starts(text: str) -> dict[int, list[int]]:
    """Return where the words of each search begin."""
    return _starts_by_words(text.replace("\n", " ").replace("\t", " ").replace("|", " "))


@lru_cache(maxsize=2)
def _starts_by_words(text: str) -> dict[int, list[int]]:
    """Return the same of a text whose marks between words are spaces: its lines and the joined lines have the same."""
    found: dict[int, list[int]] = {}
    wanted = {word: known for word in set(_WORD.findall(text)) if (known := _wanted[word])}
    for word in _WORD.finditer(text) if wanted else ():
        if numbers := wanted.get(word[0]):
            start = word.start()
            for number in numbers:
                if number in found:
                    found[number].append(start)
                else:
                    found[number] = [start]
    return found
