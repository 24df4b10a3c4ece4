"""A span is a stretch of a note that identifies somebody: where, of which kind, in whose role.

Why it exists: rules, a tagger and a segmenter each see a part of what identifies a
person. They all answer in spans, and the union of the spans is what gets masked.

Rules:
    * A span never holds the text that it covers, so that spans may be logged and reported.
    * Spans that overlap become one span over both; nothing that any voice found is given up.

What it does not do: find spans, or decide what stands in their place.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["EMAIL", "URL", "ID", "PHONE", "RECORD", "HOSPITAL", "ADDRESS", "NAME", "AGE", "DATE"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # where two kinds overlap, the earlier one names the union

Role = Literal["patient", "relative", "doctor", "other"]
ROLES: tuple[Role, ...] = get_args(Role)  # where two contexts disagree, the earlier one holds

FILLER = "\ue000"  # stands for a character that is masked already; a private-use character, no note's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters `start` to `end` (exclusive) of a note; `role` says whose name it is."""

    start: int
    end: int
    kind: Kind
    role: Role = "other"

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"a span needs 0 <= start < end, got {self.start} and {self.end}")


def merge(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order that don't overlap and together cover just what `spans` cover.

    >>> spans = merge([Span(start=4, end=9, kind="NAME"), Span(start=0, end=5, kind="RECORD")])
    >>> [(span.start, span.end, span.kind) for span in spans]
    [(0, 9, 'RECORD')]
    """
    merged: list[Span] = []
    end = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.start < end:
            merged[-1] = _union(merged[-1], span)
            end = max(end, span.end)
        else:
            merged.append(span)
            end = span.end
    return merged


def fill(text: str, spans: Iterable[Span]) -> str:
    """Return `text`, equally long, with every covered character replaced by `FILLER`."""
    pieces, at = list[str](), 0
    for start, end in sorted([(span.start, span.end) for span in spans]):
        if end > at:
            pieces += (text[at:start], FILLER * (end - max(start, at)))
            at = end
    return "".join([*pieces, text[at:]])


def _union(one: Span, other: Span) -> Span:
    if other.end <= one.end and other.kind == one.kind and other.role == one.role:
        return one
    kind = min(one.kind, other.kind, key=KINDS.index)
    role = min(one.role, other.role, key=ROLES.index)
    return Span(start=one.start, end=max(one.end, other.end), kind=kind, role=role)
