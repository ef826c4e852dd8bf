"""The card of an adapter and of a merged model: its snippet runs, and it says what is known and no text of the user."""

import json
import re

import pytest
import yaml
from transformers import AutoModelForCausalLM

from helpers import tiny
from helpers.training import lora, nlft_trainer
from nlft import cli
from nlft.runs.model_card import write_card
from nlft.runs.run_dir import RunDir


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base model and a run that has finished."""
    folder = tmp_path_factory.mktemp("card")
    tiny.model().save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    model = lora(AutoModelForCausalLM.from_pretrained(folder / "base"))
    nlft_trainer(folder / "run", model=model, max_steps=2, watch=2).train()
    return folder


def parts(card: str) -> tuple[dict, str]:
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def run_snippet(text: str, folder, monkeypatch, capsys) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    return capsys.readouterr().out


def test_the_card_has_the_hubs_front_matter_and_a_snippet_that_runs(place, monkeypatch, capsys):
    front, text = parts((place / "run" / "adapter" / "README.md").read_text(encoding="utf-8"))
    assert front == {
        "base_model": "base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["nlft", "lora"],
        "datasets": [],
    }
    assert "12: 4 liked (right), 8 with a fault (wrong)" in text
    assert "| optimizer steps | 2 |" in text
    assert text.count("Not measured.") == 3
    assert "nlft compare EXAMPLES --model_name_or_path base --rules RULES" in text
    assert run_snippet(text, place / "run" / "adapter", monkeypatch, capsys).strip()


def test_no_text_of_an_example_and_no_folder_of_the_machine_is_in_it_unless_asked(place, capsys):
    card = (place / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "minus" not in card
    assert str(place) not in card
    assert cli.main(["card", str(place / "run"), "--examples", "1"]) == 0
    assert "    What is 40 minus 11?" in (place / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "README.md" in capsys.readouterr().out
    assert cli.main(["card", str(place / "run")]) == 0
    assert (place / "run" / "adapter" / "README.md").read_text(encoding="utf-8") == card
    assert cli.main(["card", str(place)]) == 2


def test_evaluating_a_run_writes_its_card_again(place, tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text('{"id": "q", "question": "What is 2 + 2?", "answer": "#### 4"}\n')
    flags = ["--model_name_or_path", str(place / "base"), "--adapter", str(place / "run"), "--dtype", "float32"]
    try:
        assert cli.main(["evaluate", str(tmp_path / "q.jsonl"), *flags, "--max_new_tokens", "2"]) == 0
        assert "README.md" in capsys.readouterr().out
        card = (place / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    finally:
        for file in (place / "run").glob("evaluation.*"):
            file.unlink()
    assert re.search(r"Evaluated on 1 question:\n\n- final: [01] of 1 right", card)


def test_an_evaluation_and_an_audit_are_quoted_with_their_intervals(place):
    style = {"words": 10.0, "tokens": 12.0, "ends": 0.5, "repetition": 0.0, "copied": None}
    figures = {"replies": 20, "before": style, "after": {**style, "words": 8.0}, "kl": 0.0123, "phrases": [
        {"text": "my own secret", "before": 0, "after": 9}]}  # fmt: skip
    rate = {"count": 15, "n": 20, "low": 0.531, "high": 0.888}
    broken = [{"bound": "phrase_common", "prompts": "task", "what": "“my own secret” in 9", "limit": 0.3}]
    evaluation = {
        "summary": {"questions": 20, "accuracy": {"all checks": rate}},
        "collateral": {"figures": {"task": figures}, "broken": broken},
    }
    ready = {"verdict": "use the prompt", "reason": "x"}
    run = RunDir(place / "run")
    try:
        run.evaluation_path.write_text(json.dumps(evaluation))
        (run.path / "audit.json").write_text(json.dumps({"preflight": ready}))
        card = write_card(run).read_text(encoding="utf-8")
        assert "- all checks: 15 of 20 right, 75.0% [53.1%, 88.8%]" in card
        assert "| the task's prompts | 20 | 0.0123 | 50% → 50% | 10 → 8 | 1 |" in card
        assert "`phrase_common` on the task's prompts" in card
        assert "secret" not in card
        assert "keep the rule in the prompt" in card
        run.evaluation_path.write_text('{"summary": {}}')
        assert "KeyError" in write_card(run).read_text(encoding="utf-8")
    finally:
        run.evaluation_path.unlink()
        (run.path / "audit.json").unlink()


def share(value: float) -> dict:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "seeds": 1}


@pytest.mark.parametrize(
    ("own", "prompted", "said"), [(0.9, 0.5, "No: "), (0.4, 0.8, "Yes: "), (0.7, 0.72, "Not decided: ")]
)
def test_a_comparison_says_whether_the_rule_stays_in_the_prompt(place, own, prompted, said):
    arm = {"size": 12, "collateral": None, "broken": []}
    report = {
        "questions": 40,
        "settings": {"seeds": [0]},
        "verdict_data": {
            "kind": "train",
            "best": "run",
            "prompt": "rule",
            "gap": {"value": own - prompted, "low": 0.1, "high": 0.2},
        },
        "arms": [
            {**arm, "arm": "rule", "title": "the rule in the prompt", "trained": False, "share": share(prompted)},
            {**arm, "arm": "run", "title": "strike and hold", "trained": True, "share": share(own)},
        ],
    }
    (place / "tune.json").write_text(json.dumps(report))
    try:
        card = write_card(RunDir(place / "run")).read_text(encoding="utf-8")
    finally:
        (place / "tune.json").unlink()
    assert said in card.split("## Should the rule stay in the prompt?")[1]
    assert f"this adapter (strike and hold): {own:.1%} [{own - 0.05:.1%}, {own + 0.05:.1%}]" in card
    assert "strike and hold against the rule in the prompt" in card


def test_a_merged_model_has_a_card_whose_snippet_runs(place, monkeypatch, capsys):
    out = place / "merged"
    flags = ["--model_name_or_path", str(place / "base"), "--adapter", str(place / "run"), "--dtype", "float32"]
    assert cli.main(["merge", *flags, "--out", str(out)]) == 0
    capsys.readouterr()
    front, text = parts((out / "README.md").read_text(encoding="utf-8"))
    assert (front["library_name"], front["base_model_relation"]) == ("transformers", "finetune")
    assert "| optimizer steps | 2 |" in text
    assert run_snippet(text, out, monkeypatch, capsys).strip()


def test_a_card_that_somebody_has_changed_is_kept_beside_the_new_one(place, capsys):
    run = RunDir(place / "run")
    card = write_card(run)
    write_card(run)
    assert not list(card.parent.glob("README.md.bak*"))
    card.write_text(card.read_text(encoding="utf-8") + "## My own section\n", encoding="utf-8")
    capsys.readouterr()
    try:
        assert cli.main(["card", str(place / "run")]) == 0
        told = capsys.readouterr().out
        (before,) = card.parent.glob("README.md.bak*")
        assert before.name in told
        assert "My own section" in before.read_text(encoding="utf-8")
        assert "My own section" not in card.read_text(encoding="utf-8")
    finally:
        for path in card.parent.glob("README.md.bak*"):
            path.unlink()
