"""A de-identified table as a `Source`: only bytes that the audit log vouches for are read.

Why it exists: between the file that de-identification wrote and the learner stands
one check: the site's audit log must name the SHA-256 of exactly these bytes, under
exactly this schema, in its latest record for this data set.

Rules:
    * The bytes that are hashed are the bytes that are parsed; sealed ones are opened in memory only.
    * Feature names and their order come from the schema alone, so every site has the same ones.
    * Normalisation is by the schema's public ranges; a missing value is 0, the public centre.
    * A view that cannot be trained on (empty, or one class) is refused with the site named.
    * A row without a label that its target knows is left out of every view and counted; so is one without text and
      image where the data set has nothing else.

What it does not do: de-identify (see `fedmed.deid`) or use statistics of the data.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmed.audit import ChainLog, Scalar
from fedmed.crypto.seal import DataKey
from fedmed.data.labels import labels_of
from fedmed.data.parts import ImageStore, RowNames, open_images
from fedmed.data.schema import Column, Schema, SplitRule
from fedmed.data.source import Cohort, Floats, Labels, Split, View
from fedmed.data.stored import stored_bytes
from fedmed.errors import DataError, IntegrityError
from fedmed.rows import cut_conversation, image_rows, text_rows

# These three are the contract with fedmed.deid.tabular, which stands on the same floor and is not imported.
TABLE_FILE = "table.parquet"
AUDIT_KIND = "table-deidentified"
PATIENT = "patient"

_SPLIT_LABEL = b"fedmed split 1"


class RowSource:
    """De-identified rows and images in memory, vouched for by whoever brings them, under one schema and one split."""

    def __init__(
        self, table: pl.DataFrame, images: ImageStore | None, *, schema: Schema, split: SplitRule, site: str
    ) -> None:
        """Take rows and images.

        Args:
            table: The rows, typed as `deidentify_table` types them.
            images: The images by number or by the token of a patient, where the schema has any.
            schema: The schema under which both were made.
            split: Which patients stand in test.
            site: The site's name, for messages.

        Raises:
            DataError: The schema has a text and the table has not.
        """
        self.schema = schema
        self.site = site
        self.features = row_names(schema)
        self._split = split
        self._table = table
        self._images = images
        if schema.text is not None and schema.text.column not in self._table.columns:
            raise DataError(
                f"site {site}, {TABLE_FILE}: expected the text column {schema.text.column!r}, found none; de-identify"
                " the table again under a policy with free_text clean"
            )

    @property
    def rows(self) -> int:
        """How many rows there are, whatever a view uses of them."""
        return self._table.height

    def load(self, view: View, split: Split) -> Cohort:
        """Return the patients of `view` that stand in `split`.

        Raises:
            DataError: The view names an unknown target, column or value, or selects no
                patients or only one class at this site.
        """
        labels = self._usable_labels(view)
        return self._cohort(view, labels, self._chosen(view, labels, split))

    def load_parts(self, view: View, split: Split, column: str) -> dict[str, Cohort]:
        """Return the cohort of `load`, divided by the value that each record itself has in a category.

        Every value of the schema has its part, which may be empty; a record without a value is in none.

        Raises:
            DataError: As `load`, or the column is no category that models read.
        """
        found = self.schema.column(column)
        if found.kind != "category" or not found.is_feature:
            raise DataError(f"site {self.site}: column {column!r} is no category that models read; name one")
        labels = self._usable_labels(view)
        chosen, values = self._chosen(view, labels, split), self._table[column]
        parts = {value: chosen & (values == value).fill_null(value=False).to_numpy() for value in found.values}
        return {value: self._cohort(view, labels, rows) for value, rows in parts.items()}

    def _chosen(self, view: View, labels: pl.Series, split: Split) -> npt.NDArray[np.bool_]:
        """Return which rows belong to a view and split."""
        chosen = labels.is_not_null().to_numpy() & self._members(view)
        self._refuse_untrainable(labels.filter(chosen), view)
        in_test = self._in_test(labels)
        return np.asarray(chosen & (in_test if split == "test" else ~in_test))

    def _in_test(self, labels: pl.Series) -> npt.NDArray[np.bool_]:
        """Return which rows stand in test."""
        rule, patients = self._split, self._table[PATIENT]
        if rule.kind != "column":
            return _in_test(patients, labels, rule)
        if rule.column not in self._table.columns:
            raise DataError(f"site {self.site}: the table lacks column {rule.column!r}, by which it is split; keep it")
        in_test = self._table[rule.column].is_in(list(rule.test)).fill_null(value=False)
        both = set(patients.filter(in_test)) & set(patients.filter(~in_test))
        if both:
            raise DataError(
                f"site {self.site}: {len(both)} patients stand in train and in test by column {rule.column!r}; correct"
                " it, or split by hash"
            )
        return in_test.to_numpy()

    def _cohort(self, view: View, labels: pl.Series, rows: npt.NDArray[np.bool_]) -> Cohort:
        label_array: Labels = labels.filter(rows).to_numpy().astype(np.int64)
        return Cohort(
            features=rows_of_table(self._table.filter(rows), self.schema, self._images),
            labels=label_array,
            feature_names=self.features,
            classes=self.schema.target(view.target).classes,
        )

    def skipped(self, view: View) -> int:
        """Return how many rows of the view's cohort are not used: no label that the target knows, or nothing to read.

        A count of patients: it stays at the site.
        """
        return int((self._usable_labels(view).is_null().to_numpy() & self._members(view)).sum())

    def _usable_labels(self, view: View) -> pl.Series:
        """Return the class of each row, null where it has none or where there is nothing to read."""
        labels = labels_of(self._table, self.schema.target(view.target), self.schema)
        readable = readable_rows(self._table, self.schema, self._images)
        return (
            pl.DataFrame({"label": labels, "readable": readable}).select(pl.when("readable").then("label")).to_series()
        )

    def _members(self, view: View) -> npt.NDArray[np.bool_]:
        if view.cohort_column is None:
            return np.ones(self._table.height, dtype=np.bool_)
        column = self.schema.column(view.cohort_column)
        if column.kind != "category" or column.name not in self._table.columns:
            raise DataError(
                f"site {self.site}: column {column.name!r} cannot select a cohort; expected a category that is kept"
            )
        unknown = sorted(set(view.cohort) - set(column.values))
        if unknown:
            raise DataError(
                f"site {self.site}: column {column.name!r} has no value {unknown[0]!r}; "
                f"expected one of: {', '.join(column.values)}"
            )
        return self._table[column.name].is_in(list(view.cohort)).fill_null(value=False).to_numpy()

    def _refuse_untrainable(self, labels: pl.Series, view: View) -> None:
        where = f"site {self.site}, {TABLE_FILE}: target {view.target!r}"
        cohort = f" in the cohort {view.cohort_column} = {', '.join(view.cohort)}" if view.cohort_column else ""
        if labels.is_empty():
            raise DataError(f"{where}: no patients{cohort}; leave this site out of the study or choose another cohort")
        if labels.n_unique() == 1 and not self.schema.target(view.target).answered:
            raise DataError(
                f"{where}: every patient{cohort} has the same label; expected two classes; "
                "check the target's rule and the export, or leave this site out of the study"
            )


class TabularSource(RowSource):
    """One site's de-identified table under one schema and one split."""

    def __init__(
        self, folder: Path, *, schema: Schema, split: SplitRule, log: ChainLog, site: str, key: DataKey | None = None
    ) -> None:
        """Read and check the table in `folder`.

        Args:
            folder: Where `deidentify_table` wrote.
            schema: The schema under which it was written.
            split: Which patients stand in test.
            log: The site's audit log.
            site: The site's name, for messages.
            key: What the files are sealed under; None where they are readable.

        Raises:
            DataError: There is no table in `folder`, or its images belong to patients who have several rows.
            IntegrityError: The audit log does not vouch for its bytes under this schema.
        """
        table = vouched_table(folder, schema, log, key=key)
        images = None
        if schema.image is not None:
            newest = str(_records(schema, log)[-1].get("output_sha256"))
            images = open_images(folder, schema, log, key=key, table=newest)
            if schema.image.column not in table.columns and table[PATIENT].n_unique() < table.height:
                raise DataError(
                    f"site {site}: the images of {schema.name} were prepared by an earlier release, one for a patient,"
                    " and some patients have several rows; prepare the data set again"
                )
        super().__init__(table, images, schema=schema, split=split, site=site)


def rows_of_table(table: pl.DataFrame, schema: Schema, images: ImageStore | None) -> Floats:
    """Return the records of a de-identified table as `fedmed.rows` lays them out, shape `[rows, width]`."""
    parts: list[Floats] = []
    if schema.text is not None:
        texts, most = table[schema.text.column].to_list(), schema.text.characters
        if schema.text.form == "chat":
            texts = [cut_conversation(text or "", characters=most) for text in texts]
        parts.append(text_rows(texts, characters=most))
    if schema.image is not None and images is not None:
        found = [None if key is None else images.get(key) for key in image_keys(table, schema)]
        parts.append(image_rows(found, channels=schema.image.channels, size=schema.image.size))
    parts.append(_features(table, schema))
    return np.concatenate(parts, axis=1)


def readable_rows(table: pl.DataFrame, schema: Schema, images: ImageStore | None) -> npt.NDArray[np.bool_]:
    """Return which records hold anything that a model can read; with features of a table, every one does."""
    if _feature_columns(schema):
        return np.ones(table.height, dtype=np.bool_)
    readable = np.zeros(table.height, dtype=np.bool_)
    if schema.text is not None:
        readable |= (table[schema.text.column].fill_null("").str.strip_chars() != "").to_numpy()
    if images is not None:
        readable |= np.array([key in images for key in image_keys(table, schema)], dtype=np.bool_)
    return readable


def image_keys(table: pl.DataFrame, schema: Schema) -> list[str | None]:
    """Return what each row's image stands under: the number in its image column, or where there is none its patient."""
    if schema.image is None or schema.image.column not in table.columns:
        return list(table[PATIENT])
    return [None if number is None else str(int(number)) for number in table[schema.image.column].to_list()]


def row_names(schema: Schema) -> Sequence[str]:
    """Return a name for each value of a row: text, image, then the features of `feature_names`."""
    table = feature_names(schema)
    if schema.text is None and schema.image is None:
        return table
    return RowNames(schema, table)


def feature_names(schema: Schema) -> tuple[str, ...]:
    """Return the features of `schema` in order: numbers and binaries by name, categories as `name=value`."""
    names: list[str] = []
    for column in _feature_columns(schema):
        shown = [f"{column.name}={value}" for value in _shown_values(column, schema)]
        names += shown if column.kind == "category" else [column.name]
    return tuple(names)


def _feature_columns(schema: Schema) -> list[Column]:
    return [column for column in schema.columns if column.is_feature]


def _shown_values(column: Column, schema: Schema) -> tuple[str, ...]:
    return column.values[1:] if schema.drop_first else column.values


def vouched_table(folder: Path, schema: Schema, log: ChainLog, *, key: DataKey | None = None) -> pl.DataFrame:
    """Return the table in a folder, if the audit log vouches for its bytes under this schema.

    Raises:
        DataError: There is none.
        IntegrityError: The log does not vouch for it.
    """
    path = folder / TABLE_FILE
    data = stored_bytes(folder, TABLE_FILE, data_set=schema.name, key=key)
    if data is None:
        raise DataError(f"no de-identified table {path}; run the de-identification of {schema.name} first")
    records = _records(schema, log)
    cure = "de-identify the table again"
    if not records:
        raise IntegrityError(f"{path}: the audit log has no record for {schema.name}, so it is not used; {cure}")
    if records[-1].get("output_sha256") != hashlib.sha256(data).hexdigest():
        raise IntegrityError(f"{path}: the bytes are not those of the latest audit record, so it is not used; {cure}")
    if records[-1].get("schema_digest") != schema.digest:
        raise IntegrityError(
            f"{path}: the table was made under another schema {schema.name}, so it is not used; {cure}"
        )
    return pl.read_parquet(io.BytesIO(data))


def _records(schema: Schema, log: ChainLog) -> list[Mapping[str, Scalar]]:
    """Return what the audit log says about the data set's tables, the newest last."""
    return [e.body for e in log.entries() if e.kind == AUDIT_KIND and e.body.get("schema_name") == schema.name]


def _features(table: pl.DataFrame, schema: Schema) -> Floats:
    """Return the table's features in public-range units, shape `[rows, features]`; missing is 0.

    One pass over all columns: a column at a time costs more than training on them.
    """
    units = [unit for column in _feature_columns(schema) for unit in _units(column, schema)]
    if not units:
        return np.empty((table.height, 0), dtype=np.float32)
    named = [unit.alias(str(number)) for number, unit in enumerate(units)]
    return np.ascontiguousarray(table.select(named).to_numpy(), dtype=np.float32)


def _units(column: Column, schema: Schema) -> list[pl.Expr]:
    """Return what each feature of a column is; flags are centred by the public range 0.5/0.5, so they are -1 and 1."""
    values = pl.col(column.name)
    if column.kind == "category":
        return [_flag((values == value).cast(pl.Float64)) for value in _shown_values(column, schema)]
    raw = values.cast(pl.Float64)
    if column.kind == "binary":
        return [_flag(raw)]
    assert column.centre is not None  # noqa: S101  a Column that exists has checked it
    assert column.scale is not None  # noqa: S101  likewise
    return [((raw.fill_null(column.centre) - column.centre) / column.scale).clip(-schema.clip, schema.clip)]


def _flag(value: pl.Expr) -> pl.Expr:
    return (value.fill_null(0.5) - 0.5) / 0.5


def _in_test(patients: pl.Series, labels: pl.Series, rule: SplitRule) -> npt.NDArray[np.bool_]:
    if rule.kind == "hash":
        return np.array([_position(token, rule.seed) < rule.test_fraction for token in patients.to_list()])
    return _flamby_test_rows(labels.fill_null(-1).to_numpy(), rule)


def _position(token: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the token and the seed only."""
    value = hashlib.sha256(b"%s %d %s" % (_SPLIT_LABEL, seed, token.encode())).digest()
    return int.from_bytes(value[:8], "big") / 2**64


def _flamby_test_rows(labels: npt.NDArray[np.integer], rule: SplitRule) -> npt.NDArray[np.bool_]:
    """Repeat FLamby's split: stratified only where there are two classes and each has more than two rows."""
    from sklearn.model_selection import train_test_split  # noqa: PLC0415  it takes a second, and one split needs it

    counts = np.unique(labels, return_counts=True)[1]
    stratify = labels if len(counts) > 1 and bool((counts > 2).all()) else None
    _, test = train_test_split(
        np.arange(len(labels)),
        test_size=rule.test_fraction,
        random_state=rule.seed,
        shuffle=True,
        stratify=stratify,
    )
    in_test = np.zeros(len(labels), dtype=np.bool_)
    in_test[test] = True
    return in_test
