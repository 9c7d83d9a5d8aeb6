"""The headline of a run: what changed between base and tuned model, and whether the intervals allow saying so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.measure import Measure
from tunesmith.quantity import format_count
from tunesmith.reports.result import RunResult, Stage
from tunesmith.reports.wording import HEADLINE_ORDER, format_interval, format_measure, format_value, metric_wording

Difference = Literal["better", "worse", "none found", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """What came of a run, in one sentence, and the numbers it rests on."""

    difference: Difference
    sentence: str
    metric: str | None = None
    tuned: Stage | None = None
    baseline: Stage | None = None
    is_paired: bool = False
    """Whether the difference row by row decided, and not the overlap of two intervals."""


def judge(result: RunResult) -> Verdict:
    """The headline of a run: the tuned model against the strongest baseline on the same rows."""
    if result.status in ("failed", "interrupted", "killed"):
        return Verdict("not measured", _unfinished(result))
    tuned = _tuned_stage(result.stages)
    metric = tuned and next((name for name in HEADLINE_ORDER if name in tuned.metrics), None)
    if tuned is None or metric is None:
        return Verdict("not measured", "No result was measured yet.")
    baseline = _strongest_baseline(result.stages, metric, tuned.split)
    measure = tuned.metrics[metric]
    where = f"On {_rows(result, metric, tuned)}, "
    if baseline is None:
        title = metric_wording(metric).title
        sentence = f"{where}{title} is {format_measure(metric, measure)}; no baseline was measured beside it."
        return Verdict("not measured", sentence, metric, tuned)
    paired = None if baseline.kind == "majority" else _paired(result.stages, metric, tuned.split)
    difference = _difference(metric, baseline.metrics[metric], measure, paired)
    reason = "the 95 % intervals overlap" if paired is None else "the 95 % interval of the paired difference includes 0"
    sentence = where + _comparison(metric, difference, measure, baseline, reason)
    return Verdict(difference, sentence, metric, tuned, baseline, is_paired=paired is not None)


def _unfinished(result: RunResult) -> str:
    """What to say of a run that did not come to its end."""
    if result.status == "failed":
        return f"The run failed: {result.error or 'no reason was recorded'}"
    if not result.was_started:
        return f"The run was {result.status} before training started; `tunesmith resume` starts it."
    saved = "everything up to its last checkpoint is saved and `tunesmith resume` goes on from there"
    return f"The run was {result.status}; {saved}."


def _tuned_stage(stages: list[Stage]) -> Stage | None:
    """The last stage of the tuned model on the test rows, else on the validation rows."""
    tuned = [stage for stage in stages if stage.kind == "tuned"]
    for split in ("test", "validation"):
        found = [stage for stage in tuned if stage.split == split]
        if found:
            return found[-1]
    return None


def _strongest_baseline(stages: list[Stage], metric: str, split: str) -> Stage | None:
    """The baseline with the best value of `metric` on the same rows."""
    found = [stage for stage in stages if stage.is_baseline and stage.split == split and metric in stage.metrics]
    sign = 1 if metric_wording(metric).higher_is_better else -1
    return max(found, key=lambda stage: sign * stage.metrics[metric].value, default=None)


def _paired(stages: list[Stage], metric: str, split: str) -> Measure | None:
    """Tuned minus base measured row by row, if the run has its interval; perplexity rises and falls with the loss."""
    names = (metric, "loss") if metric == "perplexity" else (metric,)
    found = (s.metrics for s in stages if s.kind == "difference" and s.split == split)
    known = (metrics[name] for metrics in found for name in names if name in metrics)
    return next((measure for measure in known if measure.low is not None), None)


def _difference(metric: str, before: Measure, after: Measure, paired: Measure | None) -> Difference:
    """Whether the tuned model differs: by the paired interval if there is one, else if the two intervals do not overlap."""
    if paired is not None and paired.low is not None and paired.high is not None:
        rises, falls = paired.low > 0, paired.high < 0
    elif before.low is None or before.high is None or after.low is None or after.high is None:
        return "not measured"
    else:
        rises, falls = after.low > before.high, after.high < before.low
    if rises == falls:
        return "none found"
    return "better" if rises == bool(metric_wording(metric).higher_is_better) else "worse"


def _comparison(metric: str, difference: Difference, after: Measure, baseline: Stage, reason: str) -> str:
    """The second half of the headline, after the rows it was measured on."""
    title, before = metric_wording(metric).title, baseline.metrics[metric]
    both = f"{format_measure(metric, after)} after tuning and {format_measure(metric, before)} before ({baseline.name})"
    if difference == "none found":
        return f"no difference found: {title} is {both}; {reason}."
    if difference == "not measured":
        return f"{title} is {both}; without intervals nothing is claimed about the difference."
    goes = "rises" if (difference == "better") == bool(metric_wording(metric).higher_is_better) else "falls"
    interval = format_interval(metric, after)
    return (
        f"{title} {goes} from {format_value(metric, before.value)} ({baseline.name}) to {format_value(metric, after.value)}"
        f"{f' (95 % interval {interval})' if interval else ''}{'' if difference == 'better' else ': the tuned model is worse'}."
    )


def _rows(result: RunResult, metric: str, stage: Stage) -> str:
    """The rows that a stage was measured on, in words, with the caveat of the validation rows."""
    counted = stage.metrics[metric].count if metric_wording(metric).is_share else None
    count = counted or (result.data.num_validation if stage.split == "validation" else result.data.num_test)
    caveat = " (which also chose the checkpoint)" if stage.split == "validation" else ""
    return f"{format_count(count)} held-out {stage.split} rows{caveat}"
