"""The replies by which an export is compared: their token ids, and how likely the trained model finds them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import Message, TemplateInputs, as_messages, prompt_text
from nlft.data.records import Example, completion_text
from nlft.data.template_columns import inputs_of
from nlft.data.training_file import read_training_file
from nlft.errors import UserError, display_path
from nlft.runs.run_dir import RunDir


@dataclass(frozen=True)
class Reply:
    """One reply to score again.

    Attributes:
        messages: the prompt as chat messages, with the run's system prompt.
        inputs: what the chat template gets besides the messages.
        prompt_ids: the prompt as nlft trains and asks it.
        ids: the reply; it ends with the end of the turn.
        log_probs: of each of `ids` by the trained model, natural logarithms, (reply_len,).
        base_difference: how far these are from the base's, each >= 0, (reply_len,); None without an adapter.
    """

    id: str | int
    messages: list[Message]
    inputs: TemplateInputs
    prompt_ids: list[int]
    ids: list[int]
    log_probs: Tensor
    base_difference: Tensor | None = None


def examples_to_score(run: RunDir | None, file: str | None, count: int) -> list[Example]:
    """Return the first `count` examples of the file, or of the run's training file.

    Raises:
        UserError: there is no file, it cannot be read, or it holds no examples.
    """
    data: dict[str, Any] = {}
    if file is None:
        data = run.settings().get("data", {}) if run is not None else {}
        recorded = data.get("file")
        if recorded is None or not Path(recorded).is_file():
            what = (
                "the run's training file is not known" if recorded is None else f"{display_path(recorded)} is missing"
            )
            raise UserError(
                f"there are no replies to compare by: {what}.\n"
                "  Give examples with --verify_file FILE: JSON lines with prompt, completion and label."
            )
        file = recorded
    found = read_training_file(file, data)[:count]
    if not found:
        raise UserError(
            f"{display_path(file)}: holds no examples to compare by.\n  Give others with --verify_file FILE."
        )
    return found


def encode_replies(examples: Sequence[Example], encoder: ConditionEncoder) -> list[Reply]:
    """Encode prompts and replies as training does. Their log-probabilities are still unknown."""
    found = []
    for example in examples:
        own = inputs_of(example.extra)
        messages = as_messages(example.prompt, system_prompt=encoder.templates.system_prompt)
        prompt = encoder.prompt_ids(example.prompt, own)
        ids = encoder.completion_ids(completion_text(example), own)
        inputs = encoder.templates.inputs.updated(own)
        found.append(Reply(example.id, messages, inputs, prompt, ids, torch.empty(0)))
    return found


def plain_text(reply: Reply) -> str:
    """Return the prompt as text, for a model without a chat template."""
    return prompt_text(reply.messages)


def scored(model: Any, reply: Reply) -> Reply:
    """Return the reply with its log-probabilities by the trained model, and how far the base is from these.

    Args:
        model: the base with its adapter, or a whole model.
    """
    ours = of_tokens(log_probs(model, reply.prompt_ids, reply.ids), reply.ids)
    if not isinstance(model, PeftModel):
        return replace(reply, log_probs=ours)
    with model.disable_adapter():
        base = of_tokens(log_probs(model, reply.prompt_ids, reply.ids), reply.ids)
    return replace(reply, log_probs=ours, base_difference=(ours - base).abs())


@torch.inference_mode()
def log_probs(model: Any, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
    """Return the log-probabilities of every token at each place of a reply, (reply_len, vocabulary)."""
    device = next(model.parameters()).device
    read = torch.tensor([[*prompt, *ids]], device=device)
    logits = model.eval()(input_ids=read, logits_to_keep=len(ids) + 1).logits[0, :-1]
    found: Tensor = logits.float().log_softmax(-1).cpu()
    return found


def of_tokens(all_log_probs: Tensor, ids: Sequence[int]) -> Tensor:
    """Return each token's own log-probability, (reply_len,)."""
    return all_log_probs.gather(1, torch.tensor(list(ids))[:, None])[:, 0]
