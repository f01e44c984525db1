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

from lora_np.files import about, parse_json, read_json, shown, write_together

DTYPES = {  # as NumPy reads them
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8", "BF16": "<u2",
}  # fmt: skip
NAMES = {np.dtype(form): name for name, form in DTYPES.items() if name != "BF16"}
# NumPy has no numbers of these kinds; they can be copied, not computed with.
BYTES_ALONE = {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
OTHER_FORMATS = ("*_model*.bin", "*_model*.bin.index.json", "tf_model*.h5", "flax_model*.msgpack")
LONGEST_TABLE = 100_000_000  # bytes, the library's own bound


class Raw(NamedTuple):
    """An array as it lies in a file."""

    dtype: str  # the format's name, such as "BF16"
    shape: tuple
    data: np.ndarray  # of bytes

    def array(self):
        """Return it as an array of NumPy; bfloat16 as float32.

        Raises
        ------
        ValueError
            If NumPy has no such numbers.
        """
        if self.dtype in BYTES_ALONE:
            raise ValueError(f"its dtype is {self.dtype}, which NumPy does not have")
        array = self.data.view(DTYPES[self.dtype]).reshape(self.shape)
        if self.dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


class TensorFile(Mapping):
    """The arrays of a safetensors file by name; each is mapped when it is asked for, and held by who asked alone.

    Attributes
    ----------
    shapes : dict of str to tuple
    metadata : dict of str to str

    Raises
    ------
    ValueError
        If the file is missing, truncated or damaged, names a tensor twice, or (on reading) holds a dtype that NumPy
        lacks.
    """

    def __init__(self, path):
        self.path = Path(path)
        with about(self.path):
            self.open()

    def open(self):
        """Read and check the table."""
        path = self.path
        if not path.is_file():
            raise ValueError(f"there is no file {path}; expected a folder that holds {path.name}.")
        with path.open("rb") as file:
            length, bytes_ = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if not 2 <= length <= min(bytes_ - 8, LONGEST_TABLE):
                raise self.damaged(f"its table should be {length} bytes long, and the file is {bytes_}")
            table = file.read(length)
        if not table.startswith(b"{"):
            raise self.damaged("no table stands at its beginning")
        table = parse_json(table, path)
        self.metadata = table.pop("__metadata__", None) or {}
        if not isinstance(self.metadata, dict) or not all(isinstance(text, str) for text in self.metadata.values()):
            raise self.damaged("its metadata are not texts by name")
        self.entries = {name: self.checked(name, entry) for name, entry in table.items()}
        self.shapes = {name: shape for name, (_, shape, _, _) in self.entries.items()}
        self.start, end = 8 + length, 0
        for begin, stop, name in sorted((begin, stop, name) for name, (_, _, begin, stop) in self.entries.items()):
            if begin != end:
                raise self.damaged(f"{name!r} begins at {begin}, where {end} was expected")
            end = stop
        if self.start + end != bytes_:
            raise self.damaged(f"its arrays take {end} bytes, and {bytes_ - self.start} are there")

    def checked(self, name, entry):
        """Return (dtype, shape, begin, end) of an entry of the table."""
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise self.damaged(f"the entry {name!r} lacks dtype, shape or data_offsets, or has more")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in (*DTYPES, *BYTES_ALONE):
            raise self.damaged(f"{name!r} is of the dtype {shown(dtype)}, which is not known here")
        if not (are_counts(shape) and are_counts(offsets) and len(offsets) == 2):
            raise self.damaged(f"{name!r} has the shape {shown(shape)} and the offsets {shown(offsets)}")
        if offsets[0] + math.prod(shape) * width(dtype) != offsets[1] or len(shape) > 32:
            raise self.damaged(f"{name!r}, {dtype} of shape {shape}, does not take the bytes {offsets}")
        return dtype, tuple(shape), *offsets

    def damaged(self, reason):
        return ValueError(
            f"{self.path} cannot be read: {reason}; it is truncated, damaged or no safetensors file. Fetch or make it"
            " again."
        )

    def raw(self, name):
        """Return a tensor as it lies in the file, a Raw whose bytes are mapped, not read."""
        dtype, shape, begin, end = self.entries[name]
        if begin == end:
            return Raw(dtype, shape, np.empty(0, np.uint8))  # nothing can be mapped
        return Raw(dtype, shape, np.memmap(self.path, np.uint8, "r", self.start + begin, (end - begin,)))

    def __getitem__(self, name):
        raw = self.raw(name)
        try:
            return np.asarray(raw.array())
        except ValueError as error:
            raise self.damaged(f"the tensor {name!r}: {error}") from error

    def __iter__(self):
        return iter(self.entries)

    def __len__(self):
        return len(self.entries)


class Shards(Mapping):
    """The arrays of several safetensors files, by the index that lies beside them; as TensorFile."""

    def __init__(self, index):
        with about(index):
            self.open(index)

    def open(self, index):
        """Read and check the index, and the tables of the files that it names."""
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ValueError(f"{index} has no weight_map of tensors to the names of files beside it; it is damaged.")
        for name, file in names.items():
            if not is_file_name(file):
                raise ValueError(f"{index} has {name} in {shown(file)}; expected the name of a file beside it.")
        files = {name: TensorFile(index.with_name(name)) for name in sorted(set(names.values()))}
        for name, file in names.items():
            if name not in files[file].entries:
                raise ValueError(f"{index} says that {name} lies in {file}, but it does not; fetch both again.")
        for file, held in files.items():
            for name in held:
                if names.get(name) != file:
                    raise ValueError(f"{file} holds {name}, but {index} does not say so; fetch both again.")
        self.files = {name: files[file] for name, file in names.items()}
        self.shapes = {name: file.shapes[name] for name, file in self.files.items()}
        self.metadata = {}

    def raw(self, name):
        return self.files[name].raw(name)

    def __getitem__(self, name):
        return self.files[name][name]

    def __iter__(self):
        return iter(self.files)

    def __len__(self):
        return len(self.files)


def open_weights(path):
    """Return the arrays of `path`, a safetensors file, or of the shards that an index beside it names.

    Raises
    ------
    ValueError
        If there is neither, or only a file of PyTorch's, which is a pickle and never opened; and as TensorFile.
    """
    path = Path(path)
    if path.is_file():
        return TensorFile(path)
    if (index := path.with_name(f"{path.name}.index.json")).is_file():
        return Shards(index)
    for form in OTHER_FORMATS:
        for other in sorted(path.parent.glob(form)):
            raise ValueError(
                f"{path.parent} holds {other.name}, but no {path.name}: only safetensors are read, as a pickle could"
                " run any program when it is opened. Where you trust it, open it in transformers or PEFT and write it"
                " anew: model.save_pretrained(folder, safe_serialization=True)."
            )
    raise ValueError(f"there is no file {path}; expected a folder that holds {path.name}.")


def are_counts(value):
    return isinstance(value, list) and all(type(entry) is int and 0 <= entry < 2**62 for entry in value)


def is_file_name(value):
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\:\0")


def safetensors_pieces(tensors, metadata=None):
    """Return the pieces of a safetensors file, one after the other: equal contents have equal bytes.

    Parameters
    ----------
    tensors : dict of str to (array or Raw)
    metadata : dict of str to str, optional

    Raises
    ------
    ValueError
        If an array's dtype has no name in the format.
    """
    raws = {name: value if isinstance(value, Raw) else as_raw(name, value) for name, value in tensors.items()}
    table, end = {"__metadata__": dict(sorted((metadata or {"format": "pt"}).items()))}, 0
    # Wide numbers first: then each array stands at a multiple of its width.
    order = sorted(raws, key=lambda name: (-width(raws[name].dtype), name))
    for name in order:
        dtype, shape, data = raws[name]
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + data.nbytes]}
        end += data.nbytes
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little"), header, *(raws[name].data for name in order)]


def width(dtype):
    return BYTES_ALONE.get(dtype) or np.dtype(DTYPES[dtype]).itemsize


def as_bfloat16(array):
    """Return an array as a Raw of bfloat16, each number cut to its upper half: exact where the lower one is zero."""
    halves = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype("<u2")
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
