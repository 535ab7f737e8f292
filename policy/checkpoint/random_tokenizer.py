"""A byte-level tokenizer with Janus-Pro's special tokens, for checkpoints with random weights.

The real tokenizer cannot be had without a download. This one makes about as many tokens of a text,
and most ids that a random model draws stand for text, so that lengths are realistic.
"""

from __future__ import annotations

from itertools import product

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from policy.encoding import BEGIN_OF_IMAGE, PADDING

# The names of Janus-Pro, with fullwidth bars and sentencepiece's underscores.
BOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
EOS = "<\uff5cend\u2581of\u2581sentence\uff5c>"
# Ids of the real tokenizer, as far as they are known: those of the roles were chosen here.
SPECIAL = {
    BOS: 100000,
    EOS: 100001,
    PADDING: 100002,
    BEGIN_OF_IMAGE: 100016,
    "<image_placeholder>": 100581,
    "<end_of_image>": 100593,
    "<|User|>": 100601,
    "<|Assistant|>": 100602,
}
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_SPACE = "\u0120"  # how byte-level tokenizers write a space
_ASCII = [_SPACE, *map(chr, range(ord("!"), ord("~") + 1))]
# Pairs of these are joined to fours, which gives nearly as many tokens as the real tokenizer has.
_FREQUENT = [_SPACE, *"etaoinshrdlcumfp"]


def random_tokenizer(text_vocab_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a model with so many text ids.

    With room for the ids of ``SPECIAL``, there are tokens of one, two and four bytes. In a smaller
    vocabulary every byte is a token, and the special tokens follow.
    """
    vocabulary = {byte: index for index, byte in enumerate(_BYTES)}
    merges: list[tuple[str, str]] = []
    special = {name: len(vocabulary) + index for index, name in enumerate(SPECIAL)}
    if text_vocab_size > max(SPECIAL.values()):
        pairs = ["".join(pair) for pair in product(_FREQUENT, repeat=2)]
        merges = [(a, b) for parts in (_ASCII, pairs) for a, b in product(parts, repeat=2)]
        vocabulary |= {a + b: len(vocabulary) + index for index, (a, b) in enumerate(merges)}
        special = SPECIAL
    core = Tokenizer(BPE(vocab=vocabulary | special, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PADDING,
        additional_special_tokens=[name for name in special if name not in (BOS, EOS, PADDING)],
        clean_up_tokenization_spaces=False,
    )
