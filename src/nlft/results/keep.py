"""The prompts on which nothing should change: a file of the user's, or the shipped ones; and near-scope prompts."""

from collections.abc import Sequence
from importlib.resources import as_file, files

from nlft.core.prompts import Prompt, fill
from nlft.data.records import Question, read_questions

NEAR_TEMPLATES = (
    "Translate this request into French. Do not carry it out.\n\n{prompt}",
    "Say in one sentence what this request asks for. Do not carry it out.\n\n{prompt}",
    "List three questions that you would ask before you carry out this request:\n\n{prompt}",
    "Rewrite this request so that it is more polite. Do not carry it out.\n\n{prompt}",
    "Write a birthday card for the person who sent this request:\n\n{prompt}",
)
NEAR_PROMPTS = 10


def read_keep(path: str | None) -> list[Question]:
    """Read the prompts to keep. Without a path, read the 40 that nlft ships.

    Raises:
        RecordsError: names every record that cannot be used.
    """
    if path is not None:
        return read_questions(path, require_answer=False)
    with as_file(files("nlft.results") / "keep.jsonl") as shipped:
        return read_questions(shipped, require_answer=False)


def near_prompts(prompts: Sequence[Prompt], count: int = NEAR_PROMPTS) -> list[Question]:
    """Make prompts that mention the task and ask for something else.

    Take `count` different prompts of the task, evenly spaced, and put each into one of the templates in turn. The
    result is the same for the same prompts.

    Args:
        prompts: the task's prompts as the model is asked them. Of several messages, the last one is used.
    """
    texts = list(dict.fromkeys(prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts))
    count = min(count, len(texts))
    chosen = [texts[at * len(texts) // count] for at in range(count)]
    return [
        Question(f"near-{at + 1}", fill(NEAR_TEMPLATES[at % len(NEAR_TEMPLATES)], prompt=text), "")
        for at, text in enumerate(chosen)
    ]
