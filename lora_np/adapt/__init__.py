"""Methods of adaptation, each in a file of its own that registers it. A new one is one more name here."""

from lora_np.adapt import adalora, bias, dora, ia3, loha, lokr, lora, vera  # noqa: F401
