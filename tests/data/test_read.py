"""Every file type, as people and accidents write them."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tunesmith.data import files, formats
from tunesmith.data.read import read
from tunesmith.errors import DataError

ROWS = [{"text": "one", "label": 1}, {"text": "twö\n2", "label": 0}, {"text": '"three", 3', "label": 1}]
WRITTEN = {
    "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "a.json": json.dumps(ROWS),
    "wrapped.json": json.dumps({"version": 1, "data": ROWS}),
    "lines.json": "".join(json.dumps(row) + "\n" for row in ROWS),
    "a.csv": 'text,label\none,1\n"twö\n2",0\n"""three"", 3",1\n',
    "semicolon.csv": 'text;label\none;1\n"twö\n2";0\n"""three"", 3";1\n',
    "a.tsv": 'text\tlabel\none\t1\ntwö 2\t0\n"three", 3\t1\n',
}


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def failure(*paths: str) -> str:
    with pytest.raises(DataError) as caught:
        read(paths)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("change", ["plain", "bom", "crlf", "gzip", "no last newline", "blank lines"])
def test_types(tmp_path, name, change):
    text = WRITTEN[name]
    if change == "crlf":
        text = text.replace("\n", "\r\n")
    data = (text.rstrip("\n") if change == "no last newline" else text).encode()
    data = b"\xef\xbb\xbf" + data if change == "bom" else data
    data = data + b"\n\n" if change == "blank lines" else data
    path = tmp_path / name
    if change == "gzip":
        path, data = tmp_path / f"{name}.gz", gzip.compress(data)
    table = read([write(path, data)])
    texts = [str(text).replace("\r\n", " ").replace("\n", " ") for text in table.values["text"]]
    assert texts == ["one", "twö 2", '"three", 3']
    assert [str(label) for label in table.values["label"]] == ["1", "0", "1"]
    assert table.numbers.tolist() == [1, 2, 3]
    assert table.broken == []


def test_parquet_with_class_names(tmp_path):
    features = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    table = pyarrow.Table.from_pylist(ROWS).replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "a.parquet")
    raw = read([str(tmp_path / "a.parquet")])
    assert raw.values["label"] == ["pos", "neg", "pos"]
    assert next(iter(raw.rows)) == {"text": "one", "label": "pos"}


def test_parquet_with_invalid_utf8_names_the_rows(tmp_path):
    column = pyarrow.array([b"fine"] * 199 + [b"\xff"], type=pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": column, "n": list(range(200))}), tmp_path / "a.parquet")
    raw = read([str(tmp_path / "a.parquet")])
    assert [(item.row, item.reason) for item in raw.broken] == [(200, "invalid UTF-8")]
    assert (len(raw), raw.values["n"][-1]) == (199, 198)


def test_text_folder_is_one_document_per_file(tmp_path):
    write(tmp_path / "b.txt", "two\r\nlines")
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "a.txt", b"\xef\xbb\xbfone")
    write(tmp_path / ".hidden.txt", "no")
    raw = read([str(tmp_path)])
    assert raw.values["text"] == ["two\nlines", "one"]
    assert raw.say_rows([2]) == "row 1 of a.txt"
    assert raw.notes == []


def test_what_is_about_the_data_is_left_out_and_named(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("README.txt", "License.TXT", "deep/notice.txt.gz", "notice-of-appeal-17.txt", "Citation practice.txt"):
        (texts / name).parent.mkdir(exist_ok=True)
        content = f"words of {name}"
        write(texts / name, gzip.compress(content.encode()) if name.endswith(".gz") else content)
    raw = read([str(texts)])
    assert raw.values["text"] == ["words of Citation practice.txt", "words of notice-of-appeal-17.txt"]
    assert raw.notes == ["left out 3 files about the data: License.TXT, README.txt, notice.txt.gz"]
    assert read([str(texts / "README.txt")]).values["text"] == ["words of README.txt"]


def test_hidden_folders_are_not_looked_into(tmp_path):
    """Where editors and notebooks keep old copies, and tools their settings."""
    for name in (".ipynb_checkpoints/one-checkpoint.txt", "deep/.cache/two.json", "one.txt", "deep/two.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, name)
    assert read([str(tmp_path)]).values["text"] == ["deep/two.txt", "one.txt"]
    assert read([str(tmp_path / ".ipynb_checkpoints")]).values["text"] == [".ipynb_checkpoints/one-checkpoint.txt"]


def test_an_empty_text_of_several_is_left_out_and_named(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, content in {"a.txt": "", "b.txt": "two", "c.txt": "three", "d.txt": b"", "e.txt": ""}.items():
        write(texts / name, content)
    write(texts / "f.txt.gz", gzip.compress(b"", mtime=0))
    raw = read([str(texts)])
    assert raw.values["text"] == ["two", "three"]
    assert raw.notes == ["left out 4 empty files: a.txt, d.txt, e.txt ..."]
    assert raw.say_rows([2]) == "row 1 of c.txt"
    for name in ("b.txt", "c.txt"):
        write(texts / name, "")
    assert "All 6 texts of texts are empty" in failure(str(texts))
    assert failure(str(texts / "a.txt")).endswith("a.txt is empty.")


def test_one_text_is_cut_between_paragraphs_and_nothing_is_lost(tmp_path):
    text = "".join(f"Paragraph {i}. {'word ' * 60}\n\n" for i in range(50))
    raw = read([write(tmp_path / "book.txt", text)])
    pieces = [str(piece) for piece in raw.values["text"]]
    assert "".join(pieces) == text
    assert all(piece.startswith("Paragraph") and 2000 <= len(piece) < 2800 for piece in pieces[:-1])
    assert raw.notes == [f"cut book.txt into {len(pieces)} pieces of about 2,000 characters, between paragraphs"]


def test_several_files_are_one_data_set_and_rows_keep_their_file(tmp_path):
    first = write(tmp_path / "a.jsonl", '{"text": "1"}\n\n{"text": "2"}\n')
    second = write(tmp_path / "b.jsonl", '{"text": "3"}\n')
    raw = read([first, second])
    assert raw.values["text"] == ["1", "2", "3"]
    assert raw.numbers.tolist() == [1, 3, 4]
    assert raw.say_rows(raw.numbers.tolist()) == "rows 1, 3 of a.jsonl; 1 of b.jsonl"
    assert raw.name == "a.jsonl and 1 more"


def test_columns_that_come_late_or_go(tmp_path):
    raw = read([write(tmp_path / "a.jsonl", '{"a": 1}\n{"b": 2}\n"only text"\n[{"role": "user", "content": "x"}]\n')])
    assert raw.values["a"] == [1, None, None, None]
    assert raw.values["text"] == [None, None, "only text", None]
    assert raw.columns == ["a", "b", "text", "messages"]


def test_fingerprint_follows_the_bytes(tmp_path):
    one, same, other = (read([write(tmp_path / f"{i}.jsonl", f'{{"text": "{i // 2}"}}\n')]) for i in range(3))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert len(one.fingerprint) == 64


def test_max_rows_draws_the_same_rows_in_order(tmp_path):
    path = write(tmp_path / "a.jsonl", "".join(f'{{"text": "{i}"}}\n' for i in range(1000)))
    raw = read([path], max_rows=10)
    assert len(raw) == 10
    assert raw.numbers.tolist() == sorted(raw.numbers.tolist()) == read([path], max_rows=10).numbers.tolist()
    assert raw.numbers[-1] > 500, "not just the first rows"
    assert [int(str(text)) + 1 for text in raw.values["text"]] == raw.numbers.tolist()
    assert raw.notes == ["using 10 of 1,000 rows, drawn at random"]


def test_few_broken_lines_are_skipped_and_numbered(tmp_path):
    lines = [f'{{"text": "{i}"}}' for i in range(500)]
    lines[16], lines[202] = '{"text": "x"', '{"text": "\\udc"}'
    raw = read([write(tmp_path / "a.jsonl", "\n".join(lines))])
    assert [item.row for item in raw.broken] == [17, 203]
    assert raw.broken[0].reason.startswith("broken JSON at column 13")
    assert (len(raw), raw.numbers[-1]) == (498, 500)


# --- refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", ["is empty"]),
        ("a.csv", b"", ["is empty"]),
        ("a.jsonl", b"\n \n\r\n", ["is empty", "blank lines"]),
        ("a.csv", b"text,label\n", ["is empty", "no rows"]),
        ("a.json", b"[]", ["is empty"]),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', ["line 2", "broken JSON", "1 of 2"]),
        ("a.jsonl", b'{"a": "x\x00y"}\n', ["line 1", "broken JSON"]),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', ["line 2", "invalid UTF-8 at byte 11"]),
        ("a.jsonl", b"1\n2\n", ["line 1", "not an object"]),
        ("a.jsonl", b'{"a":1},{"b":2}\n{"a":3}\n', ["line 1", "broken JSON"]),
        ("a.json", b'[{"a": 1},\n {"a": }]', ["line 2", "column 8", "broken JSON"]),
        ("a.json", b'[{"a": "\xff"}]', ["line 1", "not valid UTF-8"]),
        ("a.json", b'{"a": 1, "b": 2}', ["no list of rows", "'a', 'b'"]),
        ("a.json", b"3", ["no list of rows", "the number"]),
        ("a.json", b"[" * 100_000, ["nested too deep"]),
        ("a.jsonl", b'{"a":' * 100_000 + b"\n", ["line 1", "nested too deep"]),
        ("a.jsonl", b'{"a": ' + b"1" * 10_000 + b"}\n", ["line 1", "number too long"]),
        ("a.csv", b"text,label\n" + b"x,1,9\n" * 3, ["row 1", "3 cells where the header has 2", "3 of 3"]),
        ("a.csv", b"text,label\nx,1\ny\n", ["row 2", "1 cell where the header has 2", "1 of 2 rows is broken"]),
        ("a.csv", b"text,label\nx,1\n\"y,1\nz,0\n", ["row 2", "line 3", 'a quote " that is not closed']),
        ("a.json", b"null", ["found null"]),
        ("a.csv", b"text,label\n\xff,1\n", ["row 1", "invalid UTF-8"]),
        ("a.csv", b"text,text\na,b\n", ["column 'text' more than once"]),
        ("a.csv", b"text\n" + b'"' + b"x\n" * 6000, ["quote"]),
        ("a.csv", b"a\rb\rc", ["line"]),
        ("a.csv", ",".join(f"c{i}" for i in range(1500)).encode() + b"\n" + b"," * 1499 + b"\n", ["1,000 columns"]),
        ("a.jsonl", json.dumps({f"c{i}": 1 for i in range(1500)}).encode(), ["1,000 columns"]),
        ("a.txt", b"good\nbad \xff\n", ["line 2", "not valid UTF-8"]),
        ("a.txt", bytes(range(256)) * 4, ["binary"]),
        ("a.jsonl", b"PK\x03\x04 and so on", ["zip archive"]),
        ("a.csv", b"PAR1 and so on", ["Parquet"]),
        ("a.jsonl", b"\x80\x04\x95 and so on", ["pickle"]),
        ("a.csv", "text,label\n".encode("utf-16"), ["UTF-16", "iconv"]),
        ("a.parquet", b"PAR1 but nothing behind it", ["cannot be read as Parquet"]),
        ("a.parquet", b"x", ["cannot be read as Parquet"]),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-30], ["cut off"]),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:30] + b"\x00" * 90, ["damaged"]),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), ["is empty"]),
        ("a.jsnl", b"{}", ["ending '.jsnl'", "Did you mean .jsonl?"]),
        ("a.xlsx", b"PK", ["ending '.xlsx'", ".parquet"]),
        ("noending", b"x", ["(none)"]),
    ],
)  # fmt: skip
def test_refused(tmp_path, name, content, words):
    message = failure(write(tmp_path / name, content))
    assert name.split(".")[0] in message
    for word in words:
        assert word in message, message


def test_places_that_are_no_files(tmp_path):
    write(tmp_path / "train.jsonl", "{}\n")
    assert "Did you mean" in failure(str(tmp_path / "trian.jsonl"))
    assert "hf download --repo-type dataset someone/things" in failure("someone/things")
    assert "no file or folder" in failure(str(tmp_path / "train.jsonl" / "x"))
    assert "holds no data files" in failure(str(tmp_path / "empty")) if (tmp_path / "empty").mkdir() is None else False
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "neither a file nor a folder" in failure(str(tmp_path / "pipe.jsonl"))
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    assert "cannot be read" in failure(str(tmp_path / "loop.jsonl"))
    assert "No data were given" in failure()
    assert "cannot be read" in failure("a\0b.jsonl")


def test_folder_with_held_out_files_is_not_mixed(tmp_path):
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path / name, '{"text": "x"}\n')
    assert f"--eval {tmp_path / 'test.jsonl'}" in failure(str(tmp_path))


def test_folder_with_mixed_types(tmp_path):
    write(tmp_path / "a.jsonl", "{}\n")
    write(tmp_path / "b.csv", "a\n1\n")
    assert "several types: .csv, .jsonl" in failure(str(tmp_path))


def test_no_permission(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", "{}\n")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in failure(path)


def test_gzip_bomb_is_stopped_early(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**20)
    path = write(tmp_path / "bomb.txt.gz", gzip.compress(b"a" * 64 * 2**20))
    tracemalloc.start()
    message = failure(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "over 200 times its size" in message
    assert peak < 40 * 2**20


def test_endless_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    assert "line 2 is longer" in failure(write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": "' + "x" * 2000 + '"}\n'))


def test_long_line_within_the_limit(tmp_path):
    raw = read([write(tmp_path / "a.jsonl", json.dumps({"text": "x" * 5_000_000}))])
    assert len(str(raw.values["text"][0])) == 5_000_000


def test_parquet_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.data.parquet.MAX_UNPACKED_BYTES", 2**20)
    parquet.write_table(pyarrow.table({"text": ["a" * 1000] * 20_000}), tmp_path / "a.parquet")
    assert "unpacks to more than" in failure(str(tmp_path / "a.parquet"))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "parquet", "jsonl.gz", "csv.gz"]))
def test_any_bytes_are_read_or_refused(tmp_path, content, suffix):
    path = write(tmp_path / f"a.{suffix}", gzip.compress(content) if suffix.endswith("gz") else content)
    try:
        assert len(read([path])) > 0
    except DataError as error:
        message = str(error)
        if "a." not in message:
            pytest.fail(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=4), min_size=1, max_size=6))
def test_json_lines_come_back(tmp_path, rows):
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    table = read([path])
    columns = dict.fromkeys(key for row in rows for key in row)
    assert len(table) == len(rows)
    if columns:
        assert json.dumps(list(table.rows)) == json.dumps([{key: row.get(key) for key in columns} for row in rows])


def test_chunks_do_not_show(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LINES_AT_ONCE", 3)
    lines = [json.dumps({"text": str(i)}) for i in range(500)]
    lines[4] = "{"
    table = read([write(tmp_path / "a.jsonl", "\n".join(lines))])
    assert table.values["text"] == [str(i) for i in range(500) if i != 4]
    assert [item.row for item in table.broken] == [5]
