"""How fast and in how much memory a device trains adapters privately: samples per second against plain LoRA, and peaks.

Why it exists: whether a hospital's graphics card is used, or waits for the bookkeeping of privacy, shows only against
what the card can do: its rate of matrix products.

How it measures:
    * Models have random weights from a configuration, the shape of ViT-B/16 and of Qwen2-0.5B; nothing is downloaded.
    * Private: calls of `train_private` with one full step on every record, all that such a call does included, the
      noise of the operating system too. Plain: forward, mean loss, backward and step of a bare torch loop with the same
      adapter in the same precision. They run interleaved; a rate is records over the median seconds of a step.
    * Operations of a step are those that torch's counter finds in the plain one; achieved is what the private step
      does of them in a second, against the best of several square products in the same precision.
    * Memory is the most bytes in tensors at any moment of a step, weights among them; full fine-tuning is the same
      model without an adapter, all weights in float32 trained by AdamW, at the same number of records.

`--quick` uses reduced sizes, says so, and shows that the benchmark works: its figures say nothing about a device.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from dp_step import Logits, record_losses
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedmed.learning.machine import Machine, at_work
from fedmed.model_spec import Device, MachineSpec, ModelSpec, Precision
from fedmed.models.reading import checkpointed
from fedmed.privacy.ceiling import peak_bytes
from fedmed.privacy.engine import train_private
from fedmed.privacy.noise import SystemNoise
from fedmed.privacy.precision import DTYPES, computing

LEARNING_RATE = 1e-3
Kind = Literal["ViT-B", "Qwen2-0.5B"]
KINDS: tuple[Kind, ...] = ("ViT-B", "Qwen2-0.5B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large models and batches are, and how often each step is measured."""

    reduced: bool
    rounds: int
    vit: Mapping[str, int]
    qwen: Mapping[str, int]
    images: int
    texts: int
    tokens: int
    product: int
    """Side of the square product that the device's rate is measured by."""
    rank: int = 16


FULL = Scale(
    reduced=False,
    rounds=10,
    vit={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
         "image_size": 224, "patch_size": 16},
    qwen={"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
          "intermediate_size": 4864, "vocab_size": 151936},
    images=64,
    texts=16,
    tokens=512,
    product=8192,
)  # fmt: skip
QUICK = Scale(
    reduced=True,
    rounds=3,
    vit={"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 768,
         "image_size": 96, "patch_size": 16},
    qwen={"hidden_size": 224, "num_hidden_layers": 3, "num_attention_heads": 7, "num_key_value_heads": 1,
          "intermediate_size": 608, "vocab_size": 2000},
    images=16,
    texts=4,
    tokens=64,
    product=1024,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one model does on the device."""

    parameters: int
    trained: int
    records: int
    plain_per_s: float
    private_per_s: float
    private_of_plain: float
    private_tflops: float
    of_matrix_rate: float
    plain_bytes: int
    private_bytes: int
    full_bytes: int
    private_of_full_memory: float


# --- models ----------------------------------------------------------------------------------


def model_of(kind: Kind, scale: Scale) -> nn.Module:
    """Return a model with random weights."""
    if kind == "ViT-B":
        return transformers.ViTForImageClassification(transformers.ViTConfig(**scale.vit))  # type: ignore[arg-type]
    config = transformers.Qwen2Config(**scale.qwen, use_cache=False, tie_word_embeddings=True)  # type: ignore[arg-type]
    return transformers.Qwen2ForCausalLM(config)


def adapted(kind: Kind, scale: Scale) -> nn.Module:
    """Return it behind LoRA on queries and values, A frozen as in FFA-LoRA; a classifier's head is trained in full."""
    head = ["classifier"] if kind == "ViT-B" else None
    config = LoraConfig(r=scale.rank, target_modules=["q_proj", "v_proj"], modules_to_save=head)
    module = Logits(get_peft_model(model_of(kind, scale), config))  # type: ignore[arg-type]
    for name, value in module.named_parameters():
        if "lora_A" in name:
            value.requires_grad_(requires_grad=False)
    return module


def batch_of(kind: Kind, scale: Scale, records: int) -> tuple[Tensor, Tensor]:
    """Return records and labels."""
    generator = torch.Generator().manual_seed(1)
    if kind == "ViT-B":
        size = scale.vit["image_size"]
        return torch.randn(records, 3, size, size, generator=generator), torch.arange(records) % 2
    tokens = torch.randint(5, scale.qwen["vocab_size"], (records, scale.tokens), generator=generator)
    return tokens, tokens.roll(-1, 1)


# --- steps -----------------------------------------------------------------------------------


def plain_step(module: nn.Module, inputs: Tensor, labels: Tensor, optimizer: Any) -> Callable[[], None]:
    """Return one step of ordinary training."""
    module.train()

    def step() -> None:
        optimizer.zero_grad()
        record_losses(module(inputs), labels).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def private_step(
    module: nn.Module, inputs: Tensor, labels: Tensor, precision: Precision, physical: int
) -> Callable[[], None]:
    """Return one whole call of private training, of one step on every record."""

    def step() -> None:
        train_private(
            module,
            loss=record_losses,
            inputs=inputs,
            labels=labels,
            steps=1,
            sample_rate=1.0,
            expected_batch=4.0 * len(inputs),  # a block is a quarter of what is expected: all records in one
            clip_norm=1.0,
            noise_multiplier=1.0,
            learning_rate=LEARNING_RATE,
            momentum=0.0,
            noise=SystemNoise(),
            physical_batch=physical,
            precision=precision,
        )

    return step


@contextmanager
def working(
    kind: Kind, scale: Scale, machine: Machine, precision: Precision, *, checkpoints: bool
) -> Iterator[nn.Module]:
    """Lend an adapted model on the device, as a site holds it."""
    module = adapted(kind, scale)
    spec = ModelSpec(
        family="tabular-transformer", adapter="lora", precision=precision
    )  # of it only the precision counts
    with at_work(module, machine, spec):
        if not checkpoints:
            yield module
            return
        with checkpointed(module):
            yield module


def waited(step: Callable[[], None], machine: Machine) -> float:
    """Return the seconds of a step, with what the device still has to do at its end."""
    start = time.perf_counter()
    step()
    if machine.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def held(module: nn.Module) -> int:
    """Return the bytes of a module's weights and buffers."""
    return sum({v.data_ptr(): v.nbytes for v in (*module.parameters(), *module.buffers())}.values())


def matrix_rate(machine: Machine, precision: Precision, side: int) -> float:
    """Return the device's best rate of a square matrix product, in operations per second."""
    dtype = DTYPES[precision]
    one, other = (torch.randn(side, side, device=machine.device).to(dtype) for _ in range(2))

    def product() -> None:
        torch.mm(one, other)

    for _ in range(3):
        waited(product, machine)
    return 2 * side**3 / min(waited(product, machine) for _ in range(10))


# --- measurement -----------------------------------------------------------------------------


def measure(
    kind: Kind, scale: Scale, machine: Machine, precision: Precision, *, checkpoints: bool, rate: float
) -> Result:
    """Return what one model does."""
    records = scale.images if kind == "ViT-B" else scale.texts
    device = torch.device(machine.device)
    inputs, labels = (value.to(device) for value in batch_of(kind, scale, records))
    with working(kind, scale, machine, precision, checkpoints=checkpoints) as module:
        counts = [sum(v.numel() for v in module.parameters() if v.requires_grad or not only) for only in (False, True)]
        trained = [value for value in module.parameters() if value.requires_grad]
        private = private_step(module, inputs, labels, precision, records)
        sgd = torch.optim.SGD(trained, lr=LEARNING_RATE)
        bare = plain_step(module, inputs, labels, sgd)

        def plain() -> None:
            with computing(module, precision):
                bare()

        steps: dict[str, Callable[[], None]] = {"plain": plain, "private": private}
        for step in steps.values():
            waited(step, machine)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for order in itertools.islice(itertools.cycle(itertools.permutations(steps)), scale.rounds):
            for name in order:
                seconds[name].append(waited(steps[name], machine))
        with FlopCounterMode(display=False) as counter:
            plain()
        operations = counter.get_total_flops()
        base = held(module)
        peaks = {name: base + peak_bytes(step, device) for name, step in steps.items()}
    full = full_bytes(kind, scale, inputs, labels, device)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return Result(
        parameters=counts[0],
        trained=counts[1],
        records=records,
        plain_per_s=records / median["plain"],
        private_per_s=records / median["private"],
        private_of_plain=median["plain"] / median["private"],
        private_tflops=operations / median["private"] / 1e12,
        of_matrix_rate=operations / median["private"] / rate,
        plain_bytes=peaks["plain"],
        private_bytes=peaks["private"],
        full_bytes=full,
        private_of_full_memory=peaks["private"] / full,
    )


def full_bytes(kind: Kind, scale: Scale, inputs: Tensor, labels: Tensor, device: torch.device) -> int:
    """Return the most bytes of a step that trains every weight in float32, the optimizer's two moments among them."""
    module = Logits(model_of(kind, scale)).to(device)
    adam = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    step = plain_step(module, inputs, labels, adam)
    step()  # moments are made by the first step
    moments = sum(v.nbytes for state in adam.state.values() for v in state.values() if isinstance(v, Tensor))
    adam.zero_grad()
    return held(module) + moments + peak_bytes(step, device)


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="reduced sizes, on a processor under a minute")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16", "fp8"], default="bf16")
    parser.add_argument("--checkpointing", action="store_true", help="compute blocks twice instead of keeping them")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here")
    arguments = parser.parse_args()
    device: Device = arguments.device
    precision: Precision = arguments.precision
    scale = QUICK if arguments.quick else FULL
    machine = Machine.found(MachineSpec(device=device))
    machine.require(precision)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
    rate = matrix_rate(machine, precision, scale.product)
    note = "; REDUCED sizes: these figures say nothing about the device" if scale.reduced else ""
    sys.stdout.write(
        f"{machine}; torch {torch.__version__}, {precision}, matrix rate {rate / 1e12:.3f} TFLOP/s{note}\n"
    )
    sys.stdout.write("model        plain/s  private/s  of plain  TFLOP/s  of matrix rate  peak GiB  of full\n")
    results = {}
    for kind in arguments.models:
        found = results[kind] = measure(kind, scale, machine, precision, checkpoints=arguments.checkpointing, rate=rate)
        sys.stdout.write(
            f"{kind:11} {found.plain_per_s:8.2f} {found.private_per_s:10.2f} {found.private_of_plain:9.3f}"
            f" {found.private_tflops:8.3f} {found.of_matrix_rate:15.3f} {found.private_bytes / 2**30:9.3f}"
            f" {found.private_of_full_memory:8.3f}\n"
        )
        sys.stdout.flush()
    if arguments.json:
        report = {
            "device": str(machine),
            "precision": precision,
            "checkpointing": arguments.checkpointing,
            "matrix_tflops": rate / 1e12,
            "models": {kind: asdict(found) for kind, found in results.items()},
            "scale": {**asdict(scale), "vit": dict(scale.vit), "qwen": dict(scale.qwen)},
            "torch": torch.__version__,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
