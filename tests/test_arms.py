"""The rivals of `strike`: what each arm is asked, trains on and strikes, and why it is skipped."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from transformers import Trainer

from helpers import tiny
from helpers.training import examples as tiny_examples
from helpers.training import nlft_trainer
from nlft.collect.sampling import SamplingSettings
from nlft.config import checked, declared
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme
from nlft.core.schemes.strike import StrikeSettings
from nlft.core.spans import Span, replaced_text
from nlft.data.records import (
    Example,
    Question,
    completion_text,
    marked_spans,
    read_examples,
    read_questions,
    write_examples,
)
from nlft.data.rules_file import Rule, read_rules
from nlft.errors import NLFTError, UserError
from nlft.experiments.arm_data import as_prompted, chosen_examples, with_what_is_read
from nlft.experiments.arm_run import peak_memory_bytes, run_arm
from nlft.experiments.arms import BUILT_IN, defined_arm
from nlft.experiments.cells import cell_result, write_failure
from nlft.experiments.revised import revised_stage
from nlft.experiments.rule_arms import with_rules
from nlft.experiments.settings import Budget, CompareSettings, TuneSettings
from nlft.experiments.stages import judge_stage
from nlft.models.answerer import CompletionRequest, complete
from nlft.models.loaded import loaded_answerer
from nlft.models.loading import ModelSettings
from nlft.models.saved_adapters import WEIGHTS
from nlft.runs.run_dir import RunDir
from nlft.training.start import own_checkpoint
from nlft.yaml_files import yaml_entries

EXAMPLES = Path(__file__).parent.parent / "examples"
NLFT_AND_ITS_CONTROLS = {"nlft", "control", "uniform-right", "shuffled"}
PRAISE = Rule("praise", "The catalogue does not praise", "State plain facts.", ("sleek", "durable"), ("modern",), 2)
SHORT = Rule("short", "Say it once!", None, (), (), 1)
WRONG = [
    Example("a", "A lamp?", "A sleek, durable lamp.", False, None, 'It praises: "sleek", "durable".'),
    Example("b", "A rug?", "A rug that is sleek.", False, None, 'It praises: "sleek".'),
    Example("c", "A tent?", "It is a tent, a tent.", False, None, 'Say it once! "a tent"'),
]
RIGHT = [Example("d", "A pen?", "It writes.", True), Example("e", "A cup?", "It holds tea.", True)]
ALL = [*WRONG, *RIGHT]


def texts(example):
    return [completion_text(example)[span.start : span.end] for span in marked_spans(example)]


def prompts(name, rules, questions=("A box?",)):
    arm = with_rules(BUILT_IN[name], rules, ALL)
    chosen = chosen_examples(arm, ALL, 0, rules)
    asked = as_prompted(arm, [Question(n, one) for n, one in enumerate(questions)], chosen, SamplingSettings())
    return [question.prompt for question in asked]


def test_replies_with_spans_alone_reach_every_arm_that_reads_no_judgment(tmp_path, capsys):
    marked = replace(WRONG[0], judgment=None, spans=(Span(2, 7),))
    bare = replace(marked, id="bare", spans=())
    given = [marked, bare, WRONG[1], *RIGHT]
    write_examples(tmp_path / "sampled.jsonl", given)
    job = {"settings": asdict(TuneSettings(judge="rules"))}
    judge_stage(tmp_path, job)
    judged = read_examples(tmp_path / "judged.jsonl")
    assert judged == [marked, WRONG[1], *RIGHT]
    assert "bare" in capsys.readouterr().out
    assert with_what_is_read(judged, get_scheme("strike"), StrikeSettings()) == judged
    assert with_what_is_read(judged, get_scheme("nlft"), NLFTSettings()) == judged[1:]
    assert "nlft reads: 1 " in capsys.readouterr().err
    job["settings"] |= {"scheme": "nlft", "saliency": {}}  # rounds
    judge_stage(tmp_path, job)
    assert read_examples(tmp_path / "judged.jsonl") == judged[1:]
    shuffled = chosen_examples(BUILT_IN["shuffled"], [marked, *WRONG, *RIGHT], 0)
    assert [e.judgment is None for e in shuffled[:4]] == [True, False, False, False]


def test_a_rule_is_shown_with_its_words_and_reworded_without_them():
    assert prompts("rule", [PRAISE, SHORT]) == [
        "A box?\n\nThe catalogue does not praise. Never use these words: sleek, durable.\nSay it once!"
    ]
    assert prompts("rule-reworded", [PRAISE, SHORT]) == ["A box?\n\nState plain facts.\nSay it once!"]


def test_liked_replies_are_earlier_turns_and_the_rule_stands_in_the_last():
    (one, other) = prompts("rule-shots", [SHORT], ["A box?", "A hat?"])
    assert [message["role"] for message in one] == ["user", "assistant"] * 2 + ["user"]
    assert {(q["content"], a["content"]) for q, a in zip(one[:-1:2], one[1::2], strict=True)} == {
        (example.prompt, example.completion) for example in RIGHT
    }
    assert one[-1]["content"] == "A box?\n\nSay it once!"
    assert other[:-1] == one[:-1]


KEPT = [Example(f"k{n}", f"An advert for hat {n}?", f"A sleek, durable hat {n}!", True, keep=True) for n in range(6)]


def test_kept_replies_are_no_liked_ones_that_are_shown():
    arm = with_rules(BUILT_IN["rule-shots"], [PRAISE], ALL)
    for seed in range(5):
        chosen = chosen_examples(arm, [*KEPT, *ALL], seed, [PRAISE])
        (asked,) = as_prompted(arm, [Question(1, "A box?")], chosen, SamplingSettings(seed=seed))
        assert {message["content"] for message in asked.prompt[1:-1:2]} == {"It writes.", "It holds tea."}
    for name, examples in (("rule-shots", [*KEPT, *WRONG, RIGHT[0]]), ("uniform-right", [*KEPT, *WRONG])):
        with pytest.raises(UserError, match="keep"):
            chosen_examples(with_rules(BUILT_IN[name], [PRAISE], ALL), examples, 0)


def test_kept_replies_are_trained_as_they_are_beside_liked_ones():
    assert chosen_examples(BUILT_IN["uniform-right"], [*ALL, *KEPT], 0) == [*RIGHT, *KEPT]
    assert chosen_examples(BUILT_IN["sft-completion"], [*ALL, *KEPT], 0) == [*ALL, *KEPT]


def test_standard_answers_are_shown_of_prompts_in_scope_alone():
    answered = [replace(example, answer=f"#### {n}") for n, example in enumerate(RIGHT)]
    arm = defined_arm("shown", {"method": "few-shot"})
    chosen = chosen_examples(arm, [*KEPT, *answered], 0)
    (asked,) = as_prompted(arm, [Question(1, "A box?")], chosen, SamplingSettings())
    assert {message["content"] for message in asked.prompt[1:-1:2]} == {"#### 0", "#### 1"}


def test_the_rules_words_are_banned_and_without_them_what_the_judgments_quote():
    assert with_rules(BUILT_IN["ban"], [PRAISE, SHORT], ALL).settings == {"words": ["sleek", "durable"], "tries": 50}
    assert with_rules(BUILT_IN["ban"], [SHORT], ALL).settings["words"] == ["sleek", "durable", "a tent"]
    mine = defined_arm("mine", {"method": "ban", "settings": {"words": ["chic"]}})
    assert with_rules(mine, [], ALL).settings == {"words": ["chic"], "tries": 50}
    with pytest.raises(UserError, match="ban: no rule has words"):
        with_rules(BUILT_IN["ban"], [], RIGHT)
    with pytest.raises(UserError, match="tries is 0"):
        defined_arm("mine", {"method": "ban", "settings": {"tries": 0}})


def test_the_rules_words_are_struck_beside_the_quotes():
    assert with_rules(BUILT_IN["strike-list"], [PRAISE, SHORT], ALL).settings["strike_words"] == ["sleek", "durable"]
    mine = defined_arm("mine", {"method": "nlft", "settings": {"strike_words": ["chic", "{words}"]}})
    assert with_rules(mine, [PRAISE], ALL).settings["strike_words"] == ["chic", "sleek", "durable"]


@pytest.mark.parametrize(
    ("name", "rules", "named"),
    [
        ("rule", [], "rule: needs rules"),
        ("rule-reworded", [SHORT], "`reworded`"),
        ("strike-list", [SHORT], "`words`"),
        ("rule-shots", [], "--rules"),
    ],
)
def test_an_arm_that_the_rules_cannot_fill_says_what_is_missing(name, rules, named):
    with pytest.raises(UserError, match=named):
        with_rules(BUILT_IN[name], rules, ALL)


@pytest.mark.parametrize(
    ("name", "examples", "named"),
    [
        ("rule-shots", [*WRONG, RIGHT[0]], "only 1 of 2 needed examples are right"),
        ("sft-replaced", RIGHT, "no wrong example has spans"),
        ("strike-random", RIGHT, "no example has both"),
        ("strike-shuffled", [WRONG[0], *RIGHT], "fewer than two wrong examples"),
    ],
)
def test_an_arm_without_the_examples_it_needs_says_so(name, examples, named):
    with pytest.raises(UserError, match=named):
        chosen_examples(BUILT_IN[name], examples, 0)


def test_the_reason_for_skipping_an_arm_is_its_result(tmp_path, model_folder):
    write_examples(tmp_path / "examples.jsonl", ALL)
    (tmp_path / "test.jsonl").write_text('{"id": 1, "prompt": "A box?"}\n')
    for name, named in (("rule", "--rules"), ("strike-list", "strike-list: needs rules")):
        run_arm(
            BUILT_IN[name],
            examples=tmp_path / "examples.jsonl",
            test=tmp_path / "test.jsonl",
            out=tmp_path / name,
            model={"model_name_or_path": model_folder},
            asking=SamplingSettings(max_new_tokens=4),
            budget=Budget(max_steps=1),
        )
        assert named in json.loads((tmp_path / name / "result.json").read_text())["skipped"]


def test_the_outcome_of_the_ban_is_its_result(tmp_path, model_folder):
    write_examples(tmp_path / "examples.jsonl", ALL)
    (tmp_path / "test.jsonl").write_text('{"id": 1, "prompt": "A box?", "answer": "1"}\n')
    run_arm(
        BUILT_IN["ban"],
        examples=tmp_path / "examples.jsonl",
        test=tmp_path / "test.jsonl",
        out=tmp_path / "ban",
        model={"model_name_or_path": model_folder},
        asking=SamplingSettings(max_new_tokens=4),
        budget=Budget(max_steps=1),
    )
    result = json.loads((tmp_path / "ban" / "result.json").read_text())
    assert result["ban"] == {"words": ["sleek", "durable", "a tent"], "tries": 50, "answers_with_a_banned_word": 0}
    assert (result["steps"], result["summary"]["questions"]) == (None, 1)


@pytest.mark.parametrize(
    ("text", "spans", "becomes"),
    [
        ("A sleek, durable lamp.", [Span(2, 7), Span(9, 16)], "A, lamp."),
        ("A sleek, durable lamp.", [Span(2, 7, "plain"), Span(9, 16, "")], "A plain, lamp."),
        ("Sleek lamp.", [Span(0, 5)], "lamp."),
        ("One.\n\nGreat lamp.", [Span(6, 11)], "One.\n\nlamp."),
    ],
)
def test_what_has_no_replacement_is_deleted_with_the_space_before_it(text, spans, becomes):
    assert replaced_text(text, spans) == becomes


def test_wrong_replies_are_patched_and_right_ones_stay(capsys):
    marked = replace(WRONG[1], spans=(Span(14, 19, "grey"),))
    chat = replace(
        WRONG[0],
        id="chat",
        prompt=[{"role": "user", "content": "A lamp?"}],
        completion=[{"role": "assistant", "content": "A sleek lamp."}],
    )
    silent = replace(WRONG[0], id="silent", judgment="No.")
    made = chosen_examples(BUILT_IN["sft-replaced"], [WRONG[0], marked, chat, silent, RIGHT[0]], 0)
    assert [example.revision for example in made] == [
        "A, lamp.",
        "A rug that is grey.",
        [{"role": "assistant", "content": "A lamp."}],
        None,
    ]
    assert made[-1] == RIGHT[0]
    assert "1 wrong examples" in capsys.readouterr().err


def test_random_spans_have_the_lengths_of_the_marked_ones_and_no_quote_adds_to_them():
    long = Example("f", "A bag?", "one two three four five six seven", False, None, '"two three" and "six"')
    places = set()
    for seed in range(20):
        made = chosen_examples(BUILT_IN["strike-random"], [long, *ALL], seed)
        assert [example.judgment for example in made] == [None] * 6
        assert made[-2:] == RIGHT
        assert sorted(len(text.split()) for text in texts(made[0])) == [1, 2]
        assert all(f" {text} " in f" {long.completion} " for text in texts(made[0]))
        assert all(one.end <= other.start for one, other in zip(made[0].spans, made[0].spans[1:], strict=False))
        assert [len(texts(example)) for example in made[1:4]] == [len(texts(example)) for example in WRONG]
        places.add(made[0].spans)
    assert len(places) > 5
    assert chosen_examples(BUILT_IN["strike-random"], ALL, 3) == chosen_examples(BUILT_IN["strike-random"], ALL, 3)


def test_swapped_spans_go_to_examples_of_another_rule():
    own = replace(WRONG[1], id="own", judgment=None, spans=(Span(0, 5),))  # a span, and no judgment
    other = Example("g", "A mug?", "It is a tent, a cat.", False, None, 'Say it once! "a cat"')
    for seed in range(6):
        made = {e.id: e for e in chosen_examples(BUILT_IN["strike-shuffled"], [*ALL, other], seed, [PRAISE, SHORT])}
        assert all("praises" in made[id].judgment for id in ("c", "g"))
        assert all("Say it once" in made[id].judgment for id in ("a", "b"))
        assert [made[example.id] for example in RIGHT] == RIGHT
    made = {e.id: e for e in chosen_examples(BUILT_IN["strike-shuffled"], [own, other], 0)}
    assert (texts(made["g"]), made["g"].judgment, made["g"].label) == ([], None, True), "nothing of it is left"
    assert (texts(made["own"]), made["own"].judgment) == ([], other.judgment)


def test_nothing_is_struck_where_the_arm_only_holds():
    made = chosen_examples(BUILT_IN["hold-only"], ALL, 0)
    assert [(texts(e), e.judgment, e.completion) for e in made] == [([], None, e.completion) for e in ALL]


def test_the_base_answers_the_training_prompts_under_the_reworded_rule_once(tmp_path, model_folder):
    keep = Example("keep", "An advert?", "A sleek advert.", True, keep=True)
    write_examples(tmp_path / "examples.jsonl", [*ALL[:3], keep])
    (tmp_path / "rules.yaml").write_text("rules: [{name: x, rule: No., reworded: Be brief., words: [sleek]}]\n")
    (tmp_path / "checks.yaml").write_text("- {name: x, must_not: {contains: qqqq}}\n")
    settings = TuneSettings(
        rules=str(tmp_path / "rules.yaml"), checks=str(tmp_path / "checks.yaml"), max_new_tokens=5, keep_truncated=True
    )
    job = {"file": "x", "model": {"model_name_or_path": model_folder}, "settings": asdict(settings)}
    revised_stage(tmp_path, job)
    made = read_examples(tmp_path / "revised.jsonl")
    assert [(e.id, e.prompt, e.label, e.judgment) for e in made] == [(e.id, e.prompt, True, None) for e in WRONG]
    asked = [CompletionRequest(str(e.id), f"{e.prompt}\n\nBe brief.") for e in WRONG]
    plain = loaded_answerer(tiny.model(), tiny.tokenizer(), max_new_tokens=5)
    assert [e.completion.strip() for e in made] == [answer.text for answer in complete(asked, plain, "")]
    calls = (tmp_path / "revised.calls.jsonl").read_bytes()
    revised_stage(tmp_path, job)
    assert (tmp_path / "revised.calls.jsonl").read_bytes() == calls, "asked again"
    chosen = chosen_examples(BUILT_IN["sft-revised"], [WRONG[1], keep], 0, revised=tmp_path / "revised.jsonl")
    assert chosen == [made[1], keep], "of the arm's own prompts alone, and what must stay as it is"
    job["settings"]["keep_truncated"] = False
    revised_stage(tmp_path, job)
    with pytest.raises(UserError, match="none of the 3 revised replies"):
        chosen_examples(BUILT_IN["sft-revised-hold"], ALL, 0, revised=tmp_path / "revised.jsonl")
    with pytest.raises(UserError, match="--rules"):
        chosen_examples(BUILT_IN["sft-revised"], ALL, 0, revised=tmp_path / "nothing.jsonl")


def test_sft_liked_is_another_name_of_sft_on_right_completions():
    assert TuneSettings(arms=["base", "sft-liked"]).arms == ["base", "sft-completion"]
    plan = CompareSettings(arms=["strike"], once=["sft-liked"], comparisons=["strike:sft-liked"])
    assert plan.pairs() == [("strike", "sft-completion")]
    assert plan.once == ["sft-completion"]
    with pytest.raises(UserError, match="built in"):
        TuneSettings(extra_arms={"sft-liked": {"method": "sft"}})


@pytest.mark.parametrize("name", ["strike-list", "hold-only", "dpo"])
def test_rivals_train_and_are_evaluated(tmp_path, model_folder, name):
    write_examples(tmp_path / "examples.jsonl", ALL)
    (tmp_path / "test.jsonl").write_text('{"id": 1, "prompt": "A box?", "answer": "1"}\n')
    (tmp_path / "rules.yaml").write_text("rules: [{name: praise, rule: Do not praise., words: [sleek]}]\n")
    scored = ({}, {"condition_logprobs": "frozen", "condition_cache": str(tmp_path / "cache")})
    run_arm(
        BUILT_IN[name],
        examples=tmp_path / "examples.jsonl",
        test=tmp_path / "test.jsonl",
        out=tmp_path / "run",
        model={"model_name_or_path": model_folder},
        asking=SamplingSettings(max_new_tokens=4),
        budget=Budget(max_steps=1, activation_checkpointing=False, watch_every=0, **scored[name == "strike-list"]),
        rules=tmp_path / "rules.yaml",
    )
    assert (tmp_path / "cache").is_dir() == (name == "strike-list"), "all arms of NLFT take the shared setting"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 1, result
    assert Path(tmp_path / "run" / "adapter").exists()


class Killed(BaseException):
    """Stands for a kill: no code of ours catches it."""


@pytest.mark.parametrize("name", ["strike", "sft-completion", "kto", "dpo", "reft"])
def test_a_killed_arm_goes_on_from_its_last_checkpoint_and_ends_the_same(tmp_path, model_folder, capsys, name):
    answered = [replace(one, answer="1", revision="A box." if name == "dpo" else None) for one in ALL]
    write_examples(tmp_path / "examples.jsonl", answered)
    (tmp_path / "test.jsonl").write_text('{"id": 1, "prompt": "A box?", "answer": "1"}\n')

    def run(out, killed_after=None):
        with pytest.MonkeyPatch.context() as patch:
            if killed_after is not None:
                step = Trainer.training_step

                def cut(self, *args, **kwargs):
                    if self.state.global_step == killed_after and "warm-up" not in self.args.output_dir:
                        raise Killed
                    return step(self, *args, **kwargs)

                patch.setattr(Trainer, "training_step", cut)
            run_arm(
                BUILT_IN[name],
                examples=tmp_path / "examples.jsonl",
                test=tmp_path / "test.jsonl",
                out=tmp_path / out,
                model={"model_name_or_path": model_folder},
                asking=SamplingSettings(max_new_tokens=4),
                budget=Budget(max_steps=6, activation_checkpointing=False, watch_every=0),
            )

    run("whole")
    with pytest.raises(Killed):
        run("cut", killed_after=2)
    capsys.readouterr()
    run("cut")
    assert "checkpoint-2" in capsys.readouterr().err
    whole, cut = ((tmp_path / out / "adapter" / WEIGHTS).read_bytes() for out in ("whole", "cut"))
    assert whole == cut
    assert not list((tmp_path / "cut").rglob("checkpoint-*")), "a finished arm keeps no checkpoint"
    results = [json.loads((tmp_path / out / "result.json").read_text()) for out in ("whole", "cut")]
    assert results[0]["steps"] == results[1]["steps"]
    assert results[0]["num_tokens"] == results[1]["num_tokens"]


def test_a_killed_arm_begins_again_if_its_examples_changed(tmp_path, capsys):
    trainer = nlft_trainer(tmp_path, watch=0, save_strategy="steps", save_steps=1)
    trainer.train()
    same = nlft_trainer(tmp_path, watch=0, save_strategy="steps", save_steps=1)
    assert own_checkpoint(same, RunDir(tmp_path)).name == "checkpoint-4"
    other = nlft_trainer(tmp_path, data=tiny_examples(9), watch=0, save_strategy="steps", save_steps=1)
    capsys.readouterr()
    assert own_checkpoint(other, RunDir(tmp_path)) is None
    assert "data" in capsys.readouterr().err
    assert not RunDir(tmp_path).checkpoints_path.exists()


@pytest.mark.parametrize("name", ["strike", "sft-completion"])
def test_an_arm_that_diverges_has_failed_and_has_no_result(tmp_path, model_folder, name):
    """It is no arm with 0%, and not one that was skipped: the comparison marks it as failed, with this reason."""
    write_examples(tmp_path / "examples.jsonl", ALL)
    (tmp_path / "test.jsonl").write_text('{"id": 1, "prompt": "A box?", "answer": "1"}\n')
    with pytest.raises(NLFTError, match="diverged at step") as caught:
        run_arm(
            BUILT_IN[name],
            examples=tmp_path / "examples.jsonl",
            test=tmp_path / "test.jsonl",
            out=tmp_path / "run",
            model={"model_name_or_path": model_folder},
            asking=SamplingSettings(max_new_tokens=4),
            budget=Budget(max_steps=4, learning_rate=1e30, activation_checkpointing=False),
        )
    assert not isinstance(caught.value, UserError)
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "adapter").exists()
    write_failure(tmp_path / "run", str(caught.value))
    assert "diverged" in cell_result(tmp_path / "run", "final").failed


def test_the_comparison_of_habits_has_every_rival_and_tests_on_new_items_and_kinds():
    values = checked(yaml_entries(EXAMPLES / "compare-habits.yaml"), declared(ModelSettings, CompareSettings))
    values.pop("model_name_or_path")
    plan = CompareSettings(**values)
    known = plan.known_arms()
    need_answers, of_nlft = {"reft", "few-shot", "sft-answer"}, {"nlft", "control", "shuffled", "uniform-right"}
    assert {arm for arm in known if arm not in plan.arms} == need_answers | of_nlft
    assert {"nlft-alone", "cut", "ftpo", "dpo", "ban", "strike-list"} <= set(plan.arms)
    rules = read_rules(EXAMPLES / "catalogue-rules.yaml")
    assert all(with_rules(known[name], rules, []) for name in plan.arms), "the rules fill the slots of every arm"
    unplanned = {"strike", "few-shot", "sft-answer", *NLFT_AND_ITS_CONTROLS}
    assert {theirs for _, theirs in plan.pairs()} == set(plan.arms) - unplanned
    train, test = (read_questions(EXAMPLES / f"catalogue-{name}.jsonl") for name in ("train", "test-240"))
    assert (len(train), len(test), plan.sizes) == (32, 240, [32])
    assert not {q.extra["item"] for q in train} & {q.extra["item"] for q in test}
    kinds = {q.extra["kind"] for q in test}
    new = sorted(kind for kind in kinds if not any(f": a {kind} " in q.prompt for q in train))
    assert new == ["lightweight", "striped"]
    assert all(f": a {q.extra['kind']} {q.extra['item']}." in q.prompt for q in test)
    assert len({(q.extra["item"], q.extra["kind"]) for q in test}) == 240


def test_the_peak_of_memory_is_measured_without_the_module_that_windows_lacks(monkeypatch):
    usual = peak_memory_bytes()["host"]
    monkeypatch.setitem(sys.modules, "resource", None)
    assert 0.2 < peak_memory_bytes()["host"] / usual < 5
