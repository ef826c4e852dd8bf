"""The model card of a run: README.md in the adapter's folder, from the run's own files. No torch.

A card is published, so it holds counts and rates, and no text of the user's examples unless that is asked for.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from nlft.files import write_whole
from nlft.outputs import keeping_before
from nlft.runs.card_facts import Known, known_of, public_name, read_object
from nlft.runs.card_results import better_lines, collateral_lines, rule_lines
from nlft.runs.controls import WITHOUT_EFFECT_ON_WEIGHTS
from nlft.runs.reading import reading
from nlft.runs.run_dir import RunDir, WatchedExample

CARD = "README.md"
_DIGEST = "\n<!-- nlft wrote the text above. SHA-256: {} -->\n"


def write_card(run: RunDir, *, examples: int = 0) -> Path:
    """Write the card of a finished run again, with what is known by now. Return its path.

    If somebody has changed the card, which its last line tells, the file before is kept beside it.

    Args:
        examples: number of the run's watched examples to show in the card, with prompt, reply and judgment.

    Raises:
        OSError: the card cannot be written.
        UserError: a file of the run, or of its comparison, is not as nlft wrote it.
    """
    path = run.adapter_path / CARD
    with reading(run.path):
        text = card_text(known_of(run, examples=examples), run.adapter_path, run.path.resolve().name)
    changed = path.is_file() and not _is_as_written(path.read_text(encoding="utf-8", errors="replace"))
    with keeping_before(path) if changed else nullcontext():
        write_whole(path, text.encode())
    return path


def _is_as_written(card: str) -> bool:
    """Return whether a card is as nlft wrote it."""
    text, start, _ = card.rpartition(_DIGEST.partition("{")[0])
    return bool(start) and card == _signed(text)


def _signed(text: str) -> str:
    return text + _DIGEST.format(sha256(text.encode()).hexdigest())


def card_text(known: Known, folder: Path, name: str, *, merged: bool = False) -> str:
    """Return the card, Markdown with front matter. Its last line, a comment, is a digest of the rest.

    Args:
        folder: the adapter's or the merged model's folder. It tells whether the tokenizer has a chat template.
        name: the run's name.
        merged: whether the folder holds the whole model.
    """
    adapter = not merged and known.settings.get("adapter_config") is not None
    base = public_name(known.settings.get("model_name_or_path"))
    what = "LoRA adapter" if (known.settings.get("adapter_config") or {}).get("r") else "Adapter"
    title = f"{name}: {what.lower() if what == 'Adapter' else what} for {base}" if adapter else f"{name}: {base}, tuned"
    parts = [
        f"---\n{yaml.safe_dump(metadata(known, adapter=adapter), sort_keys=False, allow_unicode=True)}---",
        f"# {title}",
        "Trained with nlft ([arXiv 2412.20382](https://arxiv.org/abs/2412.20382)) on replies with written feedback."
        + ("" if adapter else " The weights are whole: no adapter is needed."),
        f"## Use it\n\n{snippet(adapter=adapter, chat=_has_chat_template(folder))}",
        *_system_prompt(known.settings),
        "## Training\n\n" + "\n".join([*_training_rows(known), *_changes(known.controls)]),
        "## Is it better?\n\n" + "\n".join(_section(better_lines, known)),
        "## What else changed\n\n" + "\n".join(_section(collateral_lines, known)),
        "## Should the rule stay in the prompt?\n\n" + "\n".join(_section(rule_lines, known)),
        "## Limits\n\n" + "\n".join(_limits(known, adapter=adapter)),
        *_examples(known.watched),
    ]
    return _signed("\n\n".join(parts) + "\n")


def metadata(known: Known, *, adapter: bool) -> dict[str, Any]:
    """Return the front matter, as the hub reads it. Without a public name of the base there is no `base_model`."""
    settings = known.settings
    base = settings.get("model_name_or_path")
    method, scheme = settings.get("method"), settings.get("scheme")
    tags = ["nlft", *dict.fromkeys(str(tag) for tag in (method, scheme) if tag and tag != "nlft")]
    relation = {"base_model": public_name(base), "base_model_relation": "adapter" if adapter else "finetune"}
    return {
        **(relation if base else {}),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [*tags, *(["lora"] if (settings.get("adapter_config") or {}).get("r") else [])],
        "datasets": [],
    }


def snippet(*, adapter: bool, chat: bool) -> str:
    """Return Python code that loads the model from the card's folder and lets it answer."""
    load = (
        [
            "config = PeftConfig.from_pretrained(FOLDER)",
            'base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path, dtype="auto")',
            "model = PeftModel.from_pretrained(base, FOLDER)",
        ]
        if adapter
        else ['model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="auto")']
    )
    ask = (
        [
            'messages = [{"role": "user", "content": "What can you do for me?"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
        if chat
        else ['inputs = tokenizer("What can you do for me?", return_tensors="pt")']
    )
    lines = [
        "```python",
        *(["from peft import PeftConfig, PeftModel"] if adapter else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'FOLDER = "."  # this folder, or the name of its repository on the hub',
        *load,
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
        *ask,
        "reply = model.generate(**inputs, max_new_tokens=64, do_sample=False)",
        'print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        "```",
    ]
    return "\n".join(lines)


def _system_prompt(settings: Mapping[str, Any]) -> list[str]:
    if not (settings.get("training") or {}).get("system_prompt"):
        return []
    return ["It was trained with a system message. Put the same one first: run.yaml has it as `system_prompt`."]


def _training_rows(known: Known) -> list[str]:
    settings, training = known.settings, known.settings.get("training") or {}
    if not settings.get("method"):
        return ["How it was trained is not known: its run directory was not given."]
    data, config = settings.get("data") or {}, settings.get("adapter_config") or {}
    right = data.get("right")
    split = "" if right is None else f": {right} liked (right), {data['examples'] - right} with a fault (wrong)"
    scheme = f", scheme `{settings['scheme']}`" if settings.get("scheme") else ""
    steps = [str(known.steps)] if known.steps else []
    if best := settings.get("best"):
        steps.append(f"the weights are those of step {best['step']}, the best checkpoint")
    if chosen := settings.get("chosen_step"):
        steps.append(f"the weights are those after step {chosen['step']} of {chosen['of']}, chosen on training prompts")
    versions = settings.get("versions") or {}
    rows = {
        "method": f"`{settings.get('method')}`{scheme}",
        "examples": f"{data.get('examples')}{split}; SHA-256 `{str(data.get('sha256'))[:16]}`",
        "optimizer steps": "; ".join(steps),
        "learning rate": str(training.get("learning_rate") or ""),
        "examples per step": _batch(training, int(settings.get("processes") or 1)),
        "adapter": f"r {config.get('r')}, alpha {config.get('lora_alpha')}" if config.get("r") else "",
        "seed": str(settings.get("seed")),
        "versions": ", ".join(f"{n} {versions[n]}" for n in ("nlft", "transformers", "peft") if n in versions),
    }
    return ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)]


def _batch(training: Mapping[str, Any], processes: int) -> str:
    size = training.get("per_device_train_batch_size")
    return str(size * (training.get("gradient_accumulation_steps") or 1) * processes) if size else ""


def _changes(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the changes made during training."""
    changes = [e for e in lines if e["taken"] and e["control"] not in WITHOUT_EFFECT_ON_WEIGHTS]
    rows = [f"- step {e['step']}: `{e['control']}`" + (f" {e['new']}" if e["new"] is not None else "") for e in changes]
    return ["", "Changed while it trained:", "", *rows] if rows else []


def _limits(known: Known, *, adapter: bool) -> list[str]:
    base = known.settings.get("model_name_or_path")
    lines = [
        "- What is not listed above was not tested. Other prompts than those of the examples may behave otherwise."
    ]
    if adapter:
        lines.append(f"- It fits {public_name(base)} alone, and inherits that model's licence, faults and biases.")
    else:
        lines.append("- It inherits the base model's licence, faults and biases.")
    if base and Path(str(base)).is_absolute():
        inside = " and `base_model_name_or_path` in adapter_config.json" if adapter else ""
        lines.append(
            f"- The base model was a folder, `{public_name(base)}`. Before you publish this, put the base's name on "
            f"the hub in its place: `base_model` above{inside}."
        )
    lines.append("- The examples are not part of this folder. Name them here if others may have them.")
    return lines


def _examples(watched: Sequence[WatchedExample]) -> list[str]:
    """Show examples with the user's texts, as indented blocks, which Markdown does not interpret."""
    if not watched:
        return []
    parts = ["## Examples that it was trained on"]
    for example in watched:
        texts = {"prompt": example.prompt, "reply": "".join(example.tokens[:-1]), "feedback": example.judgment}
        for name, text in texts.items():
            if text:
                parts.append(f"{name}:\n\n" + "\n".join(f"    {line}" for line in text.splitlines()))
    return parts


def _section(lines: Any, known: Known) -> list[str]:
    """Return a section's lines. A file that another version wrote must not stop a training's end."""
    try:
        return list(lines(known))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return [f"Not known: a file of the run is not as this version writes it ({type(error).__name__}: {error})."]


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    return bool(read_object(folder / "tokenizer_config.json").get("chat_template"))


def card_of_merged(adapter: str | None, base: str, folder: Path, name: str) -> str:
    """Return the card of a merged model, with what the adapter's run says if the adapter lies in one.

    Args:
        adapter: the adapter as the user gave it: a run directory, an adapter's folder or a hub name.
        folder: the merged model's folder.
        name: the merged model's name, if the run is not known.
    """
    given = Path(adapter or "")
    place = next((p for p in (given, given.parent) if (p / "run.yaml").is_file()), None)
    if place is None:
        known = Known({"model_name_or_path": str(Path(base).resolve()) if Path(base).is_dir() else base})
        return card_text(known, folder, name, merged=True)
    return card_text(known_of(RunDir(place)), folder, place.resolve().name, merged=True)
