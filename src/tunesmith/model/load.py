"""From a model's name to a model in memory: hub id, folder, `.gguf` file or `starter:NAME`; safetensors and JSON only."""

import copy
import hashlib
import os
import struct
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.utils import logging as transformers_logging

from tunesmith import starter
from tunesmith.errors import ModelError, first_line
from tunesmith.model import anatomy, bars, hub, model_folder, quantize, safe_files
from tunesmith.model.save_model import save_model
from tunesmith.model.source import Source
from tunesmith.quantity import format_bytes
from tunesmith.starter import resolve
from tunesmith.watch import Quiet, Watch

GGUF = ".gguf"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_HEADS = {"classification": AutoModelForSequenceClassification, "seq2seq": AutoModelForSeq2SeqLM}


def find(name: str, watch: Watch | None = None) -> Source:
    """The model called `name`, fetched or converted first if need be, which `watch` is told of.

    Raises:
        ModelError: If there is no such model, or it cannot be read safely.
        Offline: If it must be fetched and the network is out of reach.
    """
    path = _folder(name, _HUB_FILES, watch or Quiet())
    return Source(name, path, brings_code=model_folder.check_model_folder(path).brings_code)


def find_config(name: str, watch: Watch | None = None) -> PretrainedConfig:
    """The configuration of the model called `name`, which needs no weights; from a hub none are fetched.

    Raises:
        ModelError: If there is no such model, or its configuration cannot be read safely.
        Offline: If it must be fetched and the network is out of reach.
    """
    path = _folder(name, ["config.json"], watch or Quiet())
    model_folder.check_config(path)
    return Source(name, path).config


def without_weights(config: PretrainedConfig) -> PreTrainedModel:
    """A model on torch's `meta` device: an encoder with a head for two classes, another with its output embeddings.

    Raises:
        ModelError: If the configuration describes no such model.
    """
    task = "classification" if anatomy.is_encoder(config) else "seq2seq" if anatomy.is_encoder_decoder(config) else "text"
    try:
        with torch.device("meta"):
            return _HEADS.get(task, AutoModelForCausalLM).from_config(config, dtype=torch.float32).eval()
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"No model can be built from this {type(config).__name__}: {first_line(error)}.") from None


def _folder(name: str, hub_files: list[str], watch: Watch) -> Path:
    """The transformers folder of a model, fetched or converted first if need be."""
    path = starter.resolve_model(name, watch) if name.startswith("starter:") else _local(name)
    if path.suffix == GGUF and path.is_file():
        return _converted(path, watch)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{name} is a file, but no {GGUF} file. A model is a folder, a {GGUF} file, a hub id or starter:NAME.")
    return hub.snapshot(name, hub_files, watch)


def _local(name: str) -> Path:
    """The path that the name would be on this machine.

    Raises:
        ModelError: If it can be none, and so no hub id either.
    """
    try:
        path = Path(os.path.expanduser(name))  # noqa: PTH111 (the method of Path raises for an unknown user)
        path.exists()
    except (OSError, ValueError) as error:
        raise ModelError(f"There is no model {name[:100]!r}: {first_line(error)[:100]}.") from None
    return path


def load(
    source: Source,
    task: str,
    *,
    labels: tuple[str, ...] = (),
    base_bits: int = 16,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """The model with the head for `task` on the CPU.

    A head for other `labels` than the model's own is new; without labels, a classifier keeps its head.

    All weights are in `dtype` as soon as they are read, so that a model with 16 bits a weight never takes 32. With 4 or 8
    `base_bits`, the linear layers of its body are quantised while they are loaded, and all else is in float32.

    Raises:
        ModelError: If the model has no form for the task, or its weights do not fit its configuration.
    """
    kind = _HEADS.get(task, AutoModelForCausalLM)
    if task in ("chat", "text") and source.kind != "decoder":
        other = "--task seq2seq to learn from pairs, or " if source.kind == "encoder-decoder" else ""
        raise ModelError(
            f"{source.name} is an {source.kind} ({source.config.model_type}): it cannot be tuned for the task {task!r}. "
            f"Give a decoder such as starter:smollm2, or {other}data with labels for --task classification."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = _read(kind, source, labels, base_bits, dtype)
    except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
        raise ModelError(f"{source.name} cannot be loaded for the task {task!r}: {first_line(error)}.") from None
    model = _complete(loaded, source.name, lacks_head=source.lacks_head(labels))
    vars(model.config).pop(safe_files.AUTO_MAP, None)  # what is saved of it needs no code
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = source.tokenizer.pad_token_id
    return model.eval()


def _read(
    kind: type[_BaseAutoModelClass], source: Source, labels: tuple[str, ...], base_bits: int, dtype: torch.dtype
) -> object:
    """What transformers makes of the files: the model, and what it tells of the loading."""
    config, other_head = source.config, source.lacks_head(labels)
    if labels:
        config = copy.deepcopy(config)
        config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    if base_bits < 16:
        return quantize.load(kind, source.folder, config, base_bits, ignore_mismatched_sizes=other_head)
    return kind.from_pretrained(
        source.folder,
        config=config,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=other_head,
    )


def _complete(loaded: object, name: str, *, lacks_head: bool = False) -> PreTrainedModel:
    """The model, unless anything of it but a new classification head and a pooler would be random.

    Args:
        loaded: What `from_pretrained` gave: the model, and what it tells of the loading.
        name: Of the model, as the user wrote it.
        lacks_head: Whether the classification head is to be new, whatever the files have.

    Raises:
        ModelError: If weights are missing or have another shape.
    """
    model, report = cast("tuple[PreTrainedModel, Mapping[str, Iterable[object]]]", loaded)
    missing = {str(key) for key in report["missing_keys"]}
    misshapen = {str(key[0]) if isinstance(key, tuple) else str(key) for key in report["mismatched_keys"]}
    module = anatomy.pooler(model)
    pooled = set() if module is None else {id(p) for p in module.parameters()}
    head = set(anatomy.new_head_parameters(model)) if lacks_head else set()
    fresh = {n for n, p in model.named_parameters() if id(p) in pooled} | head
    for keys, fault in ((missing, "lacks weights"), (misshapen, "has weights of another shape")):
        if wrong := sorted(keys - fresh):
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ModelError(
                f"{name} {fault} that its config.json asks for: {', '.join(wrong[:3])}{more}. "
                "The model is incomplete or of another kind: get it again, or name another one."
            )
    _draw_anew(model, head - missing - misshapen)
    return model


@torch.no_grad()
def _draw_anew(model: PreTrainedModel, names: set[str]) -> None:
    """Give parameters that were read the values that transformers gives to those that the files lack."""
    for path in sorted({name.rpartition(".")[0] for name in names}):
        module = model.get_submodule(path)
        for parameter in module.parameters(recurse=False):
            vars(parameter).pop("_is_hf_initialized", None)  # by which it spares what was read
        model._init_weights(module)


def quiet() -> None:
    """Keep transformers' own messages and bars off the terminal; what matters is said by tunesmith."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _converted(path: Path, watch: Watch) -> Path:
    """A transformers folder of a GGUF file's dequantised weights, made once and cached by the file's content.

    Raises:
        ModelError: If the file cannot be read.
        DiskFull: If the cache has too little room; nothing is left behind.
        RunError: If it cannot be written for another reason.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{path} is not a GGUF file, whatever its name says.")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = resolve.cache_folder() / "converted" / digest[:32]
    if target.exists():
        return target
    quiet()
    watch.say(f"converting {path.name} ({format_bytes(path.stat().st_size)}) to safetensors, once")
    bar = bars.bar(f"converting {path.name}", watch)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        with bars.drawn_by(bar, modeling_gguf_pytorch_utils):
            loaded = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except (ValueError, LookupError, OSError, RuntimeError, TypeError, ImportError, struct.error) as error:
        raise ModelError(f"{path} cannot be read as GGUF: {first_line(error)}.") from None
    model = _complete(loaded, str(path))
    vars(model.config).pop("quantization_config", None)  # the weights are plain float32 from here on
    vars(model)["hf_quantizer"] = None
    if not target.exists():  # another process may have been faster
        save_model(model, tokenizer, target)
    return target
