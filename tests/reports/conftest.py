"""Runs that never happened, with plainly invented numbers, as the reports would meet them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tunesmith.measure import Measure
from tunesmith.reports.result import BeforeAfter, Cost, DataFacts, ModelFacts, Progress, RunResult, Stage


def share(value: float, half_width: float, count: int = 1000) -> Measure:
    return Measure(value=value, low=value - half_width, high=value + half_width, count=count)


def stage(name: str, split: str, **metrics: Measure) -> Stage:
    kind = "majority" if name.startswith("majority") else "base" if name.startswith("base") else "tuned"
    return Stage(name=name, kind=kind, split=split, metrics=metrics)


@pytest.fixture
def classification_result() -> RunResult:
    return RunResult(
        task="classification",
        method={"name": "lora", "rank": 16, "alpha": 32.0, "dropout": 0.0, "targets": ["all-linear"], "scaling": "standard"},
        command=["tunesmith", "fit", "starter:movie-reviews", "--model", "starter:minilm", "--out", "runs/first film"],
        created="2026-01-02T03:04:05+00:00",
        settings={
            "model": "starter:minilm",
            "task": "auto",
            "data": {"data": ["starter:movie-reviews"], "max_rows": None, "split_seed": 0},
            "training": {"epochs": 2.0, "learning_rate": 0.001, "schedule": "cosine", "warmup_share": 0.06, "seed": 0},
        },
        versions={"tunesmith": "0.0.0", "python": "3.11.0", "torch": "2.13.0", "transformers": "5.23.0"},
        machine={"cpu": "Example CPU", "cores": "2", "memory": "8 GB", "accelerator": "none"},
        seed=0,
        model=ModelFacts(
            name="starter:minilm",
            fingerprint="ab" * 32,
            architecture="BertForSequenceClassification",
            num_parameters=22_900_000,
            num_trainable=1_180_000,
            precision="float32",
            license="apache-2.0",
        ),
        data=DataFacts(
            name="starter:movie-reviews",
            fingerprint="cd" * 32,
            shape="text+label",
            description="Read 10,000 rows as text+label; 12 rows skipped: rows 17, 203 and 10 more have no text.",
            num_train=8000,
            num_validation=1000,
            num_test=1000,
            num_skipped=12,
            train_tokens=240_000,
            labelled_tokens=8000,
            max_length=256,
            labels=["negative", "positive"],
        ),
        status="finished",
        progress=Progress(
            steps=500,
            planned_steps=500,
            epochs=2.0,
            best_step=450,
            best_metric="validation accuracy",
            stop_reason="all epochs done",
        ),
        stages=[
            stage("majority class", "validation", accuracy=share(0.51, 0.031), macro_f1=share(0.338, 0.014)),
            stage("base model, untrained head", "validation", accuracy=share(0.49, 0.031), macro_f1=share(0.45, 0.031)),
            stage("best checkpoint", "validation", accuracy=share(0.87, 0.021), macro_f1=share(0.869, 0.021)),
            stage("majority class", "test", accuracy=share(0.51, 0.031), macro_f1=share(0.338, 0.014)),
            stage("base model, untrained head", "test", accuracy=share(0.48, 0.031), macro_f1=share(0.44, 0.031)),
            stage("tuned model", "test", accuracy=share(0.86, 0.0215), macro_f1=share(0.859, 0.0215)),
        ],
        retention={
            "representation_similarity": share(0.91, 0.004, 60),
            "kept_neighbours": share(0.78, 0.03, 60),
        },
        forgotten="forgot a little: 78% of the 10 texts nearest to a general text are the same.",
        examples=[
            BeforeAfter(prompt="An invented film that never tires.", expected="positive", before="negative", after="positive"),
            BeforeAfter(
                prompt="Two hours that I would like back; the ending is worse.",
                expected="negative",
                before="negative",
                after="negative",
            ),
            BeforeAfter(prompt="Not bad, not good, not anything.", expected="negative", before="negative", after="positive"),
        ],
        cost=Cost(
            train_seconds=130.0,
            total_seconds=171.0,
            real_tokens_per_second=3700.0,
            peak_memory_bytes=1_100_000_000,
            memory_above_import_bytes=610_000_000,
        ),
        warnings=["1.2 % of the rows are longer than 256 tokens and were cut."],
    )


@pytest.fixture
def chat_result(classification_result: RunResult) -> RunResult:
    result = classification_result
    result.task = "chat"
    result.command = ["tunesmith", "fit", "starter:instructions", "--model", "starter:smollm2"]
    result.model = ModelFacts(
        name="starter:smollm2",
        fingerprint="12" * 32,
        architecture="LlamaForCausalLM",
        num_parameters=134_500_000,
        num_trainable=4_880_000,
        precision="bfloat16",
    )
    result.data = DataFacts(
        name="starter:instructions",
        fingerprint="34" * 32,
        shape="instruction/input/output",
        description="Read 999 rows as instruction/input/output; training on output.",
        num_train=899,
        num_validation=50,
        num_test=50,
        num_skipped=0,
        train_tokens=150_000,
        labelled_tokens=90_000,
        max_length=1024,
    )
    result.stages = [
        stage("base model", "validation", loss=share(2.1, 0.15), perplexity=Measure(value=8.17, low=7.03, high=9.49)),
        stage("best checkpoint", "validation", loss=share(1.6, 0.13), perplexity=Measure(value=4.95, low=4.35, high=5.64)),
        stage("base model", "test", loss=share(2.0, 0.2), perplexity=Measure(value=7.39, low=6.05, high=9.03)),
        stage("tuned model", "test", loss=share(1.7, 0.18), perplexity=Measure(value=5.47, low=4.57, high=6.55)),
    ]
    result.retention = {"general_perplexity_before": Measure(value=18.3), "general_perplexity_after": Measure(value=19.05)}
    result.forgotten = "remembers: perplexity on general text 18.30 -> 19.05 (x1.041)."
    result.retention |= {"kl_to_base": share(0.083, 0.011), "general_perplexity_ratio": share(1.041, 0.012)}
    answer = "Three ideas:\n\n1. Walk to work twice a week.\n2. Cook with the season.\n3. Sleep at the same hour."
    result.examples = [
        BeforeAfter(
            prompt="Give three tips for a calmer week.", expected=answer, before="A calm week is a week. " * 12, after=answer
        ),
        BeforeAfter(prompt="Rewrite: 'he go home'.", expected="He goes home.", before="", after="He goes home."),
    ]
    result.warnings = []
    return result


@pytest.fixture
def adapter_folder(tmp_path: Path) -> Path:
    """A run folder with an adapter in PEFT's format and nothing else."""
    folder = tmp_path / "first-film"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").touch()
    return folder


@pytest.fixture
def run_folder(adapter_folder: Path) -> Path:
    """A run folder with an adapter and the metrics of 500 steps."""
    folder = adapter_folder
    lines = []
    for step in range(1, 501):
        noise = (math.sin(step * step * 12.9898) * 43758.5453 % 1 - 0.5) * 0.2
        rate = 0.001 * min(step / 30, 0.5 + 0.5 * math.cos(math.pi * step / 500))
        loss = 0.3 + 0.4 * math.exp(-step / 90) + noise
        record = {"kind": "step", "step": step, "epoch": step / 250, "loss": loss, "learning_rate": rate, "gradient_norm": 1.0}
        record |= {
            "tokens": step * 960,
            "seconds": step * 0.26 + 0.06 * math.sin(step * step),
            "memory_bytes": 9e8 + 2e8 * (1 - 1 / step),
        }
        lines.append(json.dumps(record))
        if step % 50 == 0:
            metrics = {"loss": 0.33 + 0.36 * math.exp(-step / 80), "accuracy": 0.87 - 0.35 * math.exp(-step / 80)}
            lines.append(json.dumps({"kind": "evaluation", "step": step, "metrics": metrics}))
    (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
