"""From texts to numbers: words of the training captions, or the tokenizers of transformers."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import DATASETS, MODELS
from trainwright.engine.run.model_setup import load_pretrained
from trainwright.models.huggingface.networks import import_transformers, reading

_PADDINGS = ("longest", "max_length")
_WORDS = re.compile(r"\w+|[^\w\s]")
_NUM_BYTES = 32  # of a word that is stored


class _Lengths:
    """The length of tokenized texts: how they are padded, and a warning for the first that are cut."""

    def __init__(self, max_length: int, padding: str) -> None:
        if padding not in _PADDINGS:
            raise ConfigError("padding", f"must be one of {', '.join(_PADDINGS)}, not {padding!r}")
        self.max_length = max_length
        self.padding = padding
        self._has_warned = False

    def warn(self, cut: Sequence[str]) -> None:
        """Log a warning for texts that are cut, the first time."""
        if cut and not self._has_warned:
            self._has_warned = True
            get_logger().warning(
                "Texts of more than max_length=%d tokens are cut: %d in this batch, such as %r. Further ones are cut "
                "without a message.", self.max_length, len(cut), cut[0][:80],
            )  # fmt: skip


@MODELS.register_module()
class WordTokenizer(nn.Module):
    """The words in texts as numbers, for a text encoder without pretrained weights.

    The vocabulary consists of the most frequent words of the training captions, in lower case. It is part of the
    checkpoint, so the captions are only read when a training begins. The tokens are 0 for padding, 1 for any other
    word, ``vocab_size - 2`` for the beginning, and ``vocab_size - 1`` for the end of a text.

    Args:
        dataset: config of the training dataset, which has a method ``captions()``; or a list of texts.
        vocab_size: number of tokens.
        max_length: maximum number of tokens of a text, including those for its beginning and end. Longer ones are cut,
            and a warning is logged.
        padding: ``longest`` pads the texts of a batch to the longest of them, ``max_length`` to this length.

    Raises:
        ConfigError: ``vocab_size`` or ``max_length`` is too small, an unknown padding, or a dataset without captions.
    """

    words: Tensor

    def __init__(
        self,
        dataset: Mapping[str, Any] | Sequence[str],
        vocab_size: int = 1000,
        max_length: int = 77,
        padding: str = "longest",
    ) -> None:
        super().__init__()
        if vocab_size < 5 or max_length < 3:
            raise ConfigError("vocab_size", f"must be at least 5, and max_length 3, not {vocab_size} and {max_length}")
        self.vocab_size = vocab_size
        self.pad_token_id, self.bos_token_id, self.eos_token_id = 0, vocab_size - 2, vocab_size - 1
        self._lengths = _Lengths(max_length, padding)
        self.register_buffer("words", torch.zeros(vocab_size - 4, _NUM_BYTES, dtype=torch.uint8))
        self._numbers: dict[bytes, int] = {}
        self._of: tuple[Any, int] = (None, 0)
        load_pretrained(self, lambda module: module.learn(dataset))  # type: ignore[operator]  # this module

    def learn(self, dataset: Mapping[str, Any] | Sequence[str]) -> None:
        """Set the vocabulary to the most frequent words, of equally frequent ones the first in the alphabet.

        Args:
            dataset: see :class:`WordTokenizer`.

        Raises:
            ConfigError: the dataset has no captions.
        """
        captions = dataset if not isinstance(dataset, Mapping) else _captions_of(DATASETS.build(dataset))
        counts = Counter(word for text in captions for word in _words(text))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        for row, word in zip(self.words, ordered):
            row.copy_(torch.tensor(list(word.ljust(_NUM_BYTES, b"\0")), dtype=torch.uint8))
        rest = sum(counts[word] for word in ordered[len(self.words) :])
        get_logger().info(
            "Vocabulary: %d words of %d captions; %.2f %% of the words in them are not in it", min(len(ordered),
            len(self.words)), len(captions), 100 * rest / max(1, counts.total()),
        )  # fmt: skip

    def forward(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` of texts, each int64 of shape (N, L)."""
        numbers, longest = self._vocabulary(), self._lengths.max_length
        split = [_words(text) for text in texts]
        self._lengths.warn([text for text, words in zip(texts, split) if len(words) > longest - 2])
        rows = [
            [self.bos_token_id, *(numbers.get(word, 1) for word in words[: longest - 2]), self.eos_token_id]
            for words in split
        ]
        length = longest if self._lengths.padding == "max_length" else max(map(len, rows))
        ids = torch.tensor([row + [self.pad_token_id] * (length - len(row)) for row in rows])
        sizes = torch.tensor([len(row) for row in rows])
        return {"input_ids": ids, "attention_mask": (torch.arange(length) < sizes[:, None]).long()}

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        """Return the words of texts that are not in the vocabulary."""
        numbers = self._vocabulary()
        words = dict.fromkeys(word for text in texts for word in _words(text))
        return [word.decode(errors="replace") for word in words if word not in numbers]

    def _vocabulary(self) -> dict[bytes, int]:
        """Return the number of each word; :attr:`words` may have been loaded, or moved to another device."""
        if self._of[0] is not self.words or self._of[1] != self.words._version:
            rows = [bytes(row).rstrip(b"\0") for row in self.words.tolist()]
            self._numbers = {word: number for number, word in enumerate(rows, 2) if word}
            self._of = self.words, self.words._version
        return self._numbers


@MODELS.register_module()
class HuggingFaceTokenizer:
    """A tokenizer of Hugging Face's transformers.

    Args:
        name: name on the Hugging Face Hub, whose files are downloaded, or a folder.
        max_length: maximum number of tokens of a text. Longer ones are cut, and a warning is logged.
        padding: ``longest`` pads the texts of a batch to the longest of them, ``max_length`` to this length.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: an unknown padding.
        CheckpointError: the files are missing or cannot be downloaded.
    """

    def __init__(self, name: str, max_length: int = 77, padding: str = "longest") -> None:
        transformers = import_transformers("a tokenizer")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are forked
        with reading(name):
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
        self.vocab_size = len(self.tokenizer)
        self.pad_token_id: int | None = self.tokenizer.pad_token_id
        self.bos_token_id: int | None = self.tokenizer.bos_token_id
        self.eos_token_id: int | None = self.tokenizer.eos_token_id
        self._lengths = _Lengths(max_length, padding)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return what the text encoder takes, such as ``input_ids`` and ``attention_mask``, each (N, L)."""
        options = {"truncation": True, "max_length": self._lengths.max_length, "padding": self._lengths.padding}
        found = self.tokenizer(list(texts), return_tensors="pt", **options)
        if found.encodings is not None:
            self._lengths.warn([text for text, each in zip(texts, found.encodings) if each.overflowing])
        return dict(found)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the files of the tokenizer to a folder."""
        self.tokenizer.save_pretrained(folder)


def _captions_of(dataset: Any) -> list[str]:
    if not hasattr(dataset, "captions"):
        hint = "use one such as ImageTextDataset, or give a list of texts"
        raise ConfigError("dataset", f"{type(dataset).__name__} has no captions", hint)
    return dataset.captions()  # type: ignore[no-any-return]


def _words(text: str) -> list[bytes]:
    return [word.encode()[:_NUM_BYTES] for word in _WORDS.findall(text.lower())]
