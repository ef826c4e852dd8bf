"""Write a tokenizer into a GGUF file as llama.cpp reads it, or refuse it."""

import json
import re
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
_SPACE = "\u2581"  # SentencePiece's mark for a space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_UNREACHED = -1e9  # the score of a piece that no merge makes
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
    tokens, types = _tokens(told, rows)
    if _is_sentencepiece(told):
        _add_sentencepiece(writer, told, tokens, types)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer_name(told))
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(_pair(merge)) for merge in told["model"]["merges"]])
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
        raise _refusal(f"the tokenizer is {model['type']}, neither byte-level BPE nor SentencePiece's BPE")
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


def _pair(merge: str | Sequence[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def _is_sentencepiece(told: dict[str, Any]) -> bool:
    """Whether this is a SentencePiece model as BPE: spaces become a mark, and unknown characters bytes."""
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    # Gemma's splits at spaces, of which its normalizer leaves none.
    no_split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    model = told["model"]
    return bool(
        model["type"] == "BPE"
        and model.get("byte_fallback")
        and not model.get("ignore_merges")
        and told.get("normalizer") == spaces
        and told.get("pre_tokenizer") in (None, no_split)
    )


def _add_sentencepiece(
    writer: GGUFWriter, told: dict[str, Any], tokens: Sequence[str], types: Sequence[TokenType]
) -> None:
    """Add pieces with scores. llama.cpp joins the two neighbours whose joined piece has the highest score.

    tokenizer.json has no scores, but its merges stand in the order of them. So the place of the first merge that makes
    a piece is its score.
    """
    scores = [_UNREACHED] * len(tokens)
    places = {token: id for id, token in enumerate(tokens)}
    for rank, merge in enumerate(told["model"]["merges"]):
        id = places["".join(_pair(merge))]
        scores[id] = max(scores[id], -float(rank))
    kinds, texts = list(types), list(tokens)
    for id, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == TokenType.NORMAL and _BYTE.fullmatch(token):
            kinds[id] = TokenType.BYTE
        elif kind == TokenType.USER_DEFINED:
            texts[id] = token.replace(_SPACE, " ")  # llama.cpp looks for these before it marks spaces
    unknown = told["model"].get("unk_token")
    if unknown in places:
        kinds[places[unknown]] = TokenType.UNKNOWN
        writer.add_unk_token_id(places[unknown])
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(False)


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
