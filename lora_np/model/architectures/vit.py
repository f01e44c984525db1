"""ViT: patches of an image for tokens, a norm before each half of a block.

Source: Dosovitskiy et al. 2020, arXiv:2010.11929.
"""

import numpy as np
from numpy.typing import DTypeLike

from lora_np.model.architectures.architecture import Architecture, register
from lora_np.model.architectures.maker import check_heads
from lora_np.model.attention import Attention
from lora_np.model.blocks import PreNormBlock
from lora_np.model.embeddings import PatchEmbeddings
from lora_np.model.heads import ClassifierHead
from lora_np.model.transformer import Transformer
from lora_np.model.tree import freeze


def vit_block(make, config, name):
    d, bias = config["hidden_size"], config.get("qkv_bias", True)
    attention = Attention(
        query=make.linear(d, d, f"{name}.attention.attention.query", bias),
        key=make.linear(d, d, f"{name}.attention.attention.key", bias),
        value=make.linear(d, d, f"{name}.attention.attention.value", bias),
        output=make.linear(d, d, f"{name}.attention.output.dense"),
        heads=check_heads(d, config["num_attention_heads"]),
    )
    mlp = make.mlp(d, config["intermediate_size"], f"{name}.intermediate.dense", f"{name}.output.dense")
    norm1, norm2 = make.norm(d, f"{name}.layernorm_before"), make.norm(d, f"{name}.layernorm_after")
    return PreNormBlock(norm1, attention, norm2, mlp)


def vit(
    config: dict, labels: int | None = None, rng: np.random.Generator | None = None, dtype: DTypeLike = np.float32
) -> Transformer:
    """Return a ViT, wholly frozen: patches, norms before each half, a class token.

    Parameters
    ----------
    config : dict
        As for `bert`. With `"class_token": False`, our word, there is none, and a classifier reads the patches' mean.
    labels : int, optional
        Number of classes of a classifier; None: no classifier.
    rng, dtype
        As for `bert`.
    """
    make = VIT.maker(config, rng, dtype, labels)
    d = config["hidden_size"]
    class_token = config.get("class_token", True)
    patch, patches = config["patch_size"], (config["image_size"] // config["patch_size"]) ** 2
    embeddings = PatchEmbeddings(
        projection=make.linear(config["num_channels"] * patch**2, d, "embeddings.patch_embeddings.projection"),
        class_token=make.matrix(1, d) if class_token else None,
        position=make.table(patches + class_token, d, "embeddings.position_embeddings"),
        hf="embeddings",
    )
    layer = tuple(vit_block(make, config, f"encoder.layer.{k}") for k in range(config["num_hidden_layers"]))
    pooled = VIT.pooled_in(config)
    head = ClassifierHead(None, make.linear(d, labels, "classifier"), pooled) if labels else None
    norm = make.norm(d, "layernorm")
    return freeze(Transformer(embeddings, layer, norm, head, dict(config), VIT.prefix if labels else ""))


def as_convolution(config, shape):
    """Return the shape of the convolution that a projection of patches equals."""
    return shape[1], config["num_channels"], config["patch_size"], config["patch_size"]


def of_one(config, shape):
    """Return the shape of what files hold for a batch of one."""
    return 1, *shape


VIT = Architecture(
    model_type="vit",
    build=vit,
    reads="images",
    counts="image_size patch_size num_channels hidden_size num_hidden_layers num_attention_heads intermediate_size",
    epsilon="layer_norm_eps",
    activation="hidden_act",
    prefix="vit.",
    bare="ViTModel",
    with_head="ViTForImageClassification",
    extras=r"embeddings\.mask_token|pooler\.dense\.(weight|bias)",
    stored={
        "embeddings.projection.W": as_convolution,
        "embeddings.class_token": of_one,
        "embeddings.position.table": of_one,
    },
    tensors={"embeddings.position.table": "embeddings.position_embeddings"},  # a bare array there, not a module
    # transformers 5 renamed these modules, and PEFT's files follow it; model files kept the old names. Here (old, new).
    renamed=(
        ("encoder.layer", "layers"),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ),
    targets=("query", "value"),
)
register(VIT)
