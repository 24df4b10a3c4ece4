"""The data sets of one site: the way in for raw records, the way out for cohorts.

Why it exists: a raw record passes de-identification and the audit log before any
model sees it, and a plan can only name data that passed under the schema it names.

Rules:
    * `prepare` is the only way in; it leaves the raw file where it was.
    * `load` reads only what the audit log vouches for.

What it does not do: change a schema, or show a record.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from fedmed.audit import ChainLog
from fedmed.data.jsonl import table_of
from fedmed.data.schema import DataSet
from fedmed.data.source import Cohort, Split, View
from fedmed.data.tabular import TabularSource
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.tabular import DeidReport, deidentify_table
from fedmed.deid.text import NoteCleaner, TextOptions
from fedmed.errors import RefusedError
from fedmed.files import write_atomic
from fedmed.records import DataSpec, canonical_json, decode
from fedmed_site.home import SiteHome


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
        key, out = self.home.pseudonym_key_path.read_bytes(), self.home.data(dataset.name)
        for folder in (out.parent, out):
            folder.mkdir(exist_ok=True, mode=0o700)
        table = table_of(source, dataset.schema, out / "raw.csv")
        try:
            report = deidentify_table(
                table,
                schema=dataset.schema,
                policy=policy,
                key=key,
                out_dir=out,
                log=self.log,
                clean=_Notes(key) if policy.free_text == "clean" else None,
            )
            if dataset.schema.image is not None:
                self._prepare_images(table, source.parent, dataset)
        finally:
            if table != source:
                table.unlink(missing_ok=True)  # it is as raw as its source
        write_atomic(self._description(dataset.name), canonical_json(replace(dataset, root=None)))
        return report

    def _prepare_images(self, table: Path, folder: Path, dataset: DataSet) -> None:
        from fedmed.data.imaging import prepare_images  # noqa: PLC0415  it imports pydicom

        token = Pseudonyms(self.home.pseudonym_key_path.read_bytes()).token
        out = self.home.data(dataset.name)
        prepare_images(table, folder, schema=dataset.schema, token=token, out_dir=out, log=self.log)

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
            IntegrityError: The audit log does not vouch for the table.
        """
        return self._source(data.schema).load(_view(data), split)

    def dimensions(self, data: DataSpec) -> tuple[int, int]:
        """Return how many features and classes a view has; both follow from the schema alone."""
        source = self._source(data.schema)
        return len(source.features), len(source.schema.target(data.target).classes)

    def _source(self, name: str) -> TabularSource:
        dataset = self._dataset(name)
        return TabularSource(
            self.home.data(name),
            schema=dataset.schema,
            split=dataset.split,
            log=self.log,
            site=self.home.record().name,
        )

    def _dataset(self, name: str) -> DataSet:
        return decode(self._description(name).read_bytes(), DataSet)

    def _description(self, name: str) -> Path:
        return self.home.data(name) / "dataset.json"


class _Notes:
    """What cleans the notes of a table: the rules for both languages, dates masked."""

    def __init__(self, key: bytes) -> None:
        self._cleaner = NoteCleaner(options=TextOptions(), key=key)

    def __call__(self, text: str, *, patient: str) -> str:
        return self._cleaner.clean(text, patient=patient).text


def _view(data: DataSpec) -> View:
    return View(target=data.target, cohort_column=data.cohort_column, cohort=data.cohort)
