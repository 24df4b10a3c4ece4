"""What one row of numbers holds: text, then an image, then the features of a table.

Why it exists: clipping, sampling and evaluation need records that are rows of one array. Text and images become
rows without any knowledge of the model that will read them, so one data set serves every model.

Rules:
    * A character is its code point less that of the space; what follows the text is `END`. Float32 holds every code
      point exactly.
    * An image has a flag before it: 1 where there is one; else flag and values are 0.
    * A turn of a conversation begins with `TURN`, a role and `SAID`; the text itself holds neither of them.

What it does not do: read files, or know a tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.codec import require

Floats = NDArray[np.float32]

SPACE = 0x20
END = -float(SPACE)
"""Code point 0, which no text holds."""
TURN, SAID = "␞", "␟"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout:
    """How long each part of a row is; 0 for a part that is absent."""

    characters: int = 0
    channels: int = 0
    image_size: int = 0
    features: int = 0

    def __post_init__(self) -> None:
        require(min(self.characters, self.channels, self.image_size, self.features) >= 0, "a part must not be negative")
        require((self.channels > 0) == (self.image_size > 0), "an image has channels and a size, or neither")

    @property
    def image(self) -> int:
        """Length of the image with its flag."""
        return self.channels * self.image_size**2 + 1 if self.channels else 0

    @property
    def width(self) -> int:
        """Length of the row."""
        return self.characters + self.image + self.features


def text_rows(texts: Sequence[str | None], *, characters: int) -> Floats:
    """Return texts as rows, shape `[texts, characters]`; a longer text is cut, a missing one is empty.

    >>> text_rows(["A b", None], characters=4).tolist()
    [[33.0, 0.0, 66.0, -32.0], [-32.0, -32.0, -32.0, -32.0]]
    """
    rows = np.full((len(texts), characters), END, dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        cut = (text or "").replace("\0", "")[:characters]
        points = np.frombuffer(cut.encode("utf-32-le", errors="replace"), dtype="<u4")
        row[: len(points)] = points.astype(np.float32) - SPACE
    return rows


def row_texts(rows: NDArray[np.floating]) -> list[str]:
    """Return the texts of rows; values that are no characters are left out.

    >>> row_texts(text_rows(["心电图 ECG", ""], characters=8))
    ['心电图 ECG', '']
    """
    points = np.rint(rows).astype(np.int64) + SPACE
    valid = (points > 0) & (points < 0x110000) & ~((points >= 0xD800) & (points < 0xE000))
    return [row[good].astype("<u4").tobytes().decode("utf-32-le") for row, good in zip(points, valid, strict=True)]


def image_rows(images: Sequence[NDArray[np.floating] | None], *, channels: int, size: int) -> Floats:
    """Return images of shape `[channels, size, size]` as rows with their flags, `[images, channels * size^2 + 1]`.

    >>> image_rows([np.ones((1, 1, 1)), None], channels=1, size=1).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    rows = np.zeros((len(images), channels * size * size + 1), dtype=np.float32)
    for row, image in zip(rows, images, strict=True):
        if image is not None:
            row[0], row[1:] = 1.0, image.astype(np.float32).ravel()
    return rows


def conversation(turns: Sequence[tuple[str, str]]) -> str:
    """Return turns of (role, content) as one text.

    >>> conversation([("user", "Pulse?"), ("assistant", "72")])
    '␞user␟Pulse?␞assistant␟72'
    """
    return "".join(f"{TURN}{_bare(role)}{SAID}{_bare(content)}" for role, content in turns)


def turns_of(text: str) -> list[tuple[str, str]]:
    """Return the turns of a conversation; a text without marks is one turn of the user.

    >>> turns_of("␞user␟Pulse?␞assistant␟72")
    [('user', 'Pulse?'), ('assistant', '72')]
    >>> turns_of("Pulse?")
    [('user', 'Pulse?')]
    """
    if TURN not in text:
        return [("user", text)]
    parts = [part.partition(SAID) for part in text.split(TURN)[1:]]
    return [(role, content) for role, _, content in parts]


def cut_conversation(text: str, *, characters: int) -> str:
    """Return a conversation of at most so many characters; its oldest part goes first, and its last turn never.

    Only a last turn that is too long alone is cut, at its end. A text without marks is cut at its end too.

    >>> cut_conversation("␞user␟Since when?␞assistant␟May", characters=27)
    '␞user␟e when?␞assistant␟May'
    """
    text = text.replace("\0", "")
    if len(text) <= characters or TURN not in text:
        return text[:characters]
    *earlier, kept = (f"{TURN}{turn}" for turn in text.split(TURN)[1:])
    for turn in reversed(earlier):
        role, _, content = turn.partition(SAID)
        room = characters - len(kept) - len(role) - len(SAID)
        if room > 0:
            kept = f"{role}{SAID}{content[-room:]}{kept}"
        if room <= len(content):
            break
    return kept[:characters]


def _bare(text: str) -> str:
    return text.replace(TURN, " ").replace(SAID, " ")
