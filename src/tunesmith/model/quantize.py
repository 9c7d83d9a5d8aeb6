"""Loads a model with the linear layers of its body in few bits, one tensor at a time, and makes an ordinary one of it again.

transformers reads the checkpoint (names of old checkpoints, ties, what is missing) and hands every weight over as soon as
it is read: here it becomes a `QuantizedLinear`, and the original is dropped. Tensors are read into memory of their own and
not mapped, so that a model larger than the memory can be loaded. Embeddings, norms and heads stay as they are.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tunesmith.kernels import eight_bit, four_bit
from tunesmith.kernels.eight_bit import EightBit
from tunesmith.kernels.four_bit import FourBit
from tunesmith.model import anatomy, model_folder, safe_files, surgery
from tunesmith.model.quantized_linear import QuantizedLinear
from tunesmith.model.safe_files import TensorFacts

_NAME = "tunesmith"


def load(
    kind: type[_BaseAutoModelClass], folder: Path, config: PretrainedConfig, bits: int, **settings: object
) -> tuple[PreTrainedModel, dict[str, object]]:
    """The model in `folder` with the linear layers of its body in `bits` bits and all else in float32.

    Args:
        kind: Which head, as a class of transformers such as `AutoModelForCausalLM`.
        folder: A model folder that was found safe.
        config: Its configuration.
        bits: 4 or 8.
        settings: More for `from_pretrained`.

    Returns:
        The model, and what transformers tells of the loading.
    """
    with torch.device("meta"):
        form = type(kind.from_config(config))
    files = model_folder.check_model_folder(folder).weights
    tensors = {name: _OnDisk(path, facts) for path, header in files.items() for name, facts in header.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, report = form.from_pretrained(
            None,
            config=copy.deepcopy(config),
            state_dict=tensors,
            dtype=torch.float32,
            quantization_config=_Bits(bits),
            output_loading_info=True,
            **settings,
        )
    _forget_loading(model)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, report


def quantized(weight: Tensor, bits: int) -> FourBit | EightBit:
    """A weight `(d_out, d_in)` in 4 or 8 bits."""
    return four_bit.quantize(weight) if bits == 4 else eight_bit.quantize(weight)


def quantize(model: nn.Module, bits: int) -> None:
    """Put the linear layers of the body of a model that is already in memory into `bits` bits, for good."""
    for path in _layers_to_quantize(model):
        layer = model.get_submodule(path)
        surgery.replace_for_good(model, path, QuantizedLinear(quantized(anatomy.linear_weight(layer), bits), *_rest_of(layer)))


def dequantize(model: nn.Module) -> None:
    """Make every quantised layer an ordinary one in float32 again, with the weight that it computed with."""
    for path in [path for path, module in model.named_modules() if isinstance(module, QuantizedLinear)]:
        layer = model.get_submodule(path)
        assert isinstance(layer, QuantizedLinear)
        surgery.replace_for_good(model, path, layer.dequantized())


def storage(model: nn.Module) -> tuple[int, int]:
    """(weights that are stored in few bits, bytes that they take with all that belongs to them)."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    numbers = sum(layer.sizes[0] * layer.sizes[1] for layer in layers)
    return numbers, sum(buffer.nbytes for layer in layers for buffer in layer.buffers(recurse=False))


class _OnDisk:
    """A tensor of a file that is read when transformers asks for all of it."""

    def __init__(self, path: Path, facts: TensorFacts) -> None:
        self.path, self.facts = path, facts

    def __getitem__(self, everything: object) -> Tensor:
        return safe_files.read_tensor(self.path, self.facts)


class _Bits(QuantizationConfigMixin):
    """How transformers is told that weights are to be quantised while they are loaded."""

    def __init__(self, bits: int) -> None:
        self.quant_method, self.bits = _NAME, bits  # pyright: ignore[reportAttributeAccessIssue]


class _WhileLoading(HfQuantizer):
    """Turns every weight of the body into few bits, as soon as it is read."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        self.bits = int(self.quantization_config.bits)  # pyright: ignore[reportAttributeAccessIssue]
        self.names = {f"{path}.weight" for path in _layers_to_quantize(model)}

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        return param_name in self.names

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize(self.names, self.bits)

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return True


register_quantizer(_NAME)(_WhileLoading)


class _Quantize(ConversionOps):
    """Puts a quantised layer into the place of the one whose weight was read."""

    def __init__(self, names: set[str], bits: int) -> None:
        self.names, self.bits = names, bits

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, list[Tensor]]:
        model, missing = kwargs["model"], kwargs["missing_keys"]
        for name, values in input_dict.items():
            path = name.rpartition(".")[0]
            layer = model.get_submodule(path)
            value = values[0] if isinstance(values, list) else values
            if value.shape != anatomy.stored_weight(layer).shape:
                self.names.discard(name)  # from here on transformers takes it for any other, and reports its shape
                return {name: [value]}
            stored = quantized(value.t() if anatomy.stores_inputs_first(layer) else value, self.bits)
            new = QuantizedLinear(stored, *_rest_of(layer))
            vars(new)["_is_hf_initialized"] = True
            surgery.replace_for_good(model, path, new)
            missing.discard(name)
        return {}


def _layers_to_quantize(model: nn.Module) -> list[str]:
    """Paths of the linear layers of the body, without those whose weight is used elsewhere or must stay in float32."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or ()
    paths = anatomy.linear_targets(model, (anatomy.ALL_LINEAR,))
    free = [path for path in paths if not set(path.split(".")) & set(kept)]
    return [path for path in free if not anatomy.is_tied(model, model.get_submodule(path))]


def _rest_of(layer: nn.Module) -> tuple[nn.Parameter | None, bool]:
    """What a quantised layer takes over: the bias, and which way round the weight was stored."""
    bias = layer.bias
    assert bias is None or isinstance(bias, nn.Parameter)
    return bias, anatomy.stores_inputs_first(layer)


def _forget_loading(model: PreTrainedModel) -> None:
    """Leave no trace by which transformers would take the model for one of a quantisation library."""
    for part in (module for module in model.modules() if isinstance(module, PreTrainedModel)):
        for name in ("hf_quantizer", "quantization_method", "is_quantized"):
            vars(part).pop(name, None)
        for name in ("quantization_config", "_is_quantized"):
            with contextlib.suppress(AttributeError):
                delattr(part.config, name)
