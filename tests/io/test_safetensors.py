"""Safetensors files: read an array at a time; headers that lie are refused in one sentence, before memory is taken."""

import tracemalloc

import numpy as np
import pytest

from lora_np.io.files import TensorFile, read_safetensors, write_safetensors


def entry(name, offsets, shape=(2,), dtype="F32"):
    return f'"{name}": {{"dtype": "{dtype}", "shape": {list(shape)}, "data_offsets": {list(offsets)}}}'


@pytest.mark.parametrize(
    ("size", "entries", "received"),
    [
        (2**63, [entry("a", (0, 8))], "header too large"),
        (2**26, [entry("a", (0, 8))], "invalid header length"),
        (0, [entry("a", (0, 8))], "cannot be read"),
        (None, [entry("a", (0, 80), (20,))], "cannot be read"),  # beyond the end
        (None, [entry("a", (8, 0))], "invalid offset"),
        (None, [entry("a", (-8, 0))], "-8"),
        (None, [entry("a", (0, 8), (3,))], "invalid shape"),
        (None, [entry("a", (0, 8), (2**40, 2**40))], "overflow"),
        (None, [entry("a", (0, 8)), entry("b", (0, 8))], "invalid offset"),  # on top of each other
        (None, [entry("a", (4, 8), (1,))], "invalid offset"),  # a hole
        (None, [entry("a", (0, 4), (1,))], "not fully covered"),
        (None, [entry("a", (0, 8)), entry("a", (0, 8))], "'a' twice"),
        (None, [entry("a", (0, 8), (4,), "BF16")], "bfloat16"),
        (None, [entry("a", (0, 8), (2,), "X9")], "X9"),
    ],
)
def test_hostile_headers_are_refused(size, entries, received, tmp_path):
    header = f"{{{', '.join(entries)}}}".encode()
    size = (len(header) if size is None else size).to_bytes(8, "little")
    (tmp_path / "model.safetensors").write_bytes(size + header + bytes(8))
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{received}"):
        read_safetensors(tmp_path / "model.safetensors")


def test_an_array_is_read_when_it_is_asked_for(tmp_path):
    arrays = {f"a{k}": np.full((250, 1000), k, np.float32) for k in range(20)}  # 1 MB each
    write_safetensors(tmp_path / "a.safetensors", arrays, {"made": "here"})
    tracemalloc.start()
    file = TensorFile(tmp_path / "a.safetensors")
    sums = {name: array.sum() for name, array in file.items()}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6
    assert sums == {name: array.sum() for name, array in arrays.items()}
    assert file.shapes == dict.fromkeys(arrays, (250, 1000)) and file.metadata == {"made": "here"}
    with pytest.raises(KeyError):
        file["b"]
