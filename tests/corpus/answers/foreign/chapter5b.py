import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

# lora_init(d_in, d_out, r, rng, dtype)


@wrong_answer("lora_init", cause="dtype")
def init_dtype_of_b_only(d_in, d_out, r, rng, dtype):
    "A stays float64."
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="dtype")
def init_dtype_of_a_only(d_in, d_out, r, rng, dtype):
    "B stays float64."
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out))


@wrong_answer("lora_init", cause="dtype")
def init_always_float32(d_in, d_out, r, rng, dtype):
    "float32, whatever was asked for."
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)).astype(np.float32), np.zeros((r, d_out), np.float32)


@wrong_answer("lora_init", cause="constant_factor")
def init_bound_of_the_rank(d_in, d_out, r, rng, dtype):
    "The bound is one over the root of r."
    bound = 1 / math.sqrt(r)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="constant_factor")
def init_bound_of_the_outputs(d_in, d_out, r, rng, dtype):
    "The bound is that of d_out: the same for a square W."
    bound = 1 / math.sqrt(d_out)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="constant_factor")
def init_bound_without_root(d_in, d_out, r, rng, dtype):
    "The bound is 1 / d_in."
    return rng.uniform(-1 / d_in, 1 / d_in, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause=None)
def init_normal(d_in, d_out, r, rng, dtype):
    "A normal distribution, as in the paper."
    return (rng.standard_normal((d_in, r)) / math.sqrt(d_in)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="sign")
def init_positive_only(d_in, d_out, r, rng, dtype):
    "Uniform between 0 and the bound."
    return (rng.random((d_in, r)) / math.sqrt(d_in)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="swapped")
def init_zero_a(d_in, d_out, r, rng, dtype):
    "A is zero, and B random."
    bound = 1 / math.sqrt(d_in)
    return np.zeros((d_in, r), dtype), rng.uniform(-bound, bound, (r, d_out)).astype(dtype)


@wrong_answer("lora_init", cause=None)
def init_both_random(d_in, d_out, r, rng, dtype):
    "B is random as well."
    bound = 1 / math.sqrt(d_in)
    return tuple(rng.uniform(-bound, bound, shape).astype(dtype) for shape in ((d_in, r), (r, d_out)))


@wrong_answer("lora_init", cause="nondeterministic")
def init_other_generator(d_in, d_out, r, rng, dtype):
    "Draws from NumPy's global generator, not from rng."
    bound = 1 / math.sqrt(d_in)
    return np.random.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause=None)
def init_fixed_seed(d_in, d_out, r, rng, dtype):
    "Makes a generator of its own: all layers of a size get the same A."
    bound = 1 / math.sqrt(d_in)
    A = np.random.default_rng(0).uniform(-bound, bound, (d_in, r))
    return A.astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="transpose", also=("shape",))
def init_as_peft_stores_it(d_in, d_out, r, rng, dtype):
    "The shapes are PEFT's, (r, d_in) and (d_out, r)."
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (r, d_in)).astype(dtype), np.zeros((d_out, r), dtype)


@wrong_answer("lora_init", cause=None)
def init_one_column_repeated(d_in, d_out, r, rng, dtype):
    "All columns of A are the same: of rank one for each r."
    bound = 1 / math.sqrt(d_in)
    return np.tile(rng.uniform(-bound, bound, (d_in, 1)), (1, r)).astype(dtype), np.zeros((r, d_out), dtype)


@right_answer("lora_init")
def init_by_random(d_in, d_out, r, rng, dtype):
    "Stretches numbers between 0 and 1."
    A = (2 * rng.random((d_in, r)) - 1) * d_in**-0.5
    return A.astype(dtype), np.zeros(shape=(r, d_out), dtype=dtype)


@right_answer("lora_init")
def init_entry_by_entry(d_in, d_out, r, rng, dtype):
    "A nested comprehension, one draw an entry."
    bound = 1 / np.sqrt(d_in)
    A = [[rng.uniform(-bound, bound) for _ in range(r)] for _ in range(d_in)]
    return np.array(A, dtype=dtype), np.full((r, d_out), 0, dtype=dtype)


@right_answer("lora_init")
def init_into_empty_arrays(d_in, d_out, r, rng, dtype):
    "Fills empty arrays; the high end first, and keywords."
    A, B = np.empty((d_in, r), dtype), np.empty((r, d_out), dtype)
    A[...] = rng.uniform(size=(d_in, r), high=1 / math.sqrt(d_in), low=-1 / math.sqrt(d_in))
    B.fill(0)
    return A, B


@right_answer("lora_init")
def init_drawn_turned(d_in, d_out, r, rng, dtype):
    "Draws (r, d_in), as PEFT stores A, and turns it: other numbers, the same distribution."
    bound = math.pow(d_in, -0.5)
    A = rng.uniform(-bound, bound, size=(r, d_in)).T
    return np.ascontiguousarray(A, dtype=dtype), np.zeros((d_out, r), dtype).T
