"""What an editor knows of lora_np: mypy reads this file, nobody runs it. An `ignore` that hides no error is one."""

import numpy as np

import lora_np as lnp

rng = np.random.default_rng(0)
model = lnp.load_pretrained("digits")
lora = lnp.inject(model, lnp.LoRAConfig(r=4, lora_alpha=8, target_modules=["query"]), rng)
dora = lnp.inject(model, lnp.LoRAConfig(r=4, use_dora=True), rng)
exact = lnp.inject(model, lnp.DoRAConfig(r=4, exact_gradient=True), rng)
batch = lnp.Batch.of([np.ones((16, 4))])
output, cache = lora.forward(batch)
grads = lora.backward(np.ones_like(output), cache)
gradient: np.ndarray = grads["layer.0.attention.query.A"]
lnp.AdamW(lnp.parameters(lora, trainable_only=True), lr=1e-3).step(grads)
lnp.save_adapter(lora, "adapter")
ok: bool = lnp.check_model(lora, batch).ok
trainable: int = lnp.count_parameters(lora).trainable

lnp.LoRAConfig(lora_alpah=8)  # type: ignore[call-arg]
lnp.LoRAConfig(r="4")  # type: ignore[arg-type]
lnp.inject(model, rng)  # type: ignore[arg-type]
lnp.load_pretrained(5)  # type: ignore[arg-type]
lnp.injekt(model)  # type: ignore[attr-defined]
lora.forwards(batch)  # type: ignore[attr-defined]
lnp.AdamW(lora, lr=1e-3)  # type: ignore[arg-type]
