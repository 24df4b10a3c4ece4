"""What a plan says of its model: the family, its shape, and what is trained of it.

Why it exists: a coordinator's word about a model must be checked before anything is built from it.

Rules:
    * A combination that no module can be built from is refused here, in one line.
    * Folders are named only where a base is made; a plan that travels names none.
    * What a machine has (device, memory) is no part of a model; it stands here because it is chosen as a model is.

What it does not do: build (see `fedmed.models`).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from fedmed.codec import require

Family = Literal["linear", "mlp", "tabular-transformer"]
"""Families that classify the features of any table."""
AnyFamily = Literal[Family, "survival", "ngrams", "text-encoder", "causal-lm", "image-encoder", "fusion"]
PRETRAINED = ("text-encoder", "causal-lm", "image-encoder", "fusion")
"""Families whose weights come from folders in the form of Hugging Face."""
Augmentation = Literal["none", "flip-shift"]
Adapter = Literal["full", "lora"]
LoraRule = Literal["ffa", "fedit", "rolora", "fedsvd", "mr-mtl", "flora"]
Precision = Literal["fp32", "bf16", "fp16", "fp8"]
"""What a frozen base is computed in; what is trained, clipped, summed and noised is float32 or more, always."""
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of the shared model and of what is trained of it.

    A row of a cohort is `characters` of text, then an image of `channels` and `image_size` squared with a flag before
    it, then the features of a table; each part may be absent (0).
    """

    family: AnyFamily
    adapter: Adapter
    width: int = 32
    depth: int = 2
    heads: int = 4
    lora_rank: int = 4
    lora_alpha: float = 8.0
    lora_rule: LoraRule = "ffa"
    """What of the adapter is trained and how updates become one; see `fedmed.models.lora`."""
    path: str | None = None
    """The folder of a pretrained model, where the base is made; never part of a plan."""
    image_path: str | None = None
    """Likewise of the image encoder of `fusion`."""
    characters: int = 0
    image_size: int = 0
    channels: int = 0
    max_tokens: int = 256
    """Longest text that a pretrained model sees; of a longer one, the first tokens."""
    prompt: str = "{text}"
    """What a causal model is asked about a record, with the text in place of `{text}`."""
    answers: tuple[str, ...] = ()
    """What a causal model chooses from, in the order of the classes; empty: it learns the answers in the text."""
    augmentation: Augmentation = "none"
    precision: Precision = "fp32"
    checkpointing: bool = False
    """Whether the blocks of a pretrained transformer are computed a second time instead of being kept."""

    def __post_init__(self) -> None:
        self._check_rule()
        self._check_computing()
        for name in ("width", "depth", "heads", "lora_rank", "max_tokens"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("characters", "image_size", "channels"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")
        require(0 < self.lora_alpha < math.inf, f"lora_alpha must be above 0, got {self.lora_alpha}")
        require(self.width % self.heads == 0, f"width must be a multiple of heads, got {self.width} and {self.heads}")
        self._check_family()

    def _check_rule(self) -> None:
        require(
            self.lora_rule != "flora",
            "lora_rule must not be flora: stacking needs the factors of every site, and a secure sum hides them;"
            " fedsvd is as exact",
        )
        require(
            self.adapter == "lora" or self.lora_rule not in ("rolora", "fedsvd"),
            f"lora_rule must be ffa, fedit or mr-mtl where the whole model is trained, got {self.lora_rule}",
        )
        require(
            self.lora_rule != "fedsvd" or self.pretrained or self.lora_rank <= self.width,
            f"lora_rank must be at most width with fedsvd, got {self.lora_rank} and {self.width}",
        )

    def _check_computing(self) -> None:
        require(
            self.precision == "fp32" or self.adapter == "lora",
            f"precision must be fp32 where the whole model is trained, got {self.precision}: only a frozen base is"
            " computed in less",
        )
        require(
            not self.checkpointing or self.pretrained,
            f"checkpointing must be false with {self.family}: it saves memory in the blocks of a pretrained model",
        )

    def _check_family(self) -> None:
        require(
            self.adapter == "full" or self.pretrained or self.family == "tabular-transformer",
            f"adapter=lora needs attention to adapt: use model=tabular_transformer, or adapter=full with {self.family}",
        )
        require(
            self.adapter == "lora" or not self.pretrained,
            f"adapter must be lora with {self.family}: a pretrained model stays as it is behind its adapter",
        )
        reads_text = self.family in ("ngrams", "text-encoder", "causal-lm", "fusion")
        require(
            (self.characters > 0) == reads_text,
            f"characters must be {'above 0' if reads_text else '0'} with {self.family}, got {self.characters};"
            " it is the text of the data set's schema",
        )
        reads_images = self.family in ("image-encoder", "fusion")
        require(
            (self.image_size > 0) == (self.channels > 0) == reads_images,
            f"image_size and channels must be {'above 0' if reads_images else '0'} with {self.family}, got"
            f" {self.image_size} and {self.channels}; they are the images of the data set's schema",
        )
        require("{text}" in self.prompt, "prompt must hold {text}, the place of a record's text")
        require(
            len(set(self.answers)) == len(self.answers) and len(self.answers) != 1,
            "answers must be none, or two and more that differ",
        )

    @property
    def pretrained(self) -> bool:
        """Whether the weights come from folders in the form of Hugging Face."""
        return self.family in PRETRAINED

    @property
    def refreshed(self) -> bool:
        """Whether the factors that are frozen in a round differ from round to round and travel with it."""
        return self.lora_rule in ("rolora", "fedsvd")

    @property
    def personal(self) -> bool:
        """Whether each site keeps a model of its own, which is pulled to the mean."""
        return self.lora_rule == "mr-mtl"

    def without_paths(self) -> "ModelSpec":
        """Return the same model without the folders of the machine that made its base."""
        return replace(self, path=None, image_path=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """What a site's own machine may be used for; it changes nothing of a result but its last digits.

    It is the site's, so no plan holds it.
    """

    device: Device = "auto"
    """`auto`: a graphics card where torch can use one, else the processor."""
    memory_gb: float | None = None
    """Most GiB that training holds in tensors, the model among them; null: no bound on a processor, and nine tenths of
    what is free on a graphics card."""

    def __post_init__(self) -> None:
        most = self.memory_gb
        require(most is None or 0 < most < math.inf, f"memory_gb must be above 0, or null for none, got {most}")
