"""Write a tokenizer into a GGUF file as llama.cpp reads it, or refuse it."""

import json
from collections.abc import Sequence
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from nlft.errors import UserError

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_SPLITS = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe"}
_CURE = "Use --to merged and a server that reads tokenizer.json, or llama.cpp's own converter (--converter)."
# The keys under which llama.cpp takes tokens that end an answer.
_END_KEYS = ("eot", "eom")


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], rows: int) -> None:
    """Add tokens, merges, special tokens and the chat template to the file.

    Args:
        ends: every token that ends an answer.
        rows: number of rows of the embedding. Rows without a token get an unused one.

    Raises:
        UserError: llama.cpp would split texts otherwise, or could not know all ends.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refusal(f"the tokenizer is a {type(tokenizer).__name__}, which has no tokenizer.json")
    told = json.loads(backend.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(told))
    tokens, types = _tokens(told, rows)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([_merge(merge) for merge in told["model"]["merges"]])
    _add_ends(writer, tokenizer, ends)
    starts = _starts_with_bos(tokenizer)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(starts)
    writer.add_add_eos_token(False)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        raise _refusal(f"the tokenizer has {len(template)} chat templates, and llama.cpp takes one")
    if template is not None:
        writer.add_chat_template(template)


def pre_tokenizer_name(told: dict[str, Any]) -> str:
    """Return llama.cpp's name for how a tokenizer splits a text before it merges.

    Args:
        told: the content of tokenizer.json.

    Raises:
        UserError: llama.cpp has no name for it that is known here.
    """
    model, normalizer = told["model"], told.get("normalizer")
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _refusal(f"the tokenizer is {model['type']} with characters as its pieces, not byte-level BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise _refusal(f"the tokenizer has {name} {model[name]!r}")
    if normalizer not in (None, {"type": "NFC"}):
        raise _refusal(f"the tokenizer changes texts by {normalizer.get('type')}")
    found = _split_name(told.get("pre_tokenizer") or {})
    if found is None:
        raise _refusal(f"the tokenizer splits texts by {json.dumps(told.get('pre_tokenizer'))}")
    if bool(model.get("ignore_merges")) != (found == "llama-bpe"):
        raise _refusal(f"the tokenizer has ignore_merges {model.get('ignore_merges')}, other than {found}")
    return found


def _split_name(pre: dict[str, Any]) -> str | None:
    parts = pre.get("pretokenizers", [pre])
    if any(part.get("add_prefix_space") for part in parts) or not parts or parts[-1].get("type") != "ByteLevel":
        return None
    first = parts[:-1]
    if parts[-1].get("use_regex", True):
        if not first:
            return "gpt-2"
        return "smollm" if first == [{"type": "Digits", "individual_digits": True}] else None
    if len(first) != 1 or first[0].get("type") != "Split":
        return None
    split = first[0]
    if split.get("behavior") != "Isolated" or split.get("invert"):
        return None
    return _SPLITS.get(split["pattern"].get("Regex", ""))


def _tokens(told: dict[str, Any], rows: int) -> tuple[list[str], list[TokenType]]:
    """Return each row's token and its type."""
    names: dict[int, str] = {id: token for token, id in told["model"]["vocab"].items()}
    types = dict.fromkeys(names, TokenType.NORMAL)
    for token in told.get("added_tokens", []):
        odd = [name for name in ("lstrip", "rstrip", "single_word") if token.get(name)]
        if odd:
            raise _refusal(f"the token {token['content']!r} has {odd[0]}")
        names[token["id"]] = token["content"]
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if (largest := max(names)) >= rows:
        raise _refusal(f"the tokenizer has a token {largest}, and the embedding has {rows} rows")
    tokens = [names.get(id, f"[PAD{id}]") for id in range(rows)]
    if len(set(tokens)) < rows:
        raise _refusal("two tokens of the tokenizer have the same text")
    return tokens, [types.get(id, TokenType.UNUSED) for id in range(rows)]


def _merge(merge: str | Sequence[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _add_ends(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> None:
    """Name the tokens that end an answer. llama.cpp has one key for EOS and two for others."""
    first = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else min(ends)
    writer.add_eos_token_id(first)
    others = sorted(ends - {first})
    if len(others) > len(_END_KEYS):
        names = tokenizer.convert_ids_to_tokens([first, *others])
        raise _refusal(f"{len(names)} tokens end an answer ({', '.join(map(str, names))}), and a GGUF file names three")
    for key, id in zip(_END_KEYS, others, strict=False):
        getattr(writer, f"add_{key}_token_id")(id)


def _starts_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer begins every text with BOS.

    Raises:
        UserError: it adds something else.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    if whole == bare:
        return False
    if whole == [tokenizer.bos_token_id, *bare]:
        return True
    raise _refusal(f"the tokenizer puts {tokenizer.convert_ids_to_tokens(whole)} around a text 'a'")


def _refusal(what: str) -> UserError:
    return UserError(f"cannot write this tokenizer as GGUF: {what}.\n  {_CURE}")
