"""Headers of safetensors files that lie about what follows: each is refused in one sentence, before memory is taken."""

import pytest

from lora_np.io.files import read_safetensors


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
