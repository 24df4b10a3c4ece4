"""The ONNX form: a graph that runs without Python's model code.

Why it exists: appliances, other languages and other vendors' servers run ONNX.

Rules:
    * The graph comes from `torch.export`; numbers of records and tokens are left open.
    * Nothing of this machine stands in the file: traces and paths are taken out.
    * Facts stand in the file too, under `fedmed.NAME`, as JSON.
    * The runtime that compares is onnxruntime on the processor.

What it does not do: optimise for a device, or quantise.
Source: ONNX IR specification 1.x; torch.onnx.export with dynamo=True.
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedmed.errors import ModelError, UsageError
from fedmed.released.folder import Released
from fedmed.released.ports import Ports
from fedmed.released.preprocessing import Facts

GRAPH = "model.onnx"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_ONE_FILE = 1 << 30
"""Bytes of numbers up to which a graph is one file; a file of protobuf ends at two of these. Beyond, the numbers lie in
`model.onnx.data` beside it."""


def refuse(released: Released) -> None:  # noqa: ARG001  every form can be asked
    """Raise if what writes and runs graphs is not installed.

    Raises:
        UsageError: It is not.
    """
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"--form onnx needs {', '.join(lacking)}, not installed here; pip install 'fedmed[onnx]'")


def write(stage: Path, ports: Ports, facts: Facts) -> None:
    """Write the graph of a computation.

    Args:
        stage: A folder.
        ports: The computation.
        facts: What stands in the file beside the graph.

    Raises:
        ModelError: This computation has no graph.
    """
    example = next(ports.samples())
    axes = tuple({at: axis for at, axis in enumerate(port.axes) if isinstance(axis, str)} for port in ports.inputs)
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                ports.core,
                example,
                dynamo=True,
                dynamic_shapes=axes,
                input_names=[port.name for port in ports.inputs],
                output_names=[port.name for port in ports.outputs],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            cause = " ".join(str(error.__cause__ or error).split())[:160]
            raise ModelError(
                f"a {facts['family']} model of this kind has no ONNX graph ({cause}); take --form merged"
            ) from None
        assert program is not None  # noqa: S101  it is, with dynamo
        _tidy(program.model, facts)
        program.save(str(stage / GRAPH), external_data=_bytes_of(program.model) > _ONE_FILE)


def compute(stage: Path, ports: Ports, samples: Sequence[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Run what `write` wrote and yield its outputs for each sample.

    Raises:
        ModelError: The runtime can't run it.
    """
    import onnxruntime  # noqa: PLC0415  an extra
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals  # noqa: PLC0415  likewise

    names = [port.name for port in ports.outputs]
    try:
        session = onnxruntime.InferenceSession(str(stage / GRAPH), providers=["CPUExecutionProvider"])
        for sample in samples:
            given = {port.name: value.numpy() for port, value in zip(ports.inputs, sample, strict=True)}
            yield tuple(torch.from_numpy(value) for value in session.run(names, given))
    except (refusals.Fail, refusals.InvalidArgument, refusals.InvalidGraph, refusals.NotImplemented,
            refusals.RuntimeException) as error:  # fmt: skip
        cause = " ".join(str(error).split())[:160]
        raise ModelError(f"onnxruntime can't run the graph ({cause}); take --form merged") from None


def loading(released: Released) -> str:  # noqa: ARG001  every form can be asked
    """Return how the folder is loaded, as Markdown."""
    return f"`onnxruntime.InferenceSession('{GRAPH}')`; `fedmed.json` says what goes in and what comes out."


def _bytes_of(model: Any) -> int:
    """Return the bytes of everything that a graph holds as numbers: weights, buffers, and what was folded into it."""
    graphs = (model.graph, *model.functions.values())
    return sum(value.const_value.nbytes for graph in graphs for value in _initializers(graph) if value.const_value)


def _initializers(graph: Any) -> Iterable[Any]:
    held: Mapping[str, Any] = getattr(graph, "initializers", {})  # a function has none
    return held.values()


def _tidy(model: Any, facts: Facts) -> None:
    """Take out what names this machine, and put the facts in."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
    model.metadata_props.clear()
    for name, value in facts.items():
        model.metadata_props[f"fedmed.{name}"] = json.dumps(value, ensure_ascii=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own notes off the terminal; what matters it raises."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
