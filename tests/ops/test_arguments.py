"""What every operation refuses, and in which words: dtypes and shapes, all operations walked by their cases."""

import numpy as np
import pytest

from lora_np import ops
from lora_np.ops.cases import cases
from lora_np.ops.fit import number

NAMES = [case.name for case in cases(np.random.default_rng(0))]
REFUSED = ("int8", "uint8", "int32", "int64", "bool", "float16", "object")
KEPT = ("float32", "float64", "longdouble", "complex64", "complex128")


def case_of(name):
    return next(case for case in cases(np.random.default_rng(1)) if case.name == name)


def upstream(output):
    return np.ones_like(output) if np.ndim(output) else 1.0


def numbers_of(case):
    """Return the arguments that are arrays of numbers, the frozen ones and the masks among them."""
    given = {**case.inputs, **case.fixed}
    return [name for name, value in given.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]


@pytest.mark.parametrize("dtype", REFUSED)
@pytest.mark.parametrize("name", NAMES)
def test_other_numbers_are_refused_on_the_way_there_and_back(name, dtype):
    case = case_of(name)
    given = {**case.inputs, **case.fixed}
    for argument in numbers_of(case):
        with pytest.raises(ValueError, match=rf"{argument} is .*{dtype}; make it such an array"):
            case.forward(**{**given, argument: given[argument].astype(dtype)})
    output, cache = case.forward(**given)
    if np.ndim(output):
        with pytest.raises(ValueError, match=rf"d[yO] is .*{dtype}; make it such an array"):
            case.backward(upstream(output).astype(dtype), cache)


@pytest.mark.parametrize("dtype", KEPT)
@pytest.mark.parametrize("name", NAMES)
def test_floats_and_complex_numbers_are_kept(name, dtype):
    case = case_of(name)
    cast = {argument: {**case.inputs, **case.fixed}[argument].astype(dtype) for argument in numbers_of(case)}
    output, cache = case.forward(**{**case.fixed, **cast, **{k: v for k, v in case.inputs.items() if k not in cast}})
    grads = case.backward(upstream(output), cache)
    for array in (output, *(grads if isinstance(grads, tuple) else (grads,))):
        assert array.dtype == dtype


def test_erf_keeps_to_the_same_rule():
    for dtype in REFUSED:
        with pytest.raises(ValueError, match="erf computes with"):
            ops.erf(np.ones(3).astype(dtype))
    assert [ops.erf(np.ones(3, dtype)).dtype for dtype in KEPT] == [np.dtype(dtype) for dtype in KEPT]


def others(array):
    """Return arrays of other shapes, those first that NumPy would stretch to fit."""
    yield from (
        array[tuple(slice(1) if axis == k else slice(None) for axis in range(array.ndim))] for k in range(array.ndim)
    )
    yield array[:1][(0,) * array.ndim]  # a scalar
    yield array[0]
    yield array[None]
    yield np.concatenate([array, array])


@pytest.mark.parametrize("name", NAMES)
def test_an_upstream_gradient_of_another_shape_is_refused(name):
    case = case_of(name)
    output, cache = case.forward(**case.inputs, **case.fixed)
    wrong = others(upstream(output)) if np.ndim(output) else [np.ones(6), np.ones((6, 1)), np.ones(1), "1", True, None]
    for doutput in wrong:
        if np.ndim(output) == 0:
            with pytest.raises(ValueError, match="dloss must be one real number"):
                case.backward(doutput, cache)
            continue
        doutput = np.asarray(doutput)
        if name.startswith("pool") and doutput.shape == (len(output), 1):
            continue  # the width is not in the cache; dx has it, and nothing is stretched
        with pytest.raises(ValueError, match=r"_backward needs d[yO] .* equal letters are equal sizes"):
            case.backward(doutput, cache)


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_of_another_shape_is_refused(name):
    """Unless it is its own, such as other rows of x, and then the output has it; nothing is stretched to fit."""
    case = case_of(name)
    given = {**case.inputs, **case.fixed}
    arguments = [argument for argument in numbers_of(case) if given[argument].ndim]
    for argument in arguments if len(arguments) > 1 else ():
        for wrong in others(given[argument]):
            try:
                changed = case.forward(**{**given, argument: np.asarray(wrong)})[0]
            except ValueError as error:
                assert " needs " in str(error) or "visible must" in str(error), error
            else:
                assert np.shape(changed) != np.shape(case.forward(**given)[0])


def test_a_table_of_one_axis_and_ids_of_two_are_refused():
    with pytest.raises(ValueError, match=r"embedding needs table \(V, d\), but it was given table \(3,\)"):
        ops.embedding_forward(np.ones(3), np.array([0, 1]))
    for ids in (np.array([[0, 1]]), np.array(1), [0, 1], np.array([True])):
        with pytest.raises(ValueError, match="ids must be an array"):
            ops.embedding_forward(np.ones((3, 2)), ids)


def test_lists_are_named():
    with pytest.raises(ValueError, match="x is of type list"):
        ops.linear_forward([[1.0]], np.ones((1, 1)))


@pytest.mark.parametrize("forward", [ops.pool_mean_forward, ops.pool_first_forward, ops.pool_last_forward])
@pytest.mark.parametrize(
    ("groups", "received"),
    [
        (((0, 4, 2, 2),), "cover 4 rows, but there are 10"),
        (((0, 4, 2, 2), (4, 12, 2, 4)), "cover 12 rows"),
        (((0, 4, 2, 2), (5, 10, 1, 5)), r"start at row 4 is \(5, 10, 1, 5\)"),
        (((0, 4, 2, 3), (4, 10, 2, 3)), r"\(0, 4, 2, 3\)"),
        (((0, 0, 0, 2), (0, 10, 2, 5)), r"\(0, 0, 0, 2\)"),
        ((), "cover 0 rows"),
    ],
)
def test_groups_that_do_not_cover_the_rows_are_refused(forward, groups, received):
    with pytest.raises(ValueError, match=received):
        forward(np.ones((10, 3)), groups)


@pytest.mark.parametrize("eps", [-1e-5, 0.0, np.nan, np.inf, 1e-60, "1e-5", True, None, np.ones(2)])
def test_an_epsilon_that_is_no_positive_number_is_refused(eps):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="eps must be"):
        ops.layer_norm_forward(x, x[0], x[0], eps)


@pytest.mark.parametrize("scale", [np.ones(3), np.ones((5, 1)), "2", None, True, 1j])
def test_a_scale_that_is_no_number_is_refused(scale):
    case = case_of("lora_linear")
    with pytest.raises(ValueError, match="scale must be one real number"):
        case.forward(**case.inputs, **{**case.fixed, "scale": scale})


def test_numpy_numbers_widen_nothing():
    single = {case.name: case for case in cases(np.random.default_rng(1), np.float32)}
    lora, norm, entropy = single["lora_linear"], single["layer_norm"], single["cross_entropy, smoothed"]
    y, cache = lora.forward(**lora.inputs, **{**lora.fixed, "scale": np.float64(1.7)})
    assert y.dtype == lora.backward(np.ones_like(y), cache)[1].dtype == np.float32
    assert ops.layer_norm_forward(**norm.inputs, eps=np.float64(1e-5))[0].dtype == np.float32
    loss, cache = entropy.forward(**entropy.inputs, **{**entropy.fixed, "label_smoothing": np.float64(0.2)})
    assert loss.dtype == ops.cross_entropy_backward(np.float64(1.0), cache).dtype == np.float32
    assert number("x", np.array(2)) == 2.0


@pytest.mark.parametrize("p", [True, np.nan, -0.1, 1.0, "0.1", None, np.array([0.1])])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match="the dropout probability must"):
        ops.dropout_mask((2, 2), p, np.random.default_rng(0), float)


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("rng", [0, np.random, "seed"])
def test_what_is_no_generator_is_refused_even_where_none_is_needed(p, rng):
    with pytest.raises(ValueError, match=r"rng must be a generator, numpy\.random\.default_rng\(seed\)"):
        ops.dropout_mask((2, 2), p, rng, float)


@pytest.mark.parametrize("size", [0, -2, 2.0, True, "2", None])
def test_sizes_of_patches_are_whole(size):
    with pytest.raises(ValueError, match=f"patches of {size}"):
        ops.patches_forward(np.ones((1, 4, 4, 1)), size)


@pytest.mark.parametrize(
    ("visible", "received"),
    [
        (np.ones((3, 4), bool), r"\(3, 4\) bool"),
        (np.ones((1, 2, 3, 4, 4), bool), r"\(1, 2, 3, 4, 4\)"),
        ([[True]], "list"),
        (np.ones((4, 0), bool), r"\(4, 0\)"),
    ],
)
def test_visible_has_to_broadcast_to_the_scores(visible, received):
    case = case_of("attention")
    with pytest.raises(ValueError, match=rf"broadcasts to \(2, 3, 4, 4\), but it is .*{received}"):
        ops.attention_forward(**case.inputs, visible=visible)


def test_a_query_without_any_key_is_refused():
    with pytest.raises(ValueError, match="hides every key|no key"):
        ops.attention_forward(np.ones((1, 1, 2, 3)), np.ones((1, 1, 0, 3)), np.ones((1, 1, 0, 3)))


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, 2, np.nan, "0.1", True, np.ones(2)])
def test_a_smoothing_without_meaning_is_refused(label_smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        ops.cross_entropy_forward(np.ones((2, 3)), [0, 1], label_smoothing=label_smoothing)
