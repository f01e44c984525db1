"""Our strict reader and writer of safetensors, judged by the library: each reads what the other wrote, and what the
library refuses is refused here, in one sentence, before memory is taken."""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from lora_np.files.safetensors import Raw, TensorFile, open_weights, read_safetensors, write_safetensors

DTYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]


def entry(name, offsets, shape=(2,), dtype="F32"):
    return f'"{name}": {{"dtype": "{dtype}", "shape": {json.dumps(shape)}, "data_offsets": {json.dumps(offsets)}}}'


def write(path, header, data=bytes(8), size=None):
    path.write_bytes((len(header) if size is None else size).to_bytes(8, "little") + header + data)


def library_reads(path):
    """Return whether the library reads each tensor of a file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (the handle is no dict)
                file.get_tensor(name)
    except Exception:
        return False
    return True


HOSTILE = [  # length said (None: the true one), entries, what the sentence says
    (2**63, [entry("a", (0, 8))], "should be 9223372036854775808 bytes long"),
    (2**26, [entry("a", (0, 8))], "should be 67108864 bytes long"),
    (0, [entry("a", (0, 8))], "should be 0 bytes long"),
    (None, [entry("a", (0, 80), (20,))], "80 bytes, and 8 are there"),  # beyond the end
    (None, [entry("a", (8, 0))], "offsets|bytes"),
    (None, [entry("a", (-8, 0))], "-8"),
    (None, [entry("a", (0, 8), (3,))], "shape"),
    (None, [entry("a", (0, 8), (-2,))], "-2"),
    (None, [entry("a", (0, 8), (2.0,))], "2.0"),
    (None, [entry("a", (0, 8), (True, 2))], "True"),
    (None, [entry("a", (0, 8), "2")], "shape"),
    (None, [entry("a", (0, 8, 8))], "offsets"),
    (None, [entry("a", [0, "8"])], "offsets"),
    (None, [entry("a", (0, 8), (2**40, 2**40))], "shape"),
    (None, [entry("a", (0, 8)), entry("b", (0, 8))], "'b' begins at 0, where 8 was expected"),  # on top of each other
    (None, [entry("a", (4, 8), (1,))], "begins at 4"),  # a hole
    (None, [entry("a", (0, 4), (1,))], "4 bytes, and 8 are there"),
    (None, [], "0 bytes, and 8 are there"),
    (None, [entry("a", (0, 8), (2,), "X9")], "'X9'"),
    (None, ['"a": 5'], "entry 'a'"),
    (None, ['"a": {"dtype": "F32", "shape": [2]}'], "entry 'a'"),
    (None, ['"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}'], "dtype"),
    (None, [entry("a", (0, 8)), '"__metadata__": {"n": 5}'], "metadata"),
    (None, [entry("a", (0, 8)), '"__metadata__": "text"'], "metadata"),
    (None, [entry("a", (0, 8)), '"b": NaN'], "JSON"),
    (None, [f'"a": {"[" * 5000}{"]" * 5000}'], "JSON|entry"),
]


@pytest.mark.parametrize(("size", "entries", "received"), HOSTILE)
def test_hostile_headers_are_refused(size, entries, received, tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, f"{{{', '.join(entries)}}}".encode(), size=size)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*({received})"):
        read_safetensors(path)
    assert not library_reads(path)


@pytest.mark.parametrize(
    ("header", "received"),
    [
        (f"{{{entry('a', (0, 8))}, {entry('a', (0, 8))}}}".encode(), "'a' twice"),
        (f"{{{entry('a', (0, 8))}, ".encode() + b'"__metadata__": {"n": "1", "n": "2"}}', "'n' twice"),
        (f'{{{entry("a", (0, 8))[:-1]}, "more": 1}}}}'.encode(), "entry 'a'"),
    ],
)
def test_what_the_library_lets_pass_is_refused_too(header, received, tmp_path):
    write(tmp_path / "a.safetensors", header)
    assert library_reads(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=received):
        TensorFile(tmp_path / "a.safetensors")


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, b"\x02" + bytes(7) + b"[]", b"\xef\xbb\xbf{}"])
def test_what_is_no_such_file_is_refused(data, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        TensorFile(tmp_path / "a.safetensors")
    assert not library_reads(tmp_path / "a.safetensors")


def arrays(rng):
    """Return an array of each dtype, of no, one and more axes, an empty one, and one that lies transposed."""
    made = {f"of {form}": (100 * rng.random((3, 5))).astype(form) for form in DTYPES}
    made |= {"number": np.float64(2.5), "empty": np.zeros((0, 4), np.float32), "long": rng.random((2, 1, 3, 1, 2))}
    made |= {"transposed": rng.random((4, 3)).T, "every second": rng.random(10)[::2]}
    return {**made, "other order": rng.random(3).astype(">f8")}


def test_each_reads_what_the_other_wrote(tmp_path):
    made = arrays(np.random.default_rng(0))
    write_safetensors(tmp_path / "ours", made, {"ä": "text"})
    save_file({name: np.ascontiguousarray(array) for name, array in made.items()}, tmp_path / "theirs", {"ä": "text"})
    for read in (
        load_file(tmp_path / "ours"),
        dict(TensorFile(tmp_path / "ours")),
        dict(TensorFile(tmp_path / "theirs")),
    ):
        assert read.keys() == made.keys()
        for name, array in made.items():
            assert read[name].dtype == np.asarray(array).dtype.newbyteorder("=")
            assert np.array_equal(read[name].reshape(np.shape(array)), array)
    with safetensors.safe_open(tmp_path / "ours", framework="numpy") as file:
        assert file.metadata() == TensorFile(tmp_path / "ours").metadata == {"ä": "text"}


def test_equal_contents_have_equal_bytes(tmp_path):
    made = arrays(np.random.default_rng(0))
    write_safetensors(tmp_path / "one", made, {"b": "2", "a": "1"})
    write_safetensors(tmp_path / "other", dict(reversed(made.items())), {"a": "1", "b": "2"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_an_array_without_a_name_in_the_format_is_refused(tmp_path):
    for array in (np.array([1 + 2j]), np.array([None]), np.array(["text"])):
        with pytest.raises(ValueError, match=f"a has the dtype {array.dtype}"):
            write_safetensors(tmp_path / "a", {"a": array})
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_widened_to_the_bit_and_copied_as_it_lies(tmp_path):
    halves = np.arange(2**16, dtype=np.uint16)  # each number that there is
    write_safetensors(tmp_path / "a", {"w": Raw("BF16", (256, 256), halves.view(np.uint8))})
    file = TensorFile(tmp_path / "a")
    assert file.shapes == {"w": (256, 256)} and file["w"].dtype == np.float32
    assert (
        np.array_equal(file["w"].view(np.uint32).ravel() >> 16, halves)
        and not (file["w"].view(np.uint32) & 0xFFFF).any()
    )
    assert file["w"][0, 1] == 2.0**-133 and file["w"][0x3F, 0x80] == 1.0 and file["w"][0xC0, 0x40] == -3.0
    write_safetensors(tmp_path / "b", {"w": file.raw("w")})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safetensors.safe_open(tmp_path / "a", framework="numpy") as judge:
        assert judge.get_slice("w").get_dtype() == "BF16"


def test_numbers_that_numpy_lacks_are_copied_and_not_read(tmp_path):
    write_safetensors(tmp_path / "a", {"w": Raw("F8_E4M3", (4,), np.arange(4, dtype=np.uint8))})
    with pytest.raises(ValueError, match="'w'.*F8_E4M3"):
        TensorFile(tmp_path / "a")["w"]
    write_safetensors(tmp_path / "b", {"w": TensorFile(tmp_path / "a").raw("w")})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_array_is_read_when_it_is_asked_for(tmp_path):
    made = {f"a{k}": np.full((250, 1000), k, np.float32) for k in range(20)}  # 1 MB each
    write_safetensors(tmp_path / "a.safetensors", made, {"made": "here"})
    tracemalloc.start()
    file = TensorFile(tmp_path / "a.safetensors")
    sums = {name: array.sum() for name, array in file.items()}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    assert sums == {name: array.sum() for name, array in made.items()}
    assert file.shapes == dict.fromkeys(made, (250, 1000)) and file.metadata == {"made": "here"}
    with pytest.raises(KeyError):
        file["b"]


def sharded(folder, **index):
    write_safetensors(folder / "m-1.safetensors", {"a": np.ones(2), "b": np.zeros(3)})
    write_safetensors(folder / "m-2.safetensors", {"c": np.full(4, 2.0)})
    whole = {"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": whole, **index}))
    return open_weights(folder / "m.safetensors")


def test_shards_are_read_as_one_file(tmp_path):
    file = sharded(tmp_path)
    assert {name: array.sum() for name, array in file.items()} == {"a": 2, "b": 0, "c": 8}
    assert file.shapes == {"a": (2,), "b": (3,), "c": (4,)} and file.raw("c").dtype == "F64"
    write_safetensors(tmp_path / "m.safetensors", {"d": np.ones(1)})
    assert list(open_weights(tmp_path / "m.safetensors")) == ["d"]  # as transformers chooses


@pytest.mark.parametrize(
    ("weight_map", "received"),
    [
        ({}, "weight_map"),
        (None, "weight_map"),
        ({"a": 1}, "a in 1;"),
        ({"a": "../m-1.safetensors"}, "a in '../m-1"),
        ({"a": "/etc/passwd"}, "/etc/passwd"),
        ({"a": "m-1.safetensors", "b": "m-1.safetensors", "d": "m-2.safetensors"}, "d lies in m-2"),
        ({"a": "m-1.safetensors", "c": "m-2.safetensors"}, "m-1.safetensors holds b"),
        ({"a": "m-3.safetensors"}, "no file .*m-3"),
    ],
)
def test_an_index_that_lies_is_refused(weight_map, received, tmp_path):
    with pytest.raises(ValueError, match=received):
        sharded(tmp_path, weight_map=weight_map)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_a_pickle_is_named_and_not_opened(name, tmp_path):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match=f"{name}.*pickle.*safe_serialization=True"):
        open_weights(tmp_path / "model.safetensors")
