"""Let a local model go on from a reply that a person has begun or changed."""

from collections.abc import Sequence

from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import NO_INPUTS, Prompt, TemplateInputs
from nlft.models.answerer import Generated
from nlft.models.local import LocalModel


class ResumingModel(LocalModel):
    """A local model that continues a reply greedily."""

    def resume(self, prompt: Prompt, begun: str, inputs: TemplateInputs = NO_INPUTS) -> Generated:
        """Return what the model writes after `begun`, with the white space before its first word.

        Args:
            prompt: the prompt of the reply.
            begun: the reply up to where the model goes on.
            inputs: what the prompt's own record gives to the chat template.

        Raises:
            UserError: the chat template refuses the prompt.
            ProblemsError: prompt and reply are longer than the model's context.
        """
        encoder: ConditionEncoder = self.encoder
        asked, written = encoder.prompt_ids(prompt, inputs), encoder.generated_ids(begun)
        ids = [*asked, *written]
        self._check_ids("the reply so far", ids)
        (new,) = self._generate_ids([ids])
        ended = self._has_ended(new)
        tokenizer, kept = encoder.tokenizer, new[:-1] if ended else new
        # Decode both together: the tokens of some tokenizers lose the space before a word that stands first.
        whole = tokenizer.decode([*written, *kept], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        before = tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(kept, skip_special_tokens=True)
        return Generated(text, len(new), "stop" if ended else "length", len(asked))

    def _check_ids(self, where: str, ids: Sequence[int]) -> None:
        from nlft.errors import ProblemsError

        problems = self._limits.problems(where, list(ids), self.encoder.tokenizer, len(ids) + 1)
        if problems:
            raise ProblemsError(problems)

    def _generate_ids(self, prompts: list[list[int]]) -> list[list[int]]:
        return self._write(prompts, ["resume"] * len(prompts), 0)
