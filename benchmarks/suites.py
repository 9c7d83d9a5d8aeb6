"""What is measured: one line per suite. A suite is a piece of work, who does it, and whose losses all must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.contestants import CONFIGURATIONS, Configuration
from benchmarks.workload import Work

INSTRUCTIONS = Work(
    model="smollm2",
    data="instructions",
    task="causal",
    rows_per_step=8,
    num_warmup=16,
    num_timed=64,
    num_check=8,
    max_tokens=512,
    check_tokens=128,
)
SHORTER = replace(INSTRUCTIONS, max_tokens=320)
"""With 100 virtual tokens more, or all weights learning, longer rows take a newcomer's setting above 13 GB."""
REVIEWS = Work(
    model="minilm",
    data="movie-reviews",
    task="classification",
    rows_per_step=32,
    num_warmup=256,
    num_timed=1024,
    num_check=32,
    max_tokens=128,
    check_tokens=64,
)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One comparison."""

    name: str
    about: str
    work: Work = SHORTER
    method: str
    """What learns, by the name of tunesmith's method or preset."""
    learning_rate: float
    start_scale: float = 1.0
    """What the peer's own start (of P-tuning: the prompt) is multiplied by, for everyone."""
    rounding_decides_norms: bool = False
    """Whether in 16 bits the lengths of gradients say nothing: there, losses alone are compared. In float32 all must agree."""
    usual: tuple[str, ...] = ("peft-default", "peft-best", "tunesmith")
    """Who takes part unless others are named."""
    others: tuple[str, ...] = ("tunesmith-8bit",)
    """Who may take part, too: other settings, with fewer bits among them."""
    reference: str = "peft-default"
    """Whose losses in float32 all must have: a peer's, unchanged."""

    @property
    def contestants(self) -> dict[str, Configuration]:
        """Everyone who may take part, by name."""
        return {name: CONFIGURATIONS[name] for name in (*self.usual, *self.others)}

    @property
    def on_gpu(self) -> bool:
        """Whether it needs a GPU."""
        return any(configuration.on_gpu for configuration in self.contestants.values())

    def chosen(self, wish: str | None) -> list[str]:
        """The contestants that a word of the command line means: names with commas between, `all`, or the usual ones.

        Raises:
            ValueError: If the suite has no such contestant.
        """
        if wish == "all":
            return list(self.contestants)
        names = wish.split(",") if wish else list(self.usual)
        if unknown := [name for name in names if name not in self.contestants]:
            raise ValueError(f"the suite {self.name!r} has no contestant {unknown[0]!r}; it has {', '.join(self.contestants)}.")
        return names


def _table(suites: Sequence[Suite]) -> dict[str, Suite]:
    return {suite.name: suite for suite in suites}


SUITES = _table(
    [
        Suite(
            name="lora",
            about="LoRA on all linear layers of SmolLM2-135M, instructions",
            work=INSTRUCTIONS,
            method="lora",
            learning_rate=2e-4,
            others=(
                "trl",
                "trl-packed",
                "litgpt",
                "llamafactory",
                "peft-2x4",
                "peft-2x4-sorted",
                "peft-8x1-grouped",
                "peft-bfloat16",
                "tunesmith-8bit",
            ),
        ),
        Suite(
            name="qlora",
            about="the same over a base in four bits",
            work=INSTRUCTIONS,
            method="lora",
            learning_rate=2e-4,
            usual=("peft-qlora", "tunesmith-qlora"),
            others=(),
            reference="peft-qlora",
        ),
        Suite(
            name="gpu",
            about="the same on a GPU; needs one, and nobody has run it yet",
            work=INSTRUCTIONS,
            method="lora",
            learning_rate=2e-4,
            usual=("peft-gpu", "tunesmith-gpu"),
            others=(),
            reference="peft-gpu",
        ),
        Suite(
            name="classification",
            about="LoRA on all linear layers of MiniLM and a new head, film reviews",
            work=REVIEWS,
            method="lora",
            learning_rate=1e-3,
            usual=("peft-default", "peft-grouped", "tunesmith"),
            others=("peft-sorted", "tunesmith-8bit"),
        ),
        Suite(
            name="classification-adapterhub",
            about="the same where AdapterHub has LoRA: in all linear layers but the one that ends attention",
            work=REVIEWS,
            method="lora",
            learning_rate=1e-3,
            usual=("adapters-default", "adapters-grouped", "tunesmith"),
            reference="adapters-default",
        ),
        Suite(
            name="full",
            about="all weights of SmolLM2-135M",
            method="full",
            learning_rate=3e-5,  # at 1e-4 the curves of two contestants in 16 bits are 1 % apart
            usual=("peft-default", "peft-autocast", "tunesmith"),
            others=(),
        ),
        Suite(
            name="adapter",
            about="bottleneck adapters of Houlsby on SmolLM2-135M",
            method="houlsby",
            learning_rate=1e-3,
            usual=("adapters-default", "adapters-best", "tunesmith"),
            reference="adapters-default",
        ),
        Suite(
            name="adapter-pfeiffer",
            about="bottleneck adapters of Pfeiffer on SmolLM2-135M",
            method="pfeiffer",
            learning_rate=1e-3,
            usual=("adapters-default", "adapters-best", "tunesmith"),
            reference="adapters-default",
        ),
        Suite(
            name="prefix",
            about="20 prefix tokens before every layer of SmolLM2-135M",
            method="prefix",
            learning_rate=5e-3,
            start_scale=0.1,  # as it is the loss begins at 8.7, and rounding decides by how much the first gradient is off
        ),
        Suite(
            name="prompt",
            about="100 virtual tokens before the input of SmolLM2-135M",
            method="prompt",
            learning_rate=1e-2,  # at the usual 3e-2 rounding decides where AdamW's first update leads
        ),
        Suite(
            name="ptuning",
            about="20 virtual tokens made by a network, SmolLM2-135M",
            method="ptuning",
            learning_rate=1e-5,  # at the usual 1e-3 the gradient's norm jumps, and rounding decides by how much
            start_scale=20.0,  # as it is the prompt is all but zero, and its norm amplifies every rounding
            rounding_decides_norms=True,
        ),
        Suite(name="ia3", about="scaled keys, values and inner activations, SmolLM2-135M", method="ia3", learning_rate=5e-3),
    ]
)
