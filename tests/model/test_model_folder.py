"""Which folders are models: what is missing, unsafe or incomplete is told, and no code beside a model ever runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tunesmith.errors import ModelError
from tunesmith.model.model_folder import check_model_folder

Make = Callable[..., Path]


def test_a_good_folder_passes(model_folder: Make) -> None:
    folder = model_folder()
    files = check_model_folder(folder)
    assert files.config["model_type"] == "llama"
    assert [path.name for path in files.weights] == ["model.safetensors"]
    assert files.num_bytes == sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())


def _shard(folder: Path, weight_map: object) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_file({name: tensors[name] for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards(model_folder: Make) -> None:
    folder = model_folder()
    _shard(folder, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    assert len(check_model_folder(folder).weights) == 2
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors.*incomplete"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "../model.safetensors"},
        {"a": "/etc/passwd.safetensors"},
        {"a": "sub/model.safetensors"},
        {"a": "pytorch_model.bin"},
        {"a": 5},
        {"a": ["model.safetensors"]},
        {},
        None,
        ["model.safetensors"],
        "model.safetensors",
    ],
    ids=str,
)
def test_an_index_that_points_elsewhere_is_refused(weight_map: object, model_folder: Make) -> None:
    folder = model_folder()
    _shard(folder, weight_map)
    with pytest.raises(ModelError, match=r"Refused|Get the model again"):
        check_model_folder(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt", "a.pkl", "tf_model.h5"])
def test_pickles_only_is_refused_with_the_safe_way(name: str, model_folder: Make, tmp_path: Path) -> None:
    folder = model_folder()
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "marker"
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch %b'\ntR." % str(marker).encode())
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder)
    message = str(caught.value)
    assert f"only as {name}" in message
    assert "t.LlamaForCausalLM.from_pretrained('OLD').save_pretrained('NEW')" in message
    assert not marker.exists()


def test_a_hostile_architecture_does_not_get_into_the_advice(model_folder: Make) -> None:
    folder = model_folder()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["x; import os; os.system('id')"]}))
    with pytest.raises(ModelError, match=r"t\.AutoModel\.from_pretrained"):
        check_model_folder(folder)


def test_what_is_no_model_is_told(model_folder: Make, tmp_path: Path) -> None:
    folder = model_folder()
    with pytest.raises(ModelError, match="There is no model folder"):
        check_model_folder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="There is no model folder"):
        check_model_folder(folder / "config.json")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="a model and an adapter"):
        check_model_folder(folder)
    (folder / "config.json").rename(folder / "old.json")
    with pytest.raises(ModelError, match="It is an adapter: name the base model"):
        check_model_folder(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_model_folder(folder)


def test_no_weights_is_told_with_what_is_there(model_folder: Make) -> None:
    folder = model_folder()
    (folder / "model.safetensors").rename(folder / "\x1b[2J.safetensors")
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder)
    assert "has no weights" in str(caught.value)
    assert "config.json" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json"])
def test_every_configuration_that_is_loaded_is_searched(name: str, model_folder: Make) -> None:
    folder = model_folder()
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    strange = {"architectures": ["Evil"], "tokenizer_class": "Evil", "auto_map": {"AutoModel": "evil.Evil"}}
    path.write_text(json.dumps(content | strange))
    with pytest.raises(ModelError, match=f"{name}: 'auto_map' asks for Python code"):
        check_model_folder(folder)


def test_python_files_beside_a_model_never_run(model_folder: Make, tmp_path: Path) -> None:
    folder = model_folder()
    marker = tmp_path / "marker"
    for name in (
        "modeling_llama.py",
        "configuration_llama.py",
        "__init__.py",
        "sitecustomize.py",
        "custom_generate/generate.py",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"open({str(marker)!r}, 'w')")
    shutil.copy(folder / "modeling_llama.py", folder / "pytorch_model.bin")
    check_model_folder(folder)
    AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert not marker.exists()
