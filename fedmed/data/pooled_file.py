"""What a publisher's files of all sites are: their form, what is joined to them, and whose a row is.

Why it exists: a multi-centre data set is published for its readers, not as the table that each hospital has: in one
file, in parts for training and test, without a header, or over tables that share a key.

Rules:
    * All of it is said in the data set's YAML; no data set has code of its own.
    * A row without a partner in a joined table is left out and counted; a row with two is an error.
    * A file may also lie there under one of the names in `also`, and compressed (.gz) or not, whatever its name says.

What it does not do: read (see `published`) or divide (see `pooled`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedmed.codec import require


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedFile:
    """A table of the publisher that adds `columns` to each row, by the column `key` that both have.

    Of a table with several rows a key, `where` says which counts: the row that holds these values in these columns.
    """

    file: str
    key: str
    columns: tuple[str, ...]
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.file.strip()) and bool(self.key.strip()), "a joined file needs its name and a key")
        require(
            bool(self.columns) and len({*self.columns, self.key}) == len(self.columns) + 1,
            f"{self.file}: columns lists one or more different columns beside {self.key}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFlag:
    """A column that says whether the codes in another hold `code`: `values` are the words for no and for yes.

    The codes are the keys of a mapping or the entries of a list, as Python or JSON writes them:
    `{'NORM': 100.0, 'SR': 0.0}`. A table that has the column already keeps its own.
    """

    column: str
    codes: str
    code: str
    values: tuple[str, str] = ("0", "1")

    def __post_init__(self) -> None:
        require(bool(self.column.strip() and self.codes.strip() and self.code.strip()), "a flag names columns and code")
        require(self.values[0] != self.values[1], f"{self.column}: values are two different words, for no and for yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledFile:
    """A publisher's one file of all sites; `column` says whose a row is.

    Where no column does, `dirichlet` divides the rows: each class of `column` over the sites in shares drawn from a
    Dirichlet distribution of that concentration (Hsu et al. 2019), from `seed`; small values make sites differ.

    `more` are further parts with the same columns, read after `file`. `columns` names the columns of files without a
    header. `delimiter` is that of the published files where it is not the schema's; without `quoted`, quotation marks
    are text. `joins` add columns of other tables, in their order; `flags` then add columns that codes imply.
    `also` are further names of `file`; `obtain` says how to get the files, where that differs from the schema's words.

    The schema describes a site's own table, which a hospital has; only who plays every site
    divides such a file (see `fedmed.data.pooled`), so it does not count in the schema's digest.
    """

    file: str
    column: str
    names: Mapping[str, str] = field(default_factory=dict)
    """What a site is called here, by what the column calls it, where that is no name for a site."""
    dirichlet: float | None = None
    seed: int = 0
    more: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    delimiter: str | None = None
    quoted: bool = True
    joins: tuple[JoinedFile, ...] = ()
    flags: tuple[CodeFlag, ...] = ()
    also: tuple[str, ...] = ()
    obtain: str = ""

    def __post_init__(self) -> None:
        require(bool(self.file.strip()) and bool(self.column.strip()), "a pooled file needs its name and a column")
        require(self.dirichlet is None or self.dirichlet > 0, f"dirichlet must be above 0, got {self.dirichlet}")
        require(
            self.delimiter is None or len(self.delimiter) == 1,
            f"delimiter must be one character, got {len(self.delimiter or '')}",
        )
        require(len(set(self.columns)) == len(self.columns), "two columns of the pooled file have the same name")
        require(len(set(self.files)) == len(self.files), "a pooled file is named twice")

    @property
    def files(self) -> tuple[str, ...]:
        """All the files that the publisher's folder must hold, in the order in which they are read."""
        return (self.file, *self.more, *(join.file for join in self.joins))
