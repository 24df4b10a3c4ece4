"""The data sets of one site: the way in for raw records, the way out for cohorts.

Why it exists: a raw record passes de-identification and the audit log before any
model sees it, and a plan can only name data that passed under the schema it names.

Rules:
    * There are two ways in: `prepare` a raw table, which stays where it was, or `register` a folder that
      `deidentify` wrote, which stays where it is.
    * What is kept is sealed, and opened in memory only.
    * `load` reads only what the audit log vouches for.

What it does not do: change a schema, or show a record.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from fedmed.audit import ChainLog, Scalar
from fedmed.data.jsonl import table_of
from fedmed.data.parts import IMAGES_FILE, IMAGES_KIND
from fedmed.data.schema import DataSet, ImagePart, Schema
from fedmed.data.source import Cohort, Source, Split, View
from fedmed.data.stored import seal_of, sealed_path
from fedmed.data.tabular import RowSource, TabularSource, row_names, vouched_table
from fedmed.deid.policy import DeidPolicy, SchemaFacts
from fedmed.deid.tabular import AUDIT_KIND, TABLE_FILE, DeidReport, deidentify_table
from fedmed.deid.text import NoteCleaner, TextOptions
from fedmed.errors import RefusedError, UsageError
from fedmed.files import write_atomic
from fedmed.records import DataSpec, canonical_json, decode
from fedmed_site.data_keys import DataKeys
from fedmed_site.home import SiteHome
from fedmed_site.item_sets import REGISTERED_KIND, ItemSet, Opened, check_registered, item_set_of, open_items
from fedmed_site.raw_rows import numbered_table

if TYPE_CHECKING:
    from fedmed.data.imaging import ImagesReport  # it imports pydicom

_SPLITS: Final[tuple[Split, ...]] = ("train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCounts:
    """What became of the rows of a site's table, from the file to a study; every row is in one of the first seven.

    Counts of patients: they stay at the site, and a simulation, which owns every site, shows them.
    """

    train: int
    test: int
    quarantined: int
    """Rows with a cell that the schema does not allow, and lines that are no rows."""
    incomplete: int
    """Rows without a value that is required."""
    suppressed: int
    """Rows that k-anonymity took out."""
    without_label: int
    """Rows of the cohort whose label no class of the target has, or with nothing to read."""
    other_cohorts: int
    """Rows that the study does not ask for."""
    images_missing: int | None = None
    """Rows that name no image; None where the data set has no images."""
    images_unreadable: int | None = None
    """Images that are damaged or not there; their records go on without one if they have anything else."""

    @property
    def skipped(self) -> dict[str, int]:
        """The rows and images that no study can use, by reason; only those that there are."""
        counts = {
            "outside the schema": self.quarantined,
            "incomplete": self.incomplete,
            "taken out for k-anonymity": self.suppressed,
            "without a label or content": self.without_label,
            "without an image": self.images_missing or 0,
            "with an unreadable image": self.images_unreadable or 0,
        }
        return {reason: count for reason, count in counts.items() if count}


@dataclass(frozen=True, slots=True)
class DataSets:
    """The data sets of one site."""

    home: SiteHome
    log: ChainLog

    def prepare(self, source: Path, dataset: DataSet, policy: DeidPolicy) -> DeidReport:
        """De-identify the table `source`, and the images that it names beside it, and keep them as `dataset.name`.

        Raises:
            DataError: The table is not what the schema says; nothing is kept of it.
        """
        with table_of(source, dataset.schema) as table:
            if dataset.schema.image is None:
                report = self._cleaned(table, dataset.schema, dataset.schema, policy, source.name)
            else:
                report = self._with_images(table, source, dataset.schema, dataset.schema.image, policy)
        self._items_path(dataset.name).unlink(missing_ok=True)
        self._describe(dataset)
        return report

    def _with_images(
        self, table: Path, source: Path, schema: Schema, part: ImagePart, policy: DeidPolicy
    ) -> DeidReport:
        """De-identify a table whose rows name images, and keep those under the numbers that stand for their names."""
        from fedmed.data.imaging import prepare_images  # noqa: PLC0415  it imports pydicom

        if policy.keep and part.column not in policy.keep:
            policy = replace(policy, keep=(*policy.keep, part.column))
        with numbered_table(table, schema) as (raw, door, named):
            report = self._cleaned(raw, schema, door, policy, source.name)
        prepare_images(
            named,
            source.parent,
            schema=schema,
            table=report.output_sha256,
            out_dir=self._folder(schema.name),
            log=self.log,
            key=DataKeys(self.home).of_dataset(schema.name),
            source=source.name,
        )
        return report

    def _cleaned(self, table: Path, schema: Schema, door: SchemaFacts, policy: DeidPolicy, named: str) -> DeidReport:
        """Keep a de-identified table."""
        key, out = self.home.pseudonym_key_path.read_bytes(), self._folder(schema.name)
        return deidentify_table(
            table,
            schema=door,
            policy=policy,
            key=key,
            out_dir=out,
            log=self.log,
            clean=Notes(key) if policy.free_text == "clean" else None,
            seal=seal_of(schema.name, TABLE_FILE, DataKeys(self.home).of_dataset(schema.name)),
            named=named,
        )

    def register(self, out: Path, dataset: DataSet) -> Opened:
        """Keep the items of the folder `out`, which `deidentify` wrote, as `dataset.name`; they stay where they are.

        Raises:
            UsageError: It is no such folder, or was never finished.
            DataError: No table in it was made under the data set's schema.
            IntegrityError: An item is not what the audit log says.
        """
        held = item_set_of(self.home, out)
        opened = open_items(self.home, self.log.entries(), dataset, held)
        folder = self._folder(dataset.name)
        self.log.append(
            REGISTERED_KIND,
            {
                "schema_name": dataset.name,
                "schema_digest": dataset.schema.digest,
                "batch": held.batch,
                "manifest_sha256": held.manifest_sha256,
                "items": opened.items,
                "rows": opened.table.height,
                "images": 0 if opened.images is None else len(opened.images),
            },
        )
        write_atomic(self._items_path(dataset.name), canonical_json(held))
        self._describe(dataset)
        for file in (TABLE_FILE, IMAGES_FILE):
            for path in (folder / file, sealed_path(folder, file)):
                path.unlink(missing_ok=True)
        return opened

    def holds(self, name: str) -> bool:
        """Return whether a data set of this name was prepared."""
        return self._description(name).is_file()

    def check(self, data: DataSpec) -> None:
        """Raise unless the site holds the data that a plan names, under the schema it names.

        Raises:
            RefusedError: It does not.
        """
        if not data.schema.replace("-", "").replace("_", "").isalnum() or not self.holds(data.schema):
            raise RefusedError(f"this site holds no data set {data.schema!r}; prepare it first")
        found = self._dataset(data.schema).schema.digest
        if found != data.schema_digest:
            raise RefusedError(
                f"expected schema {data.schema} {data.schema_digest[:12]}, this site has {found[:12]};"
                " bring both to one version"
            )

    def load(self, data: DataSpec, split: Split) -> Cohort:
        """Return the patients of a plan's view.

        Raises:
            DataError: The view cannot be trained on.
            IntegrityError: The audit log does not vouch for every byte.
        """
        return self.source(data.schema).load(_view(data), split)

    def load_parts(self, data: DataSpec, split: Split, column: str) -> dict[str, Cohort]:
        """Return the cohort of `load`, divided by the value that each record has in a category.

        Raises:
            DataError: The view cannot be trained on, or the column is no category that stands in the table.
            IntegrityError: The audit log does not vouch for the table.
        """
        return self.source(data.schema).load_parts(_view(data), split, column)

    def description(self, name: str) -> DataSet:
        """Return what a data set was prepared as."""
        return self._dataset(name)

    def dimensions(self, data: DataSpec) -> tuple[int, int]:
        """Return how many features and classes a view has; both follow from the schema alone."""
        schema = self._dataset(data.schema).schema
        return len(row_names(schema)), len(schema.target(data.target).classes)

    def version(self, name: str) -> str:
        """Return what changes whenever a data set is prepared anew: a digest of what is known of it without reading it.

        It is made of the description, of the items' manifest where there are some, and of the last word of the audit
        log on its table and images.
        """
        parts = [self._description(name).read_bytes(), canonical_json(self._items(name))]
        parts += [canonical_json(dict(self._last_entry(kind, name))) for kind in (AUDIT_KIND, IMAGES_KIND)]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def counts(self, data: DataSpec) -> RecordCounts:
        """Return what became of every row of the table that the audit log vouches for, under a plan's view.

        Of items that were registered, the rows that were kept; what became of the others is in their own report.

        Raises:
            DataError: The view cannot be trained on.
            IntegrityError: The audit log does not vouch for the table.
        """
        source, view = self.source(data.schema), _view(data)
        made: Mapping[str, Scalar] = {}
        images: Mapping[str, Scalar] = {}
        if self._items(data.schema) is None:
            made, images = self._last_entry(AUDIT_KIND, data.schema), self._last_entry(IMAGES_KIND, data.schema)
        aside, incomplete = (int(made.get(f"rows_{name}") or 0) for name in ("quarantined", "incomplete"))
        train, test = (len(source.load(view, split).labels) for split in _SPLITS)
        without_label = source.skipped(view)
        return RecordCounts(
            train=train,
            test=test,
            quarantined=aside,
            incomplete=incomplete,
            suppressed=int(made.get("rows_read") or source.rows) - source.rows - aside - incomplete,
            without_label=without_label,
            other_cohorts=source.rows - train - test - without_label,
            images_missing=int(images["missing"] or 0) if images else None,
            images_unreadable=int(images["unreadable"] or 0) if images else None,
        )

    def images(self, name: str) -> "ImagesReport":
        """Return what became of the images of a data set that was prepared with some."""
        from fedmed.data.imaging import ImagesReport  # noqa: PLC0415  it imports pydicom

        found = self._last_entry(IMAGES_KIND, name)
        return ImagesReport(**{key: int(found[key] or 0) for key in ("images", "missing", "unreadable")})

    def _last_entry(self, kind: str, name: str) -> Mapping[str, Scalar]:
        bodies = [e.body for e in self.log.entries() if e.kind == kind and e.body.get("schema_name") == name]
        return bodies[-1] if bodies else {}

    def source(self, name: str) -> Source:
        """Return the records of a data set, opened in memory.

        Raises:
            DataError: They are missing.
            IntegrityError: The audit log does not vouch for every byte.
        """
        dataset, site = self._dataset(name), self.home.record().name
        held, entries = self._items(name), self.log.entries()
        check_registered(entries, dataset.schema, held)
        if held is not None:
            opened = open_items(self.home, entries, dataset, held)
            return RowSource(opened.table, opened.images, schema=dataset.schema, split=dataset.split, site=site)
        key = DataKeys(self.home).of_dataset(name)
        return TabularSource(
            self.home.data(name), schema=dataset.schema, split=dataset.split, log=self.log, site=site, key=key
        )

    def table(self, name: str) -> pl.DataFrame:
        """Return the de-identified table of a data set, opened in memory.

        Raises:
            UsageError: There is no such data set.
            IntegrityError: The audit log does not vouch for every byte.
        """
        if not name.replace("-", "").replace("_", "").isalnum() or not self.holds(name):
            raise UsageError(f"this site holds no data set {name!r}; prepare it first")
        dataset, held, entries = self._dataset(name), self._items(name), self.log.entries()
        check_registered(entries, dataset.schema, held)
        if held is not None:
            return open_items(self.home, entries, dataset, held).table
        return vouched_table(self.home.data(name), dataset.schema, self.log, key=DataKeys(self.home).of_dataset(name))

    def verify(self, name: str) -> str:
        """Return in words what a data set is, after comparing every byte of it with the audit log.

        Raises:
            DataError: It is missing.
            IntegrityError: The audit log does not vouch for every byte.
        """
        dataset, held, entries = self._dataset(name), self._items(name), self.log.entries()
        check_registered(entries, dataset.schema, held)
        if held is not None:
            items = open_items(self.home, entries, dataset, held).items
            return f"{items} items as recorded, schema {dataset.schema.digest[:12]}"
        key = DataKeys(self.home).of_dataset(name)
        vouched_table(self.home.data(name), dataset.schema, self.log, key=key)
        return f"as prepared, schema {dataset.schema.digest[:12]}"

    def _items(self, name: str) -> ItemSet | None:
        path = self._items_path(name)
        return decode(path.read_bytes(), ItemSet) if path.is_file() else None

    def _folder(self, name: str) -> Path:
        folder = self.home.data(name)
        for one in (folder.parent, folder):
            one.mkdir(exist_ok=True, mode=0o700)
        return folder

    def _describe(self, dataset: DataSet) -> None:
        write_atomic(self._description(dataset.name), canonical_json(replace(dataset, root=None)))

    def _dataset(self, name: str) -> DataSet:
        return decode(self._description(name).read_bytes(), DataSet)

    def _description(self, name: str) -> Path:
        return self.home.data(name) / "dataset.json"

    def _items_path(self, name: str) -> Path:
        return self.home.data(name) / "items.json"


class Notes:
    """What cleans the notes of a table: the rules for both languages, dates masked."""

    def __init__(self, key: bytes) -> None:
        self._cleaner = NoteCleaner(options=TextOptions(), key=key)

    def __call__(self, text: str, *, patient: str) -> str:
        """Return a note without identifiers."""
        return self._cleaner.clean(text, patient=patient).text


def _view(data: DataSpec) -> View:
    return View(target=data.target, cohort_column=data.cohort_column, cohort=data.cohort)
