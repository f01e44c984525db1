"""The options of PEFT's `LoraConfig` that have no part in the mathematics here, with the values that change nothing.

A configuration written for PEFT can be handed over as it stands. An option at its neutral value is taken; at any other
it is refused by its name, in a call and in an adapter_config.json alike.

Source: `LoraConfig` and `PeftConfig` of PEFT 0.21.
"""

from dataclasses import InitVar, dataclass


@dataclass(frozen=True, kw_only=True)
class PeftOptions:
    """What `LoRAConfig` takes beside its own fields; none of it is kept."""

    # What would make another adapter.
    peft_type: InitVar[str] = "LORA"
    bias: InitVar[str] = "none"
    use_dora: InitVar[bool] = False
    lora_bias: InitVar[bool] = False
    use_qalora: InitVar[bool] = False
    use_bdlora: InitVar[object] = None
    layer_replication: InitVar[object] = None
    target_parameters: InitVar[object] = None
    trainable_token_indices: InitVar[object] = None
    alora_invocation_tokens: InitVar[object] = None
    arrow_config: InitVar[object] = None
    kasa_config: InitVar[object] = None
    monteclora_config: InitVar[object] = None
    velora_config: InitVar[object] = None
    megatron_config: InitVar[object] = None
    # How an adapter starts, or is trained.
    init_lora_weights: InitVar[bool] = True
    inference_mode: InitVar[bool] = False
    layers_pattern: InitVar[object] = None
    ensure_weight_tying: InitVar[bool] = False
    eva_config: InitVar[object] = None
    corda_config: InitVar[object] = None
    lora_ga_config: InitVar[object] = None
    loftq_config: InitVar[object] = None
    # What says nothing by itself: our weights lie (d_in, d_out), whatever fan_in_fan_out is.
    fan_in_fan_out: InitVar[bool] = False
    base_model_name_or_path: InitVar[object] = None
    revision: InitVar[object] = None
    auto_mapping: InitVar[object] = None
    peft_version: InitVar[object] = None
    runtime_config: InitVar[object] = None
    qalora_group_size: InitVar[int] = 16
    megatron_core: InitVar[str] = "megatron.core"


OPTIONS = tuple(PeftOptions.__annotations__)
NOTES = OPTIONS[OPTIONS.index("fan_in_fan_out") :]
AFTERWARDS = OPTIONS[OPTIONS.index("init_lora_weights") :]  # what changes nothing once an adapter is trained
EMPTY = (None, [], (), {})  # asks for nothing, whatever the option


def check_neutral(given, free, where="", way_out="leave it out"):
    """Raise a ValueError for an option that asks for something else than is computed here.

    Parameters
    ----------
    given : dict of str to object
        Options by name; names that are not of OPTIONS are passed over.
    free : collection of str
        Those that may have any value.
    where, way_out : str
        What holds them, and what to do about it, for the sentence.
    """
    for name in OPTIONS:
        neutral = getattr(PeftOptions, name)
        if name in given and name not in free and given[name] not in (*EMPTY, neutral):
            raise ValueError(f"{where}{name} = {given[name]!r} is not supported here, only {neutral!r} is; {way_out}.")
