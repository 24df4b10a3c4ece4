"""What a record has besides its table: names for the values of a text and an image, and the images themselves.

Why it exists: a text of 4,000 characters and an image of 150,000 values need no tuple of names, and images are
too large for a cell of a table.

Rules:
    * A raw table's image column names files. In the de-identified one the same column holds numbers, one for each
      name, and no name passes the door. A row has the image of its number.
    * Images are stored beside the table under these numbers, as arrays that `imaging` made. In a folder of items, where
      no row names a file, they stand under the tokens of patients.
    * Only bytes that the audit log vouches for, under this schema, are read.

What it does not do: read DICOM or PNG (see `imaging`), or choose records.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from fedmed.audit import ChainLog
from fedmed.crypto.seal import DataKey
from fedmed.data.schema import Schema
from fedmed.data.stored import stored_bytes
from fedmed.errors import DataError, IntegrityError
from fedmed.records import require
from fedmed.rows import RowLayout
from fedmed.tensors import pack, unpack

IMAGES_FILE = "images.tensors"
IMAGES_KIND = "images-prepared"
Image: TypeAlias = NDArray[np.float32]
"""Values in [-1, 1], shape `[channels, size, size]`."""
ImageStore: TypeAlias = Mapping[str, Image]
"""Images by what stands for them in a row: a number, or the token of the patient."""


class NamedImages:
    """The images that the rows of a raw table name, each under a number of its own.

    >>> named = NamedImages(missing=("none",))
    >>> [named.number(cell) for cell in ("a.png", " b.png", "", "a.png", "none")], named.missing
    (['1', '2', '', '1', ''], 2)
    >>> list(named.names()), named.rows("1")
    ([(1, 'a.png'), (2, 'b.png')], 2)
    """

    def __init__(self, *, missing: Collection[str] = ()) -> None:
        """Begin; `missing` are the words that stand for no name."""
        self.missing = 0
        self._none = frozenset(missing) | {""}
        self._numbers: dict[str, int] = {}
        self._rows: Counter[int] = Counter()

    def number(self, cell: str) -> str:
        """Count a row, and return the number of the image that it names, or nothing where it names none."""
        name = cell.strip()
        if name in self._none:
            self.missing += 1
            return ""
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        self._rows[number] += 1
        return str(number)

    def names(self) -> Iterator[tuple[int, str]]:
        """Yield each number with the name that it stands for."""
        return ((number, name) for name, number in self._numbers.items())

    def rows(self, number: str) -> int:
        """Return how many rows name the image of a number."""
        return self._rows[int(number)]


def layout_of(schema: Schema, *, features: int) -> RowLayout:
    """Return how the rows of a schema are laid out, with `features` of its table."""
    return RowLayout(
        characters=0 if schema.text is None else schema.text.characters,
        channels=0 if schema.image is None else schema.image.channels,
        image_size=0 if schema.image is None else schema.image.size,
        features=features,
    )


class RowNames(Sequence[str]):
    """Names of the values of a row, made when they are asked for.

    >>> from fedmed.data.schema import Column, Target, TextPart
    >>> note = Column(name="note", kind="text", role="free-text")
    >>> dead = Column(name="dead", kind="binary", role="target", values=("0", "1"))
    >>> schema = Schema(name="s", file="f", columns=(note, dead), text=TextPart(column="note", characters=2),
    ...                 targets=(Target(name="dead", column="dead", one_of=("1",)),))
    >>> list(RowNames(schema, ("age",)))
    ['character 0', 'character 1', 'age']
    """

    def __init__(self, schema: Schema, table: tuple[str, ...]) -> None:
        self._layout = layout_of(schema, features=len(table))
        self._table = table

    def __len__(self) -> int:
        return self._layout.width

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if place < self._layout.characters:
            return f"character {place}"
        place -= self._layout.characters
        if place < self._layout.image:
            return "image" if place == 0 else f"pixel {place - 1}"
        return self._table[place - self._layout.image]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    tokens: tuple[str, ...]
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require(len(set(self.tokens)) == len(self.tokens), "two images belong to one token")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Slice:
    """Where a DICOM file stands: the token of its patient, its series, its place there, and itself."""

    patient: str
    series: str
    number: int
    instance: str


def best_first(slices: Sequence[Slice]) -> list[Slice]:
    """Return the slices of one patient, the one that stands for the patient first: the middle of the longest series.

    Behind it come its neighbours, nearest first, and then the other series in the same way, for where it can't be read.

    >>> series = [Slice(patient="t", series="1.2", number=number, instance=f"1.2.{number}") for number in (1, 2, 3)]
    >>> [one.number for one in best_first(series)]
    [2, 1, 3]
    """
    series: dict[str, list[Slice]] = {}
    for one in sorted(slices):
        series.setdefault(one.series, []).append(one)
    found: list[Slice] = []
    for _, members in sorted(series.items(), key=lambda item: (-len(item[1]), item[0])):
        middle = len(members) // 2
        found += sorted(members, key=lambda one: (abs(members.index(one) - middle), one))
    return found


def images_to_bytes(images: ImageStore) -> bytes:
    """Return images as bytes to store, in float16: one step is at most 2^-11 of the window."""
    tokens = tuple(sorted(images))
    return pack(_Head(tokens=tokens), {"pixels": np.array([images[token] for token in tokens], dtype=np.float16)})


def open_images(
    folder: Path, schema: Schema, log: ChainLog, *, key: DataKey | None = None, table: str | None = None
) -> ImageStore:
    """Return the images beside a table, which the audit log vouches for.

    Args:
        folder: Where they are.
        schema: Under which they were made.
        log: The site's audit log.
        key: What they are sealed under; None where they are readable.
        table: The SHA-256 of the table whose rows hold their numbers; None where it isn't asked.

    Raises:
        DataError: There are none.
        IntegrityError: The log does not vouch for these bytes under this schema, or they belong to another table.
    """
    path = folder / IMAGES_FILE
    data = stored_bytes(folder, IMAGES_FILE, data_set=schema.name, key=key)
    if data is None:
        raise DataError(f"no prepared images {path}; prepare the images of {schema.name} first")
    records = [e.body for e in log.entries() if e.kind == IMAGES_KIND and e.body.get("schema_name") == schema.name]
    vouched = bool(records) and records[-1].get("output_sha256") == hashlib.sha256(data).hexdigest()
    if not vouched or records[-1].get("schema_digest") != schema.digest:
        raise IntegrityError(
            f"{path}: the audit log does not vouch for these images under this schema, so they are not used; prepare"
            " them again"
        )
    if table is not None and records[-1].get("table_sha256", table) != table:
        raise IntegrityError(f"{path}: these are the images of another table, so they are not used; prepare them again")
    head, arrays = unpack(data, _Head)
    pixels = arrays.get("pixels", np.zeros((0, 1, 1, 1), np.float16))
    if len(pixels) != len(head.tokens):
        raise IntegrityError(f"{path}: expected one image for each token; prepare the images again")
    return {token: image.astype(np.float32) for token, image in zip(head.tokens, pixels, strict=True)}
