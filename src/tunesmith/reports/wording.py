"""How metrics and gauges are named, written and explained to a reader."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesmith.measure import Measure
from tunesmith.quantity import format_count, format_percent
from tunesmith.reports.result import Cost, ModelFacts


@dataclass(frozen=True)
class MetricWording:
    """How one metric is shown."""

    title: str
    higher_is_better: bool | None = None
    is_share: bool = False
    digits: int = 3


METRICS = {
    "accuracy": MetricWording("accuracy", True, True),
    "macro_f1": MetricWording("macro-F1", True, True),
    "rouge_l": MetricWording("ROUGE-L", True, True),
    "exact_match": MetricWording("exact match", True, True),
    "perplexity": MetricWording("perplexity", False, digits=2),
    "loss": MetricWording("loss", False),
}
HEADLINE_ORDER = ("accuracy", "macro_f1", "rouge_l", "exact_match", "perplexity", "loss")

GAUGES = {
    "general_perplexity_before": MetricWording("perplexity on general text, base", False, digits=2),
    "general_perplexity_after": MetricWording("perplexity on general text, tuned", False, digits=2),
    "general_perplexity_ratio": MetricWording("perplexity on general text, tuned ÷ base", False),
    "kl_to_base": MetricWording("divergence from the base model", False),
    "representation_similarity": MetricWording("similarity of representations", True),
    "kept_neighbours": MetricWording("kept nearest neighbours", True, True),
}
_GAUGE_EXPLANATIONS = {
    "general_perplexity_before": "How well the base model predicts text that has nothing to do with the task; lower is better.",
    "general_perplexity_after": "The same of the tuned model: what it is above the base model's was forgotten.",
    "general_perplexity_ratio": "1 means that it predicts general text as before, above 1 that some of it was forgotten.",
    "kl_to_base": "How far its predictions on general text moved, in nats per token: 0 means not at all.",
    "representation_similarity": "Cosine between what both models make of the same general text: 1 is unchanged, 0 unrelated.",
    "kept_neighbours": "Share of general texts nearest to each other that still are: 100 % means all of them.",
}


def title_of(name: str) -> str:
    """The title of a metric or gauge with a capital, for a heading."""
    title = metric_wording(name).title
    return title[:1].upper() + title[1:]


def metric_wording(name: str) -> MetricWording:
    """How the metric or gauge called `name` is shown; one that is not known keeps its name."""
    return METRICS.get(name) or GAUGES.get(name) or MetricWording(name.replace("_", " "))


def gauge_explanation(name: str) -> str:
    """What a retention gauge says, in one line."""
    return _GAUGE_EXPLANATIONS.get(name, "Measured before and after training; see the documentation of the gauge.")


def format_value(name: str, value: float) -> str:
    """The value of metric `name` as text: `86.3 %`, `4.31`, `not finite`."""
    if not math.isfinite(value):
        return "not finite"
    wording = metric_wording(name)
    return format_percent(value) if wording.is_share else f"{value:.{wording.digits}f}"


def format_interval(name: str, measure: Measure) -> str:
    """The 95 % interval of a measure, `84.1 to 88.3 %`, or an empty text if it has none."""
    if measure.low is None or measure.high is None:
        return ""
    low, high = format_value(name, measure.low), format_value(name, measure.high)
    return f"{low.removesuffix(' %')} to {high}" if high.endswith(" %") else f"{low} to {high}"


def format_measure(name: str, measure: Measure) -> str:
    """A measure with its interval: `86.3 % (84.1 to 88.3 %)`."""
    interval = format_interval(name, measure)
    return format_value(name, measure.value) + (f" ({interval})" if interval else "")


def trainable_share(model: ModelFacts) -> str:
    """How much of the model was trained: `0.69 % (158,000 of 22.9 million)`."""
    share = model.num_trainable / model.num_parameters if model.num_parameters else 0.0
    return f"{format_percent(share, 2)} ({format_count(model.num_trainable)} of {format_count(model.num_parameters)})"


def tokens_per_second(cost: Cost) -> str:
    """The speed in tokens that were really computed: `12,400 real tokens/s`."""
    return f"{format_count(cost.real_tokens_per_second)} real tokens/s"
