"""The tokenizer that lies beside an adapter, if it is another one than the base model's."""

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from nlft.models.saved_adapters import adapter_files
from nlft.progress import note

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def own_tokenizer(adapter: str, base: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase | None:
    """Return the adapter's own tokenizer if its chat template, tokens or EOS differ from the base's, and say so.

    Trainers save the tokenizer that they trained with. Its chat template, tokens or EOS may have been given in Python,
    and the base model's folder knows nothing of them.

    Args:
        adapter: a folder, a run directory or a hub name.
        base: the base model's tokenizer.
        name: the base model's name, for the message.

    Returns:
        None if the adapter has no tokenizer, or the same one.

    Raises:
        UserError: there is no such adapter.
    """
    place = adapter_files(adapter)
    if not (place / "tokenizer_config.json").is_file() or not any((place / file).is_file() for file in _VOCABULARIES):
        return None
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # the note below says what differs
    try:
        own: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(place), trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare Exception, and others what they like
        said = " ".join(str(error).split())[:200]
        note(f"warning: {adapter}: its own tokenizer cannot be loaded, so that of {name} is used: {said}")
        return None
    finally:
        logging.set_verbosity(before)
    if own.chat_template is None:  # its file was not copied along
        own.chat_template = base.chat_template
    found = _other_parts(own, base)
    if not found:
        return None
    note(f"{adapter}: its own tokenizer is used. It differs from that of {name} in: {', '.join(found)}.")
    return own


def _other_parts(own: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase) -> list[str]:
    """Return what differs between two tokenizers, in words."""
    other = {
        "chat template": _plain(own.chat_template) != _plain(base.chat_template),
        "tokens": _tokens(own, base) != _tokens(base, own),
        f"EOS ({own.eos_token} instead of {base.eos_token})": own.eos_token != base.eos_token,
    }
    return [what for what, differs in other.items() if differs]


def _tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return a tokenizer's ids, except that of a token that only pads: many trainings add one."""
    pads = {one.pad_token, other.pad_token}
    return {token: id for token, id in one.get_vocab().items() if token not in pads}


def _plain(template: Any) -> Any:
    """Return chat templates with the line breaks and the end that they have after they were saved and loaded."""
    if isinstance(template, dict):
        return {name: _plain(text) for name, text in template.items()}
    return template.replace("\r\n", "\n").replace("\r", "\n").rstrip() if isinstance(template, str) else template
