"""What a differentially private LoRA step costs beside a plain one, in processor time and memory.

Why it exists: privacy that doubles the cost of training is switched off. The library promises a
private step at close to the price of a plain one; this is where the promise is measured.

How it measures:
    * Plain: forward, mean loss, backward and step of a bare torch loop, frozen batch normalisation in
      eval mode. Private: one call of `train_private` with one step, all that such a call does included,
      the noise of the operating system too; once as it chooses by itself, once by Opacus' hooks.
    * Time is the process' own processor time on one thread. The three run interleaved, in changing
      order; each ratio is the median over rounds of private over plain of the same round.
    * Memory is the most bytes that torch holds at any moment of a step on top of what it held before,
      so weights and interpreter don't hide the difference. It's counted from every allocation and
      release that torch's profiler sees, so it's the same on every run.

Models are small configurations with random weights and their own dropout; nothing is downloaded.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile

from fedmed.privacy.engine import hooked_capture, train_private
from fedmed.privacy.gradients import Capturing
from fedmed.privacy.noise import SystemNoise

VOCABULARY = 1000
LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the models and how long the measurement."""

    rounds: int
    hidden: int
    layers: int
    batch: int
    tokens: int
    image: int
    patch: int
    rank: int = 8


SCALES = {
    "quick": Scale(rounds=5, hidden=256, layers=2, batch=16, tokens=64, image=64, patch=8),
    "small": Scale(rounds=15, hidden=256, layers=4, batch=16, tokens=64, image=64, patch=8),
    "full": Scale(rounds=15, hidden=256, layers=4, batch=32, tokens=128, image=96, patch=8),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A model with adapters and a batch for it."""

    module: nn.Module
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Ratios to the plain step of one model."""

    step: float
    step_quartiles: tuple[float, float]
    memory: float
    opacus_step: float
    opacus_memory: float
    plain_ms: float


class Logits(nn.Module):
    """A transformers model as a function from one tensor to one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(inputs).logits
        return logits


def record_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each record, averaged over its own tokens if it has any."""
    if labels.ndim == 1:
        return cross_entropy(logits, labels, reduction="none")
    return cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


# --- models ----------------------------------------------------------------------------------


def adapted(model: nn.Module, scale: Scale, targets: Sequence[str], *, head: str | None = None) -> nn.Module:
    """Return a model with LoRA on `targets` and, if named, a head that is trained in full."""
    config = LoraConfig(r=scale.rank, target_modules=list(targets), modules_to_save=[head] if head else None)
    return Logits(get_peft_model(model, config))


def encoder_case(kind: str, scale: Scale) -> Case:
    """Return BERT or RoBERTa with a classification head."""
    config_class, model_class = {
        "BERT": (transformers.BertConfig, transformers.BertForSequenceClassification),
        "RoBERTa": (transformers.RobertaConfig, transformers.RobertaForSequenceClassification),
    }[kind]
    config = config_class(**_sizes(scale), vocab_size=VOCABULARY)
    module = adapted(model_class(config), scale, ["query", "value"], head="classifier")
    return Case(module=module, inputs=_tokens(scale), labels=torch.arange(scale.batch) % 2)


def gpt2_case(scale: Scale) -> Case:
    """Return GPT-2, whose linears are transposed (`Conv1D`), as a causal language model."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=scale.hidden,
        n_layer=scale.layers,
        n_head=scale.hidden // 64,
        n_positions=scale.tokens,
        use_cache=False,
    )
    tokens = _tokens(scale)
    module = adapted(transformers.GPT2LMHeadModel(config), scale, ["c_attn"])
    return Case(module=module, inputs=tokens, labels=tokens.roll(-1, 1))


def decoder_case(kind: str, scale: Scale) -> Case:
    """Return Llama or Qwen2 as a causal language model."""
    config_class, model_class = {
        "Llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "Qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }[kind]
    heads = scale.hidden // 64
    config = config_class(**_sizes(scale), vocab_size=VOCABULARY, num_key_value_heads=heads, use_cache=False)
    tokens = _tokens(scale)
    return Case(
        module=adapted(model_class(config), scale, ["q_proj", "v_proj"]), inputs=tokens, labels=tokens.roll(-1, 1)
    )


def vit_case(scale: Scale) -> Case:
    """Return a vision transformer with a classification head."""
    config = transformers.ViTConfig(**_sizes(scale), image_size=scale.image, patch_size=scale.patch)
    model = transformers.ViTForImageClassification(config)
    module = adapted(model, scale, ["q_proj", "v_proj"], head="classifier")
    return Case(module=module, inputs=_images(scale), labels=torch.arange(scale.batch) % 2)


def resnet_case(scale: Scale) -> Case:
    """Return a residual network with LoRA on every convolution behind the stem, and a classification head."""
    config = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256], depths=[2, 2, 2], layer_type="basic"
    )
    model = transformers.ResNetForImageClassification(config)
    targets = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and "embedder" not in name]
    module = adapted(model, scale, targets, head="classifier.1")
    return Case(module=module, inputs=_images(scale), labels=torch.arange(scale.batch) % 2)


CASES: Mapping[str, Callable[[Scale], Case]] = {
    "BERT": lambda scale: encoder_case("BERT", scale),
    "RoBERTa": lambda scale: encoder_case("RoBERTa", scale),
    "GPT-2": gpt2_case,
    "Llama": lambda scale: decoder_case("Llama", scale),
    "Qwen2": lambda scale: decoder_case("Qwen2", scale),
    "ViT": vit_case,
    "ResNet": resnet_case,
}


def _sizes(scale: Scale) -> dict[str, Any]:
    """Return what a transformer of transformers is told of its size, in the words that most of them share."""
    return {
        "hidden_size": scale.hidden,
        "num_hidden_layers": scale.layers,
        "num_attention_heads": scale.hidden // 64,
        "intermediate_size": 4 * scale.hidden,
    }


def _tokens(scale: Scale) -> Tensor:
    return torch.randint(5, VOCABULARY, (scale.batch, scale.tokens), generator=torch.Generator().manual_seed(1))


def _images(scale: Scale) -> Tensor:
    return torch.randn(scale.batch, 3, scale.image, scale.image, generator=torch.Generator().manual_seed(1))


# --- measurement -----------------------------------------------------------------------------


def plain_step(case: Case) -> Callable[[], None]:
    """Return one step of ordinary training."""
    parameters = [value for value in case.module.parameters() if value.requires_grad]
    sgd = torch.optim.SGD(parameters, lr=LEARNING_RATE)
    case.module.train()
    for layer in case.module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()

    def step() -> None:
        sgd.zero_grad()
        record_losses(case.module(case.inputs), case.labels).mean().backward()  # type: ignore[no-untyped-call]
        sgd.step()

    return step


def private_step(case: Case, capturing: Capturing | None) -> Callable[[], None]:
    """Return one whole call of private training, of one step on every record."""

    def step() -> None:
        train_private(
            case.module,
            loss=record_losses,
            inputs=case.inputs,
            labels=case.labels,
            steps=1,
            sample_rate=1.0,
            expected_batch=float(len(case.inputs)),
            clip_norm=1.0,
            noise_multiplier=1.0,
            learning_rate=LEARNING_RATE,
            momentum=0.0,
            noise=SystemNoise(),
            capturing=capturing,
        )

    return step


def processor_times(steps: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the processor time of each step in each round, in seconds, after two rounds that aren't counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    orders = itertools.cycle(itertools.permutations(steps))
    for order in itertools.islice(orders, rounds + 2):
        for name in order:
            start = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - start)
    return {name: seconds[2:] for name, seconds in times.items()}


def peak_bytes(step: Callable[[], None]) -> int:
    """Return the most bytes that torch held at any moment of a step, on top of what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    if profiled.profiler is None or profiled.profiler.kineto_results is None:
        raise SystemExit("torch's profiler recorded nothing; expected a torch built with kineto")
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    return max(itertools.accumulate(int(size) for _, size in sorted(changes, key=lambda change: change[0])))


def measure(case: Case, rounds: int) -> Result:
    """Return the ratios of one model."""
    steps = {
        "plain": plain_step(case),
        "private": private_step(case, None),
        "opacus": private_step(case, hooked_capture),
    }
    times = processor_times(steps, rounds)
    memory = {name: peak_bytes(step) for name, step in steps.items()}
    ratios = {
        name: [seconds / plain for seconds, plain in zip(times[name], times["plain"], strict=True)]
        for name in ("private", "opacus")
    }
    low, _, high = statistics.quantiles(ratios["private"], n=4)
    return Result(
        step=statistics.median(ratios["private"]),
        step_quartiles=(low, high),
        memory=memory["private"] / memory["plain"],
        opacus_step=statistics.median(ratios["opacus"]),
        opacus_memory=memory["opacus"] / memory["plain"],
        plain_ms=1e3 * statistics.median(times["plain"]),
    )


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the scale `quick`, five rounds: under a minute")
    parser.add_argument("--scale", choices=list(SCALES), default="full", help="size of batches and models")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default: the scale's)")
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the ratios here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
    scale = SCALES["quick" if arguments.quick else arguments.scale]
    rounds = arguments.rounds or scale.rounds
    sys.stdout.write("model     plain ms   step (quartiles)       memory   Opacus: step  memory\n")
    results = {}
    for name in arguments.models:
        result = results[name] = measure(CASES[name](scale), rounds)
        low, high = result.step_quartiles
        sys.stdout.write(
            f"{name:8} {result.plain_ms:9.1f}   {result.step:.3f} ({low:.3f}-{high:.3f})   {result.memory:6.3f}"
            f"        {result.opacus_step:6.3f}  {result.opacus_memory:6.3f}\n"
        )
        sys.stdout.flush()
    if arguments.json:
        report = {
            "dp_step_ratio": {name: result.step for name, result in results.items()},
            "dp_memory_ratio": {name: result.memory for name, result in results.items()},
            "opacus_step_ratio": {name: result.opacus_step for name, result in results.items()},
            "opacus_memory_ratio": {name: result.opacus_memory for name, result in results.items()},
            "dp_step_quartiles": {name: result.step_quartiles for name, result in results.items()},
            "plain_ms": {name: result.plain_ms for name, result in results.items()},
            "scale": asdict(scale) | {"rounds": rounds},
            "torch": torch.__version__,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
