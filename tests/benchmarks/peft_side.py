"""The same LoRA fine-tuning step by PyTorch + PEFT, as its users write it: batches padded to their longest sequence."""

import os

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


class Theirs:
    """MiniLM with LoRA and a linear head on the mean of the real tokens, the arrays those of our model.

    Dropout is 0 on both sides. Attention is what transformers chooses by itself.
    """

    def __init__(self, folder, ours, lr, threads):
        torch.set_num_threads(threads)
        base = transformers.BertModel.from_pretrained(
            folder, add_pooling_layer=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        config = ours.adapter
        targets = {"target_modules": config.target_modules} if config.target_modules else {}
        lora = LoraConfig(r=config.r, lora_alpha=config.lora_alpha, lora_dropout=0.0, **targets)
        self.model = get_peft_model(base, lora).train()
        self.head = torch.nn.Linear(*ours.head.classifier.W.shape)
        self.take(ours)
        trained = [p for p in (*self.model.parameters(), *self.head.parameters()) if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)

    def tensors(self, ours):
        """Return {our name: (tensor, does it have our layout?)} of what is trained."""
        live = dict(self.model.named_parameters())
        found = {"head.classifier.W": (self.head.weight, False), "head.classifier.b": (self.head.bias, True)}
        for k, block in enumerate(ours.layer):
            for kind in ("query", "key", "value", "output"):
                node = getattr(block.attention, kind)
                for matrix in ("A", "B") if hasattr(node, "A") else ():
                    name = f"base_model.model.{node.hf}.lora_{matrix}.default.weight"
                    found[f"layer.{k}.attention.{kind}.{matrix}"] = live[name], False
        return found

    def take(self, ours):
        """Copy our trained arrays."""
        import lora_np as lnp

        mine, theirs = lnp.parameters(ours, trainable_only=True), self.tensors(ours)
        if mine.keys() != theirs.keys():
            raise ValueError(f"trained on one side only: {sorted(mine.keys() ^ theirs.keys())}")
        with torch.no_grad():
            for name, (tensor, same) in theirs.items():
                tensor.copy_(torch.from_numpy(np.array(mine[name] if same else mine[name].T)))

    def logits(self, sequences):
        ids = pad_sequence([torch.from_numpy(row.astype(np.int64)) for row in sequences], batch_first=True)
        lengths = torch.tensor([len(row) for row in sequences])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).to(torch.long)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return self.head((hidden * weights).sum(dim=1) / weights.sum(dim=1))

    def gradients(self, sequences, labels):
        """Return the loss; the gradients are left where PyTorch keeps them."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.logits(sequences), torch.from_numpy(np.asarray(labels)))
        loss.backward()
        return float(loss)

    def step(self, sequences, labels):
        loss = self.gradients(sequences, labels)
        self.optimiser.step()
        return loss

    def predict(self, sequences):
        with torch.inference_mode():
            return self.logits(sequences).numpy()


def versions():
    return {module.__name__: module.__version__ for module in (torch, transformers, peft)}
