"""The general texts and the record of the base model that both gauges stand on."""

import unicodedata

import numpy as np
import pytest

from tunesmith.errors import RunError
from tunesmith.evaluation.retention import general_rows, general_text, load_record, passes, require_rows, save_record, with_rows


def test_the_general_texts_are_many_varied_and_clean():
    texts = general_text()
    assert 55 <= len(texts) <= 65
    assert all(50 <= len(text.split()) <= 100 for text in texts)
    assert len({text[:20] for text in texts}) == len(texts)
    everything = "\n".join(texts)
    assert unicodedata.normalize("NFC", everything) == everything
    assert not {c for c in everything if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn") and c != "\n"}
    words = everything.lower().split()
    assert len(set(words)) > 0.35 * len(words), "texts that repeat each other measure little"


def test_rows_are_cut_at_the_maximum():
    rows = general_rows(lambda text: list(text.encode()), max_tokens=50)
    assert len(rows) == len(general_text())
    assert {len(row) for row in rows} == {50}
    assert bytes(rows[0].tolist()).decode().startswith("The lighthouse stood")


def test_passes_keep_order_and_stay_within_the_limit():
    rows = [np.zeros(length, np.int32) for length in (3, 4, 5, 20, 1)]
    groups = passes(rows, 8)
    assert [(group.first, [len(row) for row in group.rows]) for group in groups] == [(0, [3, 4]), (2, [5]), (3, [20]), (4, [1])]
    assert passes([], 8) == []


def test_a_record_comes_back_as_it_was_saved(tmp_path):
    record = {"a": np.array([[1, 2]], np.int32), "b": np.array([0.1]), "strided": np.arange(8.0)[::2]}
    save_record(tmp_path / "base.safetensors", record)
    loaded = load_record(tmp_path / "base.safetensors")
    assert loaded.keys() == record.keys()
    for name, array in record.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["base.safetensors"]


def test_a_record_may_be_read_by_whoever_may_read_other_files(tmp_path):
    record, other = tmp_path / "base.safetensors", tmp_path / "other"
    save_record(record, {"a": np.zeros(2)})
    other.touch()
    assert record.stat().st_mode == other.stat().st_mode


def test_a_record_that_cannot_be_used_is_refused(tmp_path):
    path = tmp_path / "base.safetensors"
    with pytest.raises(RunError, match="is missing"):
        load_record(path)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0 garbage")
    with pytest.raises(RunError, match="is damaged"):
        load_record(path)
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, path)
    with pytest.raises(RunError, match="not a record of the base model"):
        load_record(path)


def test_a_record_of_other_rows_is_refused():
    rows = [np.array([1, 2, 3], np.int32), np.array([4], np.int32)]
    record = with_rows(rows, {})
    require_rows(rows, record)
    for other in ([rows[0]], [np.array([1, 2], np.int32), np.array([3, 4], np.int32)], []):
        with pytest.raises(RunError, match="other general texts"):
            require_rows(other, record)
