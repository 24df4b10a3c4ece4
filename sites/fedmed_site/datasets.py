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

from dataclasses import dataclass, replace
from pathlib import Path

from fedmed.audit import ChainLog
from fedmed.data.jsonl import table_of
from fedmed.data.parts import IMAGES_FILE
from fedmed.data.schema import DataSet
from fedmed.data.source import Cohort, Split, View
from fedmed.data.stored import seal_of, sealed_path
from fedmed.data.tabular import RowSource, TabularSource, vouched_table
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.tabular import TABLE_FILE, DeidReport, deidentify_table
from fedmed.deid.text import NoteCleaner, TextOptions
from fedmed.errors import RefusedError
from fedmed.files import write_atomic
from fedmed.records import DataSpec, canonical_json, decode
from fedmed_site.data_keys import DataKeys
from fedmed_site.home import SiteHome
from fedmed_site.item_sets import REGISTERED_KIND, ItemSet, Opened, check_registered, item_set_of, open_items


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
        key, out = self.home.pseudonym_key_path.read_bytes(), self._folder(dataset.name)
        data_key = DataKeys(self.home).of_dataset(dataset.name)
        with table_of(source, dataset.schema) as table:
            report = deidentify_table(
                table,
                schema=dataset.schema,
                policy=policy,
                key=key,
                out_dir=out,
                log=self.log,
                clean=_Notes(key) if policy.free_text == "clean" else None,
                seal=seal_of(dataset.name, TABLE_FILE, data_key),
            )
            if dataset.schema.image is not None:
                from fedmed.data.imaging import prepare_images  # noqa: PLC0415  it imports pydicom

                prepare_images(
                    table,
                    source.parent,
                    schema=dataset.schema,
                    token=Pseudonyms(key).token,
                    out_dir=out,
                    log=self.log,
                    key=data_key,
                )
        self._items_path(dataset.name).unlink(missing_ok=True)
        self._describe(dataset)
        return report

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

    def dimensions(self, data: DataSpec) -> tuple[int, int]:
        """Return how many features and classes a view has; both follow from the schema alone."""
        source = self.source(data.schema)
        return len(source.features), len(source.schema.target(data.target).classes)

    def source(self, name: str) -> RowSource:
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


class _Notes:
    """What cleans the notes of a table: the rules for both languages, dates masked."""

    def __init__(self, key: bytes) -> None:
        self._cleaner = NoteCleaner(options=TextOptions(), key=key)

    def __call__(self, text: str, *, patient: str) -> str:
        return self._cleaner.clean(text, patient=patient).text


def _view(data: DataSpec) -> View:
    return View(target=data.target, cohort_column=data.cohort_column, cohort=data.cohort)
