"""What `__init__.py` loads lazily, for editors and type checkers; a test holds the two together."""

from lora_np import course as course
from lora_np import gradcheck as gradcheck
from lora_np import ops as ops
from lora_np.adapt.adalora import AdaLoraConfig as AdaLoraConfig
from lora_np.adapt.bias import BiasedLoRAConfig as BiasedLoRAConfig
from lora_np.adapt.compressed import compress_model as compress_model
from lora_np.adapt.compressed import decompress_model as decompress_model
from lora_np.adapt.config import LoRAConfig as LoRAConfig
from lora_np.adapt.dora import DoRAConfig as DoRAConfig
from lora_np.adapt.ia3 import IA3Config as IA3Config
from lora_np.adapt.loha import LoHaConfig as LoHaConfig
from lora_np.adapt.lokr import LoKrConfig as LoKrConfig
from lora_np.adapt.methods import inject as inject
from lora_np.adapt.methods import merge as merge
from lora_np.adapt.vera import VeraConfig as VeraConfig
from lora_np.datasets.named import load_data as load_data
from lora_np.datasets.tokenizers import load_tokenizer as load_tokenizer
from lora_np.formats.huggingface import save_model as save_model
from lora_np.formats.peft import load_adapter as load_adapter
from lora_np.formats.peft import save_adapter as save_adapter
from lora_np.formats.pretrained import load_pretrained as load_pretrained
from lora_np.model.architectures import bert as bert
from lora_np.model.architectures import distilbert as distilbert
from lora_np.model.architectures import electra as electra
from lora_np.model.architectures import gpt as gpt
from lora_np.model.architectures import roberta as roberta
from lora_np.model.architectures import vit as vit
from lora_np.model.batch import Batch as Batch
from lora_np.model.check import check_model as check_model
from lora_np.model.transformer import Transformer as Transformer
from lora_np.model.tree import astype as astype
from lora_np.model.tree import count_parameters as count_parameters
from lora_np.model.tree import freeze as freeze
from lora_np.model.tree import parameters as parameters
from lora_np.model.tree import unfreeze as unfreeze
from lora_np.model.variants import with_dropout as with_dropout
from lora_np.model.variants import with_head as with_head
from lora_np.ops import cross_entropy_backward as cross_entropy_backward
from lora_np.ops import cross_entropy_forward as cross_entropy_forward
from lora_np.train.optimisers import AdamW as AdamW

__version__: str
__all__: list[str]
