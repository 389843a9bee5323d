"""Reading and writing by extension."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from trainwright.engine.errors import DamagedFileError
from trainwright.engine.fileio import dump, list_from_file, load

DATA = {"a": [1, 2.5, None, True], "b": {"text": "ä"}}


@pytest.mark.parametrize("name", ["x.json", "x.yaml", "x.yml", "x.pkl", "x.pickle"])
def test_what_is_dumped_is_loaded(tmp_path: Path, name: str):
    file = tmp_path / "new" / name
    assert dump(DATA, file) is None
    assert load(file) == load(str(file)) == DATA


@pytest.mark.parametrize("kind", ["json", "yaml", "pickle"])
def test_text_and_open_files(kind: str):
    content = dump(DATA, file_format=kind)
    stream = io.BytesIO() if kind == "pickle" else io.StringIO()
    dump(DATA, stream, file_format=kind)
    assert stream.getvalue() == content
    stream.seek(0)
    assert load(stream, file_format=kind) == DATA


def test_json_takes_arrays_sets_and_tensors():
    data = {
        "array": np.arange(2),
        "number": np.float32(0.5),
        "set": {1},
        "range": range(2),
        "tensor": torch.ones(1),
    }
    assert load(io.StringIO(dump(data, file_format="json")), "json") == {
        "array": [0, 1], "number": 0.5, "set": [1], "range": [0, 1], "tensor": [1.0],
    }  # fmt: skip
    with pytest.raises(TypeError, match="of type object"):
        dump(object(), file_format="json")
    assert dump({"a": 1}, file_format="json", indent=1) == '{\n "a": 1\n}'


def test_yaml_keeps_the_order():
    assert dump({"b": 1, "a": 2}, file_format="yaml") == "b: 1\na: 2\n"


@pytest.mark.parametrize("protocol", [2, 4])  # MMEngine writes 2
def test_a_pickle_holds_arrays_and_tensors(tmp_path: Path, protocol: int):
    file = tmp_path / "x.pkl"
    data = OrderedDict(
        array=np.array([[1.5]]), number=np.int64(3), tensor=torch.arange(3),
        bf16=torch.ones(1, dtype=torch.bfloat16), parameter=torch.nn.Parameter(torch.ones(2)),
        size=torch.Size([1]), path=Path("a"), set={1}, range=range(3), bytes=b"a", none=None,
    )  # fmt: skip
    dump(data, file, protocol=protocol)
    loaded = load(file)
    assert list(loaded) == list(data)
    assert np.array_equal(loaded["array"], data["array"]) and loaded["number"] == 3
    for name in ("tensor", "bf16", "parameter"):
        assert torch.equal(loaded[name], data[name]) and loaded[name].dtype == data[name].dtype
    assert loaded["path"] == Path("a") and loaded["set"] == {1} and loaded["size"] == (1,)
    assert loaded["range"] == range(3) and loaded["bytes"] == b"a"


class Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_cannot_run_code_unless_trusted(tmp_path: Path):
    file, witness = tmp_path / "x.pkl", tmp_path / "witness"
    dump({"a": Attack(f"touch {witness}")}, file)
    with pytest.raises(pickle.UnpicklingError, match=r"system, which could run code.*trusted=True"):
        load(file)
    assert not witness.exists()
    assert load(file, trusted=True) == {"a": 0}
    assert witness.exists()


def test_a_tensor_in_a_pickle_cannot_run_code_either(tmp_path: Path):
    file, witness, inner = tmp_path / "x.pkl", tmp_path / "witness", io.BytesIO()
    torch.save(Attack(f"touch {witness}"), inner)

    class Bytes:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    dump(Bytes(), file)
    with pytest.raises(pickle.UnpicklingError):
        load(file)
    assert not witness.exists()


def test_a_yaml_file_cannot_run_code(tmp_path: Path):
    file, witness = tmp_path / "x.yaml", tmp_path / "witness"
    file.write_text(f"!!python/object/apply:os.system ['touch {witness}']")
    with pytest.raises(Exception, match="could not determine a constructor"):
        load(file)
    assert not witness.exists()


def test_unknown_formats_are_named():
    with pytest.raises(TypeError, match="did you mean 'json'"):
        load("a.jsn")
    with pytest.raises(TypeError, match="'q'.*yaml"):
        dump(1, "a.q")
    with pytest.raises(TypeError, match="file_format"):
        load(io.StringIO("1"))


def test_lists_from_text_files(tmp_path: Path):
    file = tmp_path / "x.txt"
    file.write_bytes(b"0 cat\r\n1 dog\n2 big bird\n")
    assert list_from_file(file) == ["0 cat", "1 dog", "2 big bird"]
    assert list_from_file(file, prefix="> ", offset=1, max_num=1) == ["> 1 dog"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_other_programs(tmp_path: Path, encoding: str):
    (tmp_path / "x.txt").write_bytes("Bär\r\nElch\r\n".encode(encoding))
    assert list_from_file(tmp_path / "x.txt") == ["Bär", "Elch"]
    (tmp_path / "x.json").write_bytes('["Bär"]'.encode(encoding))
    assert load(tmp_path / "x.json") == ["Bär"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.json", b'{"a": [1, 2', "line 1 column"),
        ("x.json", b"", "it is empty"),
        ("x.yaml", b"a: [1", "line 1, column"),
        ("x.pkl", b"", "it is empty"),
        ("x.txt", "Bär".encode("latin-1"), "save it as text in UTF-8"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, reason: str):
    file = tmp_path / name
    file.write_bytes(content)
    read = list_from_file if name == "x.txt" else load
    with pytest.raises(DamagedFileError, match=f"(?s){name} is damaged or not in a supported format: .*{reason}"):
        read(file)


def test_missing_files_are_named(in_tmp: Path):
    (in_tmp / "data" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        load("data/trian/annotations/x.json")
    assert str(error.value) == (
        f"data/trian/annotations/x.json does not exist: there is no 'data/trian' in {in_tmp}; did you mean 'train'?"
    )


def test_json_has_null_for_what_json_cannot_say() -> None:
    values = {"a": float("nan"), "b": (float("inf"), 1), "c": np.array([0.5, -np.inf]), "d": {1: torch.tensor(np.nan)}}
    assert dump(values, file_format="json") == '{"a": null, "b": [null, 1], "c": [0.5, null], "d": {"1": null}}'
    assert dump({"b": float("inf"), "a": 1}, file_format="json", sort_keys=True, indent=0) == '{\n"a": 1,\n"b": null\n}'
    assert dump([float("inf")], file_format="json", allow_nan=True) == "[Infinity]"
    with pytest.raises(ValueError, match="Circular"):
        values["e"] = values
        dump(values, file_format="json")
