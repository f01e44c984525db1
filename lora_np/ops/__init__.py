"""The mathematics: one operation a file, NumPy alone, each forward above its backward.

`x_forward(...)` returns `(output, cache)`; `x_backward(doutput, cache)` returns the gradients in the order of the
forward's differentiable arguments. A backward with the argument `needs` computes only the gradients that it names;
the others come back as None and cost nothing: this is how frozen weights are skipped. Position-wise operations see
rows `(N, d)`, N being the number of tokens of the batch. A dropout `mask` is already divided by 1 - p; `mask=None`
means no dropout. Start reading at `lora_linear`.

An operation computes with arrays of float32, float64 or complex numbers, whose dtype it keeps, and refuses all others
(integers, booleans, float16) as it refuses shapes that do not fit: by a ValueError (`fit`).
"""

from lora_np.ops.attention import attention_backward, attention_forward
from lora_np.ops.cross_entropy import cross_entropy_backward, cross_entropy_forward
from lora_np.ops.dropout import dropout_backward, dropout_forward, dropout_mask
from lora_np.ops.embedding import embedding_backward, embedding_forward
from lora_np.ops.erf import erf
from lora_np.ops.gelu import gelu_backward, gelu_forward, gelu_tanh_backward, gelu_tanh_forward
from lora_np.ops.layer_norm import layer_norm_backward, layer_norm_forward
from lora_np.ops.linear import linear_backward, linear_forward
from lora_np.ops.lora_linear import lora_linear_backward, lora_linear_forward
from lora_np.ops.patches import patches_backward, patches_forward
from lora_np.ops.pooling import (
    pool_first_backward,
    pool_first_forward,
    pool_last_backward,
    pool_last_forward,
    pool_mean_backward,
    pool_mean_forward,
)
from lora_np.ops.relu import relu_backward, relu_forward
from lora_np.ops.sigmoid_cross_entropy import sigmoid_cross_entropy_backward, sigmoid_cross_entropy_forward
from lora_np.ops.squared_error import squared_error_backward, squared_error_forward
from lora_np.ops.tanh import tanh_backward, tanh_forward

__all__ = [
    "attention_backward",
    "attention_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
    "dropout_mask",
    "embedding_backward",
    "embedding_forward",
    "erf",
    "gelu_backward",
    "gelu_forward",
    "gelu_tanh_backward",
    "gelu_tanh_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_forward",
    "lora_linear_backward",
    "lora_linear_forward",
    "patches_backward",
    "patches_forward",
    "pool_first_backward",
    "pool_first_forward",
    "pool_last_backward",
    "pool_last_forward",
    "pool_mean_backward",
    "pool_mean_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid_cross_entropy_backward",
    "sigmoid_cross_entropy_forward",
    "squared_error_backward",
    "squared_error_forward",
    "tanh_backward",
    "tanh_forward",
]
