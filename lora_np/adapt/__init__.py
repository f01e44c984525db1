"""Methods of adaptation, each in a file of its own that registers it. A new one is one more name here."""

from lora_np.adapt import dora, ia3, loha, lokr, lora, starts, vera  # noqa: F401
