"""Valid files, damaged: each mutation is (what was done, the bytes), in an order that a seed decides.

The lists are long and mostly systematic (every value at every place), so that a short run sees a sample of each kind
and a long one sees all of them.
"""

import io
import json
import struct

import numpy as np

DEEP = 2000  # levels: more than Python's own readers recurse
MARK = "\x01mark\x01"  # stands for a raw literal until the text is made
LITERALS = [
    "null", "true", "false", "0", "-1", "1", "2", "3", "3.5", "0.0", "-0.0", "-0.5", "2.0", "1e-400", "1e400",
    "1e300", "NaN", "Infinity", "-Infinity", "2147483648", "4294967297", "9223372036854775808",
    "18446744073709551616", "[]", "[null]", "[1]", "[true]", "[1e400]", "[[]]", "[[[1]]]", "{}", "[{}]",
    "1" + "0" * 400,  # an integer that no float holds
    "-1" + "0" * 400,
    "1" + "0" * 5000,  # and one that Python refuses to write out
    '""',
    '" "',
    '"x"',
    '"12"',
    '"NaN"',
    '"None"',
    '"("',  # no regular expression
    '"../../x"',
    '"/"',
    '"C:\\\\x"',
    '"\\ud800"',  # half a character
    '"\\u0000"',
    '"a\\nb"',
    '"\\u001b[31mred"',
    '"\\u202e\\u2028"',
    f'"{"y" * 100_000}"',
    '["x"]',
    '["\\ud800", "a\\nb"]',
    '[1, "x", null]',
    '{"a": 1}',
    '{"": ""}',
    '{"0": null}',
    '{"(": 1}',
    '{".*": -1}',
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
]  # fmt: skip
ENCODINGS = ("utf-8-sig", "utf-16", "utf-32-le")


def shortened(text, width=60):
    return text if len(text) <= width else f"{text[: width - 12]}...({len(text)})"


def sample(mutations, rounds, rng):
    """Return `rounds` of the mutations, or all of them, in an order of their own."""
    order = rng.permutation(len(mutations))
    return [mutations[k] for k in order[:rounds]]


def places(value, path=()):
    """Return the paths of all entries of a JSON value; of a long list the first two and the last."""
    found = []
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = [(k, value[k]) for k in sorted({0, 1, len(value) - 1} & set(range(len(value))))]
    else:
        return found
    for key, below in entries:
        found += [(*path, key), *places(below, (*path, key))]
    return found


def changed(tree, path, change):
    """Return a copy of a JSON value in which `change(parent, key)` was applied at the path."""
    copy = json.loads(json.dumps(tree))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return copy


def text_of(tree, literal="null"):
    return json.dumps(tree).replace(json.dumps(MARK), literal).encode()


def json_mutations(data, more=()):
    """Return [(what, bytes)] for the text of a valid JSON object; `more` names fields to add."""
    tree, found = json.loads(data), []

    def put(parent, key):
        parent[key] = MARK

    for path in [*places(tree), *((name,) for name in more if name not in tree)]:
        name = ".".join(map(str, path))
        found += [(f"{name} = {shortened(x)}", text_of(changed(tree, path, put), x)) for x in LITERALS]
        found.append((f"{name} added or null", text_of(changed(tree, path, put))))
    for path in places(tree):
        name = ".".join(map(str, path))
        found.append((f"{name} deleted", text_of(changed(tree, path, lambda parent, key: parent.pop(key)))))
        if isinstance(path[-1], str):
            found += [(f"{name} twice, {when}", twice(tree, path, when)) for when in ("before", "after")]
            found += [(f"{name} renamed", text_of(changed(tree, path, renamed_to(new)))) for new in ("", "x\n", "Ä")]
    return found + whole_files(data) + [(f"is {shortened(x)}", x.encode()) for x in LITERALS]


def renamed_to(name):
    def change(parent, key):
        parent[f"{key}{name}"] = parent.pop(key)

    return change


def twice(tree, path, when):
    """Return the text in which a key stands twice, once with another value, before or after the right one."""

    def double(parent, key):
        entries = list(parent.items())
        k = list(parent).index(key) + (when == "after")
        parent.clear()
        parent.update([*entries[:k], (MARK, 0), *entries[k:]])

    own = tree
    for key in path:
        own = own[key]
    other = json.dumps(own + 1 if type(own) in (int, float) else not own if isinstance(own, bool) else 5)
    text = json.dumps(changed(tree, path, double))
    return text.replace(f"{json.dumps(MARK)}: 0", f"{json.dumps(path[-1])}: {other}").encode()


def whole_files(data):
    """Return mutations of bytes that know nothing of their format."""
    cuts = sorted({0, 1, 7, 8, 9, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1} & set(range(len(data))))
    found = [(f"cut to {cut} bytes", data[:cut]) for cut in cuts]
    found += [(f"begins with {lead!r}", lead + data) for lead in (b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b"x")]
    found += [(f"ends with {tail!r}", data + tail) for tail in (b"\x00", b"\xff", b"\n", b"}", b"x" * 1000, data)]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return found
    return found + [(f"in {name}", text.encode(name)) for name in ENCODINGS]


def flips(data, rng, count):
    """Return mutations that change one to four bytes each, most of them near the beginning, where the structure is."""
    found = []
    for _ in range(count if data else 0):
        new, reach = bytearray(data), len(data) if rng.random() < 0.4 else min(len(data), 200)
        spots = rng.integers(0, reach, rng.integers(1, 5))
        for spot in spots:
            new[spot] = rng.choice([new[spot] ^ (1 << int(rng.integers(8))), 0, 255, 34, 44, 10])
        found.append((f"bytes {sorted(spots.tolist())} changed", bytes(new)))
    return found


def parted(data):
    """Return header (a dict) and the bytes behind it, of a valid safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, body, length=None):
    """Return a safetensors file; `header` is a dict, or the bytes of one."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + body


LENGTHS = (0, 1, 2, 8, 100_000_000, 100_000_001, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I8", "U8", "BOOL", "F31", "f32", "C64"]


def safetensors_mutations(data):
    """Return [(what, bytes)] for a valid safetensors file."""
    header, body = parted(data)
    text = json.dumps(header).encode()
    found = [(f"header: {what}", joined(new, body)) for what, new in json_mutations(few(header))]
    found += [(f"header: {what}", joined(new, body)) for what, new in whole_files(text)]
    found += [(f"length {k}", joined(text, body, k)) for k in (*LENGTHS, len(text) - 1, len(text) + 1)]
    found += [(f"header then {len(pad)} of {pad[:1]!r}", joined(text + pad, body)) for pad in (b" ", b" " * 99, b"\0")]
    found += [("one byte missing", joined(text, body[:-1])), ("one byte more", joined(text, body + b"\0"))]
    found += [("no data", joined(text, b"")), ("empty", b""), ("no tensors", joined({}, b""))]
    names = [name for name in header if name != "__metadata__"]
    for name in names[:3]:
        found += one_tensor(header, body, name)
    for one, other in zip(names, names[1:4]):
        swapped = {**header, one: header[other], other: header[one]}
        found.append((f"{one} and {other} exchanged", joined(swapped, body)))
        found.append((f"{one} lies where {other} does", joined({**header, one: header[other]}, body)))
        both = {key: value for key, value in header.items() if key != one}
        found.append((f"{one} removed, its bytes left", joined(both, body)))
        twins = text[:-1] + f", {json.dumps(one)}: {json.dumps(header[other])}".encode() + b"}"
        found.append((f"{one} twice", joined(twins, body)))
    return found + whole_files(data)


def few(header):
    """Return a header's text with its first tensors alone: the others add nothing but their number."""
    return json.dumps(dict(list(header.items())[:4])).encode()


def one_tensor(header, body, name):
    """Return mutations of one tensor: its dtype, shape, offsets, and its numbers."""
    entry, found = header[name], []
    start, stop = entry["data_offsets"]
    size = stop - start
    for dtype in DTYPES:
        found.append((f"{name} is {dtype}", joined({**header, name: {**entry, "dtype": dtype}}, body)))
    for dtype, each in (("BF16", 2), ("F16", 2), ("F64", 8), ("I32", 4), ("U8", 1)):
        shape = [*entry["shape"][:-1], size // each // max(1, int(np.prod(entry["shape"][:-1])))]
        found.append(
            (f"{name} reread as {dtype}", joined({**header, name: {**entry, "dtype": dtype, "shape": shape}}, body))
        )
    shape = entry["shape"]
    for other in (
        shape[::-1],
        [int(np.prod(shape))],
        [1, *shape],
        [*shape, 1],
        [],
        [0],
        [-1, *shape[1:]],
        [2**63, 2],
        [2**32] * 4,
        [*shape[:-1], *(axis + 1 for axis in shape[-1:])],
    ):
        found.append((f"{name} of shape {other}", joined({**header, name: {**entry, "shape": other}}, body)))
    offsets = (
        [start, stop - 1],
        [start, stop + 1],
        [stop, start],
        [start + 4, stop + 4],
        [-4, size - 4],
        [0, 0],
        [0, 2**63],
        [2**64, 2**64 + size],
        [start, stop, stop],
        [start],
    )
    for other in offsets:
        found.append((f"{name} at {other}", joined({**header, name: {**entry, "data_offsets": other}}, body)))
    for value in (np.nan, np.inf, -np.inf, 3e38):
        number = np.array(value, "<f4").tobytes()
        found.append((f"{name} holds {value}", joined(header, body[:start] + number + body[start + 4 :])))
    found.append((f"{name} holds another number", joined(header, body[:start] + b"\0\0\x80\x3e" + body[start + 4 :])))
    found.append((f"{name} moved, an empty one in its place", moved_behind(header, body, name)))
    return found


def moved_behind(header, body, name):
    entry, empty = header[name], {"dtype": "F32", "shape": [0, 3], "data_offsets": [len(body), len(body)]}
    return joined({**{key: value for key, value in header.items() if key != name}, "another": empty, name: entry}, body)


def npy(header, body, version=b"\x01\x00", length=None):
    """Return the bytes of a .npy file with this text as its header."""
    text = header.encode("latin-1") + b"\n"
    size = len(text) if length is None else length
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", size) + text + body


DESCRS = [
    "'<f8'", "'>f8'", "'<f4'", "'<f2'", "'<f16'", "'|f1'", "'<i8'", "'|b1'", "'|u1'", "'<c16'", "'|O'", "'<U1'",
    "'|S8'", "'<M8[s]'", "'|V8'", "'<f0'", "'<f99'", "'f'", "''", "None", "5", "[('a','<f8')]", "[('a','|O')]",
    "['<f8']", "('<f8',(2,2))", "{}", "'<f8,<f8'", "b'<f8'", r"'\x00'", "'<f8'*9**9",
]  # fmt: skip
SHAPES = [
    "(3,8,8)", "(3,8,8,1)", "(192,)", "(0,8,8)", "(1,192)", "()", "(3,)", "3", "[3,8,8]", "None", "(-3,8,8)", "(3,8)",
    "(2**60,8,8)", "(4,8,8)", "(2,8,8)", "(1000000000000,8,8)", "(18446744073709551616,)", "(3.0,8,8)", "(True,8,24)",
    "('3',8,8)", "(3,8,8,0)", "(0,10**30)", "(3,(8,8))", "(-1,-8,24)", "(1000000000000000000000000000000,0,8)",
]  # fmt: skip
ORDERS = ["True", "False", "None", "0", "1", "'x'", "[]"]


def npy_mutations(images):
    """Return [(what, bytes)] around an .npy file of images (3, 8, 8) in 0..1, float64."""
    body, found = images.tobytes(), []

    def header(descr="'<f8'", order="False", shape="(3, 8, 8)"):
        return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"

    found += [(f"descr {x}", npy(header(descr=x), body)) for x in DESCRS]
    found += [(f"shape {x}", npy(header(shape=x), body)) for x in SHAPES]
    found += [(f"fortran_order {x}", npy(header(order=x), body)) for x in ORDERS]
    found += [
        (f"version {x!r}", npy(header(), body, x)) for x in (b"\x02\0", b"\x03\0", b"\x04\0", b"\0\0", b"\xff\xff")
    ]
    found += [(f"length {k}", npy(header(), body, length=k)) for k in (0, 1, 10, len(header()), 65535)]
    texts = [
        "",
        "{",
        "{}",
        "(",
        "[]",
        "5",
        "None",
        "{'descr': '<f8'}",
        "(" * DEEP,
        "[" * 200 + "]" * 200,
        "{'a': " * 150,
    ]
    texts += ["__import__('os')", "'" + "x" * 20_000, "\x00", "{**{}}", "lambda: 0", header() * 2, header()[:-1]]
    texts += [
        header().replace("'shape'", "'shapes'"),
        header()[:-2] + "'more': 1}",
        "-" * 3000 + "1",
        "{'descr': 1_0_}",
    ]
    texts += ["\t" + header(), "\\", "'\\N{x}'", "0777", "1" * 5000, "f'{x}'", '"""', "# nothing", "\x0c"]
    found += [(f"header {shortened(text)!r}", npy(text, body)) for text in texts if len(text) < 65_000]
    arrays = [
        images[0], images[:0], images * 16, images - 0.1, images + np.nan, images + np.inf, images.astype(np.float16),
        images.astype(np.longdouble), images.astype(">f4"), images.astype(complex), images > 0.5, images.astype("U"),
        images[..., None], np.asfortranarray(images), images[:, :7], images * 1e300, -images * 0.0, images * 5e-324,
        np.array(0.5), images.astype("S"), images[:, ::-1], (images * 16).astype("u1"),
    ]  # fmt: skip
    found += [(f"{a.dtype} {a.shape} {k}", saved(a)) for k, a in enumerate(arrays)]
    found.append(("an npz", saved(images, np.savez)))
    found.append(("an empty npz", saved(None, lambda file, _: np.savez(file))))
    found.append(("objects", saved(np.array([{}], object))))
    return found + whole_files(saved(images))


def saved(array, save=np.save):
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


PIECES = (
    b'"', b'""', b"'", b"\t", b",", b"\n", b"\r", b"\r\n", b"\n\n", b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xc2\x85",
    b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\x00", b"\xff", b"\xed\xa0\x80", b"\x1b[31m", b" ", b"\xc2\xa0", b"9" * 5000,
    b"\tlabel", b"text", b"+1", b"-0", "\u0661".encode(), "\u00b2".encode(), b"nan", b'x"y', b'"x" y', b"=1+1", b"\\",
)  # fmt: skip


def text_mutations(data, rng, count):
    """Return [(what, bytes)] of a text file of lines: a piece put in, at the edges of cells above all; lines removed,
    repeated, cut."""
    edges = [k for k in range(len(data)) if data[k : k + 1] in (b"\t", b",", b"\n")]
    edges = [0, *edges, *(k + 1 for k in edges), len(data)]
    found = [*whole_files(data)]
    for _ in range(count):
        piece = PIECES[rng.integers(len(PIECES))]
        spots = rng.choice(edges, rng.integers(1, 4)) if rng.random() < 0.8 else rng.integers(0, len(data), 1)
        new = data
        for spot in sorted(spots.tolist(), reverse=True):
            new = new[:spot] + piece + new[spot:]
        found.append((f"{shortened(repr(piece))} at {sorted(spots.tolist())}", new))
    lines = data.splitlines(keepends=True)
    found += [
        (f"{len(part)} lines", b"".join(part)) for part in (lines[:1], lines[:2], lines[1:], lines[:1] * 3, lines[::-1])
    ]
    found += [("a line of a megabyte", data + b"x" * 10**6 + lines[-1]), ("CR alone", data.replace(b"\n", b"\r"))]
    return found + [("CRLF", data.replace(b"\n", b"\r\n")), ("latin-1", data.replace(b"film", b"f\xe9lm"))]
