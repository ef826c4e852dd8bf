"""Revised replies: the base model answers the training prompts with the rules in them, and the grader chooses.

They are made once per comparison and shared by the arms that train on them.
"""

import sys
from dataclasses import replace
from pathlib import Path

from nlft.collect.sampling import left_out_line, sample_answers
from nlft.data.checks_grader import make_grader
from nlft.data.records import Question, is_unfinished, read_examples, write_examples
from nlft.data.rules_file import guide_text
from nlft.experiments.rule_arms import read_rules_if
from nlft.experiments.stages import Job, open_answerer_of, settings_of

FILE = "revised.jsonl"


def revised_stage(folder: Path, job: Job) -> None:
    """Write revised.jsonl: the base model's reply to each training prompt under the rules, with its label.

    Each record has the id and the prompt of its training example. Examples that must stay as they are have none. The
    model is asked as it was asked for the training replies, so their temperature and length limit apply. A reply that
    the length limit cut off counts as wrong, unless the settings keep such replies.
    """
    settings, ledger = settings_of(job), folder / "revised.calls.jsonl"
    examples = [example for example in read_examples(folder / "examples.jsonl") if not example.keep]
    made = sample_answers(
        [Question(example.id, example.prompt, example.answer, example.extra) for example in examples],
        open_answerer_of(job, ledger, settings.max_new_tokens, settings.temperature),
        f"{{prompt}}\n\n{guide_text(read_rules_if(settings.rules))}",
        make_grader(settings, ledger),
    )
    whole = [not is_unfinished(e) or settings.keep_truncated for e in made]
    prompts = {example.id: example.prompt for example in examples}
    rows = [replace(e, prompt=prompts[e.id], label=e.label and kept) for e, kept in zip(made, whole, strict=True)]
    print(f"      {sum(e.label for e in rows)} of {len(rows)} revised replies pass", file=sys.stderr)
    if left_out := len(examples) - len(made):
        print(f"      {left_out_line(left_out, settings.grader)}", file=sys.stderr)
    write_examples(folder / FILE, rows)
