"""Tiny model folders that the tests write themselves, and a consortium that trains on notes or images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from federation import PRIVATE, SECURE, Consortium, build_consortium
from model_folders import write_causal_folder, write_image_folder, write_text_folder

from fedmed.audit import ChainLog
from fedmed.data.schema import DataSet, Schema
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.tabular import deidentify_table
from fedmed.models import Architecture, build_module, save_base
from fedmed.records import ContinualSpec, DataSpec, ModelSpec, Plan, TrainingSpec, canonical_json
from fedmed_site.datasets import DataSets
from fedmed_site.home import SiteHome

Folder: TypeAlias = Callable[[str], Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices on one core: threads that wait for each other take longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text_folder(tmp_path: Path) -> Folder:
    """Return what writes the folder of a text encoder of a family."""
    return lambda family: write_text_folder(tmp_path / f"text-{family}", family)


@pytest.fixture
def causal_folder(tmp_path: Path) -> Folder:
    """Return what writes the folder of a causal model of a family."""
    return lambda family: write_causal_folder(tmp_path / f"causal-{family}", family)


@pytest.fixture
def image_folder(tmp_path: Path) -> Folder:
    """Return what writes the folder of an image classifier of a family."""
    return lambda family: write_image_folder(tmp_path / f"image-{family}", family)


@pytest.fixture
def bare_image_folder(tmp_path: Path) -> Folder:
    """Return what writes the folder of an image encoder without a head."""
    return lambda family: write_image_folder(tmp_path / f"image-{family}", family, whole=False)


@dataclass(frozen=True)
class Clinics:
    """Three prepared sites with records of another kind than a plain table, and a base for them."""

    consortium: Consortium
    schema: Schema

    def plan(self, spec: ModelSpec, *, features: int, classes: int = 2, rounds: int = 2, **changes: Any) -> Plan:
        """Give every site the base of `spec`, and return a private plan over the secure sum."""
        architecture = Architecture.of(spec, features=features, classes=classes)
        base = self.consortium.root / "other-base"
        base_digest = save_base(base, architecture, build_module(architecture, seed=5))
        for home in self.consortium.homes:
            target = SiteHome(home).models / base_digest
            if not target.is_dir():
                target.symlink_to(base, target_is_directory=True)
        training = TrainingSpec(rounds=rounds, local_steps=2, sample_rate=0.5, learning_rate=0.1)
        changes = {
            "data": DataSpec(schema="tiny", schema_digest=self.schema.digest, target="ill"),
            "model": spec,
            "base_digest": base_digest,
            "training": training,
            "privacy": PRIVATE,
            "aggregation": SECURE,
            "continual": ContinualSpec(strength=0.0, release_fisher=False),
            **changes,
        }
        return self.consortium.plan(**changes)

    def train(self, plan: Plan, state: Path) -> Path:
        """Run the study and return the folder of its result."""
        replace(self.consortium, base=self.consortium.root / "other-base").runner(plan, state).run()
        return state / "result"


@pytest.fixture
def clinics(tmp_path: Path) -> Callable[..., Clinics]:
    """Return what makes clinics of tables, each its rows with a header; images lie beside them."""

    def make(schema: Schema, tables: Sequence[Sequence[str]]) -> Clinics:
        consortium = build_consortium(tmp_path / "consortium", sites=len(tables), rows=40, cap_epsilon=1e6)
        dataset = DataSet(name="tiny", schema=schema, split=consortium.dataset.split)
        for place, (root, rows) in enumerate(zip(consortium.homes, tables, strict=True)):
            home = SiteHome(root)
            table = tmp_path / f"clinic-{place}.csv"
            table.write_text("\n".join(rows) + "\n")
            if schema.image is not None:
                DataSets(home, ChainLog(home.audit_path)).prepare(table, dataset, DeidPolicy(free_text="clean"))
                continue
            deidentify_table(
                table,
                schema=schema,
                policy=DeidPolicy(free_text="clean"),
                key=home.pseudonym_key_path.read_bytes(),
                out_dir=home.data("tiny"),
                log=ChainLog(home.audit_path),
                clean=lambda text, patient: text,  # noqa: ARG005  what cleans notes has tests of its own
            )
            (home.data("tiny") / "dataset.json").write_bytes(canonical_json(dataset))
        return Clinics(consortium=consortium, schema=schema)

    return make


def notes(count: int, *, seed: int, words: Sequence[str] = ("fever", "cough")) -> list[tuple[str, int]]:
    """Return notes with the label that their word decides."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = int(rng.integers(2))
        others = " ".join(rng.choice(["pain", "none", "mild", "left", "knee"], size=int(rng.integers(0, 4))))
        found.append((f"{words[label]} {others} {number}".replace("  ", " "), label))
    return found


@pytest.fixture
def some_notes() -> Callable[..., list[tuple[str, int]]]:
    """Return what writes notes with labels."""
    return notes
