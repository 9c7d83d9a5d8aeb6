"""Small models and data files as people have them, for tests of whole runs."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import tiny_models
import tiny_tokenizer

WORDS = ("red", "green", "blue", "stone", "river", "cloud", "house", "table", "glass", "paper", "train", "light", "north")
CLASSES = ("bad", "fair", "good")


def save_model(folder: Path, name: str = "bert") -> Path:
    """A tiny model with its tokenizer: 'bert' to classify with, 'llama' to write with, 't5' for both ends."""
    kind = "encoder" if name in tiny_models.ENCODERS else "seq2seq" if name in tiny_models.ENCODER_DECODERS else "chat"
    task: tiny_models.Task = {"encoder": "classification", "seq2seq": "seq2seq", "chat": "causal"}[kind]  # type: ignore[assignment]
    # With dropout, so that a resumed run must also draw the same random numbers.
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1} if name == "bert" else {}
    tiny_models.build(name, task, num_labels=2, **dropout).save_pretrained(folder)
    tiny_tokenizer.build(kind).save_pretrained(folder)  # type: ignore[arg-type]
    return folder


def write_reviews(path: Path, *, num_rows: int = 60, seed: int = 0) -> Path:
    """Texts of three classes, told apart by their last word."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for index in range(num_rows):
            label = CLASSES[index % 3]
            rows.writerow([" ".join(draw.choices(WORDS, k=5)) + f" {label}", label])
    return path


def write_pairs(path: Path, *, num_rows: int = 60) -> Path:
    """Pairs of texts that are the same or not."""
    draw = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        for index in range(num_rows):
            first, other = (" ".join(draw.choices(WORDS, k=4)) for _ in range(2))
            same = index % 2 == 0
            row = {"sentence1": first, "sentence2": first if same else other, "label": "same" if same else "other"}
            file.write(json.dumps(row) + "\n")
    return path


def write_chats(path: Path, *, num_rows: int = 40, seed: int = 2) -> Path:
    """Questions whose answer is their first word."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_rows):
            words = draw.choices(WORDS, k=3)
            file.write(json.dumps({"prompt": " ".join(words), "completion": words[0]}) + "\n")
    return path


def write_translations(path: Path, *, num_rows: int = 60, seed: int = 4) -> Path:
    """Sources whose target is their first word."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_rows):
            words = draw.choices(WORDS, k=3)
            file.write(json.dumps({"source": " ".join(words), "target": words[0]}) + "\n")
    return path


def write_documents(folder: Path, *, num_documents: int = 12) -> Path:
    """A folder of plain texts."""
    draw = random.Random(3)
    folder.mkdir()
    for index in range(num_documents):
        (folder / f"{index}.txt").write_text(" ".join(draw.choices(WORDS, k=50)), encoding="utf-8")
    return folder
