"""Score a reply under what a person writes about it, and let the model go on from changed words.

The server of `nlft label` starts this as a separate process:

    run_module("nlft.training.label_worker", SETTINGS)

SETTINGS is a JSON object with `model_name_or_path`, `adapter` and `max_new_tokens`. Each line of the input has `score`,
a record of an example; or `resume`, a record with `begun`, the reply up to where the model goes on. The answers are
lines, as in `rescore_worker`.
"""

import json
from dataclasses import asdict
from typing import Any

from nlft.core.conditions import ConditionEncoder
from nlft.core.limits import limits_of
from nlft.core.logprobs import enable_scoring
from nlft.core.prompts import Templates
from nlft.core.saliency import TAG_NAMES
from nlft.core.schemes.registry import DEFAULT_SCHEME, get_scheme
from nlft.data.encoding import condition_readers, encode_examples
from nlft.data.records import as_examples
from nlft.data.template_columns import inputs_of
from nlft.errors import UserError
from nlft.models.loading import ModelSettings, load_model, load_tokenizer
from nlft.models.resuming import ResumingModel
from nlft.training.rescore_worker import Answering, packed, serve
from nlft.training.watching import score_alone, token_texts


class LabelModel:
    """A model that shows what words about a reply do to its tokens, and continues a reply."""

    def __init__(self, model_name_or_path: str, adapter: str | None, max_new_tokens: int) -> None:
        """
        Raises:
            UserError: the model or the adapter cannot be loaded.
        """
        settings = ModelSettings(model_name_or_path=model_name_or_path, adapter=adapter)
        self.model = load_model(settings, trainable=False)
        limits = limits_of(self.model)
        self.encoder = ConditionEncoder(load_tokenizer(settings), Templates(), limits=limits)
        enable_scoring(self.model)
        self.writer = ResumingModel(self.model, self.encoder, max_new_tokens=max_new_tokens, batch_size=1)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request.

        Raises:
            NLFTError: the reply cannot be encoded, or is longer than the model can read.
        """
        if "resume" in request:
            return self._resume(request["resume"])
        return self._score(request["score"])

    def _score(self, record: dict[str, Any]) -> dict[str, Any]:
        """Score an example under the prompt alone, with the words about it, and with what a reader likes."""
        (example,) = as_examples([record])
        scheme = get_scheme(DEFAULT_SCHEME)
        settings = scheme.settings()
        readers = condition_readers(scheme.name, scheme.needs(settings))
        (encoded,) = encode_examples([example], self.encoder, **readers)
        tokenizer = self.encoder.tokenizer
        scores = score_alone(self.model, encoded, tokenizer.pad_token_id, scheme, settings)
        about = {"scheme": scheme.name, "settings": asdict(settings), "tag_names": list(TAG_NAMES)}
        return {**about, "tokens": token_texts(tokenizer, encoded.completion), "arrays": packed(scores)}

    def _resume(self, record: dict[str, Any]) -> dict[str, Any]:
        if not record["begun"].strip():
            raise UserError("there is no reply to go on from.\n  Write a replacement, or mark later words.")
        found = self.writer.resume(record["prompt"], record["begun"], inputs_of(record))
        return {"text": found.text, "tokens": found.tokens, "cut": found.finish_reason == "length"}


def main(argv: list[str]) -> None:
    """Answer the lines of the input until the input ends."""

    def load() -> tuple[Answering, dict[str, Any]]:
        return LabelModel(**json.loads(argv[0])), {}

    serve(load)
