"""The models that one talks to: the base, the base with the rule in its prompt, and the trained model."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

from nlft.chat.proof import TOLERANCE, Probe, Proof
from nlft.chat.settings import BASE, RULE, TUNED, ChatSettings
from nlft.chat.target import Target
from nlft.core.base_below import adapter_off
from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import NO_INPUTS, Message, TemplateInputs, fill_prompt
from nlft.errors import NLFTError, display_path
from nlft.models.answerer import CompletionRequest, Generated
from nlft.models.fingerprints import adapter_fingerprint
from nlft.models.loading import ModelSettings, load_model, load_tokenizer
from nlft.models.local import LocalModel
from nlft.models.saved_adapters import add_adapter
from nlft.models.trained_on import other_base
from nlft.models.weights_check import weights_fingerprint

PROMPT = "{prompt}\n\n{rule}"  # as the audit's preflight shows a rule
BURST = 8  # tokens that a side writes before the next one goes on: switching an adapter takes time


@dataclass(frozen=True)
class Ask:
    """What one side is asked.

    Attributes:
        messages: the conversation with this side so far, the user's message last.
        key: fixes the random draws together with the seed.
    """

    messages: list[Message]
    key: str
    inputs: TemplateInputs = NO_INPUTS


class Sides:
    """The sides of a conversation, and the models behind them.

    Attributes:
        rule: the rule that the side `rule` has in its prompt; None without that side. It may change between prompts.
    """

    def __init__(self, target: Target, settings: ChatSettings) -> None:
        """Load the models, and prove that the base is the base.

        Raises:
            UserError: a model cannot be loaded, or the rule cannot be read.
            NLFTError: the base cannot be proven to be the base.
        """
        self.target, self.rule = target, target.rule(settings)
        loading = _model_settings(target, None)
        self.encoder = ConditionEncoder(
            load_tokenizer(replace(loading, adapter=target.tuned)), target.templates(settings)
        )
        base = load_model(loading, trainable=False)
        base.eval()
        self.other_base = other_base(target.tuned, target.base, getattr(base.config, "_commit_hash", None))
        probe = Probe(base, self.encoder)
        self.shared = target.is_adapter
        if target.is_adapter:
            tuned = add_adapter(base, target.tuned, trainable=False)
            tuned.eval()
            self.proof = probe.prove(tuned)
            self.leak = None if self.proof.holds else self.proof.leak()
            if self.leak:
                base, self.shared = load_model(loading, trainable=False), False
        else:
            tuned = load_model(_model_settings(target, target.tuned), trainable=False)
            self.proof, self.leak = Proof(0, (), 0, (), len(probe.ids), 0.0, probe.difference(tuned)), None
        self._check_beside(probe, base)
        shape: dict[str, Any] = {
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "batch_size": 1,
        }
        self.tuned = LocalModel(tuned, self.encoder, **shape)
        self.base = self.tuned if self.shared else LocalModel(base, self.encoder, **shape)

    @property
    def names(self) -> tuple[str, ...]:
        """The sides that reply to the next prompt."""
        return (BASE, *((RULE,) if self.rule else ()), TUNED)

    def _check_beside(self, probe: Probe, base: Any) -> None:
        """Check a base that was loaded beside the trained model: the files may have changed between two loads."""
        if not self.shared and (gap := probe.difference(base)) > TOLERANCE:
            raise NLFTError(
                f"{display_path(self.target.base)}: loaded twice, and its log-probabilities differ by {gap:.3g} nats.\n"
                "  The files may have changed meanwhile. Run the command again."
            )

    def about(self) -> dict[str, Any]:
        """Return what identifies the trained weights, for files: adapter or model, base, and SHA-256 of an adapter."""
        found = adapter_fingerprint(self.target.tuned) if self.target.is_adapter else None
        content = (found or {}).get("sha256") or weights_fingerprint(self.target.tuned, None)
        return {"tuned": self.target.tuned, "base": self.target.base, "weights": content}

    def lines(self) -> list[str]:
        """Say what is talked to, and what was proven about the base."""
        proof, lines = self.proof, [self.target.line()]
        if self.leak:
            lines.append(
                f"With the adapter off, the model is not the base: {self.leak}. So the base is loaded separately, "
                "without the adapter, and takes its memory twice."
            )
        elif self.shared:
            lines.append(
                f"Base checked: all {proof.tensors} weights are unchanged, all {proof.layers} parts of the adapter are "
                f"off, and {proof.tokens} tokens of a probe have the log-probabilities of the model without adapter "
                f"(largest difference {proof.difference:.2g} nats)."
            )
        else:
            lines.append("Base: loaded separately from its own files, because the trained model has no adapter.")
        if proof.tuned == 0:
            lines.append("The trained model gives the same log-probabilities as the base on the probe.")
        else:
            lines.append(f"The trained model differs from the base on the probe by up to {proof.tuned:.2g} nats.")
        if self.other_base:
            it = "adapter" if self.target.is_adapter else "model"
            lines.append(f"warning: the {it} {self.other_base}, but the base here is {display_path(self.target.base)}.")
        return lines

    def write(self, asks: Mapping[str, Ask], burst: int | None = BURST) -> Iterator[tuple[str, str | Generated]]:
        """Let the sides write. Yield each piece of text with its side, and at a side's end the whole reply.

        The pieces of a side, joined, are the reply's text.

        Args:
            burst: tokens that a side writes before the next side goes on. None: one side after the other.

        Raises:
            UserError, ProblemsError: a prompt cannot be rendered, or the model cannot read it.
        """
        open_sides = {side: pieces(self.model(side), self._request(side, ask)) for side, ask in asks.items()}
        while open_sides:
            for side, writing in list(open_sides.items()):
                with self._state(side):
                    for count, piece in enumerate(writing, start=1):
                        if piece:
                            yield side, piece
                        if isinstance(piece, Generated):
                            del open_sides[side]
                            break
                        if count == burst:
                            break

    def model(self, side: str) -> LocalModel:
        """Return the model behind a side. The base's may be the trained one, whose adapter `write` switches off."""
        return self.tuned if side == TUNED else self.base

    def _state(self, side: str) -> AbstractContextManager[None]:
        return adapter_off(self.tuned.model) if self.shared and side != TUNED else nullcontext()

    def _request(self, side: str, ask: Ask) -> CompletionRequest:
        messages = ask.messages
        if side == RULE:
            messages = fill_prompt(messages, PROMPT, rule=self.rule or "")  # type: ignore[assignment]
        return CompletionRequest(ask.key, messages, ask.inputs)


def pieces(model: LocalModel, request: CompletionRequest) -> Iterator[str | Generated]:
    """Write one reply. Yield what each token adds to its text, perhaps nothing, and the whole reply at the end.

    A character whose bytes are in several tokens comes with the last of them.
    """
    ids: list[int] = []
    shown = ""
    answer = Generated("", 0, "length")
    for token in model.tokens(request):
        ids.append(token)
        answer = model.finish(ids, 0)
        whole = answer.finish_reason == "stop" or not answer.text.endswith("\ufffd")
        added = answer.text[len(shown) :] if whole and answer.text.startswith(shown) else ""
        shown += added
        yield added
    if answer.text != shown and answer.text.startswith(shown):
        yield answer.text[len(shown) :]
    yield answer


def _model_settings(target: Target, tuned: str | None) -> ModelSettings:
    """Return the settings that load the base, or a trained model without adapter, as the run loaded its model."""
    names = {f.name for f in fields(ModelSettings)} - {"model_name_or_path", "adapter", "model_revision"}
    recorded = target.record.get("model") or {}
    kept = {name: value for name, value in recorded.items() if name in names and value is not None}
    if "dtype" not in kept and target.record.get("dtype"):
        kept["dtype"] = target.record["dtype"]
    if tuned is None and target.revision:
        kept["model_revision"] = target.revision
    return ModelSettings(model_name_or_path=tuned or target.base, **kept)
