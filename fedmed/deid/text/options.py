"""What a site wants done to its notes, as one frozen record with a digest.

Why it exists: the audit must say under which rules a note was cleaned.

Rules:
    * The default is the strictest: both languages, every kind, dates masked.
    * The allow-list names what is never masked (the name of a trial, a ward); it is part of the digest, so an
      auditor can read it. It holds no patient data.

What it does not do: hold a key or a patient.
"""

from dataclasses import dataclass
from typing import Literal

from fedmed.deid.text.spans import KINDS, Kind
from fedmed.records import digest, require

OPTIONS_VERSION = 1
LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """The options of one site's notes.

    Attributes:
        languages: Whose rules are used; the digits of identifiers and dates are read in any case.
        dates: `mask` writes [DATE]; `shift` moves every date by the patient's keyed whole days.
        kinds: What is masked.
        max_shift_days: The shift is drawn from -n..n without 0.
        jieba: Whether the segmenter jieba is a further voice; it must be installed.
        tagger: A local folder of a token-classification model that is a further voice.
        allowed: Words that are never masked, exactly as written; matched against a whole span.
    """

    languages: tuple[str, ...] = LANGUAGES
    dates: Literal["mask", "shift"] = "mask"
    kinds: tuple[Kind, ...] = KINDS
    max_shift_days: int = 365
    jieba: bool = False
    tagger: str | None = None
    allowed: tuple[str, ...] = ()
    version: int = OPTIONS_VERSION

    def __post_init__(self) -> None:
        require(self.version == OPTIONS_VERSION, f"version must be {OPTIONS_VERSION}, got {self.version}")
        require(bool(self.languages), "languages must name at least one of en, zh")
        for language in self.languages:
            require(language in LANGUAGES, f"languages must be of {', '.join(LANGUAGES)}, got {language!r}")
        require(self.dates in {"mask", "shift"}, f"dates must be mask or shift, got {self.dates!r}")
        require(bool(self.kinds), f"kinds must name at least one of {', '.join(KINDS)}")
        for kind in self.kinds:
            require(kind in KINDS, f"kinds must be of {', '.join(KINDS)}, got {kind!r}")
        require(self.max_shift_days >= 30, f"max_shift_days must be at least 30, got {self.max_shift_days}")

    @property
    def digest(self) -> str:
        """The SHA-256 of the options' canonical JSON."""
        return digest(self)
