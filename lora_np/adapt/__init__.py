"""Methods of adaptation, each in a file of its own that registers it. A new one is one more name here."""

from lora_np.adapt import (  # noqa: F401
    adalora,
    bias,
    bitfit,
    bottleneck,
    dora,
    ia3,
    ln_tuning,
    loha,
    lokr,
    lora,
    prefix,
    prompt,
    starts,
    vera,
)
