"""Loss and gradient norm of tiny seeded runs, step by step, against what they were when somebody last looked.

All forms of one run - packed or padded, 1 x 8 or 8 x 1 rows x passes, with or without our kernels in the model - share one
recording. After a change that is meant to alter the numbers: `UPDATE_GOLDEN=1 pytest tests/golden`, and
explain the difference in the commit.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_models
import tiny_runs
from tunesmith.data.table import TokenTable
from tunesmith.method import Method
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.model import trial
from tunesmith.model.forward import Forward, PackedForward, PaddedForward
from tunesmith.training.log import FILE_NAME, MetricsLog
from tunesmith.training.loop import Loop
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.schedule import Schedule

FOLDER = Path(__file__).parent / "trajectories"
UPDATE = "UPDATE_GOLDEN"
NUM_STEPS = 8
TOLERANCE = 1e-4
"""Rounding differs between processors and forms, and grows from step to step; a wrong factor is far above this."""

PLAN = replace(
    tiny_runs.PLAN,
    num_steps=NUM_STEPS,
    rows_per_step=8,
    schedule=Schedule(peak=0.01, num_steps=NUM_STEPS, warmup_steps=2),
)
RUNS: dict[str, tuple[str, tiny_models.Task, Method]] = {
    "llama-lora-causal": ("llama", "causal", LoRA(rank=2)),
    "gemma3-full-causal": ("gemma3", "causal", Full()),
    "gpt2-lora-classification": ("gpt2", "classification", LoRA(rank=2)),
    "modernbert-lora-classification": ("modernbert", "classification", LoRA(rank=2)),
    "t5-full-seq2seq": ("t5", "seq2seq", Full()),
}
WITHOUT_DROPOUT = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "t5": {"dropout_rate": 0.0},
}
"""Forms draw their noise in other shapes, so they agree without noise only."""
FORMS = ("packed 1 x 8", "packed 8 x 1", "padded 1 x 8", "padded 8 x 1", "chosen")
CASES = [(run, form) for run in RUNS for form in FORMS if run != "t5-full-seq2seq" or not form.startswith("packed")]


def _forward(form: str, architecture: str, task: tiny_models.Task) -> Forward:
    model = tiny_models.build(architecture, task, **WITHOUT_DROPOUT.get(architecture, {}))
    if form == "chosen":
        return trial.choose(model, classification=task == "classification")[0]
    return PackedForward(model) if form.startswith("packed") else PaddedForward(model)


def _table(task: tiny_models.Task) -> TokenTable:
    if task == "classification":
        return tiny_runs.class_table(16)
    table = tiny_runs.language_table(16)
    if task == "causal":
        return table
    other = tiny_runs.language_table(16, seed=1)
    return replace(table, labels=table.labels[:0], target_ids=other.input_ids, target_offsets=other.offsets)


def _trajectory(run: str, form: str, folder: Path) -> dict[str, list[float]]:
    architecture, task, method = RUNS[run]
    forward = _forward(form, architecture, task)
    torch.manual_seed(0)
    method.attach(forward.model)
    optimizer = FlatAdamW(forward.model.named_parameters(), 0.01)
    plan = replace(PLAN, tokens_per_pass=1 if form.endswith("8 x 1") else 10**6)
    with MetricsLog(folder) as log:
        Loop(forward, _table(task), optimizer, plan, tiny_runs.FakeKeeper(optimizer), log, tiny_runs.Silent()).run()
    records = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    return {name: [float(f"{step[name]:.7g}") for step in steps] for name in ("loss", "gradient_norm")}


@pytest.mark.parametrize(("run", "form"), CASES, ids=[" ".join(case) for case in CASES])
def test_trajectory(run: str, form: str, tmp_path: Path):
    path = FOLDER / f"{run}.json"
    found = _trajectory(run, form, tmp_path)
    if os.environ.get(UPDATE) and form == "padded 1 x 8":  # the model's own forward, nothing of ours
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(path.read_text())
    for name, values in expected.items():
        assert len(values) == NUM_STEPS
        np.testing.assert_allclose(found[name], values, rtol=TOLERANCE, err_msg=f"{name} of {run}, {form}")


def test_every_recording_belongs_to_a_run():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(RUNS)


def test_the_runs_learn():
    for run in RUNS:
        losses = json.loads((FOLDER / f"{run}.json").read_text())["loss"]
        assert np.mean(losses[-2:]) < np.mean(losses[:2]), run
