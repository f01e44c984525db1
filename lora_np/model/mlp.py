"""The feed-forward half of a block: up to the wider layer, GELU, down again.

Forward   (1) h = up(x)   (2) a = gelu(h)   (3) y = down(a);   backward: (3), (2), (1).
"""

from dataclasses import dataclass

from lora_np.model.nodes import LinearNode, needs_below
from lora_np.ops import gelu_backward, gelu_forward, gelu_tanh_backward, gelu_tanh_forward

ACTIVATIONS = {  # by the names that Hugging Face's configurations use
    "gelu": (gelu_forward, gelu_backward),
    "gelu_new": (gelu_tanh_forward, gelu_tanh_backward),
}


@dataclass
class MLP:
    up: LinearNode
    down: LinearNode
    activation: str
    trainable: tuple[str, ...] = ()

    def forward(self, x, rng=None):
        h, c_up = self.up.forward(x, rng)  # (1)
        a, c_a = ACTIVATIONS[self.activation][0](h)  # (2)
        y, c_down = self.down.forward(a, rng)  # (3)
        return y, (c_up, c_a, c_down)

    def backward(self, dy, cache, needs_dx=True):
        c_up, c_a, c_down = cache
        to_x, to_h = needs_below(needs_dx, self.up, self.down)
        grads = {}
        da, grads["down"] = self.down.backward(dy, c_down, to_h)  # (3)
        if not to_h:
            return None, grads
        dh = ACTIVATIONS[self.activation][1](da, c_a)  # (2)
        dx, grads["up"] = self.up.backward(dh, c_up, to_x)  # (1)
        return dx, grads
