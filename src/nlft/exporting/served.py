"""What a program that serves base and adapter takes from the base: the tokenizer, and where an answer ends."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from nlft.core.conditions import end_of_turn_id
from nlft.errors import UserError, typed
from nlft.exporting.source import Trained
from nlft.models.loading import load_tokenizer
from nlft.models.own_tokenizer import own_tokenizer
from nlft.models.weights_check import loaded

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Served:
    """What is served with a base.

    Attributes:
        own: the adapter's own tokenizer; None if it is the base's.
        trained_end: the token that training ended every reply with, and its id.
        ends: the tokens at which the base ends a text, by its own files.
    """

    own: PreTrainedTokenizerBase | None
    trained_end: tuple[str, int]
    ends: frozenset[int]

    @property
    def ends_too_late(self) -> bool:
        """Whether the base's files do not name the end that was trained."""
        return self.trained_end[1] not in self.ends


def read_base(trained: Trained) -> Served | str:
    """Read the base's files. For a hub name whose files cannot be had here, return why.

    Raises:
        UserError: the base's folder is gone, or its files are damaged.
    """
    settings = trained.settings
    try:
        config = loaded(
            lambda: AutoConfig.from_pretrained(trained.base, revision=settings.model_revision, trust_remote_code=False),
            f"nlft export: the base model {trained.base}",
            Path(trained.base),
            "Name its new place with --model_name_or_path.",
        )
        base = load_tokenizer(replace(settings, adapter=None))
    except UserError as error:
        if Path(trained.base).exists() or not _HUB_NAME.fullmatch(trained.base):
            raise
        return str(error).splitlines()[0]
    own = own_tokenizer(settings.adapter, base, trained.base) if settings.adapter else None
    used = own or base
    end = end_of_turn_id(used)
    ends = frozenset(int(one) for one in (*_named(trained, config), used.eos_token_id) if one is not None)
    return Served(own, (str(used.convert_ids_to_tokens(end)), end), ends)


def told_end(served: Served, server: str, stop: str, trained: Trained) -> list[str]:
    """Say that a server would write on after the end that was trained, and what to do.

    Args:
        stop: how the server is told to stop there.
    """
    if not served.ends_too_late:
        return []
    token, end = served.trained_end
    name = trained.run.path if trained.run else trained.adapter or trained.base
    return [
        f"warning: {server} would write on after a reply. The training ends replies with {token} (id {end}), and the "
        f"base model names other ends. {stop}, or export the whole model, which names it: "
        f"{typed('nlft', 'export', name, '--to', 'merged')}"
    ]


def _named(trained: Trained, config: Any) -> set[int | None]:
    """Return the ends that the base's generation_config.json names; without the file, those of config.json."""
    try:
        named = GenerationConfig.from_pretrained(trained.base, revision=trained.settings.model_revision).eos_token_id
    except OSError:
        named = config.get_text_config().eos_token_id
    return set(named) if isinstance(named, list | tuple) else {named}
