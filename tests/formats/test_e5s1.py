"""A BERT in 4 bits in one file: read as it is written down here once more, adapted as any other, refused if damaged."""

import json
import struct
import tracemalloc
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import lora_np as lnp
from lora_np.compress import Q4_0, FrozenMatrix
from lora_np.formats import e5s1, pretrained
from lora_np.formats.peft import load_adapter, save_adapter
from lora_np.model.tree import with_arrays

SIZES = (64, 2, 4, 96, 19, 11, 2)  # hidden, layers, heads, inner, vocabulary, positions, types
WORDS = [
    "<s>", "<pad>", "</s>", "<unk>", "▁", "▁que", "ry", ":", "▁好", "好", "店", "a", "b", "ab", "▁a", "fi", "e\u0301",
]  # fmt: skip
SCORES = [0, 0, 0, 0, -2, -3, -3, -3, -4, -4.5, -4.5, -5, -5, -6.5, -4, -6, -6]  # ab: -8.5 with ▁, -9 as ▁a, b
NORMAL = {9: " ", 11: "", 0x3000: " ", 0x2581: " ", 0xFB01: "fi", 0xFF41: "a", 0x1F170: "ab"}
LAYER = {"q": (64, 64), "k": (64, 64), "v": (64, 64), "ao": (64, 64), "aln": (64,), "fi": (96, 64), "fo": (64, 96)}
LAYER["oln"] = (64,)
OURS = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "ao": "attention.output"}
OURS |= {"aln": "norm1", "fi": "mlp.up", "fo": "mlp.down", "oln": "norm2"}


@dataclass
class File:
    """What a file holds; `bytes` puts it together, and says where each part begins."""

    magic: bytes = b"E5S1"
    version: int = 1
    sizes: tuple = SIZES
    eps: float = 1e-12
    block: int = 32
    special: tuple = (0, 2, 1, 3)  # bos, eos, pad, unk
    words: list = field(default_factory=lambda: [word.encode() for word in WORDS])
    scores: list = field(default_factory=lambda: [*SCORES])
    normal: list = field(default_factory=lambda: [(point, [*map(ord, text)]) for point, text in sorted(NORMAL.items())])
    tensors: dict = field(default_factory=dict)  # name: (kind, numbers, bytes)
    first: int = 0  # where the first piece begins
    more: int = 0  # bytes of normalisations that are said and not there
    align: int = 64
    end: bytes = b""

    def bytes(self):
        offsets = np.cumsum([0, *map(len, self.words)])
        offsets[0] = self.first
        data = self.magic + struct.pack("<I7ifi", self.version, *self.sizes, self.eps, self.block)
        data += struct.pack("<5iQ", len(self.words), *self.special, offsets[-1])
        data += offsets.astype("<u4").tobytes() + np.array(self.scores, "<f4").tobytes() + b"".join(self.words)
        normal = b"".join(struct.pack(f"<IB{len(new)}I", point, len(new), *new) for point, new in self.normal)
        data += struct.pack("<iI", len(self.normal), len(normal) + self.more) + normal
        rows = [(name.encode(), *row) for name, row in self.tensors.items()]
        begin = len(data) + 4 + sum(2 + len(name) + 21 for name, *_ in rows)
        table, arrays = struct.pack("<i", len(rows)), b""
        for name, kind, numbers, body in rows:
            gap = -(begin + len(arrays)) % self.align
            arrays += bytes(gap)
            table += struct.pack("<H", len(name)) + name
            table += struct.pack("<BIQQ", kind, numbers, begin + len(arrays), len(body))
            arrays += body
        return data + table + arrays + self.end


def blocks(rng, shape):
    """Return random bytes of a matrix in 4 bits, and its numbers, block by block as they are defined."""
    data, numbers = b"", []
    for _ in range(shape[0] * shape[1] // 32):
        scale, codes = np.float16(rng.uniform(0.01, 0.08)), rng.integers(0, 16, 32)
        data += scale.tobytes() + bytes(int(codes[k] | codes[k + 16] << 4) for k in range(16))
        numbers += [float(scale) * (int(code) - 8) for code in codes]
    return data, np.array(numbers).reshape(shape)


def tensors(rng):
    """Return what a file of these sizes holds, and the same as ordinary arrays under our names."""
    d, vocabulary, positions, types = SIZES[0], *SIZES[4:]
    given, arrays = {}, {}

    def put(name, ours, shape, matrix):
        body, numbers = blocks(rng, shape) if matrix else (None, 1.0 + 0.2 * rng.standard_normal(shape))
        numbers = numbers if matrix else numbers.astype(np.float32)
        given[name] = (int(matrix), numbers.size, body if matrix else numbers.astype("<f4").tobytes())
        arrays[ours] = numbers.T if ours.endswith(".W") else numbers

    put("emb.word", "embeddings.word.table", (vocabulary, d), True)
    put("emb.pos", "embeddings.position.table", (positions, d), False)
    put("emb.type", "embeddings.type.table", (types, d), False)
    put("emb.ln.w", "embeddings.norm.gamma", (d,), False)
    put("emb.ln.b", "embeddings.norm.beta", (d,), False)
    for k in range(SIZES[1]):
        for short, shape in LAYER.items():
            norm = len(shape) == 1
            put(f"l{k}.{short}.w", f"layer.{k}.{OURS[short]}.{'gamma' if norm else 'W'}", shape, not norm)
            put(f"l{k}.{short}.b", f"layer.{k}.{OURS[short]}.{'beta' if norm else 'b'}", shape[:1], False)
    return given, arrays


GIVEN, ARRAYS = tensors(np.random.default_rng(0))
WHOLE = File(tensors=GIVEN)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of a small model, which is "e5" here."""
    place = tmp_path / "e5"
    place.mkdir()
    (place / e5s1.FILE).write_bytes(WHOLE.bytes())
    monkeypatch.setattr(pretrained, "fetch_e5", lambda: place)
    return place


BATCH = [[0, 5, 6, 7, 8, 2], [0, 5, 6, 7, 11, 13, 9, 2], [0, 18, 2]]


def dense(dtype=np.float64):
    """Return a BERT of ordinary arrays of the same numbers."""
    config = dict(zip(e5s1.COUNTS, SIZES), model_type="bert", hidden_act="gelu", layer_norm_eps=1e-12)
    model = lnp.bert(config, rng=np.random.default_rng(1), dtype=dtype)
    assert lnp.parameters(model).keys() == ARRAYS.keys()
    return lnp.freeze(with_arrays(model, {name: array.astype(dtype) for name, array in ARRAYS.items()}))


def test_a_model_of_the_file_is_the_bert_of_its_numbers_and_stays_compressed(folder):
    model = lnp.load_pretrained("e5", dtype=np.float64)
    found = lnp.parameters(model)
    assert found.keys() == ARRAYS.keys()
    for name, array in found.items():
        assert np.array_equal(np.asarray(array), ARRAYS[name]), name
        packed = name.endswith(".W") or name == "embeddings.word.table"
        assert isinstance(array, Q4_0 if packed else np.ndarray) and array.dtype == np.float64, name
        assert not array.flags.writeable
    batch = lnp.Batch.of(BATCH)
    ours, theirs = (each.forward(batch)[0] for each in (model, dense()))
    assert np.abs(ours - theirs).max() < 1e-13 * np.abs(theirs).max()
    assert lnp.count_parameters(model) == lnp.count_parameters(dense()) and not lnp.parameters(model, True)
    assert sum(a.nbytes for a in found.values() if isinstance(a, FrozenMatrix)) == sum(
        len(body) for kind, _, body in GIVEN.values() if kind == 1
    )
    assert model.config["layer_norm_eps"] == 1e-12 and model.config["pad_token_id"] == 1
    single = lnp.load_pretrained(folder)
    assert single.dtype == np.float32 and single.embeddings.word.table.dtype == np.float32
    assert np.allclose(single.forward(batch)[0], theirs, atol=1e-4)


def test_the_table_is_never_whole(folder, monkeypatch):
    model = lnp.load_pretrained("e5")
    taken, real = [], Q4_0.decoded

    def decoded(self, rows):
        if self.shape == (SIZES[4], SIZES[0]):
            taken.append(len(self.blocks[rows]))
        return real(self, rows)

    monkeypatch.setattr(Q4_0, "decoded", decoded)
    batch = lnp.Batch.of(BATCH)
    model.forward(batch)
    assert taken == [len(batch.content)]

    words = 20_000  # 0.7 MB of blocks, 5.1 MB of floats
    table = {**GIVEN, "emb.word": (1, words * 64, bytes(words * 64 // 32 * 18))}
    (folder / e5s1.FILE).write_bytes(replace(WHOLE, sizes=(*SIZES[:4], words, *SIZES[5:]), tensors=table).bytes())
    tracemalloc.start()
    try:
        lnp.load_pretrained("e5")
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_an_adapter_over_it_is_right_saved_and_merged(folder, tmp_path):
    base = lnp.load_pretrained("e5")
    model = lnp.freeze(lnp.with_head(base, 2, "mean", np.random.default_rng(2)))
    lora = lnp.inject(model, lnp.LoRAConfig(r=3, task_type="SEQ_CLS"), np.random.default_rng(3))
    batch = lnp.Batch.of(BATCH)
    assert lnp.check_model(lora, batch).ok
    assert np.array_equal(lora.forward(batch)[0], model.forward(batch)[0])
    rng = np.random.default_rng(4)
    for name, array in lnp.parameters(lora, trainable_only=True).items():
        array[...] = rng.standard_normal(array.shape) * (0.3 if name.endswith("B") else 1.0)
    save_adapter(lora, tmp_path / "adapter", "e5")
    again = load_adapter(lnp.load_pretrained("e5"), tmp_path / "adapter")
    assert np.array_equal(again.forward(batch)[0], lora.forward(batch)[0])
    with pytest.raises(ValueError, match="decompress_model"):
        lnp.save_model(lnp.merge(lora), tmp_path / "merged")
    lnp.save_model(lnp.decompress_model(lnp.merge(lora)), tmp_path / "merged")
    merged = lnp.load_pretrained(tmp_path / "merged").forward(batch)[0]
    assert np.abs(merged - lora.forward(batch)[0]).max() < 1e-4 * np.abs(merged).max()


def read(tokenizer, text):
    return [WORDS[k] for k in tokenizer([text])[0]]


QUERY = ["<s>", "▁que", "ry", ":"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("好店", ["▁好", "店"]),
        ("ab", ["▁", "ab"]),
        ("a", ["▁a"]),
        ("  a\t\u3000好 \n", ["▁a", "▁好"]),  # as a normalisation has it, or as blanks of Unicode
        ("a\x0bb", ["▁", "ab"]),  # taken away
        ("\ufb01", ["▁", "fi"]),
        ("\uff41\U0001f170", ["▁a", "ab"]),
        ("a\u2581好", ["▁a", "▁好"]),
        ("e\u0301", ["▁", "e\u0301"]),
        ("aXYZb", ["▁a", "<unk>", "b"]),  # side by side they are one, as in XLM-R
        ("X Y", ["▁", "<unk>", "▁", "<unk>"]),
    ],
)
def test_tokens(text, pieces, folder):
    assert read(lnp.load_tokenizer("e5"), text) == [*QUERY, *pieces, "</s>"]


def test_a_text_of_nothing_and_a_long_one(folder):
    tokenizer = lnp.load_tokenizer(folder)
    for text in ("", " \t\u3000", "\x0b"):
        with pytest.raises(ValueError, match="row 2 of 2 is empty"):
            tokenizer(["a", text])
    assert [WORDS[k] for k in tokenizer(["好店" * 9], max_length=7)[0]] == [*QUERY, "▁好", "店", "</s>"]
    with pytest.raises(ValueError, match="between 3 and 11"):
        tokenizer(["a"], max_length=12)


def test_its_tokens_go_with_a_model_that_is_made_of_it(folder, tmp_path):
    from lora_np.datasets.tokenizers import copy_tokenizer

    lnp.save_model(lnp.decompress_model(lnp.load_pretrained("e5")), tmp_path / "new")
    copy_tokenizer("e5", tmp_path / "new")
    texts = ["好店", "a \ufb01 X", "  ab"]
    ours, theirs = (lnp.load_tokenizer(source)(texts) for source in ("e5", tmp_path / "new"))
    assert [row.tolist() for row in ours] == [row.tolist() for row in theirs]


def test_the_map_of_characters_reads_as_the_library_says_it_is():
    """Every character by itself: those in the map become what stands there, all others stay."""
    from tokenizers import normalizers

    rng = np.random.default_rng(5)
    points = {int(p) for p in rng.integers(1, 0x110000, 300) if not 0xD800 <= p < 0xE000} | {*range(1, 200, 7)}
    known = {p: "".join(map(chr, rng.integers(32, 0x3000, int(rng.integers(0, 4))))) for p in sorted(points)}
    packed = e5s1.Packed(Path("x"), {}, {}, None, None, b"", known, {})
    read_by = normalizers.Precompiled(e5s1.charsmap(packed)).normalize_str
    for point in known:
        assert read_by(chr(point)) == known[point], hex(point)
        for near in (point - 1, point + 1, point ^ 64):
            if near not in known and e5s1.is_character(near):
                assert read_by(chr(near)) == chr(near), hex(near)
    with pytest.raises(ValueError, match="more than a tokenizer takes"):
        many = filter(e5s1.is_character, range(1, 0x110000, 60))
        e5s1.charsmap(packed._replace(normal=dict.fromkeys(many, "")))


def replaced(name, **changes):
    kind, numbers, body = GIVEN[name]
    row = {"kind": kind, "numbers": numbers, "body": body, **changes}
    return replace(WHOLE, tensors={**GIVEN, name: tuple(row.values())})


def without(name):
    return replace(WHOLE, tensors={key: row for key, row in GIVEN.items() if key != name})


NAN = np.float32("nan").tobytes() * 64
INFINITE = GIVEN["l1.k.w"][2][:18] + np.float16("inf").tobytes() + GIVEN["l1.k.w"][2][20:]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (replace(WHOLE, magic=b"E5S2"), "does not begin with E5S1"),
        (replace(WHOLE, magic=b"GGUF"), "does not begin with E5S1"),
        (replace(WHOLE, version=2), "version 2 in blocks of 32"),
        (replace(WHOLE, block=64), "version 1 in blocks of 64"),
        (replace(WHOLE, sizes=(64, 0, *SIZES[2:])), "num_hidden_layers = 0"),
        (replace(WHOLE, sizes=(64, 2, -4, *SIZES[3:])), "num_attention_heads = -4"),
        (replace(WHOLE, sizes=(48, *SIZES[1:])), "rows of 48 and 96 numbers"),
        (replace(WHOLE, sizes=(64, 2, 5, *SIZES[3:])), "64 cannot be split into 5"),
        (replace(WHOLE, sizes=(64, 3, *SIZES[2:])), "the tensor l2.q.w is missing"),
        (replace(WHOLE, sizes=(64, 1, *SIZES[2:])), "'l1.q.w' stands twice, or is not of such a model"),
        (replace(WHOLE, sizes=(*SIZES[:4], 20, *SIZES[5:])), r"emb.word is not of shape \(20, 64\)"),
        (replace(WHOLE, sizes=(*SIZES[:4], 16, *SIZES[5:])), "17 pieces.*do not fit 16 tokens"),
        (replace(WHOLE, eps=float("nan")), "layer_norm_eps"),
        (replace(WHOLE, special=(0, 2, 1, 17)), "do not fit"),
        (replace(WHOLE, special=(0, 0, 1, 3)), "do not fit"),
        (replace(WHOLE, special=(0, 2, -1, 3)), "do not fit"),
        (replace(WHOLE, scores=[*WHOLE.scores[:-1], float("inf")]), "scores that are no numbers"),
        (replace(WHOLE, words=[*WHOLE.words[:-1], b""]), "do not lie end to end"),
        (replace(WHOLE, first=1), "do not lie end to end"),
        (replace(WHOLE, more=5), "7 normalisations do not take the 72 bytes that are said"),
        (replace(WHOLE, normal=[*WHOLE.normal, (5, [32])]), "0x5 holds no character or stands twice"),
        (replace(WHOLE, normal=[(0xD800, [32])]), "0xd800 holds no character"),
        (replace(WHOLE, normal=[(9, [0x110000])]), "0x9 holds no character"),
        (replace(WHOLE, normal=[(0, [32])]), "0x0 holds no character"),
        (replace(WHOLE, normal=[(9, [97, 0])]), "0x9 holds no character"),
        (without("l1.oln.b"), "the tensor l1.oln.b is missing"),
        (replace(WHOLE, tensors={**GIVEN, "cls.w": GIVEN["l0.q.b"]}), "'cls.w' stands twice, or is not"),
        (replaced("l0.q.w", kind=0), "l0.q.w is not of shape"),
        (replaced("l0.q.b", kind=1), "l0.q.b is not of shape"),
        (replaced("l0.fo.w", numbers=64 * 64), "l0.fo.w is not of shape"),
        (replaced("emb.type", body=GIVEN["emb.type"][2][4:]), "emb.type is not of shape"),
        (replaced("l1.aln.b", body=NAN), "l1.aln.b holds numbers that are not finite"),
        (replaced("l1.k.w", body=INFINITE), "l1.k.w holds numbers that are not finite"),
        (replace(WHOLE, align=4096), "begins at .* where about"),
        (replace(WHOLE, end=b"\0"), "its tensors end at"),
    ],
)
def test_what_is_damaged_is_refused_in_a_sentence(file, words, folder):
    (folder / e5s1.FILE).write_bytes(file.bytes())
    with pytest.raises(ValueError, match=words) as caught:
        lnp.load_pretrained("e5")
    assert str(folder / e5s1.FILE) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [[*WHOLE.words[:-1], b"\xff"], [*WHOLE.words[:-1], b"ab"]])
def test_pieces_that_are_no_words_are_refused_by_the_tokenizer(words, folder):
    (folder / e5s1.FILE).write_bytes(replace(WHOLE, words=words).bytes())
    with pytest.raises(ValueError, match="not UTF-8|holds a piece twice"):
        lnp.load_tokenizer("e5")


def test_a_file_cut_anywhere_is_refused(folder):
    path, whole = folder / e5s1.FILE, WHOLE.bytes()
    start = len(whole) - sum(len(body) for *_, body in GIVEN.values())
    rng = np.random.default_rng(6)
    for length in (0, 3, *range(4, start, 23), *rng.integers(start, len(whole), 12), len(whole) - 1):
        path.write_bytes(whole[: int(length)])
        with pytest.raises(ValueError, match="is no E5S1 file, or damaged: .*fetch it again") as caught:
            e5s1.read_packed(path)
        assert str(path) in str(caught.value)


def test_any_changed_byte_of_the_head_is_refused_or_read(folder):
    """Nothing but a ValueError comes of it, and no more memory is taken than the file could fill."""
    path, whole = folder / e5s1.FILE, bytearray(WHOLE.bytes())
    start = len(whole) - sum(len(body) for *_, body in GIVEN.values())
    rng, refused = np.random.default_rng(7), 0
    for place in range(0, start, 9):
        old, whole[place] = whole[place], int(rng.integers(256))
        path.write_bytes(whole)
        try:
            e5s1.packed_tokenizer(e5s1.load_packed(path) and e5s1.read_packed(path))
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
            refused += 1
        whole[place] = old
    assert refused > start / 9 / 3


@pytest.mark.thorough  # three runs
def test_commands_and_what_a_run_leaves(folder, tmp_path, monkeypatch, capsys):
    """A head alone is saved as a plain folder with the tokens; an adapter merges into one."""
    from lora_np.cli.commands import main

    monkeypatch.chdir(tmp_path)
    words = [("ab", "no"), ("好店", "yes")]
    rows = [f"{words[k % 2][0]}{'a' * (k // 2 % 5)}{'b' * (k // 10)}\t{words[k % 2][1]}" for k in range(60)]
    Path("own.tsv").write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    common = ["finetune", "--model", "e5", "--data", "own.tsv", "--max-length", "11", "--workers", "1", "--epochs", "1"]
    assert main([*common, "--method", "head", "--out", "head"]) == 0
    assert main(["predict", "--model", "head/model", "好店"]) == 0
    assert json.loads(Path("head/model/config.json").read_text())["vocab_size"] == SIZES[4]
    assert main([*common, "--out", "run"]) == 0
    assert main(["merge", "--adapter", "run/adapter", "--out", "merged"]) == 0
    assert main(["predict", "--model", "merged", "好店"]) == 0
    assert main(["info", "e5"]) == 0
    assert json.loads(Path("run/metrics.json").read_text())["bytes"]["model"] == len(WHOLE.bytes())
    capsys.readouterr()
    assert main([*common, "--method", "full", "--out", "full"]) == 2
    assert "compressed and never trained" in capsys.readouterr().err
