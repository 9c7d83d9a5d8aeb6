"""The figures of a report, each one SVG element, or an empty text where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.quantity import format_bytes
from tunesmith.reports.curves import Curve, Curves, smooth, thin
from tunesmith.reports.escape import printable, shorten
from tunesmith.reports.result import RunResult, Stage
from tunesmith.reports.svg import COLOURS, SMALL, WIDE, draw
from tunesmith.reports.wording import HEADLINE_ORDER, format_measure, metric_wording, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIN_RAW_POINTS = 8
_SCORES = tuple(name for name in HEADLINE_ORDER if name != "loss")


@dataclass(frozen=True)
class Figure:
    """A drawing and its caption."""

    title: str
    svg: str


def loss_figure(curves: Curves, best_step: int | None) -> str:
    """The loss of training, raw and smoothed, and of the validation rows over steps, with the best step marked."""
    training, validation = curves.steps.get("loss"), curves.evaluations.get("loss")
    if training is None and validation is None:
        return ""

    def plot(axes: Axes) -> None:
        if training is not None:
            _plot_training(axes, training)
        if validation is not None:
            axes.plot(*validation, color=COLOURS["second"], linewidth=1.8, marker="o", markersize=4, label="validation")
        _mark_best(axes, best_step)
        _label_steps(axes)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, borderaxespad=0, columnspacing=1.2, handlelength=1.4)

    return draw("loss", "Loss of training and validation over steps.", WIDE, plot)


def score_figure(curves: Curves, metric: str, best_step: int | None) -> str:
    """One metric of the validation rows over steps, with the best step marked."""
    curve = curves.evaluations.get(metric)
    if curve is None:
        return ""
    wording = metric_wording(metric)

    def plot(axes: Axes) -> None:
        axes.plot(*curve, color=COLOURS["second"], linewidth=1.8, marker="o", markersize=4)
        _mark_best(axes, best_step)
        _label_steps(axes)
        if wording.is_share:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g} %")

    return draw(f"score-{_identifier(metric)}", f"Validation {printable(wording.title)} over steps.", WIDE, plot)


def learning_rate_figure(curves: Curves) -> str:
    """The learning rate over steps."""
    return _small_figure("learning-rate", "Learning rate over steps.", curves.steps.get("learning_rate"), "{:.1e}".format)


def speed_figure(curves: Curves) -> str:
    """Real tokens per second over steps."""
    return _small_figure("speed", "Real tokens per second over steps.", curves.steps.get("tokens_per_second"), "{:,.0f}".format)


def memory_figure(curves: Curves) -> str:
    """The memory held over steps."""
    return _small_figure("memory", "Memory held over steps.", curves.steps.get("memory_bytes"), format_bytes)


def interval_figure(metric: str, stages: list[Stage]) -> str:
    """One metric across stages as dots with their 95 % intervals as whiskers."""
    shown = [stage for stage in stages if metric in stage.metrics]
    if not shown:
        return ""
    title = printable(metric_wording(metric).title)
    spoken = "; ".join(f"{printable(s.name)}: {format_measure(metric, s.metrics[metric])}" for s in shown)

    def plot(axes: Axes) -> None:
        _plot_whiskers(axes, metric, shown)

    return draw(f"interval-{_identifier(metric)}", f"{title}. {spoken}", (5.4, 0.75 + 0.4 * len(shown)), plot)


def figures(result: RunResult, curves: Curves) -> dict[str, list[Figure]]:
    """All figures of a report by the place where they stand: 'metrics', 'training' and 'small'."""
    best_step = (result.progress.best_step or None) if result.progress else None
    stages = result.measured_stages
    metrics = list(dict.fromkeys(name for stage in stages for name in stage.metrics))
    drawn = [name for name in _SCORES if name in metrics] or metrics[:2]
    score = next((name for name in _SCORES if name in curves.evaluations), "")
    found = {
        "metrics": [(title_of(name), interval_figure(name, stages)) for name in drawn],
        "training": [("Loss", loss_figure(curves, best_step)), (title_of(score), score_figure(curves, score, best_step))],
        "small": [
            ("Learning rate", learning_rate_figure(curves)),
            ("Real tokens per second", speed_figure(curves)),
            ("Memory held", memory_figure(curves)),
        ],
    }
    return {place: [Figure(title, svg) for title, svg in pairs if svg] for place, pairs in found.items()}


def _plot_training(axes: Axes, curve: Curve) -> None:
    """The loss of training: every point faint, the running mean above them."""
    steps, values = thin(curve)
    if len(steps) < _MIN_RAW_POINTS:
        axes.plot(steps, values, color=COLOURS["first"], linewidth=1.8, label="training")
        return
    axes.plot(steps, values, color=COLOURS["first"], linewidth=0.9, alpha=0.35, label="training, each step")
    axes.plot(steps, smooth(values), color=COLOURS["first"], linewidth=1.8, label="training, smoothed")


def _plot_whiskers(axes: Axes, metric: str, stages: list[Stage]) -> None:
    """Dots with whiskers from top to bottom in the order of the stages."""
    for row, stage in enumerate(stages):
        measure = stage.metrics[metric]
        colour = COLOURS["second"] if stage is stages[-1] else COLOURS["muted"]
        if measure.low is not None and measure.high is not None:
            axes.plot([measure.low, measure.high], [row, row], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot([measure.value], [row], color=colour, marker="o", markersize=6.5)
    labels = [shorten(printable(f"{stage.name} · {stage.split}", multiline=False), 40) for stage in stages]
    axes.set_yticks(range(len(stages)), labels)
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)
    if metric_wording(metric).is_share:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g} %")
    axes.margins(x=0.08)


def _small_figure(name: str, description: str, curve: Curve | None, write: Callable[[float], str]) -> str:
    """One curve over steps from zero up."""
    if curve is None or not len(curve[0]):
        return ""
    from matplotlib.ticker import MaxNLocator

    steps, values = thin(curve, 200)

    def plot(axes: Axes) -> None:
        axes.plot(steps, values, color=COLOURS["first"], linewidth=1.5)
        axes.set_ylim(0, values.max() * 1.18 or 1)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.yaxis.set_major_formatter(lambda value, _: write(value) if value else "0")
        _label_steps(axes)

    return draw(name, description, SMALL, plot)


def _mark_best(axes: Axes, best_step: int | None) -> None:
    """A dashed line at the step whose weights were kept."""
    if best_step is None:
        return
    axes.axvline(best_step, color=COLOURS["marked"], linewidth=1.2, linestyle=(0, (4, 3)))
    left, right = axes.get_xlim()
    side = "right" if best_step > (left + right) / 2 else "left"
    offset = (-5, 4) if side == "right" else (5, 4)
    axes.annotate(
        f"best: step {best_step:,}", (best_step, 0), xycoords=("data", "axes fraction"), xytext=offset,
        textcoords="offset points", ha=side, fontsize=9,
    )  # fmt: skip


def _label_steps(axes: Axes) -> None:
    """Whole numbers and a label on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    left, right = axes.get_xlim()
    if right - left < 2:  # one step: an axis without two whole numbers would repeat the one it has
        axes.set_xlim((left + right) / 2 - 1, (left + right) / 2 + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("step", fontsize=9)


def _identifier(name: str) -> str:
    """A name as letters, digits and hyphens, fit for the id of an element."""
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in name)
