"""A comparison that finds a difference refuses, and says how large it was."""

from pathlib import Path

import pytest
import torch
from released_results import write_result
from torch import Tensor

from fedmed.errors import IntegrityError
from fedmed.released import open_released
from fedmed.released.parity import parity
from fedmed.released.ports import Ports, ports_of

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own


def ports_in(tmp_path: Path, kind: str = "tabular-transformer") -> Ports:
    """Return the ports of a released model."""
    released = open_released(write_result(tmp_path, kind))
    return ports_of(released.architecture, released.load()[0])


def outputs(ports: Ports) -> list[tuple[Tensor, ...]]:
    """Return the outputs for its samples."""
    return [ports.compute(sample) for sample in ports.samples()]


def test_the_largest_difference_is_reported(tmp_path: Path):
    """With the output where it was and what is allowed there."""
    ports = ports_in(tmp_path)
    found = outputs(ports)
    found[2] = (found[2][0] + 5e-5, found[2][1])
    seen = parity(ports, tuple(ports.samples()), outputs(ports), found, form="onnx")
    assert seen.output == "logits"
    assert seen.largest_difference == pytest.approx(5e-5, rel=0.1)
    assert seen.samples == 4


@pytest.mark.parametrize(("place", "more"), [(0, 2e-4), (1, float("nan")), (3, float("inf"))])
def test_a_difference_beyond_what_is_allowed_is_refused(place: int, more: float, tmp_path: Path):
    """In any sample, also where the form gives no number."""
    ports = ports_in(tmp_path)
    found = outputs(ports)
    found[place] = (found[place][0] + more, found[place][1])
    with pytest.raises(IntegrityError, match=r"the onnx form differs by .* in logits, where 0.0001 is allowed"):
        parity(ports, tuple(ports.samples()), outputs(ports), found, form="onnx")


def test_what_is_allowed_grows_with_the_values(tmp_path: Path):
    """Float32 has seven digits, wherever the point is."""
    ports = ports_in(tmp_path)
    large = [(logits * 1e4, others) for logits, others in outputs(ports)]
    near = [(logits * (1 + 1e-5), others) for logits, others in large]
    assert parity(ports, tuple(ports.samples()), large, near, form="onnx").allowed > 1e-4


def test_a_form_for_one_number_of_records_is_refused(tmp_path: Path):
    """Samples have several lengths, so that none is baked in."""
    ports = ports_in(tmp_path)
    assert len({len(sample[0]) for sample in ports.samples()}) == 4
    found = [(logits[:1], others) for logits, others in outputs(ports)]
    with pytest.raises(IntegrityError, match=r"gives logits of shape \[1, 1\], not \[3, 1\]"):
        parity(ports, tuple(ports.samples()), outputs(ports), found, form="onnx")


def test_what_is_said_of_padding_is_not_compared(tmp_path: Path):
    """A causal model may say anything after the end of a text."""
    ports = ports_in(tmp_path, "causal-lm:gpt2")
    samples, found = tuple(ports.samples()), outputs(ports)
    for sample, (logits, _) in zip(samples, found, strict=True):
        logits[sample[1] == 0] = 99.0
    assert any(bool((sample[1] == 0).any()) for sample in samples)
    assert parity(ports, samples, outputs(ports), found, form="onnx").largest_difference == 0
    found[0][0][0, 0] = 99.0
    with pytest.raises(IntegrityError, match="differs by"):
        parity(ports, samples, outputs(ports), found, form="onnx")


def test_a_chance_of_an_answer_does_not_depend_on_the_side_of_padding(tmp_path: Path):
    """It is read after the last token, wherever that stands."""
    ports = ports_in(tmp_path, "causal-lm:llama")
    ids = torch.tensor([[9, 8, 7, 1, 1]])
    right = ports.compute((ids, torch.tensor([[1, 1, 1, 0, 0]])))[1]
    left = ports.compute((ids.roll(2, 1), torch.tensor([[0, 0, 1, 1, 1]])))[1]
    alone = ports.compute((ids[:, :3], torch.ones(1, 3, dtype=torch.long)))[1]
    assert torch.allclose(right, alone, atol=1e-5)
    assert torch.allclose(left, alone, atol=1e-5)
