"""Compare a GGUF file, loaded by llama.cpp, with the trained model in transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from nlft.errors import NLFTError
from nlft.exporting.llama_server import LlamaServer
from nlft.exporting.replies import Reply, log_probs, of_tokens, plain_text

# What the log-probability of a token may differ by in llama.cpp and in transformers, on the same rounded weights, in
# nats: on average, and at most. float32 differs by the order of its sums. With the others, llama.cpp also rounds what
# it multiplies the weights with.
TOLERANCES = {"f32": (0.001, 0.02), "f16": (0.01, 0.25), "bf16": (0.05, 1.0), "q8_0": (0.15, 2.0)}
# What rounding the merged weights may add, in nats, on average.
ROUNDING = {"f32": 0.001, "f16": 0.05, "bf16": 0.25, "q8_0": 0.25}
# Below this, a probability is no longer a whole float32 number, and the server's logarithm is cut off.
_LEAST = -80.0
_GREEDY_REPLIES, _GREEDY_TOKENS = 2, 16
# Texts that tokenizers split differently: digits, contractions, white space, accents, scripts without spaces, emoji.
_SPLIT = (
    "In 2024, 1,234.50 € were paid; it's 3.14159!",
    "We'LL see: DON'T  stop\n\n\tif (x==10) { return y; }\r\n",
    "Fünf Äpfel kosten größere Beträge, où déjà? нещо на български 我想在9月买苹果。",
    "🙂👍🏽 naïve café — “quoted” … ½ ²",
)


@dataclass(frozen=True)
class Agreement:
    """What was compared, and how much it differed. `lines` puts it into words."""

    replies: int
    tokens: int
    untold: int
    mean: float
    largest: float
    outtype: str
    ends: tuple[str, ...]
    greedy: int
    greedy_gap: float
    has_template: bool
    base: float | None
    rounding: float

    def lines(self) -> list[str]:
        """Return the comparison in sentences."""
        mean, largest = TOLERANCES[self.outtype]
        scored = (
            f"{self.replies} replies ({self.tokens} tokens) by llama.cpp and by transformers, on the same weights: "
            f"log-probabilities differ by {self.mean:.2g} on average (tolerance {mean:g}), {self.largest:.2g} at most "
            f"(tolerance {largest:g})"
        )
        if self.untold:
            scored += f"; {self.untold} tokens are parts of characters, for which llama.cpp tells no probability"
        rounded = (
            f"merging and rounding to {self.outtype} moves them by {self.rounding:.2g} on average (tolerance "
            f"{ROUNDING[self.outtype]:g})"
        )
        if self.base is not None:
            rounded += f"; training has moved them by {self.base:.2g}"
            if self.base <= max(self.rounding, self.mean):
                rounded += ". So these replies cannot tell the trained model from its base: give others (--verify_file)"
        rendered = "the chat template renders" if self.has_template else "the tokenizer makes"
        return [
            scored,
            rounded,
            f"prompts: {rendered} the same token ids for all {self.replies}",
            f"an answer ends at {', '.join(self.ends)} in both",
            f"greedy: each of {self.greedy} tokens by llama.cpp is the likeliest in transformers, or within "
            f"{self.greedy_gap:.2g} of it",
        ]


def compare(
    server: LlamaServer,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    replies: Sequence[Reply],
    ends: frozenset[int],
    outtype: str,
) -> Agreement:
    """Compare tokens, prompts, ends, the replies' log-probabilities and greedy replies.

    Args:
        model: the merged model in transformers, with the weights that the file has.
        replies: with the log-probabilities by the trained model, which was neither merged nor rounded.
        ends: every token that ends an answer.

    Raises:
        NLFTError: something differs. The message says what, and by how much.
    """
    has_template = tokenizer.chat_template is not None
    _compare_texts(server, tokenizer)
    for reply in replies:
        _compare_prompt(server, tokenizer, reply, has_template)
    names = _compare_ends(server, tokenizer, replies[0], ends)
    expected = [of_tokens(log_probs(model, reply.prompt_ids, reply.ids), reply.ids) for reply in replies]
    moved = [(one - reply.log_probs).abs() for one, reply in zip(expected, replies, strict=True)]
    rounding = float(torch.cat(moved).mean())
    if not rounding <= ROUNDING[outtype]:
        raise _differs(
            f"merged and rounded to {outtype}, its log-probabilities differ from model + adapter by {rounding:.3g} "
            f"on average (tolerance {ROUNDING[outtype]:g})"
        )
    differences, untold = _scores(server, tokenizer, replies, expected)
    mean, largest = float(differences.mean()), float(differences.max())
    limits = TOLERANCES[outtype]
    if not (mean <= limits[0] and largest <= limits[1]):
        raise _differs(
            f"log-probabilities of {len(differences)} tokens differ by {mean:.3g} on average (tolerance {limits[0]:g}) "
            f"and {largest:.3g} at most (tolerance {limits[1]:g})"
        )
    base = [reply.base_difference for reply in replies if reply.base_difference is not None]
    greedy, gap = _greedy(server, model, tokenizer, replies[:_GREEDY_REPLIES], limits[1])
    return Agreement(
        len(replies),
        len(differences),
        untold,
        mean,
        largest,
        outtype,
        names,
        greedy,
        gap,
        has_template,
        float(torch.cat(base).mean()) if base else None,
        rounding,
    )


def _differs(what: str) -> NLFTError:
    return NLFTError(
        f"the GGUF file is not the trained model: {what}.\n"
        "  Nothing was written. Use --to merged, or report this with the output of `nlft env`."
    )


def _compare_texts(server: LlamaServer, tokenizer: PreTrainedTokenizerBase) -> None:
    for text in _SPLIT:
        ours, theirs = tokenizer(text, add_special_tokens=False)["input_ids"], server.tokens(text, special=False)
        if list(ours) != theirs:
            raise _differs(_apart(f"the text {text!r}", tokenizer, ours, theirs))


def _compare_prompt(server: LlamaServer, tokenizer: PreTrainedTokenizerBase, reply: Reply, has_template: bool) -> None:
    text = server.render(reply.messages, reply.inputs) if has_template else plain_text(reply)
    found = server.tokens(text)
    if found != reply.prompt_ids:
        raise _differs(_apart(f"the prompt of {reply.id!r}", tokenizer, reply.prompt_ids, found))


def _apart(what: str, tokenizer: PreTrainedTokenizerBase, ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Say where two lists of tokens part."""
    at = next((n for n, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
    place = min(len(ours), len(theirs)) if at is None else at
    one, other = (tokenizer.decode(list(ids[place : place + 8])) for ids in (ours, theirs))
    return (
        f"{what} has {len(ours)} tokens in transformers and {len(theirs)} in llama.cpp, which differ from token "
        f"{place + 1} on: {one!r} and {other!r}"
    )


def _compare_ends(
    server: LlamaServer, tokenizer: PreTrainedTokenizerBase, reply: Reply, ends: frozenset[int]
) -> tuple[str, ...]:
    names = []
    eos = server.eos()
    if eos not in [str(tokenizer.convert_ids_to_tokens(end)) for end in ends]:
        raise _differs(f"the file's end of a text is {eos!r}, at which no answer ends in transformers")
    for end in sorted(ends):
        names.append(str(tokenizer.convert_ids_to_tokens(end)))
        if not server.ends_at(reply.prompt_ids, end):
            raise _differs(f"an answer ends at {names[-1]} in transformers, and llama.cpp writes on")
    return tuple(names)


def _scores(
    server: LlamaServer, tokenizer: PreTrainedTokenizerBase, replies: Sequence[Reply], expected: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, int]:
    """Return the differences of the tokens' log-probabilities, and the number of tokens without one."""
    differences: list[float] = []
    untold = 0
    for reply, known in zip(replies, expected, strict=True):
        *text, end = reply.ids
        runs = _whole_runs(tokenizer, text)
        untold += len(text) - sum(stop - start for start, stop in runs)
        for start, stop in runs:
            is_last = stop == len(text)
            ids = text[start:stop]
            found = server.score([*reply.prompt_ids, *text[:start]], ids, end if is_last else None)
            wanted = [*ids, end] if is_last else ids
            written = [id for id, _ in found]
            if written != wanted:
                raise _differs(_apart(f"the reply of {reply.id!r}", tokenizer, wanted, written))
            ours = known[start : start + len(wanted)].tolist()
            pairs = zip(ours, (their for _, their in found), strict=True)
            differences += [abs(max(our, _LEAST) - max(their, _LEAST)) for our, their in pairs]
    return torch.tensor(differences), untold


def _whole_runs(tokenizer: PreTrainedTokenizerBase, text: Sequence[int]) -> list[tuple[int, int]]:
    """Return the runs of tokens that are whole characters, (start, stop); `stop` exclusive.

    llama.cpp's server tells of characters, so it has no probability for a token that is a part of one. The last run
    ends with the reply, and may be empty: the token that ends the reply follows it.
    """
    runs, start = [], 0
    for at, id in enumerate(text):
        if "\ufffd" in tokenizer.decode([id]):
            if at > start:
                runs.append((start, at))
            start = at + 1
    return [*runs, (start, len(text))]


def _greedy(
    server: LlamaServer,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    replies: Sequence[Reply],
    limit: float,
) -> tuple[int, float]:
    """Let llama.cpp answer greedily, and ask transformers whether it would choose the same tokens.

    Rounding may turn two tokens round that are as good as equally likely, so a gap below `limit` passes.

    Returns:
        The number of tokens, and the largest gap.
    """
    count, largest = 0, 0.0
    for reply in replies:
        written, wanted = server.greedy(reply.prompt_ids, _GREEDY_TOKENS)
        known = log_probs(model, reply.prompt_ids, written)
        gaps = known.max(-1).values - known.gather(1, torch.tensor(written)[:, None])[:, 0]
        count, largest = count + len(written), max(largest, float(gaps.max()))
        if largest > limit:
            at = int(gaps.argmax())
            ours = tokenizer.convert_ids_to_tokens([int(known[at].argmax()), written[at]])
            raise _differs(f"transformers continues {reply.id!r} with {ours[0]!r} where llama.cpp writes {ours[1]!r}")
        if tokenizer.chat_template is not None and not reply.inputs.tools:  # a tool call is no text there
            text, prompt_tokens = server.chat(reply.messages, reply.inputs, _GREEDY_TOKENS)
            if prompt_tokens != len(reply.prompt_ids) or _whole(text) != _whole(wanted):
                raise _differs(
                    f"a chat request answers {reply.id!r} with {text!r} after {prompt_tokens} tokens; its prompt of "
                    f"{len(reply.prompt_ids)} tokens is continued with {wanted!r}"
                )
    return count, largest


def _whole(text: str) -> str:
    """Return the text without white space around it, and without marks of bytes that are no character."""
    return text.replace("\ufffd", "").strip()
