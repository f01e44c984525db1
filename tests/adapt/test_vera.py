"""VeRA: its mathematics, what all nodes share, and its files; check_method does the rest."""

import json
import re

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import lora_np as lnp
from lora_np.adapt import vera
from lora_np.adapt.methods import adapted_nodes
from lora_np.adapt.vera import vera_linear_backward, vera_linear_forward
from lora_np.cli.commands import main
from lora_np.gradcheck import check
from lora_np.model.tree import with_arrays

MINILM = {**tiny.BERT, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
SHAPES = {"x": (6, 3), "lambda_d": (5,), "lambda_b": (4,), "W": (3, 4), "b": (4,), "A": (3, 5), "B": (5, 4)}


def draw(bias=True, dropout=True):
    """Return what is differentiated and what is fixed, off every special point."""
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    fixed = {name: given.pop(name) for name in ("W", "b", "A", "B")}
    fixed["mask"] = (rng.random((6, 3)) > 0.4) / 0.6 if dropout else None
    return given, {**fixed, "b": fixed["b"] if bias else None}


def adapted(name="bert", dtype=np.float32, seed=1, **options):
    """Return a tiny model with VeRA whose trained arrays are far from their start."""
    rng = np.random.default_rng(seed)
    model = lnp.inject(tiny.build(name, dtype), lnp.VeraConfig(**{"r": 7, **options}))
    live = lnp.parameters(model, trainable_only=True)
    return with_arrays(model, {k: rng.standard_normal(a.shape).astype(dtype) for k, a in live.items()})


# ---- the mathematics


@pytest.mark.parametrize(("bias", "dropout"), [(True, True), (False, True), (True, False)])
def test_the_backward_agrees_with_differences_and_complex_step(bias, dropout):
    given, fixed = draw(bias, dropout)
    report = check(vera_linear_forward, vera_linear_backward, given, fixed, np.random.default_rng(1))
    assert report.ok and {row.argument for row in report.rows} >= given.keys(), report


def test_the_gradients_are_two_diagonals_of_the_projected_full_gradient():
    given, fixed = draw()
    dy = np.random.default_rng(2).standard_normal((6, 4))
    _, cache = vera_linear_forward(**given, **fixed)
    _, dlambda_d, dlambda_b = vera_linear_backward(dy, cache)
    (_, lambda_d, lambda_b), (A, B) = given.values(), (fixed["A"], fixed["B"])
    G = (given["x"] * fixed["mask"]).T @ dy
    assert np.allclose(dlambda_d, np.diag(A.T @ G @ np.diag(lambda_b) @ B.T), rtol=1e-12)
    assert np.allclose(dlambda_b, np.diag(B.T @ np.diag(lambda_d) @ A.T @ G), rtol=1e-12)


def test_a_row_by_hand():
    x, W, b = np.array([[2.0, 3.0]]), np.array([[1.0], [10.0]]), np.array([100.0])
    A, B = np.array([[1.0, 0.0], [1.0, -1.0]]), np.array([[2.0], [1.0]])
    y, _ = vera_linear_forward(x, W, b, A, B, np.array([3.0, 5.0]), np.array([7.0]))
    assert y == 2 + 30 + 100 + (5 * 3 * 2 - 3 * 5 * 1) * 7


def test_what_is_not_needed_is_not_computed():
    given, fixed = draw()
    _, cache = vera_linear_forward(**given, **fixed)
    products = []

    class Counted(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            products.extend([ufunc.__name__] * (ufunc is np.matmul))
            return getattr(ufunc, method)(*(np.asarray(value) for value in inputs), **options)

    cache = cache._replace(**{name: fixed[name].view(Counted) for name in "WAB"})
    for needs, expected in (((), 0), (("lambda_b",), 0), (("lambda_d",), 1), (("x",), 3)):
        products.clear()
        found = vera_linear_backward(np.ones((6, 4)), cache, needs)
        assert len(products) == expected, needs
        assert [gradient is not None for gradient in found] == [n in needs for n in ("x", "lambda_d", "lambda_b")]


def test_what_does_not_fit_is_named():
    given, fixed = draw()
    with pytest.raises(ValueError, match=r"vera_linear needs x \(N, d_in\).*A \(5, 3\)"):
        vera_linear_forward(**given, **{**fixed, "A": fixed["A"].T})  # as PEFT's files have it
    with pytest.raises(ValueError, match=r"lambda_d \(4,\)"):
        vera_linear_forward(**{**given, "lambda_d": given["lambda_b"]}, **fixed)
    _, cache = vera_linear_forward(**given, **fixed)
    with pytest.raises(ValueError, match=r"vera_linear_backward needs dy \(N, d_out\).*\(6, 9\)"):
        vera_linear_backward(np.ones((6, 9)), cache)


# ---- what all nodes share


@pytest.mark.parametrize("name", ["bert", "gpt", "vit"])
def test_the_projections_are_as_large_as_the_largest_map_asks_for(name):
    model = adapted(name, target_modules="all-linear")
    nodes = adapted_nodes(model).values()
    assert len({node.W.shape for node in nodes}) > 2
    for node in nodes:
        assert node.A.shape == (max(other.W.shape[0] for other in nodes), 7)
        assert node.B.shape == (7, max(other.W.shape[1] for other in nodes))
        A, B = node.projections()
        assert (A.shape[0], B.shape[1]) == node.W.shape
        assert np.shares_memory(A, node.A) and np.shares_memory(B, node.B), "a node has a copy"
        assert np.array_equal(A, node.A[: len(A)]) and np.array_equal(B, node.B[:, : B.shape[1]])


def test_they_are_drawn_from_the_key_alone_within_the_bounds_of_peft():
    shapes = {"A": (300, 40), "B": (40, 200)}
    drawn = vera.draw_projections(shapes, lnp.VeraConfig(r=40), np.float64)
    for name, shape in shapes.items():
        bound = np.sqrt(6 / shape[0])
        assert drawn[name].shape == shape
        assert 0.999 * bound < np.abs(drawn[name]).max() <= bound and abs(drawn[name].mean()) < 0.02 * bound
        assert abs(drawn[name].std() - bound / np.sqrt(3)) < 0.02 * bound
    same = [lnp.inject(tiny.build("bert"), lnp.VeraConfig(r=3), rng) for rng in (None, np.random.default_rng(1))]
    other = lnp.inject(tiny.build("bert"), lnp.VeraConfig(r=3, projection_prng_key=-1))
    one, two, three = (model.layer[0].attention.query.A for model in (*same, other))
    assert np.array_equal(one, two) and not np.array_equal(one, three)


def test_r_may_exceed_the_maps_and_d_initial_is_where_lambda_d_starts():
    model = lnp.inject(tiny.build("bert"), lnp.VeraConfig(r=50, d_initial=-0.3))
    node = model.layer[1].attention.value
    assert node.W.shape == (12, 12) and np.array_equal(node.lambda_d, np.full(50, -0.3)) and not node.lambda_b.any()
    with pytest.raises(ValueError, match="d_initial = 0 beside lambda_b = 0 would never learn"):
        lnp.inject(tiny.build("bert"), lnp.VeraConfig(d_initial=0.0))


def test_the_counts_on_minilm():
    base = lnp.bert(MINILM, rng=np.random.default_rng(0))
    base = lnp.with_head(base, labels=2, pooling="mean", rng=np.random.default_rng(0))
    model = lnp.inject(base, lnp.VeraConfig(task_type="SEQ_CLS"))
    assert model.adapter.r == 256
    shared = 384 * 256 + 256 * 384
    assert lnp.count_parameters(model) == (lnp.count_parameters(base).total + 7_680 + shared, 8_450)


def test_a_step_of_training_does_not_write_into_what_is_shared():
    model = adapted("bert", np.float64)
    before = model.layer[0].attention.query.A.copy()
    with pytest.raises(ValueError, match="read-only"):
        model.layer[0].attention.query.A[0, 0] = 1.0
    output, cache = model.forward(tiny.batch("bert"))
    gradients = model.backward(output, cache)
    assert {name.rsplit(".", 1)[1] for name in gradients} == {"lambda_d", "lambda_b"}
    lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=0.1).step(gradients)
    assert np.array_equal(model.layer[1].attention.value.A, before)


# ---- files


def edit(folder, tensors=None, **settings):
    """Change a folder; its file then says no more of the settings beside it, as one of PEFT's."""
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    held = load_file(weights)
    save_file({k: v for k, v in {**held, **(tensors or {})}.items() if v is not None}, weights)


def test_a_file_holds_the_projections_once_under_the_names_of_peft(tmp_path):
    model = adapted("bert", target_modules="all-linear")
    lnp.save_adapter(model, tmp_path)
    found = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: array.shape for name, array in found.items() if "_lambda_" not in name} == {
        "base_model.vera_A": (7, 20),
        "base_model.vera_B": (20, 7),
    }
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["save_projection"] is True and settings["bias"] == "none" and settings["peft_type"] == "VERA"


@pytest.mark.parametrize("projections", [True, False], ids=["there all the same", "not there"])
@pytest.mark.parametrize("value", [False, None])
def test_a_file_that_relies_on_the_generator_of_pytorch_is_refused(value, projections, tmp_path):
    lnp.save_adapter(adapted("bert"), tmp_path)
    gone = {} if projections else {"base_model.vera_A": None, "base_model.vera_B": None}
    edit(tmp_path, gone, save_projection=value)
    sentence = rf"adapter_config\.json has save_projection = {value}; expected true: .* only PyTorch's generator"
    with pytest.raises(ValueError, match=sentence):
        lnp.load_adapter(tiny.build("bert", np.float32), tmp_path)


DAMAGED = {
    "no A": ({"base_model.vera_A": None}, {}, r"lacks the tensor base_model\.vera_A; the adapter is incomplete"),
    "no B": ({"base_model.vera_B": None}, {}, r"lacks the tensor base_model\.vera_B; the adapter is incomplete"),
    "A too small": ({"base_model.vera_A": np.ones((7, 11), np.float32)}, {}, r"vera_A in .* is \(7, 11\).*\(7, 12\)"),
    "A as ours": ({"base_model.vera_A": np.ones((12, 7), np.float32)}, {}, r"vera_A in .* is \(12, 7\).*\(7, 12\)"),
    "NaN": ({"base_model.vera_B": np.full((12, 7), np.nan, np.float32)}, {}, "vera_B in .* not finite"),
    "another r": ({}, {"r": 6}, r"vera_A in .* is \(7, 12\).*\(6, 12\)"),
    "a third": ({"base_model.vera_C": np.ones(2, np.float32)}, {}, r"base_model\.vera_C, which matches nothing"),
    "bias": ({}, {"bias": "vera_only"}, "bias = 'vera_only' is not supported here"),
    "no r": ({}, {"r": 0}, "r = 0; expected a positive integer"),
    "a key of another kind": ({}, {"projection_prng_key": 1.5}, "projection_prng_key = 1.5; expected an integer"),
    "dropout": ({}, {"vera_dropout": 1.0}, "vera_dropout = 1.0; expected a number from 0 to below 1"),
    "start": ({}, {"init_weights": "pissa"}, "init_weights = 'pissa'; expected true or false"),
    "unknown": ({}, {"lora_alpha": 8}, "lora_alpha = 8, which is not known here"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_named(what, tmp_path):
    tensors, settings, sentence = DAMAGED[what]
    lnp.save_adapter(adapted("bert"), tmp_path)
    edit(tmp_path, tensors, **settings)
    with pytest.raises(ValueError, match=sentence):
        lnp.load_adapter(tiny.build("bert", np.float32), tmp_path)


def test_what_says_how_it_starts_is_read_in_a_file(tmp_path):
    model = adapted("bert")
    lnp.save_adapter(model, tmp_path)
    edit(tmp_path, init_weights=False, d_initial=0.0, projection_prng_key=7)
    again = lnp.load_adapter(tiny.build("bert", np.float32), tmp_path)
    assert again.adapter.projection_prng_key == 7
    assert np.array_equal(again.layer[0].attention.query.A, model.layer[0].attention.query.A)


@pytest.mark.parametrize(
    "option", [{"save_projection": False}, {"init_weights": False}, {"bias": "all"}, {"use_dora": True}]
)
def test_an_option_of_peft_that_is_not_computed_here_is_refused_by_name(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=re.escape(f"{name} = {value!r} is not supported here")):
        lnp.VeraConfig(**option)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"r": 0}, "a positive integer"),
        ({"projection_prng_key": 0.5}, "an integer"),
        ({"projection_prng_key": True}, "an integer"),
        ({"vera_dropout": 1.0}, "a number from 0 to below 1"),
        ({"d_initial": float("nan")}, "a number"),
    ],
)
def test_an_option_without_meaning_is_refused_by_name(option, words):
    ((name, _),) = option.items()
    with pytest.raises(ValueError, match=f"{name} must be {words}, but it is"):
        lnp.VeraConfig(**option)


def test_info_counts_what_is_trained_and_not_what_is_shared(tmp_path, capsys):
    model = lnp.inject(tiny.build("bert"), lnp.VeraConfig(r=3), np.random.default_rng(0))
    lnp.save_adapter(model, tmp_path)
    assert main(["info", str(tmp_path)]) == 0
    assert f"{lnp.count_parameters(model).trainable:,} numbers in 8 arrays" in capsys.readouterr().out
