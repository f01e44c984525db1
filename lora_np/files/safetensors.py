"""The safetensors format, strictly: a length, a table in JSON, and the arrays' bytes, end to end.

    bytes 0 to 8    n, the length of the table, little-endian
    n bytes         {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
                     "__metadata__": {"text": "text"}}, filled up with spaces
    the rest        the arrays, little-endian, in the order of rows; offsets count from here, without a hole

The library of this name cannot give NumPy bfloat16, which is how many models are stored. Here it is widened to float32:
bfloat16 is the upper half of it. `raw` gives any array as it lies, to be copied into another file.

Source: https://github.com/huggingface/safetensors, section "Format" of its README.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lora_np.files import about, existing, is_names, parse_json, read_json, shown, write_together

DTYPES = {  # as NumPy reads them
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8", "BF16": "<u2",
}  # fmt: skip
NAMES = {np.dtype(form): name for name, form in DTYPES.items() if name != "BF16"}
# NumPy has no numbers of these kinds; they can be copied, not computed with.
BYTES_ALONE = ("F8_E4M3", "F8_E5M2", "F8_E8M0")
WIDTHS = {**{name: np.dtype(form).itemsize for name, form in DTYPES.items()}, **dict.fromkeys(BYTES_ALONE, 1)}
OTHER_FORMATS = ("*_model*.bin", "*_model*.bin.index.json", "tf_model*.h5", "flax_model*.msgpack")
LONGEST_TABLE = 100_000_000  # bytes, the library's own bound


class Raw(NamedTuple):
    """An array as it lies in a file."""

    dtype: str  # the format's name, such as "BF16"
    shape: tuple
    data: np.ndarray  # of bytes

    def array(self):
        """Return it as an array of NumPy, bfloat16 as float32; a ValueError says that NumPy has no such numbers."""
        if self.dtype in BYTES_ALONE:
            raise ValueError(f"its dtype is {self.dtype}, which NumPy does not have")
        array = self.data.view(DTYPES[self.dtype]).reshape(self.shape)
        if self.dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


class Entry(NamedTuple):
    """A row of a table: an array, and where its bytes lie."""

    dtype: str
    shape: tuple
    begin: int
    end: int
    path: Path


class TensorFile(Mapping):
    """The arrays of a safetensors file by name, or of the shards that an index names; each is mapped when it is asked
    for, and held by who asked alone.

    `shapes` are tuples by name, `metadata` texts by name; shards have none. A ValueError names a file that is missing,
    truncated or damaged, names a tensor twice, or (on reading) holds a dtype that NumPy lacks.
    """

    def __init__(self, path):
        path = Path(path)
        with about(path):
            self.entries, self.metadata = (read_index if path.suffix == ".json" else read_table)(path)
        self.shapes = {name: entry.shape for name, entry in self.entries.items()}

    def raw(self, name):
        """Return a tensor as it lies in the file, a Raw whose bytes are mapped, not read."""
        dtype, shape, begin, end, path = self.entries[name]
        if begin == end:
            return Raw(dtype, shape, np.empty(0, np.uint8))  # nothing can be mapped
        return Raw(dtype, shape, np.memmap(path, np.uint8, "r", begin, (end - begin,)))

    def __getitem__(self, name):
        try:
            return np.asarray(self.raw(name).array())
        except ValueError as error:
            raise damaged(self.entries[name].path, f"the tensor {name!r}: {error}") from error

    def __iter__(self):
        return iter(self.entries)

    def __len__(self):
        return len(self.entries)


def read_table(path):
    """Return ({name: Entry}, metadata) of a safetensors file, whose table is checked."""
    with existing(path).open("rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        if not 2 <= length <= min(size - 8, LONGEST_TABLE):
            raise damaged(path, f"its table should be {length} bytes long, and the file is {size}")
        table = file.read(length)
    if not table.startswith(b"{"):
        raise damaged(path, "no table stands at its beginning")
    table = parse_json(table, path)
    metadata = table.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not is_names([*metadata.values()]):
        raise damaged(path, "its metadata are not texts by name")
    start = end = 8 + length
    entries = {name: checked(name, row, path, start) for name, row in table.items()}
    for begin, stop, name in sorted((entry.begin, entry.end, name) for name, entry in entries.items()):
        if begin != end:
            raise damaged(path, f"{name!r} begins at {begin - start}, where {end - start} was expected")
        end = stop
    if end != size:
        raise damaged(path, f"its arrays take {end - start} bytes, and {size - start} are there")
    return entries, metadata


def checked(name, row, path, start):
    """Return the Entry that a row of the table says; its offsets count from `start`."""
    if not isinstance(row, dict) or row.keys() != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"the entry {name!r} lacks dtype, shape or data_offsets, or has more")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise damaged(path, f"{name!r} is of the dtype {shown(dtype)}, which is not known here")
    if not (are_counts(shape) and are_counts(offsets) and len(offsets) == 2):
        raise damaged(path, f"{name!r} has the shape {shown(shape)} and the offsets {shown(offsets)}")
    begin, end = offsets
    if begin + math.prod(shape) * WIDTHS[dtype] != end or len(shape) > 32:
        raise damaged(path, f"{name!r}, {dtype} of shape {shape}, does not take the bytes {offsets}")
    return Entry(dtype, tuple(shape), start + begin, start + end, path)


def damaged(path, reason):
    return ValueError(
        f"{path} cannot be read: {reason}; it is truncated, damaged or no safetensors file. Fetch or make it again."
    )


def read_index(path):
    """Return ({name: Entry}, {}) of the shards that an index names, whose tables are checked, and agree with it."""
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{path} has no weight_map of tensors to the names of files beside it; it is damaged.")
    for name, file in names.items():
        if not is_file_name(file):
            raise ValueError(f"{path} has {name} in {shown(file)}; expected the name of a file beside it.")
    tables = {file: read_table(path.with_name(file))[0] for file in sorted(set(names.values()))}
    for name, file in names.items():
        if name not in tables[file]:
            raise ValueError(f"{path} says that {name} lies in {file}, but it does not; fetch both again.")
    for file, held in tables.items():
        for name in held:
            if names.get(name) != file:
                raise ValueError(f"{file} holds {name}, but {path} does not say so; fetch both again.")
    return {name: tables[file][name] for name, file in names.items()}, {}


def open_weights(path):
    """Return the TensorFile of `path`, a safetensors file, or of the shards that an index beside it names.

    A file of PyTorch's is a pickle and never opened: where there is nothing else, a ValueError names it.
    """
    path = Path(path)
    index = path.with_name(f"{path.name}.index.json")
    others = [other for form in OTHER_FORMATS for other in sorted(path.parent.glob(form))]
    if not path.is_file() and not index.is_file() and others:
        raise ValueError(
            f"{path.parent} holds {others[0].name}, but no {path.name}: only safetensors are read, as a pickle could"
            " run any program when it is opened. Where you trust it, open it in transformers or PEFT and write it"
            " anew: model.save_pretrained(folder, safe_serialization=True)."
        )
    return TensorFile(index if index.is_file() and not path.is_file() else path)


def are_counts(value):
    return isinstance(value, list) and all(type(entry) is int and 0 <= entry < 2**62 for entry in value)


def is_file_name(value):
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\:\0")


def safetensors_pieces(tensors, metadata=None):
    """Return the pieces of a safetensors file, one after the other: equal contents have equal bytes.

    `tensors` are arrays, or Raws, by name; a ValueError names one whose dtype has no name in the format.
    """
    raws = {name: value if isinstance(value, Raw) else as_raw(name, value) for name, value in tensors.items()}
    table, end = {"__metadata__": dict(sorted((metadata or {"format": "pt"}).items()))}, 0
    # Wide numbers first: then each array stands at a multiple of its width.
    order = sorted(raws, key=lambda name: (-WIDTHS[raws[name].dtype], name))
    for name in order:
        dtype, shape, data = raws[name]
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + data.nbytes]}
        end += data.nbytes
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little"), header, *(raws[name].data for name in order)]


def as_bfloat16(array):
    """Return an array of finite numbers as a Raw of bfloat16, each rounded to the nearest, of two to the even one."""
    array = np.asarray(array)
    near = np.ascontiguousarray(array, "<f4")
    bits = near.view(np.uint32)
    if array.dtype != near.dtype:
        # Else a number that float32 rounds to the middle between two of bfloat16 would be rounded twice. So here it is
        # cut, not rounded, and a last bit of 1 says that something was cut off.
        bits = (bits - (np.abs(near) > np.abs(array))) | (near != array)
    halves = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    return Raw("BF16", array.shape, halves.reshape(-1).view(np.uint8))


def as_raw(name, array):
    array = np.asarray(array)
    form = array.dtype.newbyteorder("<")
    if form not in NAMES:
        raise ValueError(f"{name} has the dtype {array.dtype}, which a safetensors file cannot hold.")
    data = np.ascontiguousarray(array, form).reshape(-1).view(np.uint8)
    return Raw(NAMES[form], array.shape, data)


def write_safetensors(path, tensors, metadata=None):
    """Write arrays by name, whole or not at all; the arguments are those of `safetensors_pieces`."""
    write_together({path: safetensors_pieces(tensors, metadata)})


def read_safetensors(path):
    """Return (arrays by name, metadata); the errors are those of TensorFile."""
    file = TensorFile(path)
    return dict(file), file.metadata
