"""VeRA: learn two vectors that scale a random low-rank change, which all layers share and which never learns.

y = W x + b * (B (d * (A x)))      A: (rank, d_in), B: (d_out, rank) random; d: (rank,) 0.1, b: (d_out,) zero at the start

A and B of a layer are the first columns and rows of one random pair for the whole model, drawn from `seed`. PEFT's files hold
the pair too: over a base in 16 bit PEFT rounds it, so that its seed alone would not give it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith import settings
from tunesmith.errors import ModelError, SettingsError
from tunesmith.interchange import PREFIX, PROMPT_PREFIX, PeftFormat, PeftParts, module_tensors, target_modules, targets
from tunesmith.method import Method
from tunesmith.model import anatomy, low_rank, surgery


class VeRALinear(low_rank.ChangedLinear):
    """A frozen linear layer with a scaled random change."""

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, start: float) -> None:
        super().__init__()
        d_in, d_out = anatomy.linear_sizes(base)
        self.base = base
        self.register_buffer("shared_a", a[:, :d_in], persistent=False)
        self.register_buffer("shared_b", b[:d_out], persistent=False)
        self.d = nn.Parameter(torch.full((len(a),), start, device=a.device, dtype=torch.float32))
        self.b = nn.Parameter(torch.zeros(d_out, device=a.device, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        a, b = (self.get_buffer(name).to(x.dtype) for name in ("shared_a", "shared_b"))
        return self.base(x) + (x @ a.t() * self.d.to(x.dtype)) @ b.t() * self.b.to(x.dtype)

    def merged_weight(self) -> Tensor:
        change = self.b[:, None] * ((self.get_buffer("shared_b") * self.d) @ self.get_buffer("shared_a"))
        return anatomy.linear_weight(self.base).double() + change.double()


@dataclass(frozen=True, kw_only=True)
class VeRA(Method, PeftFormat):
    """Learnt scales of a shared random change of linear layers."""

    name = "vera"
    paper = "https://arxiv.org/abs/2310.11454"
    learning_rate = 2e-3
    learning_rate_small = 1e-2
    peft_type = "VERA"
    peft_keys = frozenset({"r", "projection_prng_key", "save_projection", "d_initial"})
    peft_ignored = frozenset({"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"})
    peft_ignored |= {"fan_in_fan_out", "vera_dropout", "init_weights"}

    rank: int = 256
    """Rank of the random change; the learnt vectors have one number for each."""
    start: float = 0.1
    """What the scales of the inner numbers begin with."""
    seed: int = 0
    """Of the random change."""
    targets: tuple[str, ...] = (anatomy.ALL_LINEAR,)
    """Names of the layers to adapt (`q_proj v_proj`, patterns allowed), or `all-linear`."""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 16384:
            raise SettingsError(f"method.rank must be between 1 and 16384, found {self.rank}.")
        if not -(2**63) <= self.seed < 2**63:
            raise SettingsError(f"method.seed must fit in 64 bits, found {self.seed}.")

    def attach(self, model: nn.Module) -> None:
        paths = anatomy.linear_targets(model, self.targets)
        sizes = [anatomy.linear_sizes(model.get_submodule(path)) for path in paths]
        generator = torch.Generator().manual_seed(self.seed)
        a = _kaiming(self.rank, max(d_in for d_in, _ in sizes), generator).to(next(model.parameters()).device)
        b = _kaiming(max(d_out for _, d_out in sizes), self.rank, generator).to(a.device)
        surgery.freeze(model)
        for path in paths:
            surgery.replace(model, path, VeRALinear(model.get_submodule(path), a, b, self.start))
        surgery.thaw(model, anatomy.new_head_parameters(model))

    def merge(self, model: nn.Module) -> None:
        low_rank.merge(model)

    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        layers = {path: module for path, module in model.named_modules() if isinstance(module, VeRALinear)}
        config: dict[str, object] = {
            "r": self.rank,
            "projection_prng_key": self.seed,
            "save_projection": True,
            "d_initial": self.start,
            "target_modules": target_modules(model, list(layers)),
            "fan_in_fan_out": any(anatomy.stores_inputs_first(layer.base) for layer in layers.values()),
        }
        own = {f"{path}.{ours}": f"{PREFIX}{path}.{theirs}" for path in layers for theirs, ours in _NAMES_IN_PEFT.items()}
        tensors = {theirs: trained[ours] for ours, theirs in own.items()}
        tensors[_A] = max((layer.get_buffer("shared_a") for layer in layers.values()), key=lambda a: a.shape[1])
        tensors[_B] = max((layer.get_buffer("shared_b") for layer in layers.values()), key=lambda b: b.shape[0])
        return PeftParts(config, tensors, {name: tensor for name, tensor in trained.items() if name not in own})

    @classmethod
    def from_peft(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module
    ) -> tuple[VeRA, dict[str, Tensor]]:
        own = module_tensors({name: t for name, t in tensors.items() if name not in (_A, _B)}, _NAMES_IN_PEFT)
        paths = sorted({name.rpartition(".")[0] for name in own})
        usual = cls()
        chosen = {
            "rank": config.get("r"),
            "seed": config.get("projection_prng_key", usual.seed),
            "start": config.get("d_initial", usual.start),
            "targets": targets(model, paths),
        }
        method = settings.from_mapping(cls, chosen, "adapter_config.json")
        # Without a pair in the file PEFT draws it from the seed, on a processor and in `attach`'s order; so does `attach`.
        saved = config.get("save_projection", True)
        return method, own | (_shared(model, paths, method.rank, tensors) if saved else {})


_NAMES_IN_PEFT = {"vera_lambda_d": "d", "vera_lambda_b": "b"}
_A, _B = f"{PROMPT_PREFIX}vera_A", f"{PROMPT_PREFIX}vera_B"


def _shared(model: nn.Module, paths: list[str], rank: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first columns of the saved A and the first rows of the saved B for every layer.

    Raises:
        ModelError: If they are not there or too small.
    """
    a, b = tensors.get(_A), tensors.get(_B)
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or len(a) != rank or b.shape[1] != rank:
        found = ", ".join("none" if tensor is None else str(tuple(tensor.shape)) for tensor in (a, b))
        raise ModelError(f"The adapter has the rank {rank} and says that it holds its projections; A and B are {found}.")
    layers = {path: module for path, module in model.named_modules() if anatomy.is_linear(module)}
    slices = {}
    for path in (path for path in paths if path in layers):  # `attach` refuses the others by name
        d_in, d_out = anatomy.linear_sizes(layers[path])
        slices |= {f"{path}.shared_a": a[:, :d_in], f"{path}.shared_b": b[:d_out]}
    return slices


def _kaiming(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniform, with the variance 2 / columns."""
    bound = math.sqrt(6 / columns)
    return torch.empty(rows, columns, device="cpu").uniform_(-bound, bound, generator=generator)
