"""Tokenizers with a piece for each word, as SentencePiece makes them: with a space before every text, or without."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def piece_tokenizer(kind: str, words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Make a tokenizer for words that a space begins.

    Args:
        kind: `llama` puts a space before each text, `gemma` does not, `mistral` puts one before the first word.
    """
    pieces = [word.replace(" ", "▁") for word in words]
    merges = list(dict.fromkeys((piece[:end], piece[end]) for piece in pieces for end in range(1, len(piece))))
    signs = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    vocabulary = {token: at for at, token in enumerate(dict.fromkeys([*signs, *(a + b for a, b in merges)]))}
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replaced = normalizers.Replace(" ", "▁")
    if kind == "mistral":
        core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        core.normalizer = replaced if kind == "gemma" else normalizers.Sequence([normalizers.Prepend("▁"), replaced])
    strip = [] if kind == "gemma" else [decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<unk>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
