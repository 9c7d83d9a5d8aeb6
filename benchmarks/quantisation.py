"""What storing a model's weights in few bits costs: perplexity by format, as in table 2 of QLoRA, and the page about it.

python -m benchmarks.quantisation      about 6 minutes on one core; writes results/quantisation.json, the table and the figure

Every linear layer of the body of SmolLM2-135M-Instruct is put into the format and back into float32; then the same held-out
answers are scored. Rows are paired, so differences between formats are far surer than the perplexities themselves.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith import starter
from tunesmith.data.prepare import prepare_for_evaluation
from tunesmith.evaluation import metrics
from tunesmith.evaluation.difference import compare_losses
from tunesmith.kernels import eight_bit, four_bit
from tunesmith.kernels.frozen_linear import FewBits, dense
from tunesmith.measure import Measure
from tunesmith.model import anatomy, load, trial
from tunesmith.runs.measure import Scores, score
from tunesmith.settings import DataSettings
from tunesmith.watch import Quiet

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "quantisation.json"
PAGE = ROOT / "docs" / "quantisation.md"
FIGURE = ROOT / "docs" / "quantisation.svg"
MODEL, DATA, MAX_LENGTH = "starter:smollm2", "starter:instructions", 512


@dataclass(frozen=True)
class Format:
    """A way to store a weight."""

    title: str
    store: Callable[[Tensor], FewBits] | None
    """None leaves the weights as they are."""


FORMATS = {
    "float32": Format("float32, as loaded", None),
    "int8": Format("8 bits, whole steps of each row", eight_bit.quantize),
    "nf4": Format("NormalFloat4 (NF4)", partial(four_bit.quantize, levels="nf4")),
    "fp4": Format("4-bit float (FP4, E2M1)", partial(four_bit.quantize, levels="fp4")),
    "int4": Format("4-bit integer (Int4)", partial(four_bit.quantize, levels="int4")),
}


@dataclass(frozen=True)
class Found:
    """What was measured of one format."""

    bits: float
    """Of a weight, with all that belongs to it."""
    perplexity: Measure
    against_nf4: Measure
    """Difference of the loss from that of NF4 on the same rows, nats a token."""


def main() -> None:
    """Measure all formats and write result, table and figure; with `--draw`, write these from the result that is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantisation")
    parser.add_argument("--rows", type=int, default=100, help="rows whose answers are scored (default 100)")
    parser.add_argument("--draw", action="store_true", help="only draw again what was measured before")
    arguments = parser.parse_args()
    if not arguments.draw:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(measured(arguments.rows), indent=1) + "\n")
    record = json.loads(RESULTS.read_text())
    write_table(record)
    draw(record)


def measured(num_rows: int) -> dict[str, object]:
    """Perplexity of every format on the last rows of the instruction data."""
    load.quiet()
    source = load.find(MODEL)
    model = load.load(source, "chat")
    paths = (str(starter.resolve_data(DATA)),)
    part = prepare_for_evaluation(
        paths, source.tokenizer, like=DataSettings(data=paths), task="chat", labels=(), max_length=MAX_LENGTH
    ).part
    first = max(0, len(part) - num_rows)
    tokens = part.tokens.select(range(first, len(part)))
    part = replace(part, examples=part.examples[first:], tokens=tokens, origins=part.origins[first:])
    scores, bits = {}, {}
    originals = {path: anatomy.linear_weight(model.get_submodule(path)).detach().clone() for path in body(model)}
    for name, kind in FORMATS.items():
        bits[name] = put(model, originals, kind)
        chosen, _ = trial.choose(model, classification=False, fast=False)
        scores[name] = score(chosen, part, Quiet(), name)
        print(f"{name}: {bits[name]:.3f} bits, perplexity {scores[name].metrics(0)['perplexity'].value:.3f}", flush=True)
    return {
        "model": MODEL,
        "data": DATA,
        "num_rows": len(part),
        "num_tokens": int(scores["nf4"].counts.sum()),
        "num_weights": sum(weight.numel() for weight in originals.values()),
        "formats": {name: asdict(found(name, scores, bits[name])) for name in FORMATS},
    }


def body(model: PreTrainedModel) -> list[str]:
    """Paths of the layers that `--base-bits` quantises."""
    return anatomy.linear_targets(model, (anatomy.ALL_LINEAR,))


@torch.no_grad()
def put(model: PreTrainedModel, originals: dict[str, Tensor], kind: Format) -> float:
    """Give the model the weights that a format keeps of the originals, and tell its bits a weight."""
    num_bytes = 0
    for path, weight in originals.items():
        stored = None if kind.store is None else kind.store(weight)
        model.get_parameter(f"{path}.weight").copy_(weight if stored is None else dense(stored))
        parts = [weight] if stored is None else [part for part in vars(stored).values() if isinstance(part, Tensor)]
        num_bytes += sum(part.nbytes for part in parts)
    return num_bytes * 8 / sum(weight.numel() for weight in originals.values())


def found(name: str, scores: dict[str, Scores], bits: float) -> Found:
    """What is kept of a format's scores."""
    here, nf4 = scores[name], scores["nf4"]
    perplexity = metrics.language(here.losses, here.counts)["perplexity"]
    return Found(bits, perplexity, compare_losses(nf4.losses, here.losses, here.counts).measure)


def write_table(record: dict) -> None:
    """Put the table between the marks of the page."""
    lines = ["| weights of the body | bits each | perplexity (95 % interval) | loss minus that of NF4 (95 % interval) |"]
    lines += ["|---|--:|--:|--:|"]
    for name, entry in record["formats"].items():
        perplexity, difference = entry["perplexity"], entry["against_nf4"]
        interval = f"{perplexity['value']:.3f} ({perplexity['low']:.2f} to {perplexity['high']:.2f})"
        against = f"{difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"
        lines.append(f"| {FORMATS[name].title} | {entry['bits']:.3f} | {interval} | {'' if name == 'nf4' else against} |")
    lines += [
        "",
        f"Measured on {record['num_tokens']:,} tokens of the answers of {record['num_rows']} rows of `{record['data']}`",
    ]
    lines[-1] += f" with `{record['model']}`, whose body has {record['num_weights']:,} weights."
    table = "<!-- table -->\n" + "\n".join(lines) + "\n<!-- end -->"
    PAGE.write_text(re.sub(r"<!-- table -->.*<!-- end -->", lambda _: table, PAGE.read_text(), flags=re.DOTALL))


def draw(record: dict) -> None:
    """The figure: what every format adds to the loss of float32, with intervals around the difference from NF4."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "quantisation", "svg.fonttype": "none", "font.size": 10}
    from matplotlib.figure import Figure

    entries = {name: entry for name, entry in record["formats"].items() if name != "float32"}
    start = record["formats"]["float32"]["against_nf4"]["value"]
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for place, entry in enumerate(reversed(entries.values())):
        difference = entry["against_nf4"]
        value, low, high = (difference[key] - start for key in ("value", "low", "high"))
        axes.errorbar(value, place, xerr=[[value - low], [high - value]], fmt="o", color="#2563a8", capsize=3)
        axes.annotate(f"{entry['perplexity']['value']:.2f}", (value, place), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(entries)), [FORMATS[name].title for name in reversed(entries)])
    axes.set_ylim(-0.5, len(entries) - 0.3)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_xlabel("loss above that of float32, nats a token (numbers: perplexity)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.5)
    figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
