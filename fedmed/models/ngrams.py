"""A linear classifier on hashed n-grams of words and characters: no pretrained model, no vocabulary.

Why it exists: an appliance without a graphics card can learn from notes within minutes, in any language that Unicode
writes. A vocabulary counted at the sites would have to be released and charged; a hash function is public.

Rules:
    * Features are words, pairs of words, and sequences of two to four characters, lower-cased, each counted in the
      bucket of its hash; counts are damped (log) and a record has length 1, whatever the length of its text.
    * Words are runs of letters and digits; a character of Chinese, Japanese or Korean is a word of its own.
    * All is arithmetic on whole numbers that wrap around at 64 bits: the same on every machine.

What it does not do: weigh by document frequency, which would be a statistic of patients.
"""

import torch
from torch import Tensor, nn

from fedmed.models.architecture import Architecture
from fedmed.rows import SPACE

BUCKETS_OF_WIDTH = 256
"""Buckets per unit of `model.width`: width 32 means 8,192."""

_PRIME = 1099511628211
_INVERSE = pow(_PRIME, -1, 1 << 64)
_SEEDS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
_LOWER_TO = 0x530
_CJK = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


class HashedNgrams(nn.Module):
    """Logistic regression on hashed n-grams."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.characters = architecture.characters
        self.buckets = BUCKETS_OF_WIDTH * architecture.width
        self.table = architecture.layout.features
        self.head = nn.Linear(self.buckets + self.table, architecture.outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits, shape `[records, outputs]`."""
        counted = hashed(rows[:, : self.characters], buckets=self.buckets)
        return self.head(torch.cat([counted, rows[:, self.characters :]], dim=1))  # type: ignore[no-any-return]


def hashed(text: Tensor, *, buckets: int) -> Tensor:
    """Return the features of texts as rows of `fedmed.rows`, shape `[records, buckets]`, each of Euclidean norm 1 or 0.

    Args:
        text: Shape `[records, characters]`.
        buckets: How many features there are.
    """
    with torch.no_grad():
        points = _lower(text.round().long() + SPACE)
        counts = torch.zeros(len(points), buckets, device=text.device)
        for keys, present in (*_character_grams(points), *_word_grams(points)):
            counts.scatter_add_(1, (keys >> 17) % buckets, present.to(counts.dtype))
        damped = torch.log1p(counts)
        length: Tensor = torch.linalg.vector_norm(damped, dim=1, keepdim=True)
        return damped / length.clamp(min=1e-12)


def _character_grams(points: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return a key for each sequence of two to four characters, and whether it is one."""
    found, present = [], points > 0
    for length, seed in zip((2, 3, 4), _SEEDS, strict=False):
        keys = torch.zeros_like(points[:, length - 1 :]) + _signed(seed)
        whole = torch.ones_like(keys, dtype=torch.bool)
        for place in range(length):
            part = slice(place, points.shape[1] - length + 1 + place)
            keys = _mixed(keys * _signed(_PRIME) + points[:, part])
            whole &= present[:, part]
        found.append((keys, whole))
    return found


def _word_grams(points: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return a key at the last character of each word, for the word and for it with the word before."""
    ideographs = _ideographs(points)
    inside = _alphanumeric(points) & ~ideographs
    before = torch.roll(inside, 1, dims=1)
    before[:, 0] = False
    after = torch.roll(inside, -1, dims=1)
    after[:, -1] = False
    starts, ends = (inside & ~before) | ideographs, (inside & ~after) | ideographs
    powers = _powers(points.shape[1], points.device)
    sums = torch.cumsum(torch.where(inside | ideographs, points, 0) * powers, dim=1)
    place = torch.arange(points.shape[1], device=points.device).expand_as(points)
    first = torch.cummax(torch.where(starts, place, 0), dim=1).values
    earlier = torch.where(first > 0, sums.gather(1, (first - 1).clamp(min=0)), 0)
    words = _mixed((sums - earlier) * _powers(points.shape[1], points.device, base=_INVERSE).gather(0, first.flatten())
                   .view_as(first) + _signed(_SEEDS[3]))  # fmt: skip
    last_end = torch.cummax(torch.where(ends, place, -1), dim=1).values
    previous = torch.where(first > 0, last_end.gather(1, (first - 1).clamp(min=0)), -1)
    pairs = _mixed(words * _signed(_PRIME) + words.gather(1, previous.clamp(min=0)) + _signed(_SEEDS[4]))
    return [(words, ends), (pairs, ends & (previous >= 0))]


def _powers(length: int, device: torch.device, *, base: int = _PRIME) -> Tensor:
    """Return the powers of an odd number modulo 2^64, shape `[length]`."""
    found, power = [], 1
    for _ in range(length):
        found.append(_signed(power))
        power = power * base % (1 << 64)
    return torch.tensor(found, dtype=torch.int64, device=device)


def _mixed(keys: Tensor) -> Tensor:
    """Spread every bit of the keys over all others, so that buckets fill evenly (the finaliser of SplitMix64)."""
    keys = (keys ^ _right(keys, 30)) * _signed(0xBF58476D1CE4E5B9)
    keys = (keys ^ _right(keys, 27)) * _signed(0x94D049BB133111EB)
    return keys ^ _right(keys, 31)


def _right(keys: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (keys >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Return a number modulo 2^64 as the signed one of the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _lower(points: Tensor) -> Tensor:
    """Return code points in lower case: of Latin, Greek and Cyrillic, and of full-width Latin."""
    table = torch.tensor([ord(chr(point).lower()[0]) for point in range(_LOWER_TO)], device=points.device)
    wide = (points >= 0xFF01) & (points <= 0xFF5E)
    narrow = torch.where(wide, points - 0xFEE0, points)
    inside = (narrow >= 0) & (narrow < _LOWER_TO)
    return torch.where(inside, table[narrow.clamp(0, _LOWER_TO - 1)], narrow)


def _alphanumeric(points: Tensor) -> Tensor:
    table = torch.tensor([chr(point).isalnum() for point in range(_LOWER_TO)], device=points.device)
    inside = (points >= 0) & (points < _LOWER_TO)
    return torch.where(inside, table[points.clamp(0, _LOWER_TO - 1)], (points >= _LOWER_TO) & ~_punctuation(points))


def _punctuation(points: Tensor) -> Tensor:
    """Return which characters beyond Cyrillic are punctuation or space: general, CJK and full-width."""
    return (
        ((points >= 0x2000) & (points <= 0x2BFF))
        | ((points >= 0x3000) & (points <= 0x303F))
        | ((points >= 0xFE00) & (points <= 0xFFFF))
    )


def _ideographs(points: Tensor) -> Tensor:
    found = torch.zeros_like(points, dtype=torch.bool)
    for start, end in _CJK:
        found |= (points >= start) & (points <= end)
    return found
