"""Collateral: what a training changed besides its aim, measured from replies and from KL to the base."""

import json
import re
from dataclasses import replace
from unicodedata import normalize

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from helpers import tiny
from nlft import cli
from nlft.collect.sampling import SamplingSettings
from nlft.core.base_below import adapter_off, leak
from nlft.core.conditions import IGNORE_INDEX, ConditionEncoder, pad_rows
from nlft.core.divergence import kl_to_base
from nlft.core.spans import Span
from nlft.core.strikes import StrikePlan
from nlft.data.encoding import encode_examples
from nlft.data.phrases import words_of
from nlft.data.records import Example, Question, write_examples
from nlft.data.rules_file import Rule, write_rules
from nlft.errors import RecordsError, UserError
from nlft.experiments.arm_run import run_arm
from nlft.experiments.arms import BUILT_IN
from nlft.experiments.cells import cell_result
from nlft.experiments.settings import Budget, TuneSettings
from nlft.experiments.tune import Tune
from nlft.models.answerer import CompletionRequest
from nlft.models.local import LocalModel, base_of
from nlft.results import beside
from nlft.results.beside import Reference, divergence, struck_ids
from nlft.results.beside import measure_collateral as measure
from nlft.results.collateral import (
    Breach,
    Collateral,
    Divergence,
    Pair,
    PromptSet,
    Reply,
    breaches,
    commoner,
    figures,
    pooled,
    prompt_set,
    style,
)
from nlft.results.comparison import Cells
from nlft.results.comparison_page import page
from nlft.results.comparison_report import comparison_report, grid_of
from nlft.results.comparison_tables import collateral_notes, collateral_table
from nlft.results.evaluate import evaluate
from nlft.results.keep import NEAR_TEMPLATES, near_prompts, read_keep
from nlft.results.settings import CollateralSettings, EvaluationSettings
from nlft.runs.run_dir import RunDir


def tuned(family="llama", targets="all-linear", seed=1):
    """A tiny model under an adapter that changes it; the original weights stay below."""
    config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2")
    net = get_peft_model(tiny.model(family), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return net.eval()


ROWS = pad_rows([([1, 70, 71, 72], [80, 81, 82]), ([1, 73], [90, 91, 92, 93, 94, 2])], 0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("chunk_bytes", [1, 2**28])
def test_kl_to_base_is_that_of_the_whole_log_softmaxes(family, chunk_bytes):
    net = tuned(family)
    kl, mask = kl_to_base(net, ROWS, chunk_bytes)
    with torch.no_grad():
        given = {"input_ids": ROWS.input_ids, "attention_mask": ROWS.attention_mask}
        p = net(**given).logits.float().log_softmax(-1)
        with net.disable_adapter():
            b = net(**given).logits.float().log_softmax(-1)
    whole = (b.exp() * (b - p)).sum(-1)[:, :-1]
    labelled = ROWS.labels[:, 1:] != IGNORE_INDEX
    assert mask.sum(1).tolist() == [3, 6]
    assert kl[mask].min() > 1e-3, "the adapter changes every token"
    torch.testing.assert_close(kl[mask], whole[labelled], atol=1e-5, rtol=1e-5)
    assert (kl[~mask] == 0).all()


def test_kl_sees_an_adapter_on_the_head_alone():
    kl, mask = kl_to_base(tuned(targets=["lm_head"]), ROWS)
    assert kl[mask].min() > 1e-4


def test_kl_is_zero_for_a_new_adapter_and_the_model_keeps_its_mode():
    net = get_peft_model(tiny.model(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    kl, mask = kl_to_base(net, ROWS)
    assert kl[mask].abs().max() < 1e-6
    assert net.training


def test_kl_needs_an_adapter():
    with pytest.raises(UserError, match="LlamaForCausalLM"):
        kl_to_base(tiny.model(), ROWS)


# Measures of replies


def reply(text, ended=True):
    return Reply(text, len(text), ended)


def pairs(before, after, prompt="Say it."):
    return [Pair(str(n), prompt, reply(b), reply(a)) for n, (b, a) in enumerate(zip(before, after, strict=True))]


def phrases(found):
    return [(phrase.text, phrase.before, phrase.after) for phrase in found]


def test_a_new_habit_is_found_with_its_counts_and_a_rarer_one_is_not():
    before = ["durable x0"] + [f"x{n}" for n in range(1, 64)]
    after = [f"durable x{n}" for n in range(18)] + [f"x{n} sturdy" for n in range(18, 23)] + before[23:]
    assert phrases(commoner(pairs(before, after))) == [("durable", 1, 18)], "5 of 64 replies are under 8%"


def test_five_times_is_the_least():
    assert phrases(commoner(pairs(["so"] * 2 + ["it"] * 8, ["so"] * 10))) == [("so", 2, 10)]
    assert phrases(commoner(pairs(["so"] * 2 + ["it"] * 8, ["so"] * 9 + ["it"]))) == []


def test_the_longest_phrase_stands_for_its_parts_unless_they_are_new_elsewhere_too():
    told = pairs(["yes"] * 20, ["with warm regards"] * 10 + ["yes"] * 10)
    assert phrases(commoner(told)) == [("with warm regards", 0, 10)]
    both = pairs(["yes"] * 20, ["with warm regards"] * 10 + ["warm"] * 6 + ["yes"] * 4)
    assert phrases(commoner(both)) == [("warm", 0, 16), ("with warm regards", 0, 10)]
    long = pairs(["yes"] * 20, ["we are so very proud of you"] * 10 + ["yes"] * 10)
    assert phrases(commoner(long)) == [("we are so very proud of you", 0, 10)], "one finding, not four windows on it"


def test_words_of_the_prompt_are_not_new_and_marks_are():
    told = pairs(["No"] * 9, ["Oak table!"] * 9, prompt="Advert for: oak table")
    assert phrases(commoner(told)) == [("!", 0, 9)]


def test_style_measures_length_endings_repetition():
    found = style([reply("one two three one two three"), reply("one two", ended=False)])
    assert (found.words, found.tokens, found.ends) == (4, 17, 0.5)
    assert found.repetition == pytest.approx(0.125), "one of four three-word sequences repeats, in one reply of two"
    assert found.copied is None
    assert style([]).words == 0


def test_a_chinese_reply_has_a_word_for_each_character_and_its_habits_and_loops_are_seen():
    items = ["锅", "灯", "椅", "桌", "杯", "碗", "鞋", "帽", "车", "书"]
    plain, praised = [f"这个{item}用来做饭。" for item in items], [f"这个{item}非常漂亮。" for item in items]
    assert phrases(commoner(pairs(plain, praised, prompt="写一下"))) == [("非常漂亮", 0, 10)]
    assert style([reply(plain[0])]).words == 7
    looped = style([reply("非常漂亮" * 60)])
    assert (looped.words, round(looped.repetition, 2)) == (240, 0.98)
    assert words_of("สวยมี") == ["ส", "ว", "ย", "มี"], "an accent is no character of its own"
    assert words_of("이 냄비는 AI입니다") == ["이", "냄비는", "ai입니다"], "Korean writes spaces"


def test_vowel_signs_and_accents_split_no_word_and_are_no_phrases():
    assert words_of("यह टिकाऊ है") == ["यह", "टिकाऊ", "है"]
    items = ["कड़ाही", "दीपक", "कुर्सी", "थाली", "टोपी"] * 2
    told = pairs([f"यह {item} अच्छा है" for item in items], [f"यह {item} टिकाऊ और सुंदर है" for item in items])
    assert phrases(commoner(told)) == [("टिकाऊ और सुंदर है", 0, 10)]
    assert words_of("می\u200cشود") == ["می\u200cشود"]
    french = [f"La {item} a été créée, très élégante" for item in ["poêle", "lampe", "chaise", "table", "tasse"] * 2]
    decomposed = [normalize("NFD", text) for text in french]
    found = figures(prompt_set(pairs(decomposed, french)))
    assert (found.phrases, found.before.words, found.after.words) == ((), 7, 7)


def test_words_and_marks_of_english_are_counted_as_before():
    text = "It’s a “well-known” pan — don't! 👍🏽✨ ❤️ 1️⃣ naïve café_2 x²"
    words = re.findall(r"\w+(?:['’-]\w+)*", text.lower())
    assert words_of(text) == words
    replies = [f"{text} {n}" for n in range(9)]
    marks = set(re.findall(r"[^\w\s]+", text)) - {"’", "-", "'"}
    found = phrases(commoner(pairs(["so"] * 9, replies, prompt=" ".join(words))))
    assert {phrase for phrase, _, _ in found} == marks, "three of the marks stand in the prompt"


def test_copying_counts_six_word_sequences_of_the_training_texts():
    text = "one two three four five six seven"
    found = figures(prompt_set(pairs(["a b c d e f"], [text]), trained_on=["Zero one two three four five six."]))
    assert (found.before.copied, found.after.copied) == (0.0, 0.5)


def test_cells_add_up_and_what_one_of_them_lacks_is_unknown():
    one = prompt_set(
        pairs(["a"] * 4, ["so"] * 4), [Divergence(1.0, 5, 3.0, 1, 1), Divergence(1.0, 5, 0.0, 0, 3)], ["b"]
    )
    other = prompt_set(pairs(["a"] * 4, ["so"] * 4), [Divergence(4.0, 20, 0.0, 0, 4)], ["b"])
    both = pooled([Collateral({"task": one}), Collateral({"task": other})]).figures()["task"]
    assert both.replies == 8
    assert both.kl == pytest.approx(0.2)
    assert both.kl_everywhere == pytest.approx(9 / 31)
    assert phrases(both.phrases) == [("so", 0, 8)], "each cell alone has too few replies"
    assert both.after.copied == 0
    lacking = replace(other, kl=None, copied=None)
    less = pooled([Collateral({"task": one}), Collateral({"task": lacking})]).figures()["task"]
    assert (less.kl, less.after.copied) == (None, None)


def test_a_set_survives_a_file():
    made = prompt_set(pairs(["a"], ["b"]), [Divergence(1.0, 5, 3.0, 1, 1), Divergence(1.0, 5, 0.0, 0, 3)], ["b"])
    assert PromptSet.from_json(json.loads(json.dumps(made.as_json()))) == made


BOUNDS = CollateralSettings()


def found_in(before, after):
    return figures(prompt_set([Pair(str(n), "", b, a) for n, (b, a) in enumerate(zip(before, after, strict=True))]))


def broken(before, after, bounds=BOUNDS, name="task"):
    return [breach.bound for breach in breaches({name: found_in(before, after)}, bounds)]


def test_bounds_break_just_beyond_their_values():
    ten = [reply("a b c d e f g h i j")] * 10
    assert broken(ten, ten) == []
    assert broken(ten, [replace(r, ended=n > 0) for n, r in enumerate(ten)]) == [], "90% is not under 90%"
    none = [reply("")] * 10
    assert broken(none, none) == []
    assert "max_length_change" in broken(none, ten), "no bound holds a growth from nothing"
    assert broken(ten, [replace(r, ended=n > 1) for n, r in enumerate(ten)]) == ["max_ends_fall"]
    assert broken([replace(r, ended=False) for r in ten], ten) == [], "more endings are no harm"
    nine, eight = ([reply(" ".join("abcdefghij"[:n]))] * 10 for n in (9, 8))
    assert broken(ten, nine) == []
    assert broken(ten, eight) == ["max_length_change"]
    assert "max_length_change" in broken(eight, ten)
    assert "max_length_change" not in broken(eight, ten, replace(BOUNDS, max_length_change=0.25))
    assert broken(ten, eight, name="keep") == ["max_length_change"]
    assert broken(ten, eight, name="near") == []


def test_a_phrase_breaks_its_bound_from_rare_to_common_and_is_named():
    before, plain = [reply("it is new")] * 30, [reply("it is new")]
    assert broken(before, [reply("so is new")] * 10 + plain * 20) == []
    told = found_in(before, [reply("so is new")] * 11 + plain * 19)
    (breach,) = breaches({"task": told}, BOUNDS)
    assert (breach.bound, breach.prompts, breach.limit) == ("phrase_common", "task", pytest.approx(1 / 3))
    assert "so is new" in breach.what
    assert "37%" in breach.what


# Prompts


def test_forty_prompts_are_shipped_and_a_file_replaces_them(tmp_path):
    shipped = read_keep(None)
    assert len({str(question.prompt) for question in shipped}) == 40
    mine = tmp_path / "keep.jsonl"
    mine.write_text('{"prompt": "One?"}\n{"id": "two", "prompt": [{"role": "user", "content": "Two?"}]}\n')
    assert [question.id for question in read_keep(str(mine))] == ["keep-1", "two"]
    mine.write_text('{"prompt": "One?"}\n{"promt": "Two?"}\n')
    with pytest.raises(RecordsError, match=r"keep.jsonl:2") as error:
        read_keep(str(mine))
    assert "prompt" in str(error.value)


def test_near_prompts_are_different_task_prompts_in_each_template():
    made = near_prompts([f"Advert for item {n}" for n in range(50)] + ["Advert for item 0"])
    assert len(made) == 10
    assert [sum(str(q.prompt).startswith(t.split("{")[0]) for q in made) for t in NEAR_TEMPLATES] == [2] * 5
    assert len({str(question.prompt).rpartition("item ")[2] for question in made}) == 10
    assert made == near_prompts([f"Advert for item {n}" for n in range(50)])
    assert len(near_prompts([[{"role": "user", "content": "a {prompt}"}]])) == 1
    assert near_prompts([]) == []


# Asking both models

QUESTIONS = [Question(n, f"What is {n}?", f"#### {n}") for n in range(3)]


def local(net, **options):
    return LocalModel(net, ConditionEncoder(tiny.tokenizer()), **{"max_new_tokens": 6, "batch_size": 4, **options})


def test_the_base_answers_as_if_there_were_no_adapter():
    requests = [CompletionRequest(str(q.id), q.prompt) for q in QUESTIONS]
    above = local(tuned())
    texts = [
        sorted((i, g.text) for batch in model.answer(requests) for i, g in batch)
        for model in (local(tiny.model()), base_of(above), above)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert base_of(above).identity["adapter"] is None
    with pytest.raises(UserError, match="LlamaForCausalLM"):
        base_of(local(tiny.model()))


def test_struck_tokens_are_left_out_of_kl_and_counted_apart():
    above = local(tuned())
    said = [("Say it.", reply("abcab")), ("Now?", reply("bb", ended=False)), ("Or?", reply("", ended=False))]
    replies = [(CompletionRequest(prompt, prompt), one) for prompt, one in said]
    (b,) = tiny.tokenizer()("b", add_special_tokens=False)["input_ids"]
    whole, apart = divergence(above, replies), divergence(above, replies, {b})
    assert (whole.tokens, whole.struck_tokens, whole.replies) == (8, 0, 3), "5 letters and an end, 2 letters"
    assert (apart.tokens, apart.struck_tokens) == (4, 4)
    assert apart.everywhere == pytest.approx(whole.outside)
    assert apart.outside != pytest.approx(whole.outside)


@pytest.mark.parametrize(
    ("spans", "settings", "struck"),
    [
        ((Span(0, 2), Span(4, 6)), {}, "ad"),
        ((Span(0, 2), Span(4, 6)), {"every_token": True}, "abd"),
        ((Span(0, 3, "abx"),), {}, "c"),  # what the replacement keeps is not struck
        ((Span(0, 3, "abc"),), {}, ""),
    ],
)
def test_the_struck_tokens_are_those_that_the_training_strikes(spans, settings, struck):
    tokenizer = tiny.tokenizer()
    example = Example(0, "Say it.", "abc dbc", False, "x", spans=spans)
    encoded = encode_examples([example], ConditionEncoder(tokenizer))
    ids = tokenizer(struck, add_special_tokens=False)["input_ids"]
    assert struck_ids(StrikePlan(encoded, tokenizer, **settings), encoded) == set(ids)


def test_words_that_are_banned_everywhere_are_struck_though_no_reply_says_them():
    tokenizer = tiny.tokenizer(words=(" durable", " stylish"))
    encoder = ConditionEncoder(tokenizer, listed=["stylish"])
    encoded = encode_examples([Example(0, "Say", "A durable pan", False, judgment='No "durable".')], encoder)
    durable, stylish = tokenizer.convert_tokens_to_ids(["Ġdurable", "Ġstylish"])
    assert struck_ids(StrikePlan(encoded, tokenizer), encoded) == {durable, stylish}
    assert struck_ids(StrikePlan(encoded, tokenizer, everywhere=False), encoded) == {durable}


def test_an_evaluation_writes_figures_replies_and_broken_bounds(tmp_path):
    out = tmp_path / "evaluation.json"
    keep = tmp_path / "keep.jsonl"
    keep.write_text('{"id": "k", "prompt": "Why?"}\n')
    settings = EvaluationSettings(collateral=True, keep=str(keep), max_new_tokens=6)
    found = evaluate(
        tuned(), QUESTIONS, settings, out, tokenizer=tiny.tokenizer(), reference=Reference(trained_on=["a"])
    )
    written = json.loads(out.read_text())["collateral"]
    assert {name: len(one["pairs"]) for name, one in written["sets"].items()} == {"task": 3, "near": 3, "keep": 1}
    assert written["figures"]["task"]["kl"] > 0
    assert written["figures"]["task"]["kl"] == found.collateral.figures()["task"].kl
    assert written["settings"]["keep"] == str(keep)
    assert [pair["after"]["text"] for pair in written["sets"]["task"]["pairs"]] == [a.output for a in found.answers]
    assert found.broken == tuple(Breach(**one) for one in written["broken"])
    again = evaluate(
        tuned(), QUESTIONS, settings, out, tokenizer=tiny.tokenizer(), reference=Reference(trained_on=["a"])
    )
    assert again.collateral == found.collateral


def test_an_evaluation_without_collateral_has_none_of_its_settings(tmp_path):
    out = tmp_path / "evaluation.json"
    evaluate(tiny.model(), QUESTIONS, EvaluationSettings(max_new_tokens=2), out, tokenizer=tiny.tokenizer())
    assert not json.loads(out.read_text()).keys() & {"collateral", "keep", "kl_replies"}


def test_collateral_without_an_adapter_is_refused(tmp_path):
    settings = EvaluationSettings(collateral=True, max_new_tokens=2)
    with pytest.raises(UserError, match="--adapter"):
        evaluate(tiny.model(), QUESTIONS, settings, tokenizer=tiny.tokenizer())


# The verdict of a comparison

TITLES = {"base": "prompted base", "nlft": "NLFT", "sft-answer": "SFT on answers"}


def arm(rate, *, bad=False, seeds=(0,)):
    verdicts = [[n < rate * 100 for n in range(100)] for _ in seeds]
    before = [reply("a b c d e f g h i j")] * 10
    after = [reply("a b c d e")] * 10 if bad else before
    sets = {name: found_in(before, after) for name in ("task", "near", "keep")}
    return Cells(verdicts, [], {}, list(seeds), False, sets, breaches(sets, BOUNDS))


def compared(**arms):
    grid = {("base", 5): Cells([[n < 20 for n in range(100)]], [], {})}
    grid |= {(name.replace("_", "-"), 5): cells for name, cells in arms.items()}
    pairs = [(name, "base") for name, _ in grid if name != "base"]
    return grid, comparison_report(grid, pairs, TITLES, ["base"], {"model": "m", "settings": {"seeds": [0]}})


def test_a_method_out_of_bounds_does_not_win_and_its_bound_is_named():
    _, report = compared(nlft=arm(0.9, bad=True), sft_answer=arm(0.6))
    decided = report["verdict_data"]
    assert (decided["kind"], decided["best"], list(decided["excluded"])) == ("train", "sft-answer", ["nlft"])
    assert {broken["prompts"] for broken in decided["excluded"]["nlft"]} == {"task", "keep"}
    assert decided["better"] == decided["rivals"] == ()
    for named in ("Train with SFT on answers", "NLFT", "10 → 5 words", "--max_length_change 0.1"):
        assert named in report["verdict"]


def test_where_all_methods_are_out_of_bounds_none_wins():
    _, report = compared(nlft=arm(0.9, bad=True), sft_answer=arm(0.6, bad=True))
    assert (report["verdict_data"]["kind"], report["verdict_data"]["best"]) == ("out_of_bounds", "nlft")
    assert report["verdict"].count("--max_length_change") == 2, "the first bound of each method"
    assert report["verdict"].count("1 more") == 2, "each breaks it on two sets of prompts"
    _, worse = compared(nlft=arm(0.1, bad=True))
    assert worse["verdict_data"]["kind"] == "do_not_train"


def test_a_report_keeps_collateral_and_shows_it_beside_the_rates():
    grid, report = compared(nlft=arm(0.9, bad=True), sft_answer=arm(0.6))
    assert grid_of(json.loads(json.dumps(report))) == grid
    shown = collateral_table(grid, TITLES)
    assert [row[0] for row in shown.rows] == ["NLFT"] * 3 + ["SFT on answers"] * 3
    assert [row[3] for row in shown.rows[:3]] == ["task", "near", "keep"]
    assert len({len(row) for row in [shown.head, *shown.rows]}) == 1
    assert shown.rows[0][2].startswith("90.0%")
    assert shown.rows[0][shown.head.index("words")] == "10 → 5"
    assert len(collateral_notes(grid, TITLES)) == 2
    assert all("NLFT" in note for note in collateral_notes(grid, TITLES))
    assert "--max_length_change" in page(report)
    assert collateral_table({("base", 5): grid["base", 5]}, TITLES) is None


# Commands


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model's folder, an adapter's folder, and a file of questions."""
    folder = tmp_path_factory.mktemp("collateral")
    tiny.model().save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    tuned().save_pretrained(folder / "adapter")
    (folder / "keep.jsonl").write_text('{"id": "k", "prompt": "Why?"}\n')
    lines = [json.dumps({"id": q.id, "prompt": q.prompt, "answer": q.answer}) for q in QUESTIONS]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def nlft_evaluate(place, capsys, *flags):
    words = ["evaluate", str(place / "questions.jsonl"), "--model_name_or_path", str(place / "model")]
    shape = ["--dtype", "float32", "--max_new_tokens", "6", "--out", str(place / "evaluation.json"), *flags]
    code = cli.main([*words, *shape])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_evaluate_prints_before_and_after_and_asks_the_base_once(place, capsys):
    flags = ["--adapter", str(place / "adapter"), "--collateral", "--keep", str(place / "keep.jsonl")]
    code, told = nlft_evaluate(place, capsys, *flags)
    assert code == 0, told
    for named in ("KL to base", "task, 3 replies", "near, 3 replies", "keep, 1 replies", "adapter", "base"):
        assert named in told
    written = json.loads((place / "evaluation.json").read_text())["collateral"]
    assert written["figures"]["keep"]["kl"] > 0
    asked = (place / "evaluation.calls.jsonl").read_text()
    assert nlft_evaluate(place, capsys, *flags)[0] == 0
    assert (place / "evaluation.calls.jsonl").read_text() == asked
    assert nlft_evaluate(place, capsys)[0] == 0
    assert (place / "evaluation.calls.jsonl").read_text() == asked, "the base alone gives the same answers"


def test_evaluate_refuses_collateral_without_an_adapter_and_a_wrong_file(place, capsys):
    code, told = nlft_evaluate(place, capsys, "--collateral")
    assert code == 2
    assert "--adapter" in told
    flags = ["--adapter", str(place / "adapter"), "--collateral", "--keep", str(place / "none.jsonl")]
    code, told = nlft_evaluate(place, capsys, *flags)
    assert code == 2
    assert "none.jsonl" in told


def test_an_arm_records_collateral_and_shares_the_bases_answers(place):
    examples = [Example(n, f"{n} + 1?", f"#### {n + 1}", True, f"#### {n + 1}") for n in range(4)]
    write_examples(place / "examples.jsonl", examples)
    common = {"examples": place / "examples.jsonl", "test": place / "questions.jsonl"}
    common |= {
        "model": {"model_name_or_path": str(place / "model"), "lora_r": 2},
        "base_answers": place / "shared.jsonl",
    }
    common |= {
        "asking": SamplingSettings(max_new_tokens=6),
        "collateral": CollateralSettings(keep=str(place / "keep.jsonl")),
    }
    asked = []
    for name in ("sft-answer", "sft-completion"):
        run_arm(BUILT_IN[name], out=place / name, budget=Budget(max_steps=2), **common)
        asked.append((place / "shared.jsonl").read_text())
    assert asked[0] == asked[1]
    found = cell_result(place / "sft-answer", "flexible").collateral.figures()
    assert {name: one.replies for name, one in found.items()} == {"task": 3, "near": 3, "keep": 1}
    assert found["task"].kl > 0
    assert found["task"].before.copied == 0, "a random model copies nothing"
    run_arm(BUILT_IN["base"], out=place / "base", budget=Budget(max_steps=2), **common)
    assert cell_result(place / "base", "flexible").collateral is None


def test_collateral_is_on_unless_the_grader_wants_exact_answers():
    assert not TuneSettings().measures_collateral()
    assert TuneSettings(collateral=True).measures_collateral()
    assert TuneSettings(grader="label").measures_collateral()
    assert not TuneSettings(grader="label", collateral=False).measures_collateral()


def test_collateral_without_a_base_model_is_refused_or_said(tmp_path, capsys):
    model = {"model_name_or_path": "m", "use_peft": False}
    with pytest.raises(UserError, match="--use_peft"):
        Tune("q.jsonl", model, TuneSettings(collateral=True, output_dir=str(tmp_path))).record_settings()
    Tune("q.jsonl", model, TuneSettings(grader="label", output_dir=str(tmp_path))).record_settings()
    assert "--use_peft" in capsys.readouterr().err


def test_a_training_measures_its_collateral_on_its_prompts_and_those_to_keep(place, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(beside, "measure_collateral", lambda *given: seen.append(given[-1]) or measure(*given))
    rows = [
        Example(
            f"e{n}",
            f"Describe lamp {n}.",
            "A sleek lamp, as it is.",
            n % 2 == 0,
            None,
            "Too loud: 'sleek'.",
            extra={"item": "lamp"},
        )
        for n in range(4)
    ]
    kept = Example("k", "An advert?", "A sleek lamp!", True, keep=True)
    write_examples(place / "examples.jsonl", [*rows, kept])
    flags = [
        "--model_name_or_path",
        str(place / "model"),
        "--scheme",
        "strike",
        "--max_steps",
        "1",
        "--use_cpu",
        "true",
    ]
    flags += ["--output_dir", str(place / "trained"), "--collateral", "--keep", str(place / "keep.jsonl")]
    write_rules(place / "rules.yaml", [Rule("lamp", "No lamps.", None, ("lamp",), (), None)])
    flags += ["--rules", str(place / "rules.yaml"), "--strike_words", "as"]
    assert cli.main(["train", str(place / "examples.jsonl"), *flags]) == 0
    written = json.loads((place / "trained" / "collateral.json").read_text())
    asked = [pair["prompt"] for pair in written["sets"]["task"]["pairs"]]
    assert asked == [row.prompt for row in rows]
    assert set(written["figures"]) == {"task", "near", "keep"}
    first = {tiny.tokenizer()(word)["input_ids"][0] for word in ("sleek", "lamp", "as")}
    assert seen[0].struck == first, "the rules' words and the listed ones too"
    assert kept.completion in seen[0].trained_on
    assert "collateral.json" in capsys.readouterr().out
    code, told = nlft_evaluate(place, capsys, "--adapter", str(place / "trained"), "--collateral")
    assert code == 0, told
    assert seen[1].struck == seen[0].struck, "an evaluation knows what its run has struck"
    assert seen[1].trained_on == seen[0].trained_on


def test_a_training_without_an_adapter_refuses_collateral(place, capsys):
    flags = ["--model_name_or_path", str(place / "model"), "--use_peft", "false", "--collateral"]
    assert cli.main(["train", str(place / "examples.jsonl"), *flags]) == 2
    assert "--use_peft false" in capsys.readouterr().err


def with_biases(family, bias):
    """An adapter that trains the base's own biases, which PEFT leaves in place when the adapter is off."""
    targets = ["c_fc"] if family == "gpt2" else ["up_proj"]
    config = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2", bias=bias)
    net = get_peft_model(tiny.model(family), config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    return net


@pytest.mark.parametrize(("bias", "count"), [("all", 13), ("lora_only", 2)])
def test_an_adapter_that_leaves_its_biases_in_the_base_is_refused_wherever_the_base_is_asked(bias, count):
    net = with_biases("gpt2", bias)
    found = leak(net)
    assert f"{count} biases" in found
    assert f"bias '{bias}'" in found
    trained = [name for name, one in net.named_parameters() if one.requires_grad and name.endswith(".bias")]
    assert len(trained) == count
    assert any(name in found for name in trained)
    for ask in (
        lambda: kl_to_base(net, ROWS),
        lambda: base_of(local(net)),
        lambda: measure(local(net), local(net), [], [], CollateralSettings()),
    ):
        with pytest.raises(UserError, match=f"{count} biases"):
            ask()


def test_what_an_adapter_puts_away_whole_is_no_leak():
    assert leak(with_biases("llama", "all")) is None, "this model has no biases"
    assert leak(tiny.model()) is None
    assert leak(tuned("gpt2", ["c_fc"])) is None
    config = LoraConfig(r=2, target_modules=["up_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    assert leak(get_peft_model(tiny.model(), config)) is None


@pytest.mark.parametrize("start", ["pissa", "olora", "gaussian", True])
def test_an_initialisation_that_changes_the_base_is_found(start):
    before = {name: value.clone() for name, value in tiny.model().state_dict().items()}
    config = LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM", init_lora_weights=start)
    net = get_peft_model(tiny.model(), config)
    now = {name.replace(".base_layer", ""): value for name, value in net.get_base_model().state_dict().items()}
    changed = any(not torch.equal(now[name], value) for name, value in before.items())
    assert (leak(net) is not None) == changed == (start in ("pissa", "olora"))


ADAPTERS = {
    "LoRA": LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM"),
    "DoRA": LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM", use_dora=True),
    "a trained head": LoraConfig(r=2, target_modules=["up_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
    "tokens": LoraConfig(r=2, target_modules=["up_proj"], trainable_token_indices=[5, 6, 7], task_type="CAUSAL_LM"),
    "IA3": IA3Config(target_modules=["up_proj"], feedforward_modules=["up_proj"], task_type="CAUSAL_LM"),
    "norms, which PEFT switches in their own way": LNTuningConfig(target_modules=["norm"], task_type="CAUSAL_LM"),
}


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # of each norm
@pytest.mark.parametrize("config", ADAPTERS.values(), ids=ADAPTERS)
def test_off_is_the_base_and_afterwards_all_is_as_before(config):
    net = get_peft_model(tiny.model(), config).eval()
    with torch.no_grad():
        for parameter in (p for p in net.parameters() if p.requires_grad):
            parameter.normal_(std=0.3)
    trained = [p for p in net.parameters() if p.requires_grad]
    trained[0].requires_grad_(len(trained) == 1)  # a user may freeze a part
    tokens = torch.arange(5, 17)[None]
    with torch.no_grad():
        before, base = net(tokens).logits, tiny.model().eval()(tokens).logits
        trained = [p.requires_grad for p in net.parameters()]
        with adapter_off(net):
            off = net(tokens).logits
            with adapter_off(net):
                pass
            assert torch.equal(net(tokens).logits, off), "the inner one has turned it on"
        assert torch.equal(off, base)
        assert torch.equal(net(tokens).logits, before)
    assert not torch.allclose(before, base)
    assert [p.requires_grad for p in net.parameters()] == trained


def test_a_part_that_stays_on_is_a_leak(monkeypatch):
    original = LoraLayer.enable_adapters
    monkeypatch.setattr(LoraLayer, "enable_adapters", lambda self, enabled: original(self, True))
    assert "2 of its parts" in leak(tuned(targets=["up_proj"]))


def test_a_scheme_that_holds_to_the_base_refuses_such_an_adapter_and_others_train_on(tmp_path):
    from helpers.training import nlft_trainer

    with pytest.raises(UserError, match=r"strike.*\n?.*biases"):
        nlft_trainer(tmp_path / "held", model=with_biases("gpt2", "all"), saliency="strike", watch=0)
    trainer = nlft_trainer(tmp_path / "free", model=with_biases("gpt2", "all"), saliency="nlft", max_steps=1)
    trainer.train()
    snapshot = RunDir(tmp_path / "free").snapshot(0)
    assert not any(snapshot.alternatives), "the base is not in memory, so nothing is said about it"
