"""From a name to a model in memory, and every way in which that fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import tiny_models
from tunesmith import durable
from tunesmith.errors import DiskFull, ModelError, Offline
from tunesmith.model import load
from tunesmith.watch import Quiet
from watching import Notes

Make = Callable[..., Path]


def test_a_folder(model_folder: Make):
    folder = model_folder()
    source = load.find(str(folder))
    assert (source.name, source.folder, source.kind, source.classes) == (str(folder), folder, "decoder", ())
    model = load.load(source, "chat")
    expected = tiny_models.build("llama").state_dict()
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in expected.items()}
    assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert source.num_parameters == sum(p.numel() for p in model.parameters())


def test_half_precision_files_are_loaded_in_float32(model_folder: Make):
    folder = model_folder()
    path = folder / "model.safetensors"
    save_file({n: t.bfloat16() for n, t in load_file(path).items()}, path, metadata={"format": "pt"})
    assert {p.dtype for p in load.load(load.find(str(folder)), "chat").parameters()} == {torch.float32}


def test_weights_are_read_rounded(model_folder: Make):
    """As `precision.store_frozen` would round them."""
    source = load.find(str(model_folder()))
    wide = load.load(source, "chat")
    narrow = load.load(source, "chat", dtype=torch.bfloat16)
    for (name, one), (_, other) in zip(narrow.named_parameters(), wide.named_parameters(), strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other.bfloat16()), name


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_labels_are_kept_in_the_configuration(model_folder: Make, name: str, tmp_path: Path):
    source = load.find(str(model_folder(name, "causal" if name == "llama" else "classification")))
    labels = ("awful", "so-so", "fine", "great")
    model = load.load(source, "classification", labels=labels)
    assert model.config.num_labels == 4
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.label2id == {name: index for index, name in enumerate(labels)}
    assert model.config.get_text_config().pad_token_id is not None
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(labels)}


def test_an_encoder_is_refused_for_chat(model_folder: Make):
    source = load.find(str(model_folder("bert", "classification")))
    assert source.kind == "encoder"
    for task in ("chat", "text"):
        with pytest.raises(ModelError, match=rf"is an encoder \(bert\).*{task!r}.*--task classification"):
            load.load(source, task)


def test_an_encoder_decoder_is_refused_for_chat(model_folder: Make):
    source = load.find(str(model_folder("t5", "seq2seq")))
    with pytest.raises(ModelError, match=r"is an encoder-decoder \(t5\)"):
        load.load(source, "chat")
    assert load.load(source, "seq2seq").config.is_encoder_decoder


def test_a_decoder_is_refused_for_seq2seq(model_folder: Make):
    with pytest.raises(ModelError, match="cannot be loaded for the task 'seq2seq'"):
        load.load(load.find(str(model_folder())), "seq2seq")


def _without(folder: Path, part: str) -> None:
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if part not in name}
    save_file(kept, path, metadata={"format": "pt"})


@pytest.mark.parametrize(("part", "task"), [("layers.1.mlp.up_proj", "chat"), ("lm_head", "chat"), ("embed_tokens", "text")])
def test_missing_weights_are_not_made_up(model_folder: Make, part: str, task: str):
    folder = model_folder()
    _without(folder, part)
    with pytest.raises(ModelError, match=rf"lacks weights .*{part}"):
        load.load(load.find(str(folder)), task)


def test_a_missing_body_weight_is_noticed_beside_a_new_head(model_folder: Make):
    folder = model_folder("bert", "classification")
    _without(folder, "classifier")
    assert load.load(load.find(str(folder)), "classification", labels=("a", "b")).config.num_labels == 2
    _without(folder, "layer.1.output.dense")
    with pytest.raises(ModelError, match=r"lacks weights .*layer\.1\.output\.dense"):
        load.load(load.find(str(folder)), "classification", labels=("a", "b"))


def _classifier(make: Make, *classes: str) -> Path:
    """A model whose head tells these classes apart."""
    folder = make("bert", "classification", num_labels=len(classes))
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("base_bits", [16, 8])
def test_a_head_for_the_same_classes_is_kept_and_another_drawn_anew(model_folder: Make, base_bits: int):
    source = load.find(str(_classifier(model_folder, "positive", "negative")))
    assert source.classes == ("positive", "negative")
    stored = load_file(source.folder / "model.safetensors")["classifier.weight"]

    def head(*labels: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = load.load(source, "classification", labels=labels, base_bits=base_bits)
        return model.get_parameter("classifier.weight").detach()

    assert torch.equal(head("positive", "negative"), stored)
    assert torch.equal(head(), stored)
    for others in (("negative", "positive"), ("bad", "good")):
        drawn = head(*others)
        assert drawn.shape == stored.shape
        assert not torch.isclose(drawn, stored).any()
        assert torch.equal(drawn, head(*others))
        assert 0.7 < drawn.std() / source.config.initializer_range < 1.3, "drawn as transformers draws a new head"


def test_a_head_that_should_be_there_is_not_made_up(model_folder: Make):
    folder = _classifier(model_folder, "positive", "negative")
    _without(folder, "classifier")
    for labels in ((), ("positive", "negative")):
        with pytest.raises(ModelError, match=r"lacks weights .*classifier"):
            load.load(load.find(str(folder)), "classification", labels=labels)
    assert load.load(load.find(str(folder)), "classification", labels=("a", "b"))


def test_weights_of_another_shape_are_refused(model_folder: Make):
    folder = model_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(ModelError):
        load.load(load.find(str(folder)), "chat")


def test_a_body_of_another_shape_is_refused_beside_a_new_head(model_folder: Make):
    folder = model_folder("bert", "classification")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(ModelError):
        load.load(load.find(str(folder)), "classification", labels=("a", "b"))


def test_an_encoder_without_its_pooler_is_taken(model_folder: Make):
    """Many sentence encoders come without one; classification trains it with the head."""
    folder = model_folder("bert", "classification")
    _without(folder, "pooler")
    assert load.load(load.find(str(folder)), "classification", labels=("a", "b"))


def test_tied_embeddings_may_be_stored_once(model_folder: Make):
    folder = model_folder("llama", tie_word_embeddings=True)
    assert not [name for name in load_file(folder / "model.safetensors") if "lm_head" in name]
    model = load.load(load.find(str(folder)), "chat")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


# --- names that are no model -----------------------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path):
    with pytest.raises(ModelError, match="There is no model '.*nowhere': no such folder"):
        load.find(str(tmp_path / "nowhere"))


def test_a_hub_id_without_network():
    with pytest.raises(Offline, match=r"hub cannot be reached.*starter:smollm2"):
        load.find("somebody/some-model")


def test_a_file_that_is_no_model(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"is a file, but no \.gguf file"):
        load.find(str(tmp_path / "model.bin"))


def test_gguf_by_name_only(tmp_path: Path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(ModelError, match="is not a GGUF file, whatever its name says"):
        load.find(str(path))


def test_an_empty_gguf_file(tmp_path: Path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        load.find(str(path))


@pytest.mark.parametrize("rest", [b"", b"\x03\0\0\0", b"\x03\0\0\0" + b"\xff" * 40, b"\x03\0\0\0" + b"\0" * 16], ids=range(4))
def test_a_torn_gguf_file(tmp_path: Path, rest: bytes):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + rest)
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        load.find(str(path))


def test_converting_is_said(tmp_path: Path):
    path, notes = tmp_path / "model.gguf", Notes()
    path.write_bytes(b"GGUF" + b"\x03\0\0\0")
    with pytest.raises(ModelError):
        load.find(str(path), notes)
    assert notes.said == ["converting model.gguf (8 B) to safetensors, once"]


@pytest.fixture
def gguf(tmp_path: Path, model_folder: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that transformers reads as GGUF, with a cache of its own."""
    tokenizer = load.find(str(model_folder())).tokenizer
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load.AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
    report = {"missing_keys": set(), "mismatched_keys": set()}
    read = [(tiny_models.build("llama"), report)]
    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: read.pop())  # once and no more
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 9)
    return tmp_path / "model.gguf"


def test_a_gguf_file_is_converted_once_and_is_on_the_disk(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    flushed = []
    flush = durable.flush_tree
    monkeypatch.setattr(
        durable, "flush_tree", lambda folder: flushed.append(sorted(p.name for p in folder.iterdir())) or flush(folder)
    )
    folder = load._converted(gguf, Quiet())
    assert "model.safetensors" in flushed[0], "before it gets its name"
    assert load._converted(gguf, Quiet()) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_gguf_file_without_room_for_it(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", refuse)
    with pytest.raises(DiskFull, match="No room to write"):
        load._converted(gguf, Quiet())
    assert list((gguf.parent / "cache" / "converted").iterdir()) == []


def test_an_unknown_architecture(model_folder: Make):
    folder = model_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nothing_like_it"}))
    with pytest.raises(ModelError, match="configuration of .* cannot be used"):
        assert load.find(str(folder)).config


def test_a_folder_without_tokenizer(model_folder: Make):
    folder = model_folder()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer that can be used"):
        assert load.find(str(folder)).tokenizer


def test_eos_pads_where_nothing_else_does(model_folder: Make):
    folder = model_folder()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load.find(str(folder)).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_the_fingerprint_follows_weights_and_configuration(model_folder: Make):
    folder = model_folder()
    first = load.find(str(folder)).fingerprint
    assert load.find(str(folder)).fingerprint == first
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert load.find(str(folder)).fingerprint == first
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    assert load.find(str(folder)).fingerprint != first


@pytest.mark.parametrize(
    ("text", "expected"),
    [("---\nlicense: mit\n---", "mit"), ('license: "apache-2.0"', "apache-2.0"), ("# about\nThe license: none", None)],
)
def test_licence(model_folder: Make, text: str, expected: str | None):
    folder = model_folder()
    assert load.find(str(folder)).license is None
    (folder / "README.md").write_text(text)
    assert load.find(str(folder)).license == expected


def _with_code(folder: Path, marker: Path, **changes: object) -> Path:
    """The folder of a model that names code of its own, which leaves a marker when it is imported."""
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w')")
    for name, classes in (
        ("config.json", {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"auto_map": classes} | changes))
    return folder


def test_code_that_is_not_needed_is_not_run(model_folder, tmp_path):
    plain = load.load(load.find(str(model_folder())), "chat")
    source = load.find(str(_with_code(model_folder(), tmp_path / "marker")))
    assert source.brings_code
    model = load.load(source, "chat")
    assert type(model) is type(plain)
    assert source.tokenizer("a b")["input_ids"]
    assert not (tmp_path / "marker").exists()
    assert not [name for name in sys.modules if "evil" in name]
    model.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "evil"},
        {"model_type": ["llama"]},
        {"architectures": ["EvilForCausalLM"]},
        {"architectures": ["LlamaForCausalLM", "Evil"]},
        {"architectures": []},
        {"architectures": "LlamaForCausalLM"},
        {"tokenizer_class": "EvilTokenizer"},
        {"tokenizer_class": None},
    ],
    ids=str,
)
def test_code_that_is_needed_is_refused(model_folder, tmp_path, changes):
    folder = _with_code(model_folder(), tmp_path / "marker", **changes)
    with pytest.raises(
        ModelError, match="'auto_map' asks for Python code that comes with the model, and transformers has none"
    ):
        load.find(str(folder))
    assert not (tmp_path / "marker").exists()
