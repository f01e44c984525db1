"""The families of models, one file each: name it here, and everybody knows it. Read their builders as columns.

A configuration is a dict with the words of Hugging Face's config.json. Each node that holds parameters carries its
Hugging Face module name, `hf`. All weights are (d_in, d_out). A model starts frozen and without dropout: see `unfreeze`
and `with_dropout`. Matrices start from N(0, initializer_range^2), 0.02 unless the configuration says otherwise.
"""

from lora_np.model.architectures.architecture import ARCHITECTURES as ARCHITECTURES
from lora_np.model.architectures.architecture import of as of
from lora_np.model.architectures.bert import bert as bert
from lora_np.model.architectures.distilbert import distilbert as distilbert
from lora_np.model.architectures.electra import electra as electra
from lora_np.model.architectures.gpt2 import gpt as gpt
from lora_np.model.architectures.mpnet import mpnet as mpnet
from lora_np.model.architectures.roberta import roberta as roberta
from lora_np.model.architectures.vit import vit as vit
