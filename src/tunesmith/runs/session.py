"""Everything a run works with, put together once: model, data, method, precision."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith import registry, settings, starter
from tunesmith.data.pack import num_shared
from tunesmith.data.prepare import prepare
from tunesmith.data.prepared import PreparedData
from tunesmith.errors import SettingsError
from tunesmith.kernels import by_device, head_gradient, rounded
from tunesmith.method import Method
from tunesmith.model import anatomy, forward, heads, load, quantize, token_rows, trial
from tunesmith.model.source import Source
from tunesmith.quantity import format_count
from tunesmith.runs import base_model, defaults, machine, requirements
from tunesmith.runs.profile import Profiler, Unprofiled
from tunesmith.settings import DataSettings, FitSettings
from tunesmith.training import memory, precision, threads, workers
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.watch import Progress, Watch


class Recorder:
    """A watch that passes everything on and keeps what belongs into the run's record."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """Pass on a fact."""
        self._watch.say(text)

    def warn(self, text: str) -> None:
        """Pass on and keep a warning."""
        self.warnings.append(text)
        self._watch.warn(text)

    def progress(self, progress: Progress) -> None:
        """Pass on how far the current phase is."""
        self._watch.progress(progress)


_NAMES: dict[torch.dtype, Literal["float32", "bfloat16"]] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass
class Session:
    """A run's parts. Built in three steps: data, then the base model, then the method on it."""

    settings: FitSettings
    source: Source
    data: PreparedData
    method: Method
    device: torch.device
    watch: Recorder
    model: PreTrainedModel = field(init=False)
    forward: forward.Forward = field(init=False)
    dtype: torch.dtype = field(init=False)
    worker_bytes: int = 0
    """The most memory that worker processes held while it trained, besides what they share with this one."""
    profiler: Profiler | Unprofiled = field(default_factory=Unprofiled)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest row that the tuned model takes, None if there is no limit."""
        return longest(self.source, self.method)

    def decide(self) -> None:
        """Fill in every setting that was left open."""
        data, chosen = self.data, self.settings
        facts = defaults.Facts(
            task=data.task,
            num_rows=len(data.train.tokens),
            longest_row_tokens=int(data.train.tokens.lengths.max()),
            num_parameters=self.source.num_parameters,
            device=self.device.type,
            num_validation_rows=len(data.validation.tokens),
            num_processors=torch.get_num_threads() if workers.are_possible(self.device) else 1,
        )
        training = defaults.resolve(chosen.training, self.method, facts)
        if training.workers != (chosen.training.workers or training.workers):
            self.watch.say(f"{training.workers} workers, not {chosen.training.workers}: a step has no more rows")
        self.settings = dataclasses.replace(
            chosen,
            task=data.task,
            training=dataclasses.replace(training, threads=torch.get_num_threads()),  # another number adds in another order
            method={"name": self.method.name, **settings.to_mapping(self.method)},
            data=dataclasses.replace(chosen.data, max_length=data.max_length),
        )

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """The scope that this run computes in: by kernels of our own, or by torch's operations alone."""
        return by_device.torch_alone() if self.settings.training.fast_paths == "off" else contextlib.nullcontext()

    def machine(self) -> dict[str, str]:
        """Facts of what computes this run, for its record."""
        with self.kernels():
            return machine.facts(self.device)

    def load_base(self) -> None:
        """Load the base model, in the number format of this machine and the form that it takes batches in."""
        training, data = self.settings.training, self.data
        wish = base_model.Wish(
            task=data.task,
            labels=data.labels,
            base_bits=training.base_bits,
            precision=training.precision,
            learns=self.method.trains_base_weights,
            fast=training.fast_paths == "on",
            seed=training.seed,
        )
        loaded = base_model.load(self.source, wish, self.device)
        for part in (data.train, data.validation, data.test):
            for ids in (part.tokens.input_ids, part.tokens.target_ids):
                token_rows.require(loaded.model, [] if ids is None else ids, self.source.tokenizer)
        memory.keep_freed_memory()  # from here on: what loading held is given back
        self.take_base(loaded.forward, loaded.dtype)
        self.watch.say(loaded.sentence)
        if missing := by_device.missing(self.device.type):
            tell = self.watch.warn if self.device.type == "cuda" else self.watch.say  # a processor loses about a tenth
            tell(f"computing without tunesmith's own kernels, which is slower: {missing}")
        if training.base_bits < 16:
            self.watch.say(f"the base model is held {self.storage}")
        if self.rounds_inputs:
            self.watch.say("while training, what these weights multiply is rounded to 8 bits, too: faster here")
        if loaded.reason:
            self.watch.say(f"rows are padded, not packed: {loaded.reason}")

    @property
    def rounds_inputs(self) -> bool:
        """Whether products with the base's weights are of whole numbers while gradients are found."""
        with self._training_threads():
            return self.settings.training.base_bits == 8 and rounded.pay(self.device.type)

    @property
    def leaves_out_words(self) -> bool:
        """Whether the head leaves out products with unlikely words while gradients are found."""
        with self._training_threads():
            is_ours = isinstance(self.forward, forward.PackedForward) and self.data.task != "classification"
            return is_ours and self.device.type == "cpu" and head_gradient.leaves_out(self.dtype)

    @contextlib.contextmanager
    def _training_threads(self) -> Iterator[None]:
        """As many threads, and the kernels, that each process has while gradients are found."""
        with threads.limited(threads.of_each(self.settings.training.workers or 1)), self.kernels():
            yield

    def take_base(self, loaded: forward.Forward, dtype: torch.dtype) -> None:
        """Work on a base model that is loaded, in the number format `dtype`."""
        self.forward, self.model, self.dtype = loaded, loaded.model, dtype
        decided = dataclasses.replace(self.settings.training, precision=_NAMES[dtype])
        self.settings = dataclasses.replace(self.settings, training=decided)

    @property
    def storage(self) -> str:
        """How the base model is stored while it is trained on: its number format, and the bits of its quantised weights."""
        text = str(self.dtype).removeprefix("torch.")
        num_weights, num_bytes = quantize.storage(self.model)
        if not num_weights:
            return text
        return f"in {text}, {format_count(num_weights)} weights of it in {num_bytes * 8 / num_weights:.3f} bits each"

    def attached_weightless(self) -> PreTrainedModel:
        """A copy of the base model without weights, with the method attached.

        Raises:
            InputError: If the method does not fit the model: better said now than after the base model was measured.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        weightless = {id(t): _weightless(t) for t in tensors}
        copied = copy.deepcopy(self.model, weightless)
        self._attach_to(copied)
        return copied

    def _attach_to(self, model: PreTrainedModel) -> None:
        """Attach the method to the model or a copy.

        Raises:
            InputError: If it does not fit the model, or changes an output head that rows of a stream need as it is.
        """
        self.method.attach(model)
        if isinstance(self.forward, forward.PackedForward) and not self.data.labels:
            heads.require_plain(model)

    def trained_bytes(self) -> int:
        """Bytes of all that the method will train.

        Raises:
            InputError: As `attached_weightless`.
        """
        attached = self.attached_weightless()
        return sum(p.numel() for p in attached.parameters() if p.requires_grad) * torch.float32.itemsize

    def attach(self) -> FlatAdamW:
        """Attach the method and make the optimizer of what it trains."""
        training = self.settings.training
        torch.manual_seed(training.seed)
        self._attach_to(self.model)
        self._share_beginning()
        stored = {}
        if self.method.trains_base_weights and self.dtype != torch.float32:
            precision.store_rest(self.model, self.dtype)
            stored = precision.stored_as(self.model, self.dtype)
        return FlatAdamW(self.model.named_parameters(), training.weight_decay, stored, self.method.rate_of)

    def _share_beginning(self) -> None:
        """Let what all rows begin with be computed once for many where that is worth it and gives the same."""
        training, count = self.settings.training, num_shared(self.data.train.tokens)
        if count and training.fast_paths == "on" and training.model_dropout == "off":
            self.forward = trial.sharing(self.forward)
            if self.forward.shares:
                self.watch.say(f"the {count} tokens that all rows begin with are computed once for many rows")


def prepare_session(chosen: FitSettings, watch: Watch) -> Session:
    """Find the model, read the data, decide what was left open; loads no weights.

    Raises:
        InputError: If the settings, the data or the model cannot be used.
    """
    load.quiet()
    if chosen.training.threads:
        torch.set_num_threads(chosen.training.threads)
    recorder = Recorder(watch)
    method = method_of(chosen)
    requirements.require_frozen(chosen.training.base_bits, method)
    source = load.find(chosen.model, recorder)
    data = prepare(
        _with_fetched(chosen.data, recorder),
        source.tokenizer,
        task=chosen.task,
        model_max_length=longest(source, method) or 2**20,
        kind=source.kind,
        known_labels=source.classes,
    )
    if source.brings_code:
        recorder.say(f"{source.name} comes with Python code; it is not run, transformers has its own for this architecture")
    for sentence in (*data.notes, *data.description):
        recorder.say(sentence)
    for sentence in data.warnings:
        recorder.warn(sentence)
    requirements.require_held_out(data)
    device = base_model.device()
    requirements.require_workers(chosen.training.workers, device)
    session = Session(chosen, source, data, method, device, recorder)
    session.decide()
    return session


def _weightless(tensor: Tensor) -> Tensor:
    """A stand-in on torch's `meta` device, of the same kind and form."""
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def longest(source: Source, method: Method) -> int | None:
    """Tokens of the longest row that a model tuned by the method takes, None if there is no limit.

    Raises:
        SettingsError: If the method leaves no room.
    """
    positions = anatomy.maximum_length(source.config)
    if positions is not None and positions <= method.num_positions:
        raise SettingsError(f"{method.name!r} takes {method.num_positions} positions of the {positions} that the model has.")
    return None if positions is None else positions - method.num_positions


def _with_fetched(data: DataSettings, watch: Watch) -> DataSettings:
    """The settings with paths of files that are on this machine."""
    held_out = None if data.eval is None else with_starters([data.eval], watch)[0]
    return dataclasses.replace(data, data=with_starters(data.data, watch), eval=held_out)


def with_starters(names: Iterable[str], watch: Watch) -> tuple[str, ...]:
    """The names of data, with the paths of starter data sets in place of theirs; these are fetched on first use."""
    return tuple(str(starter.resolve_data(name, watch)) if name.startswith(starter.PREFIX) else name for name in names)


def method_of(chosen: FitSettings) -> Method:
    """The method that the settings name.

    Raises:
        InputError: If its name is unknown or one of its settings is wrong.
    """
    tree = dict(chosen.method)
    name = str(tree.pop("name"))
    return settings.from_mapping(registry.find(registry.METHODS, name, Method), tree, f"method {name!r}", "method.")
