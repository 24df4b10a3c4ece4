"""What a site decides about its DICOM files before any is read.

Why it exists: a cleaned file is only as good as the choices behind it. They are
one frozen record with one digest, which every report and audit entry names.

Rules:
    * The Basic Application Level Confidentiality Profile (PS3.15 Annex E) always applies;
      an option relaxes exactly the cells of its own column in Table E.1-1.
    * Anything that a site vouches for itself (private attributes, pixels of a class) is listed one by one.

What it does not do: hold keys, or decide anything about a single file.
"""

import re
from dataclasses import dataclass
from typing import Literal

from fedmed.records import digest, require

PROFILE_EDITION = "2026c"
"""Edition of PS3.15 whose Basic Profile `profile.csv` holds."""

OPTIONS_VERSION = 1

DateMode = Literal["remove", "shift", "keep"]
BurnedIn = Literal["quarantine", "mask"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PrivateTag:
    """One private attribute that the site vouches for: its creator, odd group and last two hexadecimal digits."""

    creator: str
    group: int
    offset: int

    def __post_init__(self) -> None:
        require(bool(self.creator.strip()) and len(self.creator) <= 64, "creator must have 1 to 64 characters")
        require(
            self.group % 2 == 1 and 9 <= self.group <= 0xFFFE, f"group must be odd, from 0009, got {self.group:04X}"
        )
        require(0 <= self.offset <= 0xFF, f"offset must be in 00..FF, got {self.offset}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomOptions:
    """The options of PS3.15 Annex E that a site uses, and its own about pixels.

    `dates`: `remove` follows the Basic Profile; `shift` moves every date of a patient by one keyed number of whole
    days in -max_shift_days..max_shift_days and keeps times; `keep` leaves dates as they are.
    `clean_pixel_data` masks ultrasound outside its regions and vouches for classes that carry no burnt-in text;
    without it ultrasound is quarantined and no file claims that the identity is removed from its pixels.
    `burned_in`: what happens to ultrasound with regions that says of itself that text is burnt in.
    `trusted_pixels`: SOP Class UIDs beyond the built-in list whose pixels the site has looked at.
    """

    retain_uids: bool = False
    retain_device: bool = False
    retain_institution: bool = False
    retain_patient_characteristics: bool = False
    dates: DateMode = "shift"
    max_shift_days: int = 365
    clean_descriptors: bool = False
    clean_structured_content: bool = False
    clean_graphics: bool = False
    clean_pixel_data: bool = True
    burned_in: BurnedIn = "quarantine"
    trusted_pixels: tuple[str, ...] = ()
    safe_private: tuple[PrivateTag, ...] = ()
    edition: Literal["2026c"] = "2026c"
    version: int = OPTIONS_VERSION

    def __post_init__(self) -> None:
        require(self.version == OPTIONS_VERSION, f"version must be {OPTIONS_VERSION}, got {self.version}")
        require(30 <= self.max_shift_days <= 36_500, f"max_shift_days must be in 30..36500, got {self.max_shift_days}")
        require(list(self.safe_private) == sorted(set(self.safe_private)), "safe_private must be sorted, none twice")
        require(list(self.trusted_pixels) == sorted(set(self.trusted_pixels)), "trusted_pixels: sorted, none twice")
        for uid in self.trusted_pixels:
            require(re.fullmatch(r"1\.2\.840\.10008\.[0-9.]{1,48}", uid) is not None, "trusted_pixels: not a SOP class")

    @property
    def digest(self) -> str:
        """The SHA-256 that reports and audit records name."""
        return digest(self)
