"""What a hospital's table is: its columns, units, public ranges, targets and split rule.

Why it exists: every site must turn its own file into features of one meaning and
one dimension without telling anybody its statistics. The schema carries all that
is needed for it as public facts, and its digest goes into the plan.

Rules:
    * A column says what it is (`kind`) and what may happen to it (`role`). A column
      that the schema does not list is dropped.
    * A number that is kept states the range `low` to `high` that it can take at all, so
      that a telephone number in the wrong column does not pass as a blood pressure.
    * A category that is kept lists its `values`: no free text passes as a category.
    * Normalisation uses `centre` and `scale`, public clinical ranges, never the data.

What it does not do: read data, de-identify (see `fedmed.deid`) or load (see `fedmed.data.tabular`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedmed.data.pooled_file import CodeFlag, JoinedFile, PooledFile
from fedmed.data.target import Target
from fedmed.errors import DataError
from fedmed.records import AsRead, digest, require

__all__ = [
    "CodeFlag", "Column", "DataSet", "ImagePart", "JoinedFile", "Kind", "PooledFile", "Role", "Schema", "SplitRule",
    "Target", "TextPart", "locate", "sites_under",
]  # fmt: skip

SCHEMA_VERSION = 1
MOST_CHARACTERS = 100_000

Kind = Literal["number", "category", "binary", "date", "text", "identifier"]
Role = Literal[
    "direct-identifier", "patient-key", "quasi-identifier", "sensitive", "feature", "target", "free-text", "ignore"
]
_KINDS_OF_ROLE: Mapping[str, tuple[Kind, ...]] = {
    "patient-key": ("identifier",),
    "quasi-identifier": ("number", "category", "binary", "date"),
    "sensitive": ("number", "category", "binary", "date"),
    "feature": ("number", "category", "binary"),
    "target": ("number", "category", "binary"),
    "free-text": ("text",),
}
_MODEL_KINDS = ("number", "category", "binary")
_LEAVING_ROLES = ("direct-identifier", "free-text", "ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the publisher's table.

    `values` are the allowed categories; of a binary, the one that means 0 and then the one
    that means 1. `synonyms` maps other spellings to one of `values`, or words to a number (`> 89` to 90).
    `missing` adds tokens to the schema's. A row that lacks a `required` value is incomplete and not used.
    A number with `unit: years` is treated as an age: above 89 becomes 90.
    """

    name: str
    kind: Kind
    role: Role
    unit: str | None = None
    centre: float | None = None
    scale: float | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    required: bool = False

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "a column needs a name")
        kinds = _KINDS_OF_ROLE.get(self.role)
        require(
            kinds is None or self.kind in kinds,
            f"column {self.name}: role {self.role} takes kind {' or '.join(kinds or ())}, got {self.kind}",
        )
        if self.leaves:
            return
        if self.kind == "number":
            self._check_number()
        elif self.kind in {"category", "binary"}:
            self._check_values()

    @property
    def leaves(self) -> bool:
        """Whether the column is dropped from the table at the door."""
        return self.role in _LEAVING_ROLES

    @property
    def is_feature(self) -> bool:
        """Whether a model sees the column."""
        return self.role in {"feature", "quasi-identifier"} and self.kind in _MODEL_KINDS

    def _check_number(self) -> None:
        low, high = self.low, self.high
        require(
            low is not None and high is not None and low < high,
            f"column {self.name}: a number that is kept states low < high, got {low} and {high}",
        )
        if self.is_feature:
            require(
                self.centre is not None and self.scale is not None and self.scale > 0,
                f"column {self.name}: a number feature states centre and scale > 0, got {self.centre} and {self.scale}",
            )
        for value in self.synonyms.values():
            require(
                _is_within(value, low, high),
                f"column {self.name}: synonyms of a number map to numbers in its range, got {value!r}",
            )

    def _check_values(self) -> None:
        require(
            len(set(self.values)) == len(self.values) >= 2,
            f"column {self.name}: a {self.kind} lists two or more different values",
        )
        require(
            self.kind == "category" or len(self.values) == 2,
            f"column {self.name}: a binary lists two values, first the one for 0, got {len(self.values)}",
        )
        unknown = sorted(set(self.synonyms.values()) - set(self.values))
        require(not unknown, f"column {self.name}: synonyms map to {unknown}, which are not among its values")


def _is_within(value: str, low: float | None, high: float | None) -> bool:
    try:
        return low is not None and high is not None and low <= float(value) <= high
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """The note of a record: a free-text column, of which a model reads the first `characters`.

    A `chat` is a conversation (see `fedmed.rows`): turns of user and assistant, of which the last is the answer.
    """

    column: str
    characters: int
    form: Literal["plain", "chat"] = "plain"

    def __post_init__(self) -> None:
        require(1 <= self.characters <= MOST_CHARACTERS, f"characters must be in [1, 100000], got {self.characters}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """The image of a record: a column that names its file, and the public facts that make it an array.

    Values are windowed to `centre` and `width` in the unit of the modality (Hounsfield units of CT); without them,
    stored values are taken from the whole range of their format. `spacing_mm` is the side of a pixel before the
    square of `size` pixels is cut or padded; without it the whole image is scaled to that square.
    """

    column: str
    size: int
    channels: Literal[1, 3] = 1
    centre: float | None = None
    width: float | None = None
    spacing_mm: float | None = None

    def __post_init__(self) -> None:
        require(1 <= self.size <= 1024, f"size must be in [1, 1024], got {self.size}")
        require((self.centre is None) == (self.width is None), "centre and width are set together or not at all")
        require(self.width is None or self.width > 0, f"width must be above 0, got {self.width}")
        require(self.spacing_mm is None or self.spacing_mm > 0, f"spacing_mm must be above 0, got {self.spacing_mm}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema(AsRead):
    """One data set as its publisher or hospital writes it.

    `file` is the path below the root, with `{site}` where the site's name goes; `sites`
    are the sites that the publisher distributes (empty: any). Without a header, `columns`
    are in the file's order. Without a patient key, each row is one patient.
    """

    name: str
    file: str
    columns: tuple[Column, ...]
    targets: tuple[Target, ...]
    sites: tuple[str, ...] = ()
    delimiter: str = ","
    header: bool = True
    missing: tuple[str, ...] = ()
    drop_first: bool = False
    clip: float = 4.0
    licence: str = ""
    source: str = ""
    obtain: str = ""
    text: TextPart | None = None
    image: ImagePart | None = None
    version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        require(self.version == SCHEMA_VERSION, f"version must be {SCHEMA_VERSION}, got {self.version}")
        require(bool(self.name.strip()) and bool(self.file.strip()), "a schema needs a name and a file")
        require(len(self.delimiter) == 1, f"delimiter must be one character, got {len(self.delimiter)}")
        require(self.clip > 0, f"clip must be above 0, got {self.clip}")
        names = [column.name for column in self.columns]
        require(len(set(names)) == len(names), "two columns have the same name")
        keys = [column.name for column in self.columns if column.role == "patient-key"]
        require(len(keys) <= 1, f"at most one column may be the patient key, got {', '.join(keys)}")
        require(
            any(column.is_feature for column in self.columns) or bool(self.text or self.image),
            "a schema needs at least one feature, a text or an image",
        )
        self._check_parts()
        self._check_targets()

    def _check_targets(self) -> None:
        require(bool(self.targets), "a schema needs at least one target")
        require(len({target.name for target in self.targets}) == len(self.targets), "two targets have the same name")
        for target in self.targets:
            self._check_target(target)

    def _check_target(self, target: Target) -> None:
        columns = {column.name: column for column in self.columns if column.role == "target"}
        if target.answered:
            asked = self.text is not None and self.text.form == "chat" and self.text.column == target.column
            require(asked, f"target {target.name}: set above or one_of, or name the column of a conversation")
            return
        require(target.column in columns, f"target {target.name}: no column {target.column} with role target")
        column = columns[target.column]
        require(
            (column.kind == "number") == (target.above is not None or target.timed),
            f"target {target.name}: use above for a number and one_of otherwise; {column.name} is a {column.kind}",
        )
        event = columns.get(target.event or "")
        require(
            not target.timed or (event is not None and event.kind == "binary"),
            f"target {target.name}: event names a binary column with role target",
        )
        unknown = sorted(set(target.one_of) - set(column.values))
        require(not unknown, f"target {target.name}: one_of names {unknown}, not among the values of {column.name}")

    def _check_parts(self) -> None:
        roles = {column.name: column.role for column in self.columns}
        require(
            self.text is None or roles.get(self.text.column) == "free-text",
            "text.column must name a column with role free-text",
        )
        require(
            self.image is None or roles.get(self.image.column) in ("direct-identifier", "ignore"),
            "image.column must name a column with role direct-identifier or ignore: file names don't pass the door",
        )

    @property
    def patient_key(self) -> str | None:
        """The column that says who a row is about, or None where each row is one patient."""
        return next((column.name for column in self.columns if column.role == "patient-key"), None)

    @property
    def digest(self) -> str:
        """The SHA-256 of the schema's canonical JSON."""
        return digest(self)

    def column(self, name: str) -> Column:
        """Return the column called `name`.

        Raises:
            DataError: The schema has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in self.columns if not column.leaves)
        raise DataError(f"schema {self.name}: no column {name!r}; expected one of: {known}")

    def target(self, name: str) -> Target:
        """Return the target called `name`.

        Raises:
            DataError: The schema has no such target.
        """
        for target in self.targets:
            if target.name == name:
                return target
        known = ", ".join(target.name for target in self.targets)
        raise DataError(f"schema {self.name}: no target {name!r}; expected one of: {known}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """Which patients stand in the test set.

    `hash` takes the patients whose token's SHA-256 falls below `test_fraction`, so a patient stays
    on one side whatever else changes. `flamby` is the row split of FLamby's Fed-Heart-Disease
    (Ogier du Terrail et al. 2022): per site, stratified where each class has more than two rows. `column` takes the
    publisher's own: the rows whose category `column` is among `test`.
    """

    kind: Literal["hash", "flamby", "column"]
    test_fraction: float = 0.3
    seed: int = 0
    column: str | None = None
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = self.column is not None and bool(self.test)
        require((self.kind == "column") == given, "kind column takes column and test, and no other kind takes them")
        require(0 < self.test_fraction < 1, f"test_fraction must be in (0, 1), got {self.test_fraction}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """What one file of conf/data holds: a schema, where its files are here, and the split."""

    name: str
    schema: Schema
    split: SplitRule
    root: str | None = None
    pooled: PooledFile | None = None

    def __post_init__(self) -> None:
        require(self.name == self.schema.name, f"name {self.name} and schema.name {self.schema.name} must be equal")
        require(
            self.split.kind != "flamby" or self.schema.patient_key is None,
            "split flamby goes by rows and would put one patient on both sides; use hash where there is a patient key",
        )
        require(
            self.split.kind != "column" or any(self._divides(column) for column in self.schema.columns),
            f"split.column names a category with role target and the values {', '.join(self.split.test)}",
        )
        require(
            self.pooled is None or bool(self.schema.sites), "a pooled file is divided among the sites of the schema"
        )
        require(self.pooled is None or self.schema.header, "a pooled file is divided by a column, so it needs a header")

    def _divides(self, column: Column) -> bool:
        known = column.kind == "category" and column.role == "target" and set(self.split.test) <= set(column.values)
        return known and column.name == self.split.column


def locate(root: Path, schema: Schema, site: str) -> Path:
    """Return the file that holds the table of `site` below `root`.

    `root` may be the folder of all sites, or the folder of this site alone.

    Raises:
        DataError: The folder or the file is missing; the message says which files were expected
            and where to get them.
    """
    if schema.sites and site not in schema.sites:
        raise DataError(f"{schema.name}: no site {site!r}; expected one of: {', '.join(schema.sites)}")
    relative = Path(schema.file.format(site=site))
    cure = f"; {schema.obtain}" if schema.obtain else ""
    expected = f"expected {relative} in it{cure}"
    if not root.is_dir():
        raise DataError(f"{schema.name}: folder {root} does not exist; {expected}")
    for candidate in (root / relative, root / relative.name):
        if candidate.is_file():
            return candidate
    raise DataError(f"{schema.name}: folder {root} does not hold the table of site {site}; {expected}")


def sites_under(root: Path, schema: Schema) -> tuple[str, ...]:
    """Return the sites whose table stands below `root`, sorted; `sites` of the schema where it lists them.

    Raises:
        DataError: No table stands below `root`, or one of the listed sites has none.
    """
    if schema.sites:
        for site in schema.sites:
            locate(root, schema, site)
        return schema.sites
    before, _, after = schema.file.partition("{site}")
    found = []
    for path in sorted(root.glob(f"{before}*{after}")) if root.is_dir() else []:
        inside = path.relative_to(root).as_posix()
        found.append(inside[len(before) : len(inside) - len(after)])
    if not found:
        cure = f"; {schema.obtain}" if schema.obtain else ""
        raise DataError(f"{schema.name}: no tables below {root}; expected files like {schema.file}{cure}")
    return tuple(found)
