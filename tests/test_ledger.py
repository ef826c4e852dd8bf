"""The ledger of calls: what is kept, what is asked again, and what stops; through faults, limits and kill -9."""

import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.fault_proxy import AnsweringServer, Fault, FaultProxy, answer_to
from nlft import cli
from nlft.data.records import read_examples
from nlft.errors import NLFTError, ProblemsError, UserError
from nlft.models import exchange, ledger_file
from nlft.models import ledger as ledger_module
from nlft.models.answerer import CompletionRequest, Generated, complete
from nlft.models.ledger import CallSettings, DryRun, Ledgered, LimitReached, request_hash
from nlft.models.ledger_file import Entry, Ledger, NotKept
from nlft.models.server import BackendSettings, ServerModel

KEY = "sk-proj-Zq3x9wVt7Lk2mN5p"
REQUESTS = [CompletionRequest(f"q{i}", f"What is {i} + {i}?") for i in range(20)]
PRICES = {"price_per_million_input": 1_000_000.0, "price_per_million_output": 1_000_000.0}  # 1 a token


@pytest.fixture(autouse=True)
def _quick_and_no_key(monkeypatch):
    monkeypatch.setattr(exchange, "FIRST_WAIT", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "examples.calls.jsonl"


class Counting:
    """Answers each request with its own prompt, in batches of three, and remembers what it was asked."""

    def __init__(self, tokens=5, fails=(), **identity):
        self.identity = {"model": "m", "max_new_tokens": 10, **identity}
        self.asked: list[str] = []
        self.tokens, self.fails = tokens, set(fails)

    def answer(self, requests):
        failed = [r.key for r in requests if r.key in self.fails]
        good = [i for i, r in enumerate(requests) if r.key not in self.fails]
        for start in range(0, len(good), 3):
            batch = good[start : start + 3]
            self.asked += [requests[i].key for i in batch]
            yield [(i, Generated(f"to {requests[i].prompt}", self.tokens, "stop", 3)) for i in batch]
        if failed:
            raise NLFTError(f"{len(failed)} failed: {', '.join(failed)}")


def ledgered(path, inner, **calls):
    return Ledgered(inner, Ledger(path), CallSettings(**calls))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def entry(name="a", text="hello"):
    return Entry(name * 64, name, "2026-01-01T00:00:00+00:00", None, Generated(text, 3, "stop", 2))


# What is kept


def test_answers_are_asked_once_and_a_rerun_gives_the_same(path):
    first, second = Counting(), Counting()
    answers = complete(REQUESTS, ledgered(path, first), "asking")
    assert [a.text for a in answers] == [f"to {r.prompt}" for r in REQUESTS]
    assert complete(REQUESTS, ledgered(path, second), "asking") == answers
    assert len(first.asked) == 20
    assert second.asked == []
    assert len(lines(path)) == 20


def test_only_what_is_missing_is_asked_for(path):
    complete(REQUESTS[:7], ledgered(path, Counting()), "asking")
    inner = Counting()
    complete(REQUESTS, ledgered(path, inner), "asking")
    assert inner.asked == [r.key for r in REQUESTS[7:]]


def test_an_answer_is_on_disk_before_anyone_sees_it(path):
    seen = 0
    for batch in ledgered(path, Counting()).answer(REQUESTS):
        seen += len(batch)
        assert len(lines(path)) == seen


def test_anything_that_shapes_an_answer_makes_it_another(path):
    complete(REQUESTS[:3], ledgered(path, Counting()), "asking")
    others = [
        (Counting(seed=1), REQUESTS[:3]),
        (Counting(model="other"), REQUESTS[:3]),
        (Counting(), [CompletionRequest(f"{r.key}#2", r.prompt) for r in REQUESTS[:3]]),
        (Counting(), [CompletionRequest(r.key, f"{r.prompt} Now.") for r in REQUESTS[:3]]),
    ]
    for inner, requests in others:
        complete(requests, ledgered(path, inner), "asking")
        assert len(inner.asked) == 3
    same = Counting()
    complete(
        [CompletionRequest(r.key, [{"role": "user", "content": r.prompt}]) for r in REQUESTS[:3]],
        ledgered(path, same),
        "",
    )
    assert same.asked == []


def test_equal_requests_are_asked_once_and_all_answered(path):
    inner = Counting()
    answers = complete([REQUESTS[0], REQUESTS[1], REQUESTS[0]], ledgered(path, inner), "asking")
    assert inner.asked == ["q0", "q1"]
    assert answers[0] == answers[2]


def test_a_line_holds_the_answer_its_time_and_its_cost(path):
    complete(REQUESTS[:1], ledgered(path, Counting(), **PRICES), "asking")
    (line,) = lines(path)
    assert line["answer"] == {"text": "to What is 0 + 0?", "tokens": 5, "finish_reason": "stop", "prompt_tokens": 3}
    assert line["cost"] == 8
    assert line["request"] == "q0"
    assert line["hash"] == request_hash(Counting().identity, REQUESTS[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line["at"])


def test_a_server_that_counts_no_tokens_still_costs(path):
    class Silent(Counting):
        def answer(self, requests):
            yield [(0, Generated("four words of text", 0, "stop", 0))]

    complete(REQUESTS[:1], ledgered(path, Silent(), **PRICES), "asking")
    assert lines(path)[0]["cost"] > 10


@pytest.mark.parametrize("text", ["", "zwei\nZeilen\u2028\u0085 – 你好", "\ud800", '{"hash": "', "\x00"])
def test_any_text_comes_back_as_it_was(path, text):
    Ledger(path).append([entry(text=text)])
    assert Ledger(path)["a" * 64].text == text


def test_the_first_of_two_answers_to_a_request_counts(path):
    ledger = Ledger(path)
    path.write_bytes(entry(text="first").line())
    ledger.refresh()
    path.write_bytes(entry(text="first").line() + entry(text="second").line())
    ledger.refresh()
    assert ledger["a" * 64].text == Ledger(path)["a" * 64].text == "first"


def test_an_answer_has_reached_the_disk_when_it_counts_as_kept(path, monkeypatch):
    flushed, flush = [], os.fsync

    def recorded(file):
        flush(file)
        flushed.append(path.read_bytes())

    monkeypatch.setattr(ledger_file.os, "fsync", recorded)
    Ledger(path).append([entry()])
    assert flushed[0] == entry().line()


# Torn and damaged lines


def test_a_torn_last_line_is_tolerated_and_mended_wherever_it_was_torn(path):
    whole = entry("a").line()
    for cut in range(1, len(whole) - 1):
        path.write_bytes(whole + entry("b").line()[:cut])
        ledger = Ledger(path)
        assert [e.request for e in ledger.entries()] == ["a"]
        ledger.append([entry("c")])
        assert [line["request"] for line in lines(path)] == ["a", "c"]
        assert [e.request for e in Ledger(path).entries()] == ["a", "c"]


def test_a_last_line_that_lacks_only_its_end_counts_and_is_ended(path):
    path.write_bytes(entry("a").line() + entry("b").line()[:-1])
    ledger = Ledger(path)
    assert [e.request for e in ledger.entries()] == ["a", "b"]
    ledger.append([entry("c")])
    assert [line["request"] for line in lines(path)] == ["a", "b", "c"]


def test_damaged_lines_are_all_named_with_file_and_line_and_nothing_is_touched(path):
    good = entry("a").line().decode()
    wrong_type = json.loads(good)
    wrong_type["answer"]["tokens"] = "3"
    other_reason = json.loads(good)
    other_reason["answer"]["finish_reason"] = "bored"
    bad = ["{", "[]", good[:40], json.dumps(wrong_type), json.dumps(other_reason), '{"hash": "x"}', "[" * 100_000]
    path.write_text(good + "\n" + "".join(line + "\n" for line in bad) + good)
    before = path.read_bytes()
    with pytest.raises(ProblemsError) as told:
        Ledger(path)
    assert [problem.where.rpartition(":")[2] for problem in told.value.problems] == list("3456789")
    assert "--ledger" in str(told.value)
    assert path.read_bytes() == before


def test_another_file_given_as_ledger_is_refused_and_left_as_it_is(path):
    for content in ('{"question": "1 + 1?", "answer": "2"}', "hello", '{"question": 1}\n' * 100):
        path.write_text(content)
        with pytest.raises(ProblemsError, match=r"calls\.jsonl:1: "):
            Ledger(path)
        assert path.read_text() == content


def test_a_ledger_that_cannot_be_written_stops_the_calls_at_once(path, monkeypatch):
    write = os.write
    monkeypatch.setattr(ledger_file.os, "write", lambda file, data: write(file, data[:30]))
    inner = Counting()
    with pytest.raises(NotKept, match=r"calls\.jsonl(.|\n)*--ledger"):
        complete(REQUESTS, ledgered(path, inner), "asking")
    assert len(inner.asked) == 3
    monkeypatch.undo()
    complete(REQUESTS, ledgered(path, Counting()), "asking")
    assert len(lines(path)) == 20


def test_a_ledger_that_cannot_be_locked_for_want_of_a_file_asks_nothing(path):
    path.with_name(path.name + ".lock").mkdir()
    inner = Counting()
    with pytest.raises(NotKept, match=r"calls\.jsonl(.|\n)*--ledger"):
        complete(REQUESTS, ledgered(path, inner), "asking")
    assert inner.asked == []


def test_a_folder_as_ledger_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="--ledger"):
        Ledger(tmp_path)


# Failures


def test_failed_requests_lose_nothing_and_a_rerun_asks_only_for_them(path):
    with pytest.raises(NLFTError) as told:
        complete(REQUESTS, ledgered(path, Counting(fails=["q3", "q9"])), "asking")
    assert "2 failed: q3, q9" in str(told.value)
    assert "calls.jsonl" in str(told.value)
    assert len(lines(path)) == 18
    again = Counting()
    complete(REQUESTS, ledgered(path, again), "asking")
    assert again.asked == ["q3", "q9"]


def test_failed_requests_do_not_keep_the_next_round_under_a_limit_from_being_asked(path):
    inner = Counting(fails=["q1"])
    with pytest.raises(NLFTError, match="1 failed: q1"):
        complete(REQUESTS, ledgered(path, inner, max_cost=400, **PRICES), "asking")
    assert len(inner.asked) == 19


# Limits


@pytest.mark.parametrize("most", [0, 1, 7, 19])
def test_no_more_requests_are_asked_than_allowed_and_a_higher_limit_goes_on(path, most):
    inner = Counting()
    with pytest.raises(LimitReached) as told:
        complete(REQUESTS, ledgered(path, inner, max_requests=most), "asking")
    assert len(inner.asked) == most
    assert f"--max_requests {most} " in str(told.value)
    assert f"{most} of 20 answers" in str(told.value)
    rest = Counting()
    complete(REQUESTS, ledgered(path, rest, max_requests=20), "asking")
    assert len(rest.asked) == 20 - most


def test_a_limit_counts_earlier_runs(path):
    for _ in range(2):
        inner = Counting()
        with pytest.raises(LimitReached):
            complete(REQUESTS, ledgered(path, inner, max_requests=5), "asking")
    assert inner.asked == []
    assert len(lines(path)) == 5


def test_the_cost_never_crosses_its_limit_even_if_every_answer_is_as_long_as_allowed(path):
    # A request may cost 19: ten tokens of answer, and nine of prompt as estimated. It costs `tokens` + 3.
    for tokens, answered in [(10, 7), (1, 21)]:
        inner = Counting(tokens=tokens)
        requests = [CompletionRequest(f"{tokens}-{i}", "?") for i in range(60)]
        path.unlink(missing_ok=True)
        with pytest.raises(LimitReached) as told:
            complete(requests, ledgered(path, inner, max_cost=100, **PRICES), "asking")
        spent = sum(line["cost"] for line in lines(path))
        assert spent == answered * (tokens + 3) <= 100
        assert len(inner.asked) == answered
        assert f"--max_cost 100: {spent:.4f} " in str(told.value)


@pytest.mark.parametrize(("limit", "answered"), [(18.99, 0), (19, 1), (37.99, 1), (38, 2)])
def test_the_cost_may_reach_its_limit_exactly(path, limit, answered):
    inner = Counting(tokens=10)  # a request may cost 19, as above; the first two cost 13 each
    ledger = ledgered(path, inner, max_cost=limit, **PRICES)
    assert ledger.affordable([CompletionRequest(str(i), "?") for i in range(3)]) == answered


def test_answers_logged_without_prices_count_at_todays(path):
    complete(REQUESTS, ledgered(path, Counting()), "asking")
    more = [CompletionRequest("new", "?")]
    with pytest.raises(LimitReached, match=r"160\.0000 is spent"):
        complete(more, ledgered(path, Counting(), max_cost=161, **PRICES), "asking")


def test_a_limit_on_cost_needs_both_prices():
    for wrong in (
        {"max_cost": 1.0},
        {"max_cost": 1.0, "price_per_million_input": 1.0},
        {"price_per_million_output": 1.0},
    ):
        with pytest.raises(UserError, match="--price_per_million_input"):
            CallSettings(**wrong)


def test_a_dry_run_asks_and_writes_nothing(path):
    inner = Counting()
    complete(REQUESTS[:5], ledgered(path, inner), "asking")
    before = path.read_bytes()
    with pytest.raises(DryRun) as told:
        complete(REQUESTS, ledgered(path, inner, dry_run=True, **PRICES), "asking")
    estimate = ledgered(path, inner, **PRICES).estimate(REQUESTS)
    assert (estimate.requests, estimate.logged, estimate.new_tokens) == (20, 5, 150)
    assert estimate.cost == estimate.prompt_tokens + 150
    assert 15 * 5 < estimate.prompt_tokens < 15 * 25
    assert str(told.value) == str(estimate)
    assert "20 requests, 5 of them answered in the ledger, 15 " in str(estimate)
    assert len(inner.asked) == 5
    assert path.read_bytes() == before


# Several processes


ASKER = """
import json, sys
from pathlib import Path
from nlft.models import exchange
from nlft.models.answerer import CompletionRequest, complete
from nlft.models.ledger import CallSettings, Ledgered
from nlft.models.ledger_file import Ledger
from nlft.models.server import BackendSettings, ServerModel
url, path, first, last, calls = sys.argv[1:]
exchange.FIRST_WAIT = 0.02
model = ServerModel("stub", BackendSettings(base_url=url, concurrency=4), max_new_tokens=20)
requests = [CompletionRequest(f"q{i}", f"What is {i} + {i}?") for i in range(int(first), int(last))]
print("ready", flush=True)
sys.stdin.readline()
answers = complete(requests, Ledgered(model, Ledger(Path(path)), CallSettings(**json.loads(calls))), "asking")
print(json.dumps([answer.text for answer in answers]))
"""


class Asker:
    """A process that asks for questions `first` to `last` with a ledger, once told to go."""

    def __init__(self, url, path, first=0, last=60, **calls):
        command = [sys.executable, "-c", ASKER, url, path, first, last, json.dumps(calls)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(list(map(str, command)), stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def go(self):
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def done(self):
        out, self.err = self.process.communicate(timeout=60)
        return json.loads(out) if self.process.returncode == 0 else None


@pytest.fixture
def asker():
    started = []

    def start(*args, **kwargs):
        started.append(Asker(*args, **kwargs))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def expected(first=0, last=60):
    return [answer_to([{"role": "user", "content": f"What is {i} + {i}?"}]) for i in range(first, last)]


def test_two_processes_on_one_ledger_ask_nothing_twice_and_both_get_everything(path, asker):
    def script(arrival):
        return Fault("status", 500) if arrival.number % 11 == 0 else Fault("slow", seconds=random.random() / 20)

    with AnsweringServer() as server, FaultProxy(server.url, script) as proxy:
        both = [asker(proxy.url, path), asker(proxy.url, path, 20, 80)]
        for one in both:
            one.go()
        assert [one.done() for one in both] == [expected(0, 60), expected(20, 80)]
        assert len(proxy.delivered) == 80
        assert set(proxy.delivered.values()) == {1}
        assert len(server.bodies) == 80
    assert sorted(line["request"] for line in lines(path)) == sorted(f"q{i}" for i in range(80))


def test_two_processes_under_a_limit_keep_below_it_together(path, asker):
    with AnsweringServer(seconds=0.02) as server, FaultProxy(server.url) as proxy:
        both = [asker(proxy.url, path, max_requests=25), asker(proxy.url, path, max_requests=25)]
        for one in both:
            one.go()
        assert [one.done() for one in both] == [None, None]
        assert len(server.bodies) == 25
    assert all("--max_requests 25 is reached; 25 of 60" in one.err for one in both)


HOLDER = """
import sys
from pathlib import Path
from nlft.models.ledger_file import Ledger
print(Ledger(Path(sys.argv[1])).claim_answer(sys.argv[2]), flush=True)
sys.stdin.readline()
"""


def test_a_claim_of_one_answer_leaves_the_others_free(path):
    mine, others = "0" * 64, "f" * 64
    command = [sys.executable, "-c", HOLDER, str(path), others]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        ledger = Ledger(path)
        assert not ledger.claim_answer(others)
        assert ledger.claim_answer(mine)
        holder.communicate("done\n")
    assert ledger.claim_answer(others)


def test_an_answer_that_another_process_wrote_before_the_claim_is_not_asked_again(path, monkeypatch):
    inner = Counting()
    ledger = ledgered(path, inner)
    first = next(ledger.hashes(REQUESTS[:1]))[0]
    claim = Ledger.claim_answer

    def late(self, hash):
        if hash == first and not path.exists():
            Ledger(path).append([replace(entry(text="theirs"), hash=first)])
        return claim(self, hash)

    monkeypatch.setattr(Ledger, "claim_answer", late)
    answers = complete(REQUESTS[:3], ledger, "asking")
    assert [answer.text for answer in answers] == ["theirs", *(f"to {r.prompt}" for r in REQUESTS[1:3])]
    assert inner.asked == ["q1", "q2"]


@pytest.mark.parametrize("limit", [{"max_requests": 9}, {"max_cost": 1000.0, **PRICES}])
def test_under_a_limit_a_process_asks_nothing_while_another_one_asks(path, monkeypatch, limit):
    """Two processes that each stay below a limit could exceed it together."""
    inner, waited = Counting(), []
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), ledger_module._LIMITS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "True\n"

    def wait(seconds):
        waited.append(list(inner.asked))
        holder.communicate("done\n")

    monkeypatch.setattr(ledger_module.time, "sleep", wait)
    complete(REQUESTS[:2], ledgered(path, inner, **limit), "asking")
    assert waited == [[]]
    assert inner.asked == ["q0", "q1"]


def test_the_claims_of_a_process_that_is_killed_pass_to_the_one_that_waits(path, asker):
    with AnsweringServer(seconds=0.05) as server, FaultProxy(server.url) as proxy:
        first, second = asker(proxy.url, path), asker(proxy.url, path)
        first.go()
        while len(proxy.delivered) < 15:
            time.sleep(0.01)
        second.go()
        while len(proxy.delivered) < 30:
            time.sleep(0.01)
        first.process.kill()
        logged = {line["request"] for line in lines(path)} if path.exists() else set()
        assert second.done() == expected()
        twice = [json.loads(body)["messages"][0]["content"] for body, n in proxy.delivered.items() if n > 1]
    assert "waiting for" in second.err
    assert len(logged) > 10
    assert not [r for r in REQUESTS if r.prompt in twice and r.key in logged]
    assert len(twice) <= 4


def test_killed_again_and_again_nothing_logged_is_asked_again_and_nothing_is_lost(path, asker):
    kills, logged_at_kill = 0, set()
    with AnsweringServer() as server, FaultProxy(server.url, lambda a: Fault("slow", seconds=0.02)) as proxy:
        for attempt in range(5):
            delivered_before = Counter(proxy.delivered)
            one = asker(proxy.url, path, 0, 150)
            one.go()
            target = len(proxy.delivered) + random.randint(15, 30)
            while len(proxy.delivered) < target and attempt < 4:
                time.sleep(0.002)
            if attempt < 4:
                one.process.send_signal(signal.SIGKILL)
                one.process.wait()
                kills += 1
            else:
                assert one.done() == expected(0, 150)
            new = proxy.delivered - delivered_before
            asked = {json.loads(body)["messages"][0]["content"] for body in new}
            assert not asked & logged_at_kill
            logged_at_kill = {f"What is {int(e.request[1:])} + {int(e.request[1:])}?" for e in Ledger(path).entries()}
    assert kills == 4
    assert len(Ledger(path).entries()) == 150


def test_without_locks_it_still_works_for_one_process(path, monkeypatch):
    monkeypatch.setattr(ledger_file, "fcntl", None)
    inner = Counting()
    complete(REQUESTS, ledgered(path, inner), "asking")
    complete(REQUESTS, ledgered(path, inner), "asking")
    assert len(inner.asked) == 20
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# The command


QUESTIONS = 30


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i} + {i}?", "answer": f"#### {2 * i}"} for i in range(QUESTIONS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def command(questions, url, *more):
    model = ["--model_name_or_path", "stub", "--base_url", url, "--max_new_tokens", "20"]
    return ["sample", str(questions), "--out", str(questions.with_name("examples.jsonl")), *model, *map(str, more)]


def test_sample_asks_a_server_and_a_rerun_asks_nothing(questions, capsys):
    out = questions.with_name("examples.jsonl")
    with AnsweringServer() as server:
        assert cli.main(command(questions, server.url, "--dry_run")) == 0
        assert f"{QUESTIONS} requests, 0 of them answered in the ledger" in capsys.readouterr().out
        assert server.bodies == []
        assert [p.name for p in questions.parent.iterdir()] == ["questions.jsonl"]
        assert cli.main(command(questions, server.url)) == 0
        first = out.read_bytes()
        out.unlink()
        assert cli.main(command(questions, server.url)) == 0
        assert out.read_bytes() == first
        assert len(server.bodies) == QUESTIONS
    found = read_examples(out, require_judgment=False)
    assert [e.completion for e in found] == expected(0, QUESTIONS)
    assert len(lines(out.with_suffix(".calls.jsonl"))) == QUESTIONS


def test_sample_writes_no_half_dataset_when_requests_fail_or_a_limit_is_reached(questions, capsys):
    out = questions.with_name("examples.jsonl")
    out.write_text("what was there before")

    def script(arrival):
        return Fault("status", 400) if arrival.question == "What is 4 + 4?" else None

    with AnsweringServer() as server:
        with FaultProxy(server.url, script) as proxy:
            assert cli.main(command(questions, proxy.url, "--max_requests", 10, "--overwrite")) == 1
            assert "--max_requests 10 is reached" in capsys.readouterr().err
            assert cli.main(command(questions, proxy.url, "--overwrite")) == 1
            told = capsys.readouterr().err
            assert "1 of " in told
            assert "q4#1: 400 Bad Request: scripted" in told
            assert "examples.calls.jsonl" in told
            assert out.read_text() == "what was there before"
            proxy.script = lambda arrival: None
            assert cli.main(command(questions, proxy.url, "--overwrite")) == 0
            assert set(proxy.delivered.values()) == {1}
        assert len(server.bodies) == QUESTIONS
    assert len(read_examples(out, require_judgment=False)) == QUESTIONS


def test_the_ledger_is_another_file_than_the_examples(questions, capsys):
    out = str(questions.with_name("examples.jsonl"))
    assert cli.main(command(questions, "http://127.0.0.1:9/v1", "--ledger", out)) == 2
    assert "--ledger" in capsys.readouterr().err


def test_an_adapter_is_not_for_a_server(questions, capsys):
    assert cli.main(command(questions, "http://127.0.0.1:9/v1", "--adapter", "x")) == 2
    assert "--adapter" in capsys.readouterr().err


def test_a_damaged_ledger_is_named_before_anything_is_asked(questions, capsys):
    questions.with_name("examples.calls.jsonl").write_text("{}\n")
    with AnsweringServer() as server:
        assert cli.main(command(questions, server.url)) == 2
        assert "examples.calls.jsonl:1: " in capsys.readouterr().err
        assert server.bodies == []


def test_a_local_models_answers_are_kept_and_asked_for_again_if_its_weights_change(questions, tmp_path, capsys):
    from helpers import tiny

    folder = tmp_path / "model"
    tiny.tokenizer().save_pretrained(folder)
    local = [str(questions), "--model_name_or_path", str(folder), "--dtype", "float32", "--max_new_tokens", "4"]
    outputs, logged = [], []
    for seed in (0, 0, 1):
        tiny.model(seed=seed).save_pretrained(folder)
        assert cli.main(["sample", *local, "--out", str(tmp_path / "examples.jsonl")]) == 0
        outputs.append((tmp_path / "examples.jsonl").read_bytes())
        logged.append(len(lines(tmp_path / "examples.calls.jsonl")))
    assert logged == [QUESTIONS, QUESTIONS, 2 * QUESTIONS]
    assert outputs[0] == outputs[1] != outputs[2]


def test_files_beside_the_weights_make_other_answers_too(tmp_path, monkeypatch):
    """The base's configuration and tokenizer, an adapter's scale, and the commit of a hub adapter."""
    from helpers import tiny
    from helpers.training import lora
    from nlft.models.loading import ModelSettings, load_model, load_tokenizer
    from nlft.models.opening import local_name

    base, hub = tmp_path / "base", tmp_path / "hub" / "models--me--mine"
    tiny.model().save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    for commit, zeros in (("1" * 40, False), ("2" * 40, True)):
        lora(tiny.model(), init_lora_weights=zeros).save_pretrained(hub / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.parent))

    def edit(path, **changed):
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    def name(adapter):
        settings = ModelSettings(model_name_or_path=str(base), dtype="float32", adapter=adapter)
        return local_name(settings, load_model(replace(settings, adapter=None), trainable=False), load_tokenizer(
            replace(settings, adapter=None)))  # fmt: skip

    (hub / "refs").mkdir()
    folder, found = str(hub / "snapshots" / ("1" * 40)), []
    for change in (
        lambda: (hub / "refs" / "main").write_text("1" * 40),
        lambda: (hub / "refs" / "main").write_text("2" * 40),
        lambda: edit(Path(folder) / "adapter_config.json", lora_alpha=99),
        lambda: edit(base / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 10.0}),
        lambda: edit(base / "tokenizer_config.json", model_max_length=7),
    ):
        change()
        found.append([name("me/mine"), name(folder)])
    differs = [[one != other for one, other in zip(*pair, strict=True)] for pair in itertools.pairwise(found)]
    assert differs == [[True, False], [False, True], [True, True], [True, True]]
    edit(Path(folder) / "adapter_config.json", base_model_name_or_path="elsewhere", peft_version="9")
    assert [name("me/mine"), name(folder)] == found[-1], "then the adapter is the same"


def run_sample(questions, url, *more, env=()):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **dict(env)}
    argv = [sys.executable, "-m", "nlft.cli", *command(questions, url, *more)]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_asking_a_server_imports_no_torch(questions):
    code = "import sys; from nlft.cli import main; done = main(sys.argv[1:]); "
    code += "print({'torch', 'peft', 'datasets'} & set(sys.modules), done)"
    with AnsweringServer() as server:
        sampling = command(questions, server.url, "--limit", 2)
        out = str(questions.with_name("evaluation.json"))
        grading = ["evaluate", *sampling[1:2], "--out", out, *sampling[4:]]
        for argv in (sampling, grading):
            done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
            assert done.stdout.endswith("\nset() 0\n"), done.stdout + done.stderr


def test_sample_killed_in_the_middle_goes_on_where_it_was_and_its_key_is_nowhere_to_be_found(questions):
    folder = questions.parent
    seen_argv = []
    with AnsweringServer(seconds=0.1) as server, FaultProxy(server.url) as proxy:
        first = run_sample(questions, proxy.url, "--concurrency", 2, env={"OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug"})
        deadline = time.monotonic() + 60
        while len(proxy.delivered) < QUESTIONS // 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        seen_argv.append(Path(f"/proc/{first.pid}/cmdline").read_bytes() if Path("/proc").exists() else b"")
        first.send_signal(signal.SIGKILL)
        told = "".join(first.communicate())
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        assert not (folder / "examples.jsonl").exists()
        logged = {line["request"] for line in lines(folder / "examples.calls.jsonl")}
        assert QUESTIONS // 2 - 4 <= len(logged) < QUESTIONS
        before = {body for body, n in proxy.delivered.items() if n}
        second = run_sample(questions, proxy.url, "--concurrency", 2, env={"OPENAI_API_KEY": KEY})
        told += "".join(second.communicate(timeout=90))
        assert second.returncode == 0, told
        twice = [body for body in before if proxy.delivered[body] > 1]
        assert len(proxy.delivered) == QUESTIONS
        assert not [b for b in twice if key_of(b) in logged]
        assert len(twice) <= 2
    assert [e.completion for e in read_examples(folder / "examples.jsonl", require_judgment=False)] == expected(0, 30)
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert len(files) == 4
    for content in [told.encode(), *seen_argv, *(p.read_bytes() for p in files)]:
        assert KEY.encode() not in content


def key_of(body):
    number = json.loads(body)["messages"][-1]["content"].split()[2]
    return f"q{number}#1"


# A real model behind a real server


@pytest.fixture(scope="module")
def served_model(tmp_path_factory):
    """`transformers serve` with SmolLM2-135M: (its address, the model's name there)."""
    from nlft.experiments.demo import model_cache

    folder = model_cache()
    if not (folder / "config.json").exists():
        pytest.skip(f"SmolLM2 is not in {folder}: run `nlft demo` once")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    log = (tmp_path_factory.mktemp("serve") / "log").open("w+")
    argv = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    argv += ["--dtype", "float32"]  # bfloat16 is slow on many processors
    server = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + 120
        while not _healthy(port):
            assert server.poll() is None, log.seek(0) or log.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        server.kill()
        server.wait()
        log.close()


def _healthy(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.long
def test_a_real_model_behind_faults_and_a_kill_is_asked_each_question_once(served_model, questions):
    url, name = served_model
    faults = {
        3: Fault("status", 429, {"retry-after": "1"}),
        5: Fault("reset"),
        7: Fault("status", 500),
        9: Fault("hang"),
    }
    lost = {11: Fault("truncated"), 13: Fault("empty"), 15: Fault("status", 200, body='{"choi')}
    model = ["--model_name_or_path", name, "--request_timeout", 10, "--concurrency", 2, "--limit", 16]
    out = questions.with_name("examples.jsonl")
    with FaultProxy(url, lambda a: {**faults, **lost}.get(a.number)) as proxy:
        first = run_sample(questions, proxy.url, *model)
        deadline = time.monotonic() + 120
        while len(proxy.delivered) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        first.kill()
        first.communicate()
        logged = {line["request"] for line in lines(out.with_suffix(".calls.jsonl"))}
        assert 4 <= len(logged) < 16
        before = set(proxy.delivered)
        second = run_sample(questions, proxy.url, *model)
        told = second.communicate(timeout=180)
        assert second.returncode == 0, told
        twice = [body for body in before if proxy.delivered[body] > 1]
        assert not [b for b in twice if key_of(b) in logged]
        # An answer that was logged in the moment of the kill may have reached the client before the proxy counted it.
        assert {key_of(body) for body in proxy.delivered} | logged == {f"q{number}#1" for number in range(16)}
    examples = read_examples(out, require_judgment=False)
    answered = lines(out.with_suffix(".calls.jsonl"))
    assert len(answered) == 16
    # A reply whose answer cannot be compared is in the ledger alone, and counted on the terminal.
    assert [e.id for e in examples] == [f"q{i}" for i in range(16) if f"q{i}" in {e.id for e in examples}]
    assert len(examples) == 16 or f"{16 - len(examples)} more answers left out" in "".join(told)
    assert len({e.completion for e in examples}) > 5
    assert all(e.completion.strip() for e in examples)
    assert all(line["answer"]["tokens"] > 0 and line["answer"]["prompt_tokens"] > 10 for line in answered)


def test_a_server_and_a_local_model_answer_alike(served_model):
    """The same weights, prompt, data type and greedy choice give the same answers."""
    from nlft.core.conditions import ConditionEncoder
    from nlft.models.loading import ModelSettings, load_model, load_tokenizer
    from nlft.models.local import LocalModel

    url, name = served_model
    requests = [CompletionRequest(f"q{i}", f"What is {i} + {i + 3}? Answer with a number.") for i in range(6)]
    settings = ModelSettings(model_name_or_path=name, dtype="float32")
    encoder = ConditionEncoder(load_tokenizer(settings))
    local = LocalModel(load_model(settings, trainable=False), encoder, max_new_tokens=24, batch_size=1)
    remote = ServerModel(name, BackendSettings(base_url=url, concurrency=1), max_new_tokens=24)
    pairs = list(zip(complete(requests, local, "local"), complete(requests, remote, "remote"), strict=True))
    assert [a.prompt_tokens for a, _ in pairs] == [b.prompt_tokens for _, b in pairs]
    assert sum(a.text == b.text for a, b in pairs) >= 5
    assert sum(a.finish_reason == b.finish_reason for a, b in pairs) >= 5
