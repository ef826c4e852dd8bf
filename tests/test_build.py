"""`nlft build`: sizes and ratios exactly, spread over the questions, and files that each tool can read."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers import tiny
from helpers.real import smollm2
from nlft import cli
from nlft.core.conditions import ConditionEncoder
from nlft.core.spans import Span
from nlft.data.build import BuildSettings, Pool, build_summary, choose, question_of, read_pool
from nlft.data.export import export_examples, original_rows, sft_texts
from nlft.data.records import Example, completion_text, read_examples, write_examples
from nlft.errors import RecordsError, UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example(id: str | int, question: str = "6 * 7?", label: bool = True, **changes) -> Example:
    given = {"completion": f"{id}", "answer": "6 * 7 = 42\n#### 42", "judgment": None if label else "It is wrong."}
    return Example(id=id, prompt=question, label=label, **(given | changes))


def pool(stock: list[tuple[int, int]], **changes) -> list[Example]:
    """Examples with these numbers of right and wrong ones per question."""
    return [
        example(f"q{q}-{label}-{n}", f"question {q}?", label, **changes)
        for q, counts in enumerate(stock)
        for label, count in zip((True, False), counts, strict=True)
        for n in range(count)
    ]


def counts(examples) -> tuple[int, int]:
    right = sum(e.label for e in examples)
    return right, len(examples) - right


def times(examples) -> list[int]:
    """How often each question is used, least first."""
    return sorted(Counter(map(question_of, examples)).values())


def nlft(*argv) -> int:
    return cli.main([str(a) for a in argv])


# How many, and which.

STOCK = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@settings(deadline=None)
@given(STOCK, st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.integers(0, 9))
def test_size_and_ratio_are_met_exactly_or_refused(stock, right, wrong, units, seed):
    assume(right + wrong > 0)
    there = pool(stock)
    size = units * (right + wrong) or None
    wanted = BuildSettings(ratio=f"{right}:{wrong}", size=size, seed=seed)
    possible = min(have // part for have, part in zip(counts(there), wanted.parts(), strict=True) if part)
    try:
        chosen = choose(there, wanted)
    except UserError:
        assert possible == 0 or (size is not None and size > possible * sum(wanted.parts()))
        return
    assert counts(chosen)[0] * wrong == counts(chosen)[1] * right
    assert len(chosen) == (size or possible * sum(wanted.parts()))
    assert len({e.id for e in chosen}) == len(chosen)
    assert all(e in there for e in chosen)


@settings(deadline=None)
@given(STOCK, st.integers(1, 12), st.integers(0, 9))
def test_without_a_ratio_labels_keep_their_proportion_to_within_one(stock, size, seed):
    there = pool(stock)
    assume(size <= len(there))
    chosen = choose(there, BuildSettings(size=size, seed=seed))
    assert len(chosen) == size
    assert abs(counts(chosen)[0] - size * counts(there)[0] / len(there)) <= 0.5


def least_even(stock, right, wrong) -> list[int]:
    """The most even usage of questions, by trying all ways."""
    ways: dict[tuple[int, int], set[tuple[int, ...]]] = {(0, 0): {()}}
    for rights, wrongs in stock:
        longer: dict[tuple[int, int], set[tuple[int, ...]]] = {}
        for (r, w), totals in ways.items():
            for more_r in range(min(rights, right - r) + 1):
                for more_w in range(min(wrongs, wrong - w) + 1):
                    reached = longer.setdefault((r + more_r, w + more_w), set())
                    reached |= {tuple(sorted((*t, more_r + more_w))) for t in totals}
        ways = longer
    return list(min(ways[right, wrong], key=lambda totals: sum(n * n for n in totals)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5), st.data())
def test_no_choice_spreads_more_evenly_over_the_questions(stock, data):
    there = pool(stock)
    have = counts(there)
    right, wrong = data.draw(st.integers(0, have[0])), data.draw(st.integers(0, have[1]))
    assume(right + wrong > 0)
    chosen = choose(there, BuildSettings(ratio=f"{right}:{wrong}", size=right + wrong))
    unused = [0] * (len(stock) - len(times(chosen)))
    assert unused + times(chosen) == least_even(stock, right, wrong)


def test_each_question_is_used_once_before_any_is_used_twice():
    there = pool([(4, 4)] * 10)
    assert times(choose(there, BuildSettings(size=9, ratio="1:2"))) == [1] * 9
    assert times(choose(there, BuildSettings(size=12, ratio="1:2"))) == [1] * 8 + [2] * 2
    # The only right answers are to questions 0 and 1: they are kept for those.
    there = pool([(1, 3), (1, 3), (0, 3), (0, 3)])
    for seed in range(20):
        assert times(choose(there, BuildSettings(size=4, ratio="1:1", seed=seed))) == [1, 1, 1, 1]


def test_text_and_messages_of_one_question_are_one_question():
    messages = [{"role": "user", "content": "6 * 7?"}]
    there = [example(1), example(2, messages, completion=[{"role": "assistant", "content": "42"}]), example(3, "5?")]
    assert len({question_of(e) for e in choose(there, BuildSettings(size=2))}) == 2


def test_the_seed_decides():
    there = pool([(2, 2)] * 12)
    draws = [[e.id for e in choose(there, BuildSettings(size=12, ratio="1:1", seed=seed))] for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert set(draws[0]) != set(draws[2])


def test_every_example_may_be_drawn():
    there = pool([(3, 3)] * 2)
    drawn = Counter(e.id for seed in range(200) for e in choose(there, BuildSettings(size=4, ratio="1:1", seed=seed)))
    assert len(drawn) == len(there)
    assert min(drawn.values()) > 30  # 67 on average


def test_every_question_may_be_drawn():
    there = pool([(1, 1)] * 10)
    wanted = [BuildSettings(size=2, ratio="1:1", seed=seed) for seed in range(100)]
    drawn = Counter(question_of(e) for w in wanted for e in choose(there, w))
    assert len(drawn) == 10
    assert max(drawn.values()) < 45  # 20 on average


def test_the_order_is_random_too():
    there = pool([(1, 1)] * 10)
    orders = {tuple(e.id for e in choose(there, BuildSettings(seed=seed))) for seed in range(3)}
    assert len(orders) == 3
    labels = [e.label for e in choose(pool([(20, 20)]), BuildSettings())]
    assert labels not in (sorted(labels), sorted(labels, reverse=True))


def test_strata_together_use_each_question_once():
    there = [example(f"{q}{m}", f"{q}?", extra={"model": m}) for q in range(6) for m in "ab"]
    for seed in range(10):
        chosen = choose(there, BuildSettings(size=6, stratify="model", seed=seed))
        assert Counter(e.extra["model"] for e in chosen) == {"a": 3, "b": 3}
        assert times(chosen) == [1] * 6


def test_strata_keep_their_proportions():
    topics = {"sums": 60, "shapes": 30, "time": 10}
    there = [
        example(f"{topic}{n}", f"{topic} {n}?", n % 3 == 0, extra={"topic": topic})
        for topic, count in topics.items()
        for n in range(count)
    ]
    for ratio in (None, "1:2", "1:1"):
        chosen = choose(there, BuildSettings(size=30, ratio=ratio, stratify="topic"))
        assert Counter(e.extra["topic"] for e in chosen) == {"sums": 18, "shapes": 9, "time": 3}
        assert counts(chosen) == ((15, 15) if ratio == "1:1" else (10, 20))


def test_the_ratio_takes_precedence_over_strata():
    hard = [example(f"h{n}", f"h{n}?", False, extra={"level": "hard"}) for n in range(20)]
    easy = [example(f"e{n}", f"e{n}?", True, extra={"level": "easy"}) for n in range(20)]
    chosen = choose(hard + easy, BuildSettings(size=20, ratio="3:1", stratify="level"))
    assert counts(chosen) == (15, 5)
    assert Counter(e.extra["level"] for e in chosen) == {"easy": 15, "hard": 5}


def test_examples_without_the_field_form_their_own_stratum():
    there = [example(n, f"{n}?", extra={"topic": "sums"} if n % 2 else {}) for n in range(8)]
    wanted = BuildSettings(size=4, stratify="topic")
    chosen = choose(there, wanted)
    assert Counter("topic" in e.extra for e in chosen) == {True: 2, False: 2}
    assert build_summary(Pool(there, []), chosen, wanted)[1] == 'topic: "sums" 2, without 2'


REFUSED = [
    ({"ratio": "1:2", "size": 100}, ["--size 100", "1:2", "99 or 102", "3"]),
    ({"ratio": "2:4", "size": 2}, ["--size 2", "2:4", "--size 3"]),
    (
        {"ratio": "1:2", "size": 300},
        ["100 right and 200 wrong", "97 right and 192 wrong", "--size 9"],
    ),
    ({"ratio": "2:1", "size": 12}, ["8 right and 4 wrong", ": 5 right ", "--size 3"]),
    ({"ratio": "9:1"}, ["--ratio 9:1", "9 right and 1 wrong", ": 6 right "]),
    ({"size": 12}, ["3 right and 8 wrong", "; 1 ", "--size 11"]),
    ({"stratify": "topik"}, ["--stratify topik", "topic."]),
]


@pytest.mark.parametrize(("wanted", "told"), REFUSED)
def test_an_impossible_size_or_ratio_is_refused_with_the_missing_numbers_and_a_cure(wanted, told):
    there = pool([(3, 8)], extra={"topic": "sums"})
    with pytest.raises(UserError) as error:
        choose(there, BuildSettings(**wanted))
    for words in told:
        assert words in str(error.value)
    assert ".\n  " in str(error.value)


@pytest.mark.parametrize("ratio", ["", "1", "0:0", "1:-1", "1.5:1", "a:b", "1:2:3", " 1:2"])
def test_an_invalid_ratio_is_refused(ratio):
    with pytest.raises(UserError, match=f"--ratio {re.escape(ratio)}: "):
        BuildSettings(ratio=ratio)


def test_an_empty_pool_is_refused():
    with pytest.raises(UserError, match="--keep_truncated"):
        choose([], BuildSettings())


# From files to a pool.


def test_cut_off_completions_are_left_out_and_counted():
    write_examples("e.jsonl", [example(1), example(2, extra={"finish_reason": "length"})])
    kept = read_pool(["e.jsonl"], BuildSettings())
    assert [e.id for e in kept.examples] == [1]
    assert len(kept.notes) == 1
    assert re.match(r"1 .*--keep_truncated", kept.notes[0])
    assert len(read_pool(["e.jsonl"], BuildSettings(keep_truncated=True)).examples) == 2


def test_wrong_ones_without_judgment_are_refused_where_the_tool_needs_it():
    bare = [example(n, f"{n}?", False, judgment=None) for n in (1, 2)]
    cut = example(3, label=False, judgment=None, extra={"finish_reason": "length"})
    write_examples("e.jsonl", [*bare, cut, example(4)])
    for to in ("nlft", "original"):
        with pytest.raises(RecordsError) as error:
            read_pool(["e.jsonl"], BuildSettings(to=to))
        assert [p.where for p in error.value.problems] == ["e.jsonl: example 1", "e.jsonl: example 2"]
        assert "nlft judge e.jsonl" in error.value.problems[0].cure
    for to in ("sft", "kto", "reft"):
        assert len(read_pool(["e.jsonl"], BuildSettings(to=to)).examples) == 3


def test_files_are_joined_without_repeats_and_without_equal_ids():
    write_examples("a.jsonl", [example("x", completion="one"), example("y")])
    write_examples("b.jsonl", [example("x", completion="two"), example("y")])
    write_examples("c.jsonl", [example("x", completion="three"), example("x#2", completion="two")])
    joined = read_pool(["a.jsonl", "b.jsonl", "c.jsonl"], BuildSettings())
    assert {e.id: e.completion for e in joined.examples} == {
        "x": "one", "y": "y", "x#2": "two", "x#3": "three", "x#2#2": "two",
    }  # fmt: skip
    assert [note.partition(" ")[0] for note in joined.notes] == ["3", "1"]
    assert "id" in joined.notes[0]


def test_a_completion_labelled_right_here_and_wrong_there_is_refused():
    write_examples("a.jsonl", [example("x")])
    write_examples("b.jsonl", [example("x", label=False)])
    with pytest.raises(RecordsError, match=r'b\.jsonl: example "x": .*right.*wrong'):
        read_pool(["a.jsonl", "b.jsonl"], BuildSettings())


def test_records_of_one_reply_are_joined_and_different_texts_are_refused():
    chat, span = {"role": "assistant", "content": "6"}, Span(0, 1)
    asked = [{"role": "user", "content": "9 - 4?"}]
    bare = example("x", asked, False, completion=[chat], judgment=None, extra={"finish_reason": "stop"})
    more = {"judgment": "No.", "revision": [{**chat, "content": "5"}], "spans": (span,), "feedback": "Short."}
    judged = replace(bare, **more, extra={"judge_verdict": "wrong", "item": "pot"})
    whole = replace(judged, extra=bare.extra | judged.extra)
    for first, second in ((bare, judged), (judged, bare)):
        write_examples("a.jsonl", [first, example("y")])
        write_examples("b.jsonl", [second])
        assert read_pool(["a.jsonl", "b.jsonl"], BuildSettings()).examples[0] == whole
    write_examples("a.jsonl", [bare])
    write_examples("b.jsonl", [replace(bare, completion="6", prompt="9 - 4?", judgment="No.", revision="5")])
    assert read_pool(["a.jsonl", "b.jsonl"], BuildSettings()).examples[0].revision == more["revision"]
    write_examples("a.jsonl", [whole])
    others = {
        "answer": "#### 5",
        "judgment": "Off.",
        "revision": [chat],
        "spans": (Span(0, 1, "5"),),
        "feedback": "Dry.",
    }
    write_examples("b.jsonl", [replace(whole, **others, extra={"item": "pan"})])
    with pytest.raises(RecordsError) as error:
        read_pool(["a.jsonl", "b.jsonl"], BuildSettings())
    assert [p.what.split()[2] for p in error.value.problems] == ["answer", "judgment", "revision", "feedback", "spans"]
    write_examples("b.jsonl", [replace(whole, extra={"item": "pan"})])
    pool = read_pool(["a.jsonl", "b.jsonl"], BuildSettings())
    assert pool.examples == [whole]
    assert any('"item"' in note for note in pool.notes)


# The files, each with the tool it is for.


def mixed() -> list[Example]:
    """Text and messages, right and wrong, with revisions: four questions, six examples."""
    user, assistant = [{"role": "user", "content": "9 - 4?"}], [{"role": "assistant", "content": "6"}]
    return [
        example(1, "1 + 1?", completion="2"),
        example("two", "1 + 1?", False, completion="3", revision="1 + 1 = 2\n#### 2"),
        example(3, user, False, completion=assistant, judgment='The step "9 - 4 = 6" is miscalculated.'),
        example(4, [{"role": "system", "content": "Be brief."}, *user], completion=assistant, extra={"score": 9}),
        example(5, "3 + 3?", False, completion="7", extra={"score": 3, "finish_reason": "stop"}),
        example(6, "3 + 3?", completion="6", judgment="Well done."),
    ]


def write(to: str, examples=None, name: str | None = None, **options):
    path = Path(name or f"{to}.jsonl")
    given = {"target": "answer", "form": "messages"} | options
    return path, export_examples(path, mixed() if examples is None else examples, to, **given)


def rows_of(path: Path) -> list[dict]:
    from datasets import load_dataset

    return list(load_dataset("json", data_files=str(path), split="train", cache_dir="cache"))


def test_nlft_reads_back_the_chosen_examples():
    path, _ = write("nlft")
    assert read_examples(path) == mixed()


@pytest.mark.parametrize("target", ["answer", "completion", "all-completions"])
def test_sft_rows_are_those_of_nlft_sft(target):
    from nlft.baselines.sft_rows import sft_rows

    encoder = ConditionEncoder(tiny.tokenizer())
    rows = rows_of(write("sft", target=target)[0])
    by_nlft = sft_rows(mixed(), encoder, target)
    assert len(rows) == len(by_nlft) == sum(len(sft_texts(e, target)) for e in mixed()) > 0
    for row, ours in zip(rows, by_nlft, strict=True):
        ids = encoder.prompt_ids(row["prompt"]) + encoder.completion_ids(row["completion"][0]["content"])
        assert ids == ours["input_ids"]


def test_plain_text_is_what_nlft_writes_for_a_model_without_a_chat_template():
    encoder = ConditionEncoder(tiny.tokenizer(chat=False))
    path, _ = write("sft", form="text")
    for row, e in zip(rows_of(path), mixed(), strict=True):
        assert tiny.tokenizer(chat=False)(row["prompt"])["input_ids"] == encoder.prompt_ids(e.prompt)
        assert row["completion"] == e.answer


def test_kto_rows_keep_completion_and_label():
    path, made = write("kto")
    assert [(r["completion"][0]["content"], r["label"]) for r in rows_of(path)] == [
        (completion_text(e), e.label) for e in mixed()
    ]
    assert len(made.notes) == 1
    assert re.match("1 .*revision", made.notes[0])


def test_reft_has_each_question_once_with_its_answer():
    path, made = write("reft")
    rows = rows_of(path)
    assert [r["prompt"][-1]["content"] for r in rows] == ["1 + 1?", "9 - 4?", "9 - 4?", "3 + 3?"]
    assert all(r["completion"][0]["content"] == r["answer"] for r in rows)
    assert [note.partition(" ")[0] for note in made.notes] == ["2"]


def test_a_system_prompt_goes_before_prompts_that_have_none(capsys):
    write_examples("e.jsonl", mixed())
    assert nlft("build", "e.jsonl", "--out", "o.jsonl", "--to", "kto", "--system_prompt", "Think.") == 0
    assert Counter(r["prompt"][0]["content"] for r in rows_of(Path("o.jsonl"))) == {"Think.": 5, "Be brief.": 1}
    assert nlft("build", "e.jsonl", "--out", "o.json", "--to", "original", "--system_prompt", "Think.") == 0
    assert Counter(r["instruction"] for r in json.loads(Path("o.json").read_text())) == {"Think.": 5, "Be brief.": 1}
    assert nlft("build", "e.jsonl", "--out", "o.jsonl", "--system_prompt", "Think.", "--overwrite") == 0
    assert all(e.prompt[0]["role"] == "system" for e in read_examples("o.jsonl"))


def original_polarity(record: dict) -> bool:
    """Whether the original project's script counts a record as right; it takes these fields from each."""
    assert all(isinstance(record[name], str) for name in ("instruction", "input", "output", "answer"))
    judgment = record["judgment"]
    if "score" in record and record["score"] is not None and record["score"] >= 7:
        judgment = None
    return judgment is None


@pytest.mark.parametrize("name", ["NLFT6.json", "NLFT6.jsonl"])
def test_the_original_s_layout_keeps_every_label_for_its_script_and_for_us(name):
    path, _ = write("original", name=name)
    text = path.read_text(encoding="utf-8")
    records = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    assert [list(r)[:6] for r in records] == [["id", "instruction", "input", "output", "judgment", "answer"]] * 6
    assert [original_polarity(r) for r in records] == [e.label for e in mixed()]
    read = read_examples(path)
    assert [(e.id, e.label, e.answer) for e in read] == [(e.id, e.label, e.answer) for e in mixed()]
    assert read[1] == mixed()[1]
    assert read[3].prompt == "Be brief.\n9 - 4?"


def test_what_a_format_cannot_hold_is_counted_and_the_original_s_holds_all_that_we_read_back():
    more = {"tools": [{"type": "function", "function": {"name": "f"}}], "chat_template_kwargs": {"x": 1}}
    kept = example(1, feedback="Short.", keep=True, extra=more)
    marked = example(2, label=False, revision="42", spans=(Span(0, 1, "4", "dull"),))
    path, made = write("original", [kept, marked])
    assert read_examples(path) == [kept, marked]
    assert made.notes == []
    lost = {
        ("sft", "messages", "answer"): [],
        ("sft", "text", "answer"): ["tools", "chat_template_kwargs"],
        ("sft", "messages", "completion"): ["keep"],
        ("sft", "messages", "all-completions"): ["spans", "keep"],
        ("kto", "messages", "answer"): ["revision", "spans", "keep"],
        ("kto", "text", "answer"): ["revision", "spans", "keep", "tools", "chat_template_kwargs"],
        ("reft", "text", "answer"): ["tools", "chat_template_kwargs"],
    }
    for (to, form, target), names in lost.items():
        notes = write(to, [kept, replace(marked, prompt="7 * 6?")], form=form, target=target)[1].notes
        assert len(notes) == len(names), (to, form, target, notes)
        assert all(name in note for name, note in zip(names, notes, strict=True))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            lambda label, judged, extra: example(
                0, label=label, judgment="No." if judged or not label else None, extra=extra
            ),
            st.booleans(),
            st.booleans(),
            st.dictionaries(
                st.sampled_from(["score", "correct", "input", "output", "instruction", "i_ans"]),
                st.sampled_from([None, True, False, 0, 7, 9.5, "x", ""]),
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_extra_field_changes_an_example_s_label_in_the_original_s_layout(examples):
    from dataclasses import replace

    examples = [replace(e, id=n) for n, e in enumerate(examples)]
    path, _ = write("original", examples)
    assert [e.label for e in read_examples(path)] == [e.label for e in examples]
    assert [original_polarity(json.loads(line)) for line in path.read_text().splitlines()] == [
        e.label for e in examples
    ]


def test_losses_of_the_original_s_layout_are_reported():
    rows = original_rows([example(1, judgment="Well done."), example(2, extra={"score": 2, "input": "x"})])
    for note, name in zip(rows.notes, ["judgment", '"input"', '"score"'], strict=True):
        assert re.match(f"1 .*{name}", note)


def test_a_prompt_of_several_turns_is_refused_for_the_original():
    turns = [{"role": r, "content": "?"} for r in ("user", "assistant", "user")]
    talk = [example(n, turns, completion=[{"role": "assistant", "content": "!"}]) for n in (1, 2)]
    with pytest.raises(RecordsError) as error:
        original_rows([*talk, example(3)])
    assert [p.where for p in error.value.problems] == ["example 1", "example 2"]


def test_nothing_to_train_on_is_refused():
    with pytest.raises(UserError, match="--target answer"):
        write("sft", [example(1, label=False)], target="completion")
    assert not Path("sft.jsonl").exists()


@pytest.mark.parametrize(("to", "name"), [("nlft", "x.json"), ("sft", "x.json"), ("kto", "x"), ("original", "x.csv")])
def test_an_ending_that_the_tool_does_not_read_is_refused(to, name):
    with pytest.raises(UserError, match=r"\.jsonl"):
        write(to, name=name)


# One step of TRL's trainers.


def model_and_tokenizer(real: bool):
    if not real:
        return tiny.model(), tiny.tokenizer()
    folder = smollm2()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Of its 30 layers, 4 do: the files meet its tokenizer and template.
    return AutoModelForCausalLM.from_pretrained(folder, num_hidden_layers=4), AutoTokenizer.from_pretrained(folder)


def one_step(trainer: str, path: Path, real: bool = False, **more) -> float:
    import trl
    from datasets import load_dataset
    from peft import LoraConfig

    data = load_dataset("json", data_files=str(path), split="train", cache_dir="cache")
    net, tokenizer = model_and_tokenizer(real)
    args = getattr(trl, f"{trainer}Config")(
        output_dir="run", max_steps=1, per_device_train_batch_size=2, use_cpu=True, report_to="none",
        save_strategy="no", logging_steps=1, bf16=False, disable_tqdm=True, activation_checkpointing=False,
        **more.pop("settings", {}),
    )  # fmt: skip
    made = getattr(trl, f"{trainer}Trainer")(
        model=net,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules=["gate_proj", "up_proj", "down_proj"]),
        **more,
    )
    made.train()
    return next(log["loss"] for log in made.state.log_history if "loss" in log)


@pytest.mark.parametrize("form", ["messages", "text"])
def test_trl_trains_a_step_on_the_sft_file(form):
    assert one_step("SFT", write("sft", target="all-completions", form=form)[0]) > 0


@pytest.mark.parametrize("form", ["messages", "text"])
def test_trl_trains_a_step_on_the_kto_file(form):
    assert one_step("KTO", write("kto", form=form)[0]) > 0


def test_trl_warms_up_on_the_reft_file():
    assert one_step("SFT", write("reft")[0]) > 0


@pytest.mark.parametrize("trainer", ["GRPO", "RLOO"])
def test_trl_trains_a_step_on_the_reft_file_and_rewards_see_the_answer(trainer):
    seen = []

    def reward(completions, answer, **others):
        seen.extend(answer)
        assert "completion" not in others
        return [float(len(c[0]["content"])) for c in completions]

    short = {"num_generations": 2, "max_completion_length": 4}
    one_step(trainer, write("reft")[0], reward_funcs=reward, settings=short)
    assert set(seen) == {mixed()[0].answer}


def test_trl_trains_a_step_of_a_real_model_on_the_sft_and_kto_files():
    assert 0 < one_step("SFT", write("sft", target="all-completions")[0], real=True) < 40
    assert 0 < one_step("KTO", write("kto")[0], real=True) < 20


# The command.


@pytest.fixture
def files():
    write_examples("a.jsonl", pool([(2, 2)] * 6, extra={"topic": "sums"}))
    write_examples("b.jsonl", [example(n, f"{n}?", n % 2 > 0, extra={"topic": "time"}) for n in range(30, 40)])
    return ["a.jsonl", "b.jsonl"]


def test_the_command_prints_counts_of_its_examples(files, capsys):
    assert nlft("build", *files, "--out", "o.jsonl", "--size", 12, "--ratio", "1:2", "--stratify", "topic") == 0
    told = capsys.readouterr().out
    assert told == (
        "o.jsonl: 12 rows for nlft\n"
        "  12 of 34 examples, 4 right and 8 wrong, from 10 of 16 questions (seed 0)\n"
        '  topic: "sums" 8, "time" 4\n'
        "next: nlft audit o.jsonl\n"
    )
    assert counts(read_examples("o.jsonl")) == (4, 8)


def test_the_same_seed_gives_the_same_bytes_and_the_same_examples_for_every_tool(files):
    options = ["--size", 12, "--ratio", "1:1", "--seed", 7]
    for name, to in [("1", "nlft"), ("2", "nlft"), ("k", "kto"), ("s", "sft"), ("o", "original")]:
        more = ["--target", "all-completions"] if to == "sft" else []
        assert nlft("build", *files, "--out", f"{name}.jsonl", "--to", to, *options, *more) == 0
    assert Path("1.jsonl").read_bytes() == Path("2.jsonl").read_bytes()
    said = [completion_text(e) for e in read_examples("1.jsonl")]
    rows = {n: [json.loads(line) for line in Path(f"{n}.jsonl").read_text().splitlines()] for n in "kso"}
    assert [r["completion"][0]["content"] for r in rows["k"]] == said
    assert [r["completion"][0]["content"] for r in rows["s"]] == said
    assert [r["output"] for r in rows["o"]] == said


def test_settings_come_from_yaml_too(files):
    Path("c.yaml").write_text('ratio: "1:2"\nsize: 6\nto: original\nkeep_truncated: true\n')
    assert nlft("build", *files, "--out", "o.json", "--config", "c.yaml") == 0
    assert len(json.loads(Path("o.json").read_text())) == 6


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["a.jsonl"], "required: --out"),
        (["--out", "o.jsonl"], "FILE"),
        (["a.jsonl", "--out", "a.jsonl"], "FILE a.jsonl"),
        (["a.jsonl", "--out", "o.jsonl", "--ratio", "1/2"], "--ratio 1/2: "),
        (["a.jsonl", "--out", "o.jsonl", "--to", "dpo"], "invalid choice"),
        (["a.jsonl", "--out", "o.jsonl", "--size", "0"], "--size: is 0"),
        (["a.jsonl", "none.jsonl", "--out", "o.jsonl"], "none.jsonl: cannot be read"),
        (["a.jsonl", "--out", "o.parquet"], "o.parquet: "),
    ],
)
@pytest.mark.usefixtures("files")
def test_wrong_input_is_one_clear_message_and_nothing_is_written(argv, told, capsys):
    before = sorted(p.name for p in Path().iterdir())
    assert nlft("build", *argv) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert sorted(p.name for p in Path().iterdir()) == before
