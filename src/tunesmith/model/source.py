"""A model on this machine: its configuration, its tokenizer, and what else is known of it before its weights are loaded."""

import hashlib
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from tunesmith.errors import ModelError, first_line
from tunesmith.model import anatomy, model_folder

Kind = Literal["encoder", "decoder", "encoder-decoder"]
"""An encoder reads and can classify, a decoder also goes on writing, an encoder-decoder reads a source and writes a target."""
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)


@dataclass(frozen=True)
class Source:
    """A model on this machine that was looked through and found safe to load."""

    name: str
    """As the user wrote it."""
    folder: Path
    """A transformers folder."""
    brings_code: bool = False
    """Whether Python code lies beside it, which is not run."""

    @cached_property
    def config(self) -> PretrainedConfig:
        """The model's configuration."""
        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except (ValueError, KeyError, OSError, TypeError, StrictDataclassError) as error:
            raise ModelError(f"The configuration of {self.name} cannot be used: {first_line(error)}.") from None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise ModelError(f"{self.name} has no tokenizer that can be used: {first_line(error)}.") from None
        if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):  # what transformers makes of missing files
            raise ModelError(
                f"{self.name} has no tokenizer: its files (tokenizer.json or the like) are missing. Get the model again."
            )
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
            tokenizer.pad_token_id = tokenizer.eos_token_id
        return tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the configuration, the tokenizer's and the weights' files."""
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        tokenizer_files = [path for name in _TOKENIZER_FILES if (path := self.folder / name).is_file()]
        for path in (*tokenizer_files, *sorted(model_folder.check_model_folder(self.folder).weights)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def num_parameters(self) -> int:
        """Number of weights, from the headers of the weights' files."""
        headers = model_folder.check_model_folder(self.folder).weights.values()
        return sum(math.prod(facts.shape) for header in headers for facts in header.values())

    @property
    def license(self) -> str | None:
        """The licence that the model's README names, None if it names none."""
        readme = self.folder / "README.md"
        if not readme.is_file():
            return None
        found = re.search(
            r"^license:\s*[\"']?([\w.+-]{1,64})", readme.read_text(encoding="utf-8", errors="replace")[:4000], re.MULTILINE
        )
        return found[1] if found else None

    @property
    def kind(self) -> Kind:
        """What the model is built for."""
        if anatomy.is_encoder_decoder(self.config):
            return "encoder-decoder"
        return "encoder" if anatomy.is_encoder(self.config) else "decoder"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the model's head tells apart, in the order of their ids; none if it has no such head."""
        is_classifier = any(name.endswith("ForSequenceClassification") for name in self.config.architectures or ())
        named = sorted((self.config.id2label or {}).items())
        return tuple(str(name) for _, name in named) if is_classifier else ()

    def lacks_head(self, labels: tuple[str, ...]) -> bool:
        """Whether a head that tells these classes apart must be made; with none given, no other head is wanted."""
        return bool(labels) and labels != self.classes
