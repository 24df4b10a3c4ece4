"""What a model folder holds weights for: enough to build the same function anywhere.

Why it exists: a hospital and a coordinator must hold the same function. An `Architecture` is all that is needed to
rebuild it, so it travels in the model folder beside the weights.

Rules:
    * A tower is a pretrained model in a folder of its own, in the form of Hugging Face. Its files are named with their
      SHA-256, so the digest of the architecture speaks for them too.
    * The folder of a tower is absolute while a base is made, and below the model folder once it is stored.

What it does not do: read weights (see `pretrained`, `folder`) or build (see `build`).
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedmed.errors import IntegrityError, ModelError
from fedmed.model_spec import PRETRAINED, AnyFamily, Augmentation, ModelSpec
from fedmed.records import require
from fedmed.rows import RowLayout

Part = Literal["text", "image"]
_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerFile:
    """One file of a tower."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        require(self.name not in (".", "..") and Path(self.name).name == self.name, "a tower's file lies in its folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A pretrained model: what it reads, where it is, and its files."""

    part: Part
    folder: str
    files: tuple[TowerFile, ...]

    @classmethod
    def of(cls, part: Part, folder: Path, *, stored_as: str | None = None) -> "Tower":
        """Return the tower in `folder`, with every file that may be needed to build it.

        Args:
            part: What it reads.
            folder: Where its files are.
            stored_as: What its folder is called inside a model folder; None leaves it absolute.

        Raises:
            ModelError: There is no such folder.
        """
        if not folder.is_dir():
            raise ModelError(f"expected a model folder at {folder}, found none; give model.path the folder of a model")
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in _READ)
        files = tuple(TowerFile(name=name, sha256=_sha256(folder / name)) for name in names)
        return cls(part=part, folder=stored_as or str(folder.resolve()), files=files)

    def verified(self) -> Path:
        """Return the folder after checking that its files are these.

        Raises:
            IntegrityError: A file is missing or has other bytes.
        """
        folder = Path(self.folder)
        for file in self.files:
            path = folder / file.name
            if not path.is_file() or _sha256(path) != file.sha256:
                raise IntegrityError(f"expected {file.name} of the model in {folder} as it was; copy the folder again")
        return folder


_READ = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Endings of configuration, weights and tokenizers; nothing else of a folder is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The function that a model folder holds weights for; `features` counts the values of a whole row."""

    family: AnyFamily
    features: int
    classes: int
    width: int
    depth: int
    heads: int
    characters: int = 0
    image_size: int = 0
    channels: int = 0
    max_tokens: int = 256
    prompt: str = "{text}"
    answers: tuple[str, ...] = ()
    augmentation: Augmentation = "none"
    towers: tuple[Tower, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require(self.features >= 1, f"features must be at least 1, got {self.features}")
        require(self.classes >= 2, f"classes must be at least 2, got {self.classes}")
        require(
            self.layout.width == self.features,
            f"characters, channels and image_size must fit rows of {self.features} values with nothing but them and a"
            " table; take them from the data set's schema",
        )
        require(
            not self.answers or len(self.answers) == self.classes,
            f"answers must name one for each of {self.classes} classes, got {len(self.answers)}",
        )

    @classmethod
    def of(cls, spec: ModelSpec, *, features: int, classes: int) -> "Architecture":
        """Return the architecture that `spec` means for a data set with these dimensions.

        Raises:
            ModelError: A folder of a pretrained model is not named, or missing.
        """
        try:
            return cls(
                family=spec.family,
                features=features,
                classes=classes,
                width=spec.width,
                depth=spec.depth,
                heads=spec.heads,
                characters=spec.characters,
                image_size=spec.image_size,
                channels=spec.channels,
                max_tokens=spec.max_tokens,
                prompt=spec.prompt,
                answers=spec.answers,
                augmentation=spec.augmentation,
                towers=_towers(spec),
            )
        except ValueError as error:
            raise ModelError(f"model={spec.family} does not fit the data set: {error}") from None

    @property
    def outputs(self) -> int:
        """Number of outputs per record."""
        return 1 if self.classes == 2 and self.family not in PRETRAINED else self.classes

    @property
    def layout(self) -> RowLayout:
        """How a row is laid out; what is neither text nor image is the table."""
        parts = RowLayout(characters=self.characters, channels=self.channels, image_size=self.image_size)
        return replace(parts, features=max(0, self.features - parts.width))

    def tower(self, part: Part) -> Path:
        """Return the folder of a tower, its files checked.

        Raises:
            ModelError: There is none that reads `part`.
            IntegrityError: Its files are others.
        """
        for tower in self.towers:
            if tower.part == part:
                return tower.verified()
        raise ModelError(f"expected the folder of a pretrained model for {part}, got none; set model.path")

    def inside(self, folder: Path) -> "Architecture":
        """Return the architecture with the folders of its towers below `folder`."""
        return replace(self, towers=tuple(replace(tower, folder=str(folder / tower.part)) for tower in self.towers))


def _towers(spec: ModelSpec) -> tuple[Tower, ...]:
    if not spec.pretrained:
        return ()
    wanted: dict[Part, tuple[str, str | None]] = {}
    if spec.characters:
        wanted["text"] = ("path", spec.path)
    if spec.image_size:
        key = "image_path" if spec.family == "fusion" else "path"
        wanted["image"] = (key, spec.image_path if spec.family == "fusion" else spec.path)
    for key, path in wanted.values():
        if path is None:
            raise ModelError(f"model.{key}: expected the folder of a pretrained model for {spec.family}, got null")
    return tuple(Tower.of(part, Path(str(path))) for part, (_, path) in wanted.items())


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()
