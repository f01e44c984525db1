"""A head trained on features that were computed once is the head that training through the frozen network gives."""

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.train.evaluate import predict
from lora_np.train.features import features, head_alone, is_fixed_below_head
from lora_np.train.loop import Plan, Training


def trained_head(name):
    return lnp.unfreeze(tiny.build(name, np.float64), "head.classifier")


@pytest.mark.parametrize("name", ["bert pooler", "bert mean head", "vit", "vit mean"])
def test_the_same_head_as_through_the_network(name):
    sequences = tiny.sequences(name)
    classes = len(trained_head(name).head.classifier.b)
    labels = np.arange(len(sequences)) % classes
    plan = Plan(lr=0.05, epochs=4, batch_size=2)
    whole, short = trained_head(name), trained_head(name)
    assert is_fixed_below_head(short)
    start = lnp.parameters(short)["head.classifier.W"].copy()
    alone, given = head_alone(short), features(short, sequences)
    assert not alone.layer and all(np.shape(row) == (1, start.shape[0]) for row in given)
    losses = [
        [step.loss for step in Training(model, rows, labels, plan).steps()]
        for model, rows in ((whole, sequences), (alone, given))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-12)
    for key in ("head.classifier.W", "head.classifier.b"):
        np.testing.assert_allclose(lnp.parameters(short)[key], lnp.parameters(whole)[key], rtol=1e-10, atol=1e-12)
    assert np.abs(lnp.parameters(short)["head.classifier.W"] - start).max() > 0.01
    np.testing.assert_allclose(predict(short, sequences), predict(alone, given), rtol=1e-12)


def test_features_serve_only_a_network_that_says_the_same_each_time():
    head = trained_head("bert mean head")
    assert not is_fixed_below_head(lnp.with_dropout(head, 0.1))
    assert not is_fixed_below_head(lnp.unfreeze(head, "layer.1.mlp.up.b"))
    assert not is_fixed_below_head(lnp.unfreeze(head, "embeddings.norm"))
    assert not is_fixed_below_head(tiny.adapted("bert mean head"))
    assert not is_fixed_below_head(lnp.unfreeze(tiny.build("gpt"), "all"))
    assert is_fixed_below_head(head)
