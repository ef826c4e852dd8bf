"""The log-likelihood of standard answers, where nothing can be graded."""

from collections.abc import Iterable, Sequence

import torch

from nlft.core.conditions import pad_rows
from nlft.core.limits import limits_of
from nlft.core.logprobs import enable_scoring, score
from nlft.core.reply_form import TemplateRefusal
from nlft.errors import ProblemsError, UserError
from nlft.models.answerer import CompletionRequest
from nlft.models.local import LocalModel

AnswerRows = list[tuple[list[int], list[int]]]
"""Token ids of each prompt and of its standard answer."""


def answer_rows(local: LocalModel, requests: Sequence[CompletionRequest], answers: Iterable[str]) -> AnswerRows:
    """Return the token ids of prompts and standard answers.

    Raises:
        ProblemsError: names every answer that the model cannot read together with its prompt: it is longer than the
            model's context, or has a token without a row in the embedding.
        UserError: the chat template refuses one.
    """
    encoder, limits = local.encoder, limits_of(local.model)
    rows, problems = [], []
    for request, answer in zip(requests, answers, strict=True):
        where = f"prompt and standard answer {request.key!r}"
        try:
            prompt = encoder.prompt_ids(request.prompt, request.inputs)
            reply = encoder.completion_ids(answer, request.inputs)
        except TemplateRefusal as error:
            raise UserError(f"{where}: {error}") from error
        problems += limits.problems(where, [*prompt, *reply], encoder.tokenizer)
        rows.append((prompt, reply))
    if problems:
        raise ProblemsError(problems)
    return rows


@torch.no_grad()
def mean_logp(local: LocalModel, rows: AnswerRows) -> float:
    """Return the mean log-likelihood per token, over all tokens of all standard answers."""
    enable_scoring(local.model)
    device = next(local.model.parameters()).device
    total, tokens = 0.0, 0
    for one in rows:
        scored = score(local.model, pad_rows([one], 0).on(device))
        total, tokens = total + float(scored.logp.sum()), tokens + int(scored.mask.sum())
    return total / max(tokens, 1)
