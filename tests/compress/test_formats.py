"""Compressed matrices: each number within the bound of its format, products those of the dense matrix, nothing written.

Codes and scales were compared once with gguf-py 0.19 (Q4_0, Q4_1, Q8_0: every byte the same, and every decoded number)
and bitsandbytes 0.50.2 on a CPU (NF4: every code and level the same, of 4,608 scales one, which lies nearer to ours;
int8: 19 of 294,912 codes a step apart, its matrix being in float16).
"""

import dataclasses
from statistics import NormalDist

import numpy as np
import pytest

from lora_np.compress import FORMATS, NF4, Q4_0, Q4_1, Q8_0, FrozenMatrix, Int8, LowRank, Pruned, matrix
from lora_np.compress.nf4 import LEVELS, VALUES
from lora_np.gradcheck import check
from lora_np.ops import embedding_forward, linear_forward, lora_linear_backward, lora_linear_forward

OPTIONS = {"low_rank": {"r": 5}, "pruned": {"density": 0.4}}
ALL = pytest.mark.parametrize("form", FORMATS)
R, C = 70, 101  # no whole number of blocks, nor of bytes of a mask


def weights(shape=(R, C), dtype=np.float32, seed=0):
    """Return numbers of many sizes, with rows and blocks of zeros and single large ones among them."""
    rng = np.random.default_rng(seed)
    M = rng.standard_normal(shape) * rng.uniform(0.01, 3, (shape[0], 1))
    M[0, 0], M[1, :64], M[2], M[3] = 40.0, 0, 0, -np.abs(M[3])
    return M.astype(dtype)


def made(form, M):
    return FORMATS[form].of(M, **OPTIONS.get(form, {}))


def distance(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# ---- what is lost


def per_block(M, size, function):
    """Return for each number what a function says of its block."""
    blocks = matrix.in_blocks(M.astype(np.float64), size)
    found = np.broadcast_to(function(blocks)[..., None], blocks.shape)
    return found.reshape(len(M), -1)[:, : M.shape[1]]


HALF = 2.0**-11  # of its size: how far a number is rounded to float16


def bound(form, M):
    """Return how far each number may be from the original, by the format's own arithmetic."""
    size = per_block(M, 32, lambda w: np.abs(w).max(axis=-1))
    if form == "int8":
        return np.abs(M).max(axis=1, keepdims=True) / 127 / 2
    if form == "q8_0":
        return size / 127 / 2 + size * HALF
    if form == "q4_0":  # -8 to 7 steps: 8 are cut to 7
        sign = per_block(M, 32, lambda w: np.take_along_axis(w, np.abs(w).argmax(axis=-1)[..., None], -1)[..., 0])
        steps = np.where(np.abs(M / np.where(sign, sign / -8, 1)) > 7.5 - 1e-6, 1.0, 0.5)
        return steps * size / 8 + size * HALF
    if form == "q4_1":
        reach = per_block(M, 32, lambda w: w.max(axis=-1) - w.min(axis=-1))
        return reach / 15 / 2 + reach * HALF + size * HALF
    a = per_block(M, 64, lambda w: np.abs(w).max(axis=-1))
    of_scale = np.diff(VALUES.astype(np.float64)).max() / 2 * np.abs(a - a.mean()).max() * 1.5  # the mean is of blocks
    return a * np.diff(LEVELS.astype(np.float64)).max() / 2 + of_scale


@pytest.mark.parametrize("form", ["int8", "nf4", "q4_0", "q4_1", "q8_0"])
def test_no_number_is_further_away_than_the_format_says(form):
    for seed in range(5):
        M = weights(seed=seed)
        error, limit = np.abs(made(form, M).dense() - M.astype(np.float64)), bound(form, M)
        assert (error <= limit * (1 + 1e-5) + 2.0**-22).all(), (error / np.where(limit, limit, 1)).max()
        used = (error / np.where(limit, limit, np.inf)).max()
        assert used > (0.9 if form != "nf4" else 0.5), f"the bound is too wide to say anything: {used}"


def test_pruned_keeps_the_largest_as_they_are():
    M = weights()
    M[10, :40] = 0.25  # as large as one another
    W = Pruned.of(M, density=0.4)
    D = W.dense()
    kept = D != 0
    assert W.kept.size == round(0.4 * M.size) and np.array_equal(D[kept], M[kept])
    assert np.abs(M[kept]).min() >= np.abs(M[~kept]).max()
    assert W.nbytes == R * -(-C // 8) + 8 * R + 4 * W.kept.size
    assert np.array_equal(Pruned.of(M, density=1.0).dense(), M)
    alike = np.where(np.arange(200) % 3, 0.5, -0.5).reshape(10, 20)
    assert np.array_equal(Pruned.of(alike, density=0.3).dense() != 0, np.arange(200).reshape(10, 20) < 60)


def test_low_rank_is_the_nearest():
    M = weights().astype(np.float64)
    W, s = LowRank.of(M, 5), np.linalg.svd(M, compute_uv=False)
    assert abs(np.linalg.norm(W.dense() - M) - np.sqrt((s[5:] ** 2).sum())) < 1e-10
    assert W.nbytes == 8 * 5 * (R + C)


def test_bytes():
    M = weights((64, 128))
    assert Int8.of(M).nbytes == 64 * 128 + 4 * 64
    assert NF4.of(M).nbytes == 64 * 128 // 2 + 128 + 4 * 1 + 4  # a byte a block, a float for 256 of them, the mean
    assert [F.of(M).nbytes * 8 / M.size for F in (Q4_0, Q4_1, Q8_0)] == [4.5, 5, 8.5]
    assert all(made(form, M).size == M.size for form in FORMATS)


# ---- what is computed


@ALL
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("band", [1, 4 * C * 9, 2**20])  # a row at a time, nine, and all
def test_products_are_those_of_the_dense_matrix(form, dtype, band, monkeypatch):
    monkeypatch.setattr(matrix, "BAND_BYTES", band)
    real = np.float32 if dtype == np.float32 else np.float64
    M, rng = made(form, weights()).astype(real), np.random.default_rng(1)
    for W, D in ((M, M.dense()), (M.T, M.dense().T), (M.T.T, M.dense())):
        assert W.shape == D.shape and len(W) == len(D) and W.ndim == 2 and W.dtype == real and W.size == D.size
        assert np.array_equal(W.dense(), D) and W.dense().flags.c_contiguous
        for rows in (1, 6):
            x = rng.standard_normal((rows, W.shape[0])).astype(dtype)
            x = x * (1 + 1j) if dtype == np.complex128 else x
            y = x @ W
            assert y.dtype == dtype and distance(y, x @ D) < (1e-5 if dtype == np.float32 else 1e-12)
        assert (rng.standard_normal((2, 3, W.shape[0])) @ W).shape == (2, 3, W.shape[1])
        ids = np.array([3, 3, len(D) - 1, 0])
        for given in (ids, slice(2, 9), ids[:0]):
            assert W.rows(given).dtype == real and W.rows(given).shape == D[given].shape
            assert np.allclose(W.rows(given), D[given], rtol=1e-5, atol=1e-5)  # of low rank: sums in another order
        assert np.array_equal(W + D, D + D) and np.array_equal(D + W, D + D) and np.array_equal(2 * W, W * 2.0)
        assert np.array_equal(np.asarray(W), D) and np.asarray(W, np.float64).dtype == np.float64
    with pytest.raises(
        ValueError, match=r"x \(..., d_in\) and W \(d_in, d_out\), but they are \(2, 5\) and \(70, 101\)"
    ):
        np.ones((2, 5)) @ M


@ALL
def test_another_dtype_has_the_same_numbers_and_holds_the_same_memory(form):
    W = made(form, weights())
    wide = W.astype(np.float64)
    assert wide.dense().dtype == np.float64 and wide.nbytes == W.nbytes
    if form != "low_rank":  # whose product is rounded in float32
        assert np.array_equal(wide.dense(), W.dense())
    assert all(np.shares_memory(a, b) for a, b in zip(W.parts().values(), wide.astype(np.float32).T.parts().values()))
    twin = made(form, weights(dtype=np.float32).astype(np.float64))
    if form not in ("low_rank", "pruned"):  # those hold the numbers of the original
        assert twin.dtype == np.float64 and np.array_equal(twin.dense(), wide.dense())


@ALL
def test_nothing_can_be_written(form):
    W = made(form, weights())
    for array in W.parts().values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError):
        W[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        W.dtype = np.float64
    with pytest.raises(TypeError):
        np.add(W.dense(), W)  # NumPy's functions do not compute on an array of objects in its place
    before = W.dense()
    before[:] = 0  # the caller's own
    assert W.dense().any()


def test_memory_that_others_can_write_is_copied():
    M = weights((4, 64))
    data = bytearray(Q8_0.of(M).blocks.tobytes())
    W = Q8_0.from_bytes(data, (4, 64))
    data[:] = bytes(len(data))
    assert W.dense().any()
    fixed = Q8_0.of(M).blocks.tobytes()
    assert np.shares_memory(Q8_0.from_bytes(fixed, (4, 64)).blocks, np.frombuffer(fixed, np.uint8))


@ALL
def test_operations_take_it_and_lora_over_it_has_the_right_gradients(form):
    W, rng = made(form, weights()).astype(np.float64), np.random.default_rng(2)
    given = {"x": rng.standard_normal((4, R)), "A": rng.standard_normal((R, 3)), "B": rng.standard_normal((3, C))}
    fixed = {"W": W, "b": rng.standard_normal(C), "scale": 0.7}
    report = check(lora_linear_forward, lora_linear_backward, given, fixed)
    assert report.ok, report
    ids = np.array([5, 1, 5])
    assert np.array_equal(embedding_forward(W, ids)[0], W.rows(ids))
    with pytest.raises(ValueError, match=r"x \(4, 70\) float64, W \(101, 70\) float64"):
        linear_forward(given["x"], W.T)


# ---- levels, layouts, codes


def test_the_levels_of_nf4():
    """By the paper's words: 16 quantiles of N(0, 1), 8 for the part above zero and 7 below, and zero itself."""
    Q, last = NormalDist().inv_cdf, 1 - (1 / 32 + 1 / 30) / 2
    above = [Q(0.5 + (last - 0.5) * k / 8) for k in range(9)]
    below = [-Q(0.5 + (last - 0.5) * k / 7) for k in range(1, 8)]
    expected = np.array(sorted(below + above)) / Q(last)
    assert np.abs(LEVELS - expected).max() < 3e-7 and LEVELS[7] == 0 and LEVELS[0] == -1 and LEVELS[15] == 1
    # The table that QLoRA's own code and its files have, as published.
    assert LEVELS[[1, 6, 8, 14]].tolist() == [
        -0.6961928009986877,
        -0.09105003625154495,
        0.07958029955625534,
        0.7229568362236023,
    ]


def test_the_values_of_scales():
    assert len(VALUES) == len(set(VALUES)) == 256 and (np.diff(VALUES) > 0).all() and VALUES[-1] == 1 and 0 in VALUES
    positive = np.split(VALUES[VALUES > 0], np.cumsum(2 ** np.arange(7)))  # 1, 2, 4, ... 64 of them, and 1
    for decade, inside in enumerate(positive[:-1]):
        steps = np.diff(inside, prepend=np.float32(0.1 * 10.0 ** (decade - 6))) / 10.0 ** (decade - 6)
        assert np.allclose(steps[1:], 0.9 / 2**decade, rtol=1e-3) and np.isclose(steps[0], 0.45 / 2**decade, rtol=1e-3)


def test_a_block_of_nf4_by_hand():
    """Codes are those of the nearest level, two a byte, the first in the upper half."""
    M = np.zeros((1, 64), np.float32)
    M[0, :6] = [2.0, -2.0, 0.16, 0.8, -0.19, 1.2]  # over 2: 1, -1, 0.08, 0.4, -0.095, 0.6
    W = NF4.of(M)
    assert W.codes[0, 0, :4].tolist() == [0xF0, 0x8C, 0x6D, 0x77]
    assert np.allclose(W.dense()[0, :6], 2 * LEVELS[[15, 0, 8, 12, 6, 13]]) and W.mean[0] == 2 and not W.outer.any()


def test_scales_are_quantised_in_blocks_of_256_that_run_over_rows():
    M = weights((40, 640))  # 10 blocks a row, 400 in all
    W = NF4.of(M)
    a = np.abs(M.reshape(-1, 64)).max(axis=1).astype(np.float64)
    rest = a - a.mean()
    assert W.outer.shape == (2,) and np.allclose(W.outer, [np.abs(rest[:256]).max(), np.abs(rest[256:]).max()])
    size = np.repeat(W.outer, 256)[:400].astype(np.float64)
    codes = np.abs(rest[:, None] / size[:, None] - VALUES).argmin(axis=1)
    assert np.array_equal(codes, W.scales.ravel())
    expected = (VALUES[codes] * size + a.mean())[:, None] * LEVELS[nearest_levels(M.reshape(-1, 64), a)]
    assert np.allclose(W.dense(), expected.reshape(M.shape), rtol=1e-5, atol=1e-7)
    assert np.array_equal(W.rows(np.array([39, 25, 0])), W.dense()[[39, 25, 0]])  # of both outer blocks


def nearest_levels(w, a):
    unit = w / np.where(a, a, 1)[:, None]
    return np.abs(unit[..., None] - LEVELS).argmin(axis=-1)


HALF_ONE, HALF_TWO = b"\x00\x3c", b"\x00\x40"  # 1 and 2 in float16


def test_blocks_of_ggml_made_by_hand():
    """Byte k holds number k in its lower half and number k + 16 in its upper half; the scale stands in front."""
    low, high = np.arange(16), np.arange(16)[::-1]
    packed = bytes((low | high << 4).tolist())
    codes = np.concatenate([low, high])
    for kind, data, numbers in (
        (Q4_0, HALF_TWO + packed, 2 * (codes - 8)),
        (Q4_1, HALF_TWO + HALF_ONE + packed, 2 * codes + 1),
        (Q8_0, HALF_TWO + bytes(range(112, 144)), 2 * np.arange(112, 144).astype(np.uint8).view(np.int8).astype(int)),
    ):
        W = kind.from_bytes(data * 6, (3, 64))
        assert kind.BLOCK.itemsize == len(data) and W.dense().dtype == np.float32
        assert np.array_equal(W.dense(), np.tile(numbers, (3, 2)))
        with pytest.raises(ValueError, match=rf"takes 3 x 2 blocks of {len(data)} bytes, {6 * len(data)} in all"):
            kind.from_bytes(data, (3, 64))


def test_codes_of_ggml_by_hand():
    w = np.zeros((1, 32), np.float32)
    w[0, [0, 1, 16, 17, 31]] = [-8.0, 8.0, 3.4, -3.6, 0.0]
    assert Q4_0.of(w).blocks.tobytes() == HALF_ONE + bytes([0xB0, 0x4F] + [0x88] * 14)  # 8 is cut to 7 steps
    assert Q4_0.of(-w).blocks.tobytes() == b"\x00\xbc" + bytes([0xB0, 0x4F] + [0x88] * 14)  # the other end: d = -1
    w[0, :] = 1.0
    w[0, [0, 16]] = [31.0, 10.0]  # d = 2, m = 1
    assert Q4_1.of(w).blocks.tobytes() == HALF_TWO + HALF_ONE + bytes([0x5F] + [0x00] * 15)
    w[0, :] = 0
    w[0, :4] = [127.0, 2.5, -2.5, 0.49]  # halves go away from zero
    assert Q8_0.of(w).blocks.tobytes() == HALF_ONE + bytes([127, 3, 253, 0] + [0] * 28)


# ---- what is refused


@ALL
def test_what_is_no_matrix_of_finite_floats(form):
    for given, words in (
        (np.ones(4, np.float32), r"was given an array \(4,\) float32"),
        (np.ones((2, 3), int), r"was given an array \(2, 3\) int64"),
        ([[1.0]], "was given an array of type list"),
        (np.array([[1.0, np.nan]], np.float32), "holds NaN, infinity"),
        (np.array([[1.0, 1e300]]), "holds NaN, infinity or larger ones"),
    ):
        with pytest.raises(ValueError, match=words):
            made(form, given)


def test_options_and_scales_out_of_range():
    with pytest.raises(ValueError, match="density is the share of numbers that are kept, above 0 and up to 1, not 0"):
        Pruned.of(weights(), density=0)
    with pytest.raises(ValueError, match="ranks from 1 to its smaller side"):
        LowRank.of(weights(), 71)
    with pytest.raises(ValueError, match="a scale of Q4_1 is float16, which ends at 65,504"):
        Q4_1.of(np.full((2, 32), 1e6, np.float32))


@ALL
def test_it_says_what_it_is(form):
    W = made(form, weights())
    assert isinstance(W, FrozenMatrix) and repr(W.T) == f"{type(W).__name__}(101 x 70, float32, {W.nbytes:,} bytes)"
