"""Before the first round: hospitals, de-identified tables, the public base, and where it all stands.

Why it exists: every mistake in the data shows here, before Flower or Ray start, as
one line that names file, column and cure.

What it does not do: train.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fedmed.data.pooled import divide
from fedmed.data.published import published_path
from fedmed.data.schema import DataSet, locate, sites_under
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.tabular import DeidReport
from fedmed.errors import ConfigError, DataError
from fedmed.files import write_atomic
from fedmed.learning.machine import Machine
from fedmed.learning.pretrain import pretrain_base
from fedmed.models import Architecture, build_module, folder_digest, require_readable, save_base
from fedmed.models.reading import require_precision
from fedmed.records import MachineSpec, canonical_json
from fedmed.secagg.shamir import Entropy
from fedmed_sim.entropy import SimulatedEntropy
from fedmed_sim.folder import RunFolder
from fedmed_sim.hospitals import write_hospitals
from fedmed_sim.settings import SimulationSettings, views
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import AllowedView, SitePolicy

SYNTHETIC = "synthetic"


def prepare_sites(settings: SimulationSettings, folder: RunFolder) -> tuple[str, ...]:
    """Make every site's folder with its de-identified data, and return the sites' names in order.

    Raises:
        DataError: A table is missing or not what its schema says.
        ConfigError: Too few sites for the plan's minimum, a study that the data set does not have, or a machine that
            has not what is asked of it.
    """
    machine = machine_of_sites(settings)
    root, names = _raw_tables(settings, folder)
    if len(names) < settings.secagg.min_sites:
        hint = "; two sites can only use secagg=insecure" if settings.secagg.kind == "secure" and len(names) < 3 else ""
        raise ConfigError(f"secagg.min_sites: the data has {len(names)} sites, got {settings.secagg.min_sites}{hint}")
    reports: dict[str, DeidReport] = {}
    for name in names:
        source = locate(root, settings.data.schema, name)
        if not SiteHome(folder.sites / name).record_path.is_file():
            record = SiteRecord(name=name, policy=_policy(settings), machine=machine)
            SiteHome.create(
                folder.sites / name,
                record,
                pseudonym_key=_pseudonym_key(settings, name, source),
                entropy=key_entropy(settings, name),
            )
        agent = SiteAgent.open(folder.sites / name)
        if not agent.datasets.holds(settings.data.name):
            reports[name] = agent.prepare(source, settings.data, _deid_policy(settings.data))
        for view in views(settings):
            for split in ("train", "test"):
                agent.datasets.load(view, split)
    if len(reports) == len(names):
        write_atomic(folder.deidentification, canonical_json(reports), mode=0o644)
    return names


def machine_of_sites(settings: SimulationSettings) -> MachineSpec:
    """Return what of this machine each site may use; sites that work at the same time share a graphics card.

    Raises:
        ConfigError: There is no such device, or it can't compute in the model's precision.
    """
    found = Machine.found(settings.site)
    found.require(settings.model.precision)
    if found.ceiling_bytes is None or found.device == "cpu":
        return settings.site
    sharing = {"ray": settings.workers, "inprocess": 1, "processes": settings.scenario.sites or 8}[settings.engine]
    given = settings.site.memory_gb or found.ceiling_bytes / sharing / 2**30
    return MachineSpec(device="cuda", memory_gb=given)


def _deid_policy(data: DataSet) -> DeidPolicy:
    """Return the policy of a simulated site: notes pass, cleaned, where the data set has a text."""
    return DeidPolicy(free_text="drop" if data.schema.text is None else "clean")


def key_entropy(settings: SimulationSettings, name: str) -> Entropy:
    """Return where the keys of a simulated party come from: the system, or the seed where a run must repeat."""
    if settings.privacy.noise == "system" or settings.engine == "processes":
        return os.urandom
    return SimulatedEntropy(settings.seed)(name, b"keys")


def prepare_base(settings: SimulationSettings, folder: RunFolder, names: Sequence[str]) -> str:
    """Build and pretrain the public base, give a copy to every site, and return its digest."""
    if not (folder.base / "model.safetensors").is_file():
        features, classes = SiteAgent.open(folder.sites / names[0]).datasets.dimensions(views(settings)[0])
        architecture = Architecture.of(settings.model, features=features, classes=classes)
        module = build_module(architecture, seed=settings.seed)
        require_precision(module, settings.model.precision)
        require_readable(module, architecture)
        pretrain_base(module, features=features, seed=settings.seed)
        save_base(folder.base, architecture, module)
    base_digest = folder_digest(folder.base)
    for name in names:
        target = SiteHome(folder.sites / name).models / base_digest
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder.base, target)
    return base_digest


def deidentification_reports(folder: RunFolder) -> dict[str, DeidReport]:
    """Return what de-identification did, by site."""
    return msgspec.json.decode(folder.deidentification.read_bytes(), type=dict[str, DeidReport])


def planted_identifiers(folder: RunFolder) -> tuple[str, ...]:
    """Return what the synthetic hospitals planted; nothing for real data."""
    if not folder.planted.is_file():
        return ()
    return msgspec.json.decode(folder.planted.read_bytes(), type=tuple[str, ...])


def rows_left_out(folder: RunFolder) -> dict[str, int] | None:
    """Return how many of a publisher's rows no site got, by reason; None where each site has a file of its own."""
    if not folder.left_out.is_file():
        return None
    return msgspec.json.decode(folder.left_out.read_bytes(), type=dict[str, int])


def _raw_tables(settings: SimulationSettings, folder: RunFolder) -> tuple[Path, tuple[str, ...]]:
    """Return where the raw tables are and whose they are; synthetic ones are written first."""
    if settings.data.root is not None:
        root = Path(settings.data.root)
        pooled = settings.data.pooled
        if pooled is not None and published_path(root, pooled.file, pooled) is not None:
            divided = divide(root, settings.data, folder.hospitals)
            write_atomic(folder.left_out, canonical_json(divided.left_out), mode=0o644)
            root = folder.hospitals
        return root, sites_under(root, settings.data.schema)
    if settings.data.name != SYNTHETIC:
        raise DataError(_no_root(settings.data))
    if not folder.planted.is_file():
        truths = write_hospitals(
            folder.hospitals,
            sites=settings.scenario.sites or 4,
            patients_per_site=settings.scenario.patients_per_site or 1400,
            seed=settings.seed,
        )
        planted = sorted({identifier for truth in truths for identifier in truth.identifiers()})
        write_atomic(folder.planted, canonical_json(planted))
    return folder.hospitals, sites_under(folder.hospitals, settings.data.schema)


def _pseudonym_key(settings: SimulationSettings, name: str, source: Path) -> bytes:
    """Return a simulated site's key: the same for the same seed and table, so that runs repeat.

    It depends on the table's bytes, so whoever has only the tokens and the seed can't make it again.
    """
    table = hashlib.sha256(source.read_bytes()).digest()
    return hashlib.sha256(b"FedMed-simulated-site/v1\0" + canonical_json([settings.seed, name]) + table).digest()


def _no_root(data: DataSet) -> str:
    obtain = (data.pooled.obtain if data.pooled else "") or data.schema.obtain or "set data.root"
    return f"data.root: expected the folder of {data.name}'s files, got null; {obtain}"


def _policy(settings: SimulationSettings) -> SitePolicy:
    return SitePolicy(
        cap_epsilon=settings.privacy.epsilon,
        delta=settings.privacy.delta,
        views=tuple(
            AllowedView(schema=view.schema, target=view.target, cohort_column=view.cohort_column, cohort=view.cohort)
            for view in views(settings)
        ),
        allow_simulated_noise=settings.privacy.noise == "simulated-seed",
        allow_insecure_aggregation=settings.secagg.kind == "insecure",
        allow_shared_noise=settings.privacy.trust_model == "distributed",
        min_cohort=settings.secagg.min_sites,
        approval="each-study" if settings.engine == "processes" else "policy",
    )
