"""The contract of a method that PEFT has too: what its settings and tensors are called in PEFT's files.

A method that keeps `PeftFormat` is saved in PEFT's format and reads adapters that PEFT saved. One that keeps `ForPeft` alone is
another method to PEFT: it is saved for PEFT beside tunesmith's own format, from which it is read. All other methods are saved
in tunesmith's own format, for which they write no code. The functions below the contracts are for methods whose tensors belong
to single modules of the base model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tunesmith.errors import ModelError, RunError
from tunesmith.model import anatomy, low_rank

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor, nn

PREFIX = "base_model.model."
"""What PEFT puts before the path of a module of the base model."""
PROMPT_PREFIX = "base_model."
"""The same where PEFT changes the inputs of the base model and no module of it."""


class NotInPeftFormat(RunError):
    """PEFT's files cannot hold what was trained; it is saved in tunesmith's own."""


@dataclass(frozen=True)
class PeftParts:
    """A trained method as PEFT's two files will hold it."""

    config: dict[str, object]
    """Keys of `adapter_config.json` that the method decides."""
    tensors: dict[str, Tensor]
    """The method's own tensors, under PEFT's names."""
    heads: dict[str, Tensor]
    """The trained tensors that belong to the base model (a classification head), under the model's names."""


class ForPeft(ABC):
    """Kept by a `Method` beside its own contract: PEFT computes what it learnt."""

    peft_type: ClassVar[str]
    """The `peft_type` in `adapter_config.json`."""
    peft_marks: ClassVar[Mapping[str, object]] = {}
    """Keys that tell this method from others of the same type, with the values that say so."""
    peft_prefix: ClassVar[str] = PREFIX
    """What stands before the names of heads."""
    peft_keeps_rows: ClassVar[bool] = False
    """Whether PEFT keeps learnt rows of embeddings beside adapters of this type."""

    @abstractmethod
    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        """The trained tensors (by their names in the model) under PEFT's names, and what is left over as heads.

        Raises:
            NotInPeftFormat: If there is no way to write them that PEFT would read as the same function.
        """


class PeftFormat(ForPeft, ABC):
    """Kept by a `Method` that PEFT has too: its files say all there is to know."""

    peft_keys: ClassVar[frozenset[str]]
    """Keys that `from_peft` honours. Any other key that is switched on is refused by name before it is called."""
    peft_ignored: ClassVar[frozenset[str]] = frozenset()
    """Keys that change nothing in what a trained adapter computes."""

    @classmethod
    @abstractmethod
    def from_peft(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module
    ) -> tuple[Self, dict[str, Tensor]]:
        """The method, and its tensors by the names that they have in `model` after `attach`.

        A tensor may be for a buffer that `attach` adds: what the method computes with and never learns.

        Args:
            config: The keys of `adapter_config.json`, of any type: it is a foreign file.
            tensors: All tensors of the adapter but the heads, under PEFT's names.
            model: The base model, to which nothing is attached yet.

        Raises:
            InputError: If a value has the wrong type or range, asks for something the method does not compute, or a
                tensor has a name that the method does not know.
        """


def module_tensors(tensors: Mapping[str, Tensor], endings: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of an adapter by the names they have here.

    Args:
        tensors: By PEFT's names: prefix, path of the module, ending.
        endings: What stands behind the path here, by what stands there in PEFT.

    Raises:
        ModelError: If a name has none of the endings.
    """
    renamed = {}
    for name, tensor in tensors.items():
        ending = next((ending for ending in endings if name.endswith(f".{ending}")), None)
        if ending is None or not name.startswith(PREFIX):
            raise ModelError(
                f"The adapter has the tensor {ascii(name)[:120]}, which is no part of the method on a linear layer."
            )
        renamed[name.removeprefix(PREFIX).removesuffix(ending) + endings[ending]] = tensor
    return renamed


def target_modules(model: nn.Module, paths: list[str]) -> list[str]:
    """The last parts of the paths if they select the same modules in PEFT, else the whole paths."""
    leaves = {path.rpartition(".")[2] for path in paths}
    alike = {path for path, _ in model.named_modules() if path.rpartition(".")[2] in leaves}
    return sorted(leaves if alike == set(paths) else paths)


def targets(model: nn.Module, paths: list[str]) -> list[str]:
    """What selects the layers at `paths` here: the paths, or one word if they are all linear layers."""
    everything = anatomy.linear_targets(model, (anatomy.ALL_LINEAR,))
    return [anatomy.ALL_LINEAR] if set(paths) == set(everything) else paths


def refuse_pattern(config: Mapping[str, object], pattern_key: str, key: str) -> None:
    """Refuse a pattern that gives some layer another value than `key` gives to all.

    Raises:
        ModelError: If there is one.
    """
    pattern, value = config.get(pattern_key), config.get(key)
    if pattern and (not isinstance(pattern, Mapping) or any(other != value for other in pattern.values())):
        raise ModelError(
            f"The adapter's {pattern_key!r} gives layers another {key!r}, which is not computed here. It is refused."
        )


LOW_RANK_KEYS = frozenset(
    {"r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
) | {"trainable_token_indices"}
LOW_RANK_IGNORED = frozenset(
    {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "megatron_core"}
) | {"qalora_group_size", "eva_config", "runtime_config"}
_STARTS_BESIDE_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")


def low_rank_parts(model: nn.Module, trained: Mapping[str, Tensor], endings: Mapping[str, str]) -> PeftParts:
    """What methods with a low-rank change share in PEFT's files: the layers, and the tensors of `endings` (PEFT's to ours)."""
    layers = low_rank.changed(model)
    own = {f"{path}.{ours}": f"{PREFIX}{path}.{theirs}" for path in layers for theirs, ours in endings.items()}
    config: dict[str, object] = {
        "target_modules": target_modules(model, list(layers)),
        "fan_in_fan_out": any(anatomy.stores_inputs_first(layer.base) for layer in layers.values()),
    }
    tensors = {theirs: trained[ours] for ours, theirs in own.items()}
    return PeftParts(config, tensors, {name: tensor for name, tensor in trained.items() if name not in own})


def low_rank_settings(config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, object]:
    """Rank, alpha, dropout and targets of a saved low-rank change; `tensors` by their names here.

    Raises:
        ModelError: If it was trained beside other base weights, or layers differ in what must be the same.
    """
    refuse_pattern(config, "rank_pattern", "r")
    refuse_pattern(config, "alpha_pattern", "lora_alpha")
    if (start := config.get("init_lora_weights", True)) not in _STARTS_BESIDE_THE_BASE:
        raise ModelError(
            f"The adapter's 'init_lora_weights' {ascii(start)[:120]} has changed the base weights, which are not in its files. "
            "It is refused. Convert it where it was trained: save it once before training and once after, the second time by "
            "PEFT's save_pretrained(FOLDER, path_initial_model_for_weight_conversion=FOLDER_OF_THE_FIRST)."
        )
    return {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout", 0.0),
        "targets": targets(model, sorted({name.rpartition(".")[0] for name in tensors})),
    }


PROMPT_IGNORED = frozenset({"num_attention_heads", "num_layers"})
_PROMPT = "prompt_embeddings"


def prompt_parts(model: nn.Module, vectors: Tensor, heads: Mapping[str, Tensor]) -> PeftParts:
    """Virtual tokens `(tokens, width)` in PEFT's files."""
    config: dict[str, object] = {
        "num_virtual_tokens": len(vectors),
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": anatomy.attention_sizes(model.config)[0],  # pyright: ignore
        "num_layers": anatomy.num_layers(model.config),  # pyright: ignore
    }
    return PeftParts(config, {_PROMPT: vectors}, dict(heads))


def prompt_vectors(config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Tensor:
    """The virtual tokens of a saved adapter, `(tokens, width)`.

    Raises:
        ModelError: If the file holds anything else, or less than the configuration says.
    """
    if surplus := sorted(tensors.keys() - {_PROMPT}):
        raise ModelError(f"The adapter has the tensor {ascii(surplus[0])[:120]}, which is no part of a saved prompt.")
    vectors, count = tensors.get(_PROMPT), config.get("num_virtual_tokens")
    if vectors is None or vectors.ndim != 2 or not isinstance(count, int) or not 1 <= count <= len(vectors):
        found = "none" if vectors is None else tuple(vectors.shape)
        raise ModelError(f"The adapter says that it has {count!r} virtual tokens; its {_PROMPT!r} has the shape {found}.")
    # With an encoder-decoder PEFT saves a second half, for the decoder, which it never uses.
    return vectors[:count].clone()
