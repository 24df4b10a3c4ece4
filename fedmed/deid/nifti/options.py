"""What a site vouches for of its NIfTI images before any is read.

Why it exists: a NIfTI file doesn't say which part of the body it shows, and a face can be rendered from an image of a
head. Only the site can know what it hands over.

Rules:
    * Without a word of the site no image passes.

What it does not do: remove faces; a site does that with a tool of its own, before.
"""

from dataclasses import dataclass
from typing import Literal

from fedmed.records import digest, require

OPTIONS_VERSION = 1

Faces = Literal["unassessed", "absent", "removed", "kept"]
SingleSlices = Literal["quarantine", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiOptions:
    """What a site vouches for.

    `faces`: `unassessed` quarantines every image; `absent`: no image shows a face (one whose sidecar names the head
    or the neck is quarantined); `removed`: faces were removed before; `kept`: faces may leave.
    `single_slices`: whether images of one slice pass, which may be radiographs or screens with text burnt in.
    """

    faces: Faces = "unassessed"
    single_slices: SingleSlices = "quarantine"
    version: int = OPTIONS_VERSION

    def __post_init__(self) -> None:
        require(self.version == OPTIONS_VERSION, f"version must be {OPTIONS_VERSION}, got {self.version}")

    @property
    def digest(self) -> str:
        """The SHA-256 that reports and audit records name."""
        return digest(self)
