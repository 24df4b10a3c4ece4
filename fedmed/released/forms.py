"""Write a released model in a form that others load: a merged folder, or an ONNX graph.

Why it exists: a hospital that uses a model has neither FedMed nor PEFT, and should not need them.

Rules:
    * A form is compared with what was released before it gets its name; one that differs is not written.
    * The folder appears whole or not at all, and none is overwritten.
    * Beside the weights lie the model card, the tokenizer, and `fedmed.json`: inputs, outputs, classes, preprocessing,
      where the model came from, and what the comparison found.

What it does not do: choose a form.
"""

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import msgspec

from fedmed import __version__
from fedmed.data.schema import Schema
from fedmed.files import appearing, write_atomic
from fedmed.released import merged, onnx_form
from fedmed.released.card import auto_class
from fedmed.released.folder import CARD, Released
from fedmed.released.parity import Parity, parity
from fedmed.released.ports import Port, ports_of
from fedmed.released.preprocessing import Facts, class_names, preprocessing, refuse_other_schema

Form = Literal["merged", "onnx"]
FACTS = "fedmed.json"
"""What lies beside the weights of a form."""

_LIBRARY = re.compile(r"\A(---\n.*?^library_name: )\w+$", re.DOTALL | re.MULTILINE)
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_OF_MODELS = ("config.json", "generation_config.json")


def export(released: Released, form: Form, out: Path, *, schema: Schema | None) -> Parity:
    """Write `released` in `form` to the folder `out`, and return what the comparison with the released model found.

    Args:
        released: The model.
        form: Which form.
        out: A folder that is not there yet.
        schema: Of the data set, for names of classes and features; None without.

    Raises:
        UsageError: There is something at `out`, the schema is another data set's, the form has no meaning for this
            model, or what it needs is not installed.
        ModelError: The model can't be brought into this form.
        IntegrityError: The form differs from what was released.
    """
    if schema is not None:
        refuse_other_schema(released.plan, schema)
    (onnx_form if form == "onnx" else merged).refuse(released)
    with appearing(out) as stage:
        return _written(released, form, stage, schema)


def _written(released: Released, form: Form, stage: Path, schema: Schema | None) -> Parity:
    module, adapter = released.load()
    ports = ports_of(released.architecture, module)
    samples = tuple(ports.samples())
    expected = [ports.compute(sample) for sample in samples]
    if adapter is not None:
        adapter.merge_and_unload()
    names = class_names(released, schema)
    facts = {
        "version": 1,
        "form": form,
        "fedmed": __version__,
        **_origin(released),
        "classes": None if names is None else list(names),
        "inputs": [_shown(port) for port in ports.inputs],
        "outputs": [_shown(port) for port in ports.outputs],
        "preprocessing": preprocessing(released, module, schema),
    }
    if form == "onnx":
        onnx_form.write(stage, ports, facts)
        found = onnx_form.compute(stage, ports, samples)
        _copy_readers(released, stage)
    else:
        merged.write(stage, released, module, names)
        found = merged.compute(stage, released, ports, samples)
    seen = parity(ports, samples, expected, found, form=form)
    how = (onnx_form if form == "onnx" else merged).loading(released)
    write_atomic(stage / CARD, _card(released, form, how, seen).encode(), mode=0o644)
    document = msgspec.json.format(msgspec.json.encode({**facts, "parity": asdict(seen)}), indent=2)
    write_atomic(stage / FACTS, document + b"\n", mode=0o644)
    return seen


def _copy_readers(released: Released, stage: Path) -> None:
    """Copy the tokenizer and the image's settings, as the base has them: what stands before the graph."""
    for tower in released.architecture.towers:
        source = released.base / tower.part
        for file in tower.files:
            if not file.name.endswith(_WEIGHTS) and file.name not in _OF_MODELS:
                shutil.copyfile(source / file.name, stage / file.name)


def _card(released: Released, form: Form, how: str, seen: Parity) -> str:
    """Return the result's card, as somebody may have filled it in, with what this form adds."""
    card = released.card.read_text(encoding="utf-8") if released.card.is_file() else f"# {released.plan.study}\n"
    library = "onnx" if form == "onnx" else "transformers" if auto_class(released.architecture.family) else "fedmed"
    card = _LIBRARY.sub(rf"\g<1>{library}", card)
    return (
        f"{card.rstrip()}\n\n## This form\nExported as `{form}` by FedMed {__version__}. {how}\n"
        f"On {seen.samples} random samples its outputs were within {seen.largest_difference:.3g} of the released"
        f" model's (`{seen.output}`; allowed {seen.allowed:.3g}).\n"
    )


def _shown(port: Port) -> Facts:
    kind = str(port.dtype).removeprefix("torch.")
    return {"name": port.name, "type": kind, "axes": list(port.axes), "meaning": port.meaning}


def _origin(released: Released) -> Facts:
    return {
        "study": released.plan.study,
        "family": released.architecture.family,
        "target": released.plan.data.target,
        "schema": released.plan.data.schema,
        "schema_digest": released.plan.data.schema_digest,
        "plan_digest": released.facts.plan_digest,
        "base_digest": released.plan.base_digest,
        "weights_sha256": released.weights_sha256,
    }
