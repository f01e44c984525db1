"""What models, batches and builders refuse, each in a sentence that names what came and the way out."""

import copy
import dataclasses
import re

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.model import architectures
from lora_np.model.attention import heads_backward
from lora_np.model.tree import check_dtype

IDS = tiny.sequences("bert")


def refused(call, received):
    with pytest.raises(ValueError, match=received) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("given", [[[1, 2]], np.array([[1, 2]]), (1, 2), None, "text", {"ids": [1]}])
def test_a_model_reads_a_batch_and_nothing_else(given):
    for call in (tiny.build("bert").forward, lambda x: lnp.check_model(tiny.adapted("bert"), x)):
        refused(lambda call=call: call(given), f"reads a Batch, but .* type {type(given).__name__}.*Batch.of")


TAKE_MODELS = {
    "parameters": lnp.parameters,
    "count_parameters": lnp.count_parameters,
    "print_trainable_parameters": lnp.print_trainable_parameters,
    "freeze": lnp.freeze,
    "unfreeze": lambda it: lnp.unfreeze(it, "all"),
    "astype": lambda it: lnp.astype(it, np.float64),
    "with_head": lambda it: lnp.with_head(it, labels=2, rng=np.random.default_rng(0)),
    "check_model": lambda it: lnp.check_model(it, tiny.batch("bert")),
    "merge": lnp.merge,
    "merge_report": lambda it: lnp.merge_report(it, "float16"),
    "subtract": lambda it: lnp.subtract(it, tiny.adapted("bert")),
    "subtracted": lambda it: lnp.subtract(tiny.build("bert"), it),
    "resize": lambda it: lnp.resize(it, r=1),
    "compress_model": lambda it: lnp.compress_model(it, "nf4"),
    "decompress_model": lnp.decompress_model,
    "save_model": lambda it: lnp.save_model(it, "nowhere"),
    "save_adapter": lambda it: lnp.save_adapter(it, "nowhere"),
    "load_adapter": lambda it: lnp.load_adapter(it, "nowhere"),
    "load_adapters": lambda it: lnp.load_adapters(it, "nowhere", ["films"]),
}


@pytest.mark.parametrize("call", TAKE_MODELS.values(), ids=TAKE_MODELS)
def test_what_is_no_model_is_not_taken_for_one_without_parameters(call):
    for given in (None, "digits", 3, [tiny.build("bert")], {}, lnp.LoRAConfig(), np.zeros(3)):
        refused(lambda given=given: call(given), "a model was expected here.*, but this is ")
    several = lnp.Adapters(tiny.build("bert"))
    several.add_adapter("films", lnp.IA3Config())
    refused(lambda: call(several), r"but this is Adapters\(films; .*take one of them by its name, adapters\[name\]")


@pytest.mark.parametrize("rng", [0, 1.5, "0", np.random, np.random.RandomState(0)])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_seed_is_no_generator(dropout, rng):
    model = tiny.build("bert", dropout=dropout)
    refused(lambda: model.forward(tiny.batch("bert"), rng), r"rng must be a generator.*default_rng\(seed\)")


def test_a_batch_whose_parts_do_not_belong_together_is_refused():
    model, batch = tiny.build("bert"), tiny.batch("bert")
    for change in (
        {"content": batch.content[:1]},
        {"content": batch.content[:-1]},
        {"position": batch.position[:1]},
        {"type": batch.type[:1]},
        {"groups": batch.groups[:-1]},
        {"order": batch.order[:2]},
    ):
        refused(lambda change=change: model.forward(batch._replace(**change)), "cover|do not belong together")


@pytest.mark.parametrize("name", tiny.NAMES)
def test_an_upstream_gradient_of_other_rows_is_refused(name):
    model, batch = lnp.unfreeze(tiny.build(name), "all"), tiny.batch(name)
    output, cache = model.forward(batch)
    dy = np.ones_like(output)
    for wrong in (
        np.ones((64, dy.shape[1])),
        dy[:1],
        dy[:, :1],
        dy[:-1],
        dy[0],
        dy[None],
        np.float64(1.0),
        1.0,
        dy.astype(int),
        None,
    ):
        if wrong is None:
            continue
        refused(lambda wrong=wrong: model.backward(wrong, cache), "doutput")
    model.backward(dy, cache)


def test_an_upstream_gradient_of_none_is_refused():
    model = tiny.adapted("bert")
    output, cache = model.forward(tiny.batch("bert"))
    refused(lambda: model.backward(None, cache), "doutput is None")


def test_a_cache_that_is_not_of_this_model_is_refused():
    base = tiny.build("bert mean head")
    model, batch = tiny.adapted("bert mean head"), tiny.batch("bert")
    output, cache = model.forward(batch)
    dy = np.ones_like(output)
    for other in (base.forward(batch)[1], tiny.adapted("bert mean head").forward(batch)[1], (), (1, 2, 3, 4, 5, 6), 5):
        refused(lambda other=other: model.backward(dy, other), "cache that the forward of this very model.*another")
    refused(lambda: model.backward(dy, model.forward(batch, keep=False)[1]), "None, which keep=False returns")
    assert model.backward(dy, copy.deepcopy(cache)).keys() == model.backward(dy, cache).keys()


def test_a_head_alone_chooses_no_rows_among_more():
    head = lnp.unfreeze(tiny.build("bert mean head"), "head").head
    batch = tiny.batch("bert")
    y, cache = head.forward(np.ones((len(batch.content), 12)), batch)
    refused(lambda: head.backward(np.ones((64, 3)), cache), r"S = 5, but it was given dy \(64, 3\)")


def test_attention_gives_no_rows_that_nobody_computed():
    attention, x = tiny.build("bert").layer[0].attention, np.ones((7, 12))
    refused(lambda: attention.forward(x, ((0, 4, 2, 2),)), "cover 4 rows, but there are 7")
    _, cache = attention.forward(x, ((0, 4, 2, 2), (4, 7, 1, 3)))
    refused(lambda: attention.backward(np.ones((9, 12)), cache), "N = 7")


def test_what_comes_back_through_the_heads_is_not_narrowed():
    attention, x = tiny.build("bert").layer[0].attention, np.random.default_rng(0).standard_normal((7, 12))
    _, (*_, caches, _) = attention.forward(x, ((0, 4, 2, 2), (4, 7, 1, 3)))
    single, double = (
        heads_backward(np.ones((7, 12), dtype), caches, attention, "QKV") for dtype in (np.float32, np.float64)
    )
    assert all(dH.dtype == np.float64 and np.array_equal(dH, right) for dH, right in zip(single, double))


@pytest.mark.parametrize(
    "dtype", [int, bool, complex, np.float16, np.longdouble, "S4", ">f4", None, "nonsense", object, 5]
)
def test_models_compute_in_two_dtypes(dtype):
    for call in (
        lambda: lnp.astype(tiny.build("bert"), dtype),
        lambda: check_dtype(dtype),
        lambda: lnp.bert(tiny.BERT, dtype=dtype),
    ):
        refused(call, "float32.*float64.*but (dtype|it) is")
    assert check_dtype("float32") == np.float32 and check_dtype(float) == np.float64


def test_the_reason_against_float16_is_said():
    refused(lambda: lnp.astype(tiny.build("bert"), np.float16), "65,504")


def test_unpack_gives_the_rows_of_a_bare_image_model_with_their_class_row():
    vit = dataclasses.replace(tiny.build("vit"), head=None)
    images = tiny.sequences("vit")
    batch = lnp.Batch.of(images)
    together = batch.unpack(vit.forward(batch)[0])
    assert [rows.shape for rows in together] == 3 * [(10, 12)]
    for image, rows in zip(images, together):
        assert np.allclose(vit.forward(lnp.Batch.of([image]))[0], rows, rtol=1e-11)


@pytest.mark.parametrize("rows", [0, 5, 19, 21, 24, 26, 41])
def test_unpack_refuses_any_other_number_of_rows(rows):
    batch = lnp.Batch.of(IDS)  # 20 tokens, 5 sequences
    refused(lambda: batch.unpack(np.ones((rows, 3))), rf"needs 20 rows.* or 25 .* shape \({rows}, 3\)")


def test_unpack_refuses_what_has_no_rows():
    refused(lambda: lnp.Batch.of(IDS).unpack(np.array(1.0)), r"shape \(\)")


def test_pack_asks_for_one_array_a_sequence():
    batch = lnp.Batch.of(IDS)
    for wrong in (IDS[:-1], [*IDS, IDS[0]], IDS[::-1], [row[:1] for row in IDS], [1, 2, 3, 4, 5], 7, batch):
        refused(lambda wrong=wrong: batch.pack(wrong), r"the sequences have \[5, 2, 7, 5, 1\] tokens")
    wide = [np.ones((len(row), 2 + (k == 3))) for k, row in enumerate(IDS)]
    refused(lambda: batch.pack(wide), "all of one width")


@pytest.mark.parametrize("given", [5, None, "12", {0: [1]}, np.array(3), lnp.Batch.of([[1, 2]])])
def test_a_batch_is_made_of_a_list(given):
    refused(lambda: lnp.Batch.of(given), "takes a list of sequences")


def test_a_batch_of_unsigned_and_signed_ids_holds_integers():
    mixed = [np.array([1, 2], np.uint64), np.array([3], np.int64), np.array([4, 5, 6], np.int8)]
    batch = lnp.Batch.of(mixed)
    assert batch.content.dtype == np.intp and batch.content.tolist() == [3, 1, 2, 4, 5, 6]
    tiny.build("bert").forward(batch)
    refused(lambda: lnp.Batch.of([np.array([2**63], np.uint64)]), "sequence 0 .*uint64")


@pytest.mark.parametrize("name", ["gpt", "vit"])
def test_types_are_for_models_that_have_them(name):
    batch = tiny.batch(name)
    batch = batch._replace(type=np.ones_like(batch.type))
    refused(lambda: tiny.build(name).forward(batch), "no token types")


NUMBERS = {
    "bert": "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings"
    " type_vocab_size",
    "gpt": "vocab_size n_embd n_layer n_head n_positions n_inner",
    "vit": "image_size patch_size num_channels hidden_size num_hidden_layers num_attention_heads intermediate_size",
}
CONFIGS = {"bert": tiny.BERT, "gpt": tiny.GPT, "vit": tiny.VIT}


@pytest.mark.parametrize("value", [-1, 0, 1.0, True, "2", [2], np.nan, "missing"])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NUMBERS.items() for name in names.split()])
def test_builders_count_by_positive_integers(kind, name, value):
    config = {**CONFIGS[kind], name: value}
    if value == "missing" and name != "n_inner":
        del config[name]
    words = f"{name} = {re.escape(repr(value))}; expected a positive integer"
    if value == "missing" and name != "n_inner":
        words = f"lacks {name!r}"
    refused(lambda: getattr(lnp, kind)(config), words)


@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: lnp.bert(5), "a configuration is a dict.*5"),
        (lambda: lnp.bert(tiny.BERT, labels=0), "labels .* 0"),
        (lambda: lnp.vit(tiny.VIT, labels=-2), "labels .* -2"),
        (lambda: lnp.bert(tiny.BERT, rng=0), "rng must be a generator"),
        (
            lambda: lnp.bert({**tiny.BERT, "layer_norm_eps": -1.0}),
            "layer_norm_eps = -1.0; .* small positive number",
        ),
        (lambda: lnp.bert({**tiny.BERT, "layer_norm_eps": np.nan}), "layer_norm_eps = nan"),
        (lambda: lnp.bert({**tiny.BERT, "initializer_range": "small"}), "initializer_range .* 'small'"),
        (lambda: lnp.bert({**tiny.BERT, "hidden_act": ["gelu"]}), "hidden_act = .*expected a name"),
        (lambda: lnp.vit({**tiny.VIT, "class_token": "no"}), "class_token = 'no'; expected true or false"),
        (lambda: lnp.vit({**tiny.VIT, "qkv_bias": 1}), "qkv_bias = 1; expected true or false"),
        (lambda: lnp.vit({**tiny.VIT, "image_size": 7}), "patches of 2 do not fill images of 7"),
        (lambda: lnp.with_dropout(tiny.build("bert"), True), "the dropout probability .* True"),
        (lambda: lnp.with_dropout(tiny.build("bert"), np.nan), "nan"),
        (lambda: lnp.with_dropout(tiny.build("bert"), "0.1"), "'0.1'"),
        (lambda: lnp.with_head(tiny.build("bert"), True, rng=np.random.default_rng(0)), "given True"),
        (lambda: lnp.with_head(tiny.build("bert"), 2.0, rng=np.random.default_rng(0)), "given 2.0"),
        (lambda: lnp.with_head(tiny.build("bert"), 2, rng=0), "and 0"),
    ],
)
def test_what_has_no_meaning_is_named(call, received):
    refused(call, received)


def test_the_epsilon_of_a_family_need_not_stand_in_its_configurations():
    config = {name: value for name, value in tiny.BERT.items() if name != "layer_norm_eps"}
    refused(lambda: lnp.bert(config), "lacks 'layer_norm_eps'")
    kind = dataclasses.replace(architectures.of(config), epsilon=1e-7)
    assert kind.maker(config, None, np.float64).norm(3, "").eps == 1e-7
    assert "layer_norm_eps" not in kind.needed and "hidden_act" in kind.needed


def test_numbers_of_numpy_are_numbers():
    model = lnp.with_head(tiny.build("bert"), np.int64(2), rng=np.random.default_rng(0))
    assert model.head.classifier.W.shape == (12, 2)
    assert lnp.with_dropout(model, np.float32(0.5)).layer[0].dropout == 0.5
    assert len(lnp.bert({**tiny.BERT, "num_hidden_layers": np.int32(3)}).layer) == 3


def test_padding_in_a_sequence_is_refused_where_it_takes_no_position():
    """transformers counts the positions of RoBERTa past it: we would compute something else."""
    with pytest.raises(ValueError, match="holds the id 1, which is padding to this model"):
        tiny.build("roberta").forward(lnp.Batch.of([np.array([4, 5]), np.array([7, 1, 1])]))


@pytest.mark.parametrize("pad", [None, 1])
def test_an_id_of_padding_that_is_not_said_is_the_familys(pad):
    model = lnp.roberta({**tiny.ROBERTA, "pad_token_id": pad}, rng=np.random.default_rng(0))
    assert model.embeddings.first == 2
    assert lnp.roberta({**tiny.ROBERTA, "pad_token_id": 0}, rng=np.random.default_rng(0)).embeddings.first == 1
    with pytest.raises(ValueError, match="up to pad_token_id = 10 are of padding"):
        lnp.roberta({**tiny.ROBERTA, "pad_token_id": 10}, rng=np.random.default_rng(0))


def test_a_new_classifier_on_the_old_map_below_it_keeps_its_activation(tmp_path):
    model = lnp.with_head(tiny.build("electra"), 3, "pooler", np.random.default_rng(0))
    lnp.save_model(model, tmp_path)
    again = lnp.load_pretrained(tmp_path, np.float64)
    assert np.array_equal(*(one.forward(tiny.batch("electra"))[0] for one in (model, again)))
