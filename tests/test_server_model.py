"""Answers from a server that stumbles: real sockets, on loopback."""

import email.utils
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from helpers.fault_proxy import AnsweringServer, Fault, FaultProxy, answer_to
from nlft.errors import NLFTError, UserError
from nlft.models import exchange
from nlft.models.answerer import CompletionRequest, Generated, estimated_tokens
from nlft.models.ledger import Ledgered, request_hash
from nlft.models.ledger_file import Ledger
from nlft.models.refusals import refused_parameter, retry_after
from nlft.models.server import BackendSettings, ServerModel
from nlft.models.settings import CallSettings

KEY = "sk-proj-Zq3x9wVt7Lk2mN5p"
REQUESTS = [CompletionRequest(f"q{i}", f"What is {i} + {i}?") for i in range(12)]


@pytest.fixture(autouse=True)
def _quick_and_no_key(monkeypatch):
    monkeypatch.setattr(exchange, "FIRST_WAIT", 0.02)
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def upstream():
    with AnsweringServer() as server:
        yield server


def model(url, name="stub", *, temperature=0.0, seed=0, system_prompt=None, max_new_tokens=50, **settings):
    backend = BackendSettings(base_url=url, **settings)
    shape = {"temperature": temperature, "seed": seed, "system_prompt": system_prompt}
    return ServerModel(name, backend, max_new_tokens=max_new_tokens, **shape)


def answers(server_model, requests=REQUESTS, into=None):
    found = {} if into is None else into
    for batch in server_model.answer(requests):
        found.update(batch)
    return found


def right(requests=REQUESTS):
    return {i: answer_to([{"role": "user", "content": r.prompt}]) for i, r in enumerate(requests)}


def texts(found):
    return {index: answer.text for index, answer in found.items()}


def on_question(number, fault, times=1):
    """A script that meets the first attempts of one question with a fault."""
    question = REQUESTS[number].prompt
    return lambda arrival: fault if arrival.question == question and arrival.nth <= times else None


FAULTS = {
    "429": Fault("status", 429),
    "429, come back in 0 s": Fault("status", 429, {"retry-after": "0"}),
    "408": Fault("status", 408),
    "409": Fault("status", 409),
    "500": Fault("status", 500),
    "503 as a page": Fault("status", 503, {"content-type": "text/html"}, "<html>overloaded</html>"),
    "hang": Fault("hang"),
    "reset": Fault("reset"),
    "reset midway": Fault("reset-midway"),
    "malformed JSON": Fault("status", 200, body='{"choices": [{"message": {"content": "4'),
    "JSON that is something else": Fault("status", 200, body='{"hello": ["world"]}'),
    "an error with status 200": Fault("status", 200, body='{"error": {"message": "upstream overloaded"}}'),
    "JSON too deep": Fault("status", 200, body="[" * 100_000),
    "nothing": Fault("status", 200, body=""),
    "bytes that are no text": Fault("status", 200, {"content-encoding": "gzip"}, "not gzip"),
    "truncated body": Fault("truncated"),
    "stream cut off": Fault("cut-stream"),
    "empty completion": Fault("empty"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault_is_survived_and_the_answer_is_the_real_one(upstream, fault):
    with FaultProxy(upstream.url, on_question(5, fault, times=2)) as proxy:
        found = answers(model(proxy.url, request_timeout=0.5))
        assert texts(found) == right()
        assert found[5] == Generated(right()[5], tokens=5, finish_reason="stop", prompt_tokens=5)
        arrived = Counter(a.question for a in proxy.arrivals)
        assert arrived == {r.prompt: 3 if r.key == "q5" else 1 for r in REQUESTS}


def test_a_server_that_is_not_there_is_tried_again_and_then_named(upstream):
    with FaultProxy(upstream.url) as proxy:
        gone = proxy.url
    with pytest.raises(NLFTError, match="no connection") as told:
        answers(model(gone, max_retries=2), REQUESTS[:2])
    assert "after 3 attempts" in str(told.value)
    assert "server runs at 127.0.0.1" in str(told.value)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "1"}, 1, 3),
        ({"retry-after-ms": "900"}, 0.9, 3),
        ({"retry-after": "date"}, 1, 6),
    ],
)
def test_retry_after_is_honoured_by_all_requests(upstream, headers, least, most):
    if headers.get("retry-after") == "date":
        headers = {"retry-after": email.utils.formatdate(int(time.time()) + 3, usegmt=True)}
    with FaultProxy(upstream.url, on_question(0, Fault("status", 429, headers))) as proxy:
        assert texts(answers(model(proxy.url, concurrency=1))) == right()
        first, second = [a.time for a in proxy.arrivals if a.question == REQUESTS[0].prompt]
        assert least <= second - first < most
    with FaultProxy(upstream.url, on_question(0, Fault("status", 429, headers))) as proxy:
        assert texts(answers(model(proxy.url, concurrency=2))) == right()
        told = proxy.arrivals[0].time
        assert not [a for a in proxy.arrivals if 0.5 < a.time - told < least * 0.9]


def test_retry_after_in_all_its_forms():
    now = 1_700_000_000.0
    date = email.utils.formatdate(now + 90, usegmt=True)
    cases = [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7),
        ({"retry-after": date}, 90),
        ({"retry-after": email.utils.formatdate(now - 90, usegmt=True)}, 0),
        # a server whose clock is an hour behind means its own clock
        ({"retry-after": date, "date": email.utils.formatdate(now + 60, usegmt=True)}, 30),
    ]
    for headers, seconds in cases:
        assert retry_after(headers, now) == (seconds if seconds is None else pytest.approx(seconds)), headers


def test_a_server_that_asks_for_a_day_is_not_waited_for(upstream):
    script = on_question(3, Fault("status", 429, {"retry-after": "86400"}), times=9)
    with FaultProxy(upstream.url, script) as proxy, pytest.raises(NLFTError, match="86400 s"):
        answers(model(proxy.url))


def test_waits_double_up_to_a_minute_and_differ(monkeypatch):
    monkeypatch.setattr(exchange, "FIRST_WAIT", 1.0)
    for failures, most in [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (90, 60)]:
        waits = [exchange.backoff(failures) for _ in range(200)]
        assert most / 2 <= min(waits) < max(waits) <= most
        assert len(set(waits)) > 100


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refused_request_is_not_repeated_and_the_others_are_answered(upstream, status):
    fault = Fault("status", status, body='{"error": {"message": "this one not"}}')
    with FaultProxy(upstream.url, on_question(7, fault, times=99)) as proxy:
        found = {}
        with pytest.raises(NLFTError) as told:
            answers(model(proxy.url, concurrency=2), into=found)
        assert texts(found) == {i: text for i, text in right().items() if i != 7}
        assert len(proxy.arrivals) == len(REQUESTS)
    message = str(told.value)
    assert message.startswith("1 of 12 requests to stub at 127.0.0.1:")
    assert f"q7: {status} " in message
    assert "this one not" in message
    assert not isinstance(told.value, UserError)


def test_all_failures_are_told_at_once_with_reasons_and_cures(upstream):
    def script(arrival):
        number = int(arrival.question.split()[2])
        return {3: Fault("status", 500), 4: Fault("status", 500), 8: Fault("status", 400)}.get(number)

    with FaultProxy(upstream.url, script) as proxy:
        found = {}
        with pytest.raises(NLFTError) as told:
            answers(model(proxy.url, max_retries=1), into=found)
    assert len(found) == 9
    message = str(told.value)
    assert message.startswith("3 of 12 requests")
    assert "  q3, q4: 500 Internal Server Error: scripted (after 2 attempts)\n" in message
    assert "  q8: 400 Bad Request: scripted\n" in message
    assert "the server's log" in message


@pytest.mark.parametrize(
    ("status", "cure"), [(401, "environment variable NLFT_TEST_KEY"), (403, "NLFT_TEST_KEY"), (404, "--base_url")]
)
def test_a_refused_key_or_model_ends_it_at_once_as_the_users_error(status, cure, monkeypatch):
    monkeypatch.setenv("NLFT_TEST_KEY", KEY)
    with AnsweringServer(
        lambda body, headers: (status, f"Bad {headers['authorization']} for {body['model']}")
    ) as server:
        many = [CompletionRequest(f"q{i}", f"{i}?") for i in range(500)]
        with pytest.raises(UserError) as told:
            answers(model(server.url, api_key_env="NLFT_TEST_KEY", concurrency=3), many)
        assert len(server.bodies) == 3
    message = str(told.value)
    assert f"{status} " in message
    assert cure in message
    assert "497 more " in message
    assert KEY not in message
    assert "[key]" in message


MANY = [CompletionRequest(f"q{i}", f"{i}?") for i in range(200)]


@pytest.mark.parametrize(
    ("status", "said", "cures", "most"),
    [
        (402, "Insufficient credits", ["credit"], 3),
        (405, "nginx", ["--base_url"], 3),
        (407, "proxy authentication", ["NO_PROXY"], 3),
        (410, "model retired", ["--base_url", "--model_name_or_path"], 3),
        (400, "Incorrect API key provided: xai***", ["OPENAI_API_KEY"], 12),
        (400, "invalid model: stub", ["--model_name_or_path"], 12),
        (400, "prompt is too long", ["--max_new_tokens"], 12),
        (422, "some field is odd", ["setting"], 12),
    ],
)
def test_what_is_refused_alike_from_the_first_question_on_is_not_sent_again_and_again(status, said, cures, most):
    with AnsweringServer(lambda body, headers: (status, said)) as server:
        with pytest.raises(NLFTError) as told:
            answers(model(server.url, concurrency=3), MANY)
        assert len(server.bodies) <= most
    message = str(told.value)
    assert f"{200 - len(server.bodies)} more" in message
    assert all(cure in message.splitlines()[-1] for cure in cures)
    assert ("--model_name_or_path" in message) == ("--model_name_or_path" in cures or "--base_url" in cures)


def test_questions_that_are_refused_each_for_its_own_reason_are_all_asked(upstream):
    def script(arrival):
        number = int(arrival.question.removesuffix("?"))
        return Fault("status", 400, body=f'{{"error": {{"message": "{number} tokens"}}}}') if number < 30 else None

    with FaultProxy(upstream.url, script) as proxy, pytest.raises(NLFTError, match="30 of 40"):
        answers(model(proxy.url), MANY[:40])
    assert len(proxy.arrivals) == 40


def test_a_question_that_a_content_filter_refuses_is_an_answer_that_was_filtered(upstream):
    refusal = {"error": {"message": "filtered", "code": "content_filter", "param": "prompt", "status": 400}}
    with FaultProxy(upstream.url, on_question(7, Fault("status", 400, body=json.dumps(refusal)), times=99)) as proxy:
        found = answers(model(proxy.url))
    assert found[7] == Generated("", 0, "content_filter", 0)
    assert texts(found) == right() | {7: ""}


@pytest.mark.parametrize(
    ("status", "location", "shown", "base"),
    [
        (301, "/other/v1/chat/completions", "http://127.0.0.1:PORT/other/v1/chat/completions", "http://127.0.0.1:PORT/other/v1"),
        (302, "https://user:geheim@new.example/v1/chat/completions?k=geheim", "https://new.example/v1/chat/completions",
         "https://new.example/v1"),
        (303, "http://[::1/geheim", "cannot be read", None),
        (307, "file:///v1", "file:///v1", None),
        (308, "http://new.example/v1/chat/completions", "http://new.example/v1/chat/completions", "http://new.example/v1"),
        (307, "/v1/chat/completions/", None, None),
    ],
)  # fmt: skip
def test_a_redirect_is_named_and_followed_only_if_the_request_stays_the_same(status, location, shown, base, upstream):
    moved = Fault("status", status, {"location": location})
    with FaultProxy(upstream.url, lambda a: moved if a.number == 1 else None) as proxy:
        if shown is None:
            assert texts(answers(model(proxy.url), REQUESTS[:1])) == right(REQUESTS[:1])
            assert [arrival.question for arrival in proxy.arrivals] == [REQUESTS[0].prompt] * 2
            return
        with pytest.raises(UserError) as told:
            answers(model(proxy.url, concurrency=1), REQUESTS)
        assert len(proxy.arrivals) == 1
    message, port = str(told.value), proxy.url.split(":")[2].removesuffix("/v1")
    assert f"{status}" in message
    assert shown.replace("PORT", port) in message
    assert "--base_url" + (f" {base.replace('PORT', port)}" if base else "") in message.splitlines()[-1]
    assert "geheim" not in message


def test_the_first_failure_is_told_at_once_and_the_others_at_the_end(upstream, capsys):
    with FaultProxy(upstream.url) as proxy:
        gone = proxy.url
    with pytest.raises(NLFTError):
        answers(model(gone, max_retries=2), REQUESTS[:2])
    told = capsys.readouterr().err
    assert told.count("no connection") == 1
    assert "--max_retries 2" in told
    assert gone.removeprefix("http://") in told


def test_a_server_that_has_died_is_not_asked_a_thousand_times(upstream):
    many = [CompletionRequest(f"q{i}", f"{i}?") for i in range(1000)]
    with FaultProxy(upstream.url, lambda a: Fault("reset") if a.number > 30 else None) as proxy:
        with pytest.raises(NLFTError) as told:
            answers(model(proxy.url, max_retries=1), many)
        assert len(proxy.arrivals) < 80
    assert re.search(r"\d{3} more ", str(told.value))


def test_an_empty_completion_is_believed_after_a_few_tries(upstream):
    with FaultProxy(upstream.url, on_question(5, Fault("empty"), times=99)) as proxy:
        found = answers(model(proxy.url))
        assert found[5].text == ""
        assert sum(a.question == REQUESTS[5].prompt for a in proxy.arrivals) == 3


def test_an_answer_cut_off_before_its_first_word_is_not_repeated(upstream):
    cut = {"choices": [{"message": {"content": None}, "finish_reason": "length"}], "usage": {"completion_tokens": 50}}
    with FaultProxy(upstream.url, lambda a: Fault("status", 200, body=json.dumps(cut))) as proxy:
        assert answers(model(proxy.url), REQUESTS[:1]) == {0: Generated("", 50, "length", 0)}
        assert len(proxy.arrivals) == 1


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_no_more_requests_are_under_way_than_allowed(upstream, concurrency):
    upstream.seconds = 0.05
    with FaultProxy(upstream.url) as proxy:
        assert texts(answers(model(proxy.url, concurrency=concurrency))) == right()
        assert proxy.most_in_flight == concurrency


def test_requests_a_minute_are_spaced_out_and_repeats_count(upstream):
    with FaultProxy(upstream.url, on_question(2, Fault("status", 500))) as proxy:
        answers(model(proxy.url, requests_per_minute=300), REQUESTS[:8])
        times = [a.time for a in proxy.arrivals]
    assert len(times) == 9
    assert times[-1] - times[0] >= 8 * 0.2 - 0.5  # the first may be late, on a busy machine
    assert sum(later - earlier > 0.1 for earlier, later in pairwise(times)) >= 5


def test_tokens_a_minute_are_kept_to(upstream):
    each = 50 + estimated_tokens([{"content": REQUESTS[0].prompt}])
    with FaultProxy(upstream.url) as proxy:
        answers(model(proxy.url, tokens_per_minute=each * 300), REQUESTS[:6])
        times = [a.time for a in proxy.arrivals]
    assert 5 * 0.2 - 0.5 <= times[-1] - times[0] < 5


def test_a_request_larger_than_the_minutes_tokens_still_goes_out(upstream):
    assert texts(answers(model(upstream.url, tokens_per_minute=10), REQUESTS[:1])) == right(REQUESTS[:1])


def test_what_is_sent_is_what_was_asked_for(upstream):
    chat = [{"role": "system", "content": "My own."}, {"role": "user", "content": "Hello?"}]
    requests = [CompletionRequest("text", "Hi?"), CompletionRequest("chat", chat)]
    answers(model(upstream.url, "m", system_prompt="Be brief.", max_new_tokens=7), requests)
    greedy = {"model": "m", "temperature": 0.0, "max_tokens": 7}
    sent = sorted(upstream.bodies, key=lambda b: b["messages"][0]["content"])
    briefly = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}]
    assert sent == [{**greedy, "messages": briefly}, {**greedy, "messages": chat}]


def test_the_seed_is_sent_when_sampling_and_comes_from_seed_and_key(upstream):
    requests = [CompletionRequest("q#1", "Hi?"), CompletionRequest("q#2", "Hi?")]
    seeds = []
    for seed in (1, 1, 2):
        upstream.bodies.clear()
        answers(model(upstream.url, temperature=0.8, seed=seed, concurrency=1), requests)
        seeds.append([b["seed"] for b in upstream.bodies])
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 4
    assert all(0 <= seed < 2**31 for seed in seeds[0])


def test_a_server_that_wants_max_completion_tokens_gets_it():
    def refuse(body, headers):
        if "max_tokens" in body:
            return 400, (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead."
            )
        return None

    with AnsweringServer(refuse) as server:
        served = model(server.url, max_new_tokens=9)
        assert texts(answers(served)) == right()
        assert texts(answers(served)) == right()
        assert [b["max_completion_tokens"] for b in server.bodies if "max_completion_tokens" in b] == [9] * 24
        assert sum("max_tokens" in b for b in server.bodies) <= 8


def test_a_server_that_knows_no_seed_is_told_none_and_the_user_hears_of_it(capsys):
    def refuse(body, headers):
        return (422, "Extra inputs are not permitted: seed") if "seed" in body else None

    with AnsweringServer(refuse) as server:
        assert texts(answers(model(server.url, temperature=1.0))) == right()
    assert capsys.readouterr().err.count("seed") == 1


def test_a_limit_that_is_too_high_is_an_error_and_no_reason_to_send_it_otherwise():
    message = "max_tokens is too large: 9000. This model's context length is 4096."
    with AnsweringServer(lambda body, headers: (400, message)) as server:
        with pytest.raises(NLFTError, match="too large"):
            answers(model(server.url, max_new_tokens=9000), REQUESTS[:1])
        assert len(server.bodies) == 1


def test_reasons_and_usage_become_generated(upstream):
    served = model(upstream.url)

    def parsed(content="x", reason="stop", **rest):
        message = content if isinstance(content, dict) else {"content": content}
        return served.parse(json.dumps({"choices": [{"message": message, "finish_reason": reason}], **rest}).encode())

    usage = {"prompt_tokens": 11, "completion_tokens": 3}
    assert parsed(" a \n", "stop", usage=usage) == Generated("a", 3, "stop", 11)
    assert parsed("a", "length").finish_reason == "length"
    assert parsed("a", "content_filter").finish_reason == "content_filter"
    assert parsed("a", None) == Generated("a", 0, "stop", 0)
    assert parsed("a", "end_turn", usage=None).finish_reason == "stop"
    assert parsed([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]).text == "ab"
    assert parsed({"content": None, "refusal": "No."}).text == "No."
    assert parsed("a\ud800b").text == "a?b"


@pytest.mark.parametrize(
    ("usage", "tokens", "prompt_tokens"),
    [
        ('{"completion_tokens": "n/a", "prompt_tokens": 11}', 0, 11),
        ('{"completion_tokens": 3, "prompt_tokens": "1.5"}', 3, 0),
        ('{"completion_tokens": 1e999, "prompt_tokens": NaN}', 0, 0),
        ('{"completion_tokens": -1, "prompt_tokens": [4]}', 0, 0),
        ("[1]", 0, 0),
        ('"none"', 0, 0),
    ],
)
def test_an_odd_count_of_tokens_costs_no_answer(usage, tokens, prompt_tokens, upstream):
    body = f'{{"choices": [{{"message": {{"content": "12"}}, "finish_reason": "stop"}}], "usage": {usage}}}'
    assert model(upstream.url).parse(body.encode()) == Generated("12", tokens, "stop", prompt_tokens)


TEXT = json.dumps({"choices": [{"message": {"content": "Größe 数学 €"}, "finish_reason": "stop"}]}, ensure_ascii=False)


@pytest.mark.parametrize("kind", ["application/json; charset=ISO-8859-1", "text/json; charset=us-ascii", "text/plain"])
def test_an_answer_is_read_as_utf_8_whatever_its_header_says(kind, upstream):
    with FaultProxy(upstream.url, lambda a: Fault("status", 200, {"content-type": kind}, TEXT)) as proxy:
        assert texts(answers(model(proxy.url), REQUESTS[:1])) == {0: "Größe 数学 €"}


def test_a_byte_order_mark_is_passed_over_and_bytes_that_are_not_utf_8_are_no_answer(upstream):
    served = model(upstream.url)
    assert served.parse(b"\xef\xbb\xbf" + TEXT.encode()).text == "Größe 数学 €"
    with pytest.raises(exchange.AttemptFailed, match="not a chat completion") as told:
        served.parse(TEXT.encode().replace("ö".encode(), b"\xf6"))
    assert told.value.again


def test_what_is_not_utf_8_is_read_in_the_character_set_that_its_header_names(upstream):
    served = model(upstream.url)
    assert served.parse(TEXT.encode("gbk", "replace"), "gbk").text == "Gr??e 数学 ?"
    broken = TEXT.encode().replace("ö".encode(), b"\xf6")
    for charset in ("utf-8", "ascii", "no-such-set", "hex", "a\0b", None):
        with pytest.raises(exchange.AttemptFailed, match="not a chat completion"):
            served.parse(broken, charset)


def test_the_character_set_of_a_response_is_used(upstream, monkeypatch):
    kind, seen = {"content-type": "application/json; charset=ISO-8859-1"}, []
    parse = ServerModel.parse
    monkeypatch.setattr(ServerModel, "parse", lambda self, *given: seen.append(given[1]) or parse(self, *given))
    with FaultProxy(upstream.url, lambda a: Fault("status", 200, kind, TEXT)) as proxy:
        answers(model(proxy.url), REQUESTS[:1])
    assert [charset.lower() for charset in seen] == ["iso-8859-1"]


@pytest.mark.parametrize(
    "choice",
    [
        {"error": {"code": 502, "message": "GPU fell over"}, "finish_reason": "error", "message": {"content": ""}},
        {"error": {"message": "GPU fell over"}, "finish_reason": "stop", "message": {"content": "The sum"}},
        {"finish_reason": "error", "message": None},
        {"finish_reason": "cancelled", "message": {"content": ""}},
    ],
)
def test_an_error_inside_an_answer_is_asked_again_and_is_not_kept(choice, upstream):
    body = json.dumps({"choices": [choice]})
    with FaultProxy(upstream.url, on_question(3, Fault("status", 200, body=body))) as proxy:
        assert texts(answers(model(proxy.url))) == right()
    with pytest.raises(exchange.AttemptFailed, match="GPU fell over" if "error" in choice else "finish_reason"):
        model(upstream.url).parse(body.encode())


def test_an_error_in_place_of_the_choices_is_named(upstream):
    with pytest.raises(exchange.AttemptFailed, match="User not found") as told:
        model(upstream.url).parse(b'{"error": {"code": 401, "message": "User not found."}}')
    assert told.value.again


PARTS = {
    "a thought beside the text": ([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
                                   {"type": "text", "text": "ab"}], "ab"),
    "a thought that has a text": ([{"type": "reasoning", "text": "Hm"}, {"type": "output_text", "text": "ab"}], "ab"),
    "an image and a call": ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "a"},
                             {"type": "tool_use", "input": {}}, {"type": "text", "text": "b"}], "ab"),
    "plain strings": (["a", "b"], "ab"),
    "one part, not in a list": ({"type": "text", "text": "ab"}, "ab"),
    "a text with annotations": ([{"type": "text", "text": {"value": "ab", "annotations": []}}], "ab"),
    "an empty part": ([{"type": "text", "text": None}, {"type": "text", "text": "ab"}], "ab"),
    "only a thought": ([{"type": "thinking", "thinking": "Hm"}], ""),
    "a refusal": ([{"type": "refusal", "refusal": "No."}], "No."),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_of_an_answer_in_parts_the_text_is_taken_and_the_rest_left(name):
    content, text = PARTS[name]
    with AnsweringServer(choice={"message": {"role": "assistant", "content": content}}) as server:
        assert texts(answers(model(server.url), REQUESTS[:1])) == {0: text}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_in_a_field_of_its_own_is_no_text(field):
    message = {"role": "assistant", "content": None, field: "The answer may be 12."}
    with AnsweringServer(choice={"message": message, "finish_reason": "length"}) as server:
        assert answers(model(server.url), REQUESTS[:1])[0].text == ""
    with AnsweringServer(choice={"message": {**message, "content": "12"}}) as server:
        assert answers(model(server.url), REQUESTS[:1])[0].text == "12"


@pytest.mark.parametrize("content", [7, [3], [{"type": "text"}], [{"type": "text", "text": 5}]])
def test_content_of_a_form_that_nobody_knows_is_named_and_no_traceback(content):
    with AnsweringServer(choice={"message": {"content": content}}) as server, pytest.raises(NLFTError) as told:
        answers(model(server.url, max_retries=0), REQUESTS[:1])
    assert "not a chat completion" in str(told.value)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("length max_tokens MAX_TOKENS model_length max-tokens maxTokens FINISH_REASON_MAX_TOKENS", "length"),
        ("max_output_tokens model_context_window_exceeded incomplete truncated", "length"),
        ("content_filter SAFETY RECITATION PROHIBITED_CONTENT refusal", "content_filter"),
        ("stop STOP end_turn eos_token stop_sequence complete tool_calls", "stop"),
        ("OTHER error abort cancelled FINISH_REASON_UNSPECIFIED insufficient_system_resource nonsense", "unknown"),
    ],
)  # fmt: skip
def test_each_server_s_word_for_the_end_of_an_answer_is_understood(words, reason, upstream):
    served = model(upstream.url)
    for word in words.split():
        body = json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": word}]}).encode()
        assert served.parse(body).finish_reason == reason, word


def test_an_end_that_nobody_knows_is_told_once_and_is_not_taken_for_a_whole_answer(capsys):
    with AnsweringServer(choice={"finish_reason": "model_dreams"}) as server:
        found = answers(model(server.url))
    assert {answer.finish_reason for answer in found.values()} == {"unknown"}
    assert capsys.readouterr().err.count("model_dreams") == 1


ONLY_ITS_OWN = [
    (400, "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is."),
    (400, "`temperature` is deprecated for this model."),
    (400, "invalid temperature: only 1 is allowed for this model"),
    (422, "Input validation error: `temperature` must be strictly positive"),
    (400, {"error": {"message": "Unsupported parameter.", "param": "temperature"}}),
    (422, {"detail": [{"loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}]}),
    (400, "Unknown parameter: Temperature. Known are model, messages, max_tokens and seed."),
]  # fmt: skip


@pytest.mark.parametrize("refusal", ONLY_ITS_OWN)
def test_a_temperature_that_is_refused_is_left_out_said_once_and_in_the_identity(refusal, capsys):
    with AnsweringServer(lambda body, headers: refusal if "temperature" in body else None) as server:
        served = model(server.url)
        asked = served.identity
        assert texts(answers(served)) == right()
        assert all("max_tokens" in body for body in server.bodies)
    told = capsys.readouterr().err
    assert told.count("temperature 0") == 1
    assert asked["temperature"] == served.identity["temperature"] == 0
    assert "left_out" not in asked
    assert served.identity["left_out"] == ["temperature"]


@pytest.mark.parametrize(
    "message",
    [
        "Invalid 'temperature': must be between 0 and 2.",
        "temperature 9.0 is too high",
        "only a temperature between 0 and 2 is allowed",
    ],
)
def test_a_temperature_out_of_range_is_an_error_and_is_not_left_out(message):
    with AnsweringServer(lambda body, headers: (400, message)) as server, pytest.raises(NLFTError, match="temperature"):
        answers(model(server.url, temperature=9.0), REQUESTS[:1])


QUESTION = "At what temperature does water boil?"
NOT_TAKEN = [
    "temperature: Extra inputs are not permitted",
    "This model does not support `temperature`.",
    "temperature is fixed at 1 for this model",
    "temperature must be 1 for reasoning models",
    "temperature: must be 1.0",
    "parameter temperature is invalid: expected 1",
    "`temperature` may only be set to 1 when thinking is enabled.",
    "`temperature` may only be set to 1",
    "The temperature parameter is disabled for this model",
    "Property temperature is not valid",
    "Additional properties are not allowed ('temperature' was unexpected)",
    "Setting temperature is disallowed",
    "This model has no temperature parameter",
    "temperature cannot be set for o-series",
    '"temperature" has been removed',
    "参数 temperature 不支持",
    "temperature nicht unterstützt",
    "invalid temperature. Only 1 is allowed for this model.",
    "gpt-4o-2024-08-06 does not support temperature",
    "temperature is not supported by this model. The maximum context length is 4096.",
    "'temperature' is not supported, use 'top_p' instead (at most 1).",
    "This model does not support the temperature parameter. Supported values for other models are between 0 and 2.",
    {"message": "'temperature' is not supported here. See max_tokens (at most 128000).", "param": "temperature"},
    "Unsupported parameter: 'temperature'. Known: max_tokens between 1 and 4096.",
    "[{'type': 'extra_forbidden', 'loc': ('body', 'temperature'), 'msg': 'Extra inputs are not permitted'}]",
    "Error code: 400 - {'error': {'message': \"'temperature' is not supported with this model.\", 'code': 'x'}}",
    {"message": "Unsupported parameter.", "param": "temperature"},
    {
        "detail": [
            {"loc": ["body", "n"], "msg": "too low"},
            {"loc": ["temperature"], "msg": "Extra inputs not permitted"},
        ]
    },
]
NOT_ZERO = [
    "Temperature parameter must be in (0, 1]",
    "temperature must be in the range (0.0, 1.0]",
    "temperature must be >= 0.01",
    "invalid temperature: must be positive",
    "Input validation error: `temperature` must be strictly positive",
    {"detail": [{"loc": ["body", "temperature"], "msg": "Input should be greater than 0"}]},
]
A_MISTAKE = [
    "temperature 9.0 is not allowed; it must be at most 2",
    "temperature=9 is not supported. Supported range: 0-2",
    "The value of temperature is not supported. Supported range: 0-2",
    "temperature is not supported. Supported values are between 0 and 2",
    "This model does not support temperature 9. The range is 0-2",
    "This model does not support temperature=9. The range is 0-2",
    "temperature is not supported: it must be at most 2",
    "max_tokens is not supported, at most 4096",
    {"message": "max_tokens 9000 is not supported. At most 4096 are.", "param": "max_tokens"},
    "Unsupported value: temperature must be <= 2.0",
    "temperature: 9 is not an accepted value, only values from 0 to 2 are accepted",
    "unexpected value; permitted: 0 <= temperature <= 2",
    "temperature 9 is not supported: it must be 2 or less",
    "max_tokens 9000 is not supported: at most 4096",
    "max_tokens=9000 cannot be used with this model, whose context is 4096; unsupported",
]
NOT_ABOUT_IT = [
    f'Unsupported content in message: "{QUESTION}"',
    f"Unsupported content in message: {QUESTION}",
    "messages with role 'system' are not supported by this model. (temperature=0.0, max_tokens=50)",
    "System role not supported; request: {'model': 'm', 'temperature': 0.0, 'max_tokens': 50, 'seed': 3}",
    "System role not supported: {'model': 'm', 'messages': [{'role': 'system', 'content': 'x'}], 'temperature': 0.0}",
    "Model does not support chat; params: temperature, max_tokens",
    {"message": "Unsupported: a temperature in the question", "param": "messages"},
    {"detail": [{"loc": ["body", "messages", "role"], "msg": "Unsupported role (temperature 0.0)"}]},
]  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_refusal_names_the_parameter_that_is_left_out(temperature):
    sent = {"temperature": temperature, "max_tokens": 50, "messages": [{"role": "user", "content": QUESTION}]}
    as_json = lambda said: {"message": said} if isinstance(said, str) else said  # noqa: E731
    assert [said for said in NOT_TAKEN if refused_parameter(as_json(said), sent) != "temperature"] == []
    zero = [said for said in NOT_ZERO if refused_parameter(as_json(said), sent) == "temperature"]
    assert zero == ([] if temperature else NOT_ZERO)
    assert [said for said in NOT_ABOUT_IT if refused_parameter(as_json(said), sent)] == []
    instead = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead (at most 128000)."
    assert refused_parameter({"message": instead, "param": "max_tokens"}, sent) == "max_tokens"
    sent |= {"temperature": 9.0, "max_tokens": 9000, "seed": 3}
    assert [said for said in [*A_MISTAKE, *NOT_ABOUT_IT] if refused_parameter(as_json(said), sent)] == []


def test_a_server_that_refuses_one_parameter_after_another_gets_none_of_them(capsys):
    def refuse(body, headers):
        for name in ("temperature", "seed", "max_tokens"):
            if name in body:
                return 400, f"Unsupported parameter: '{name}' is not supported with this model."
        return None

    with AnsweringServer(refuse) as server:
        served = model(server.url, temperature=0.7)
        assert texts(answers(served)) == right()
        assert set(server.bodies[-1]) == {"model", "messages", "max_completion_tokens"}
    assert served.identity["left_out"] == ["seed", "temperature"]
    told = capsys.readouterr().err.splitlines()
    assert sorted(re.findall("temperature|seed|max_tokens", " ".join(told))) == ["max_tokens", "seed", "temperature"]
    assert len(told) == 3


def test_a_server_that_refuses_both_limits_is_an_error_since_answers_need_one():
    def refuse(body, headers):
        name = next((name for name in body if name.startswith("max_")), None)
        return (400, f"'{name}' is not supported") if name else None

    with AnsweringServer(refuse) as server, pytest.raises(NLFTError, match="max_completion_tokens"):
        answers(model(server.url), REQUESTS[:1])


def test_answers_without_the_refused_temperature_are_found_again_in_the_ledger(tmp_path):
    path = tmp_path / "calls.jsonl"

    def ask(temperature=0.0):
        served = model(server.url, temperature=temperature)
        return texts(
            dict(pair for batch in Ledgered(served, Ledger(path), CallSettings()).answer(REQUESTS) for pair in batch)
        )

    with AnsweringServer(lambda body, headers: ONLY_ITS_OWN[0] if "temperature" in body else None) as server:
        assert ask() == right()
        kept = {json.loads(line)["hash"] for line in path.read_text().splitlines()}
        without = model(server.url).identity | {"left_out": ["temperature"]}
        assert kept == {request_hash(without, request) for request in REQUESTS}
        before = len(server.bodies)
        assert ask() == right()
        assert len(server.bodies) == before
        ask(temperature=1.0)
        assert len(server.bodies) > before


def test_identity_has_what_shapes_an_answer_and_nothing_else(upstream):
    one = model(upstream.url, "m", concurrency=2, max_retries=1, requests_per_minute=9)
    assert one.identity == model(upstream.url + "/", "m").identity
    assert json.loads(json.dumps(one.identity)) == {
        "server": upstream.url.removeprefix("http://"),
        "model": "m",
        "system_prompt": None,
        "max_new_tokens": 50,
        "temperature": 0.0,
    }
    sampled = [model(upstream.url, "m", temperature=0.5, seed=s).identity for s in (1, 2)]
    assert sampled[0] != sampled[1]
    assert "seed" not in one.identity


@pytest.mark.parametrize(
    "url",
    ["http://me:geheim@host/v1", "http://host/v1?key=geheim", "https://host/v1#geheim", "localhost:8000/v1", "ftp://x/v1",
     "http://host:port/v1", "http://", "", "http://[::1:8000/v1", "http://a℀b/v1", "http://me:ge/heim@geheim:1:2/v1",
     "http://local host:1/v1", "http://127.0.0.1:1/v1 x", "http://127.0.0.1:1/\x07v1", "http://me:geheim@[::1/v1"],
)  # fmt: skip
def test_an_unusable_address_is_refused_and_secrets_in_it_are_not_repeated(url):
    with pytest.raises(UserError) as told:
        model(url)
    assert "--base_url" in str(told.value)
    assert "geheim" not in str(told.value)


def test_white_space_around_an_address_is_passed_over(upstream):
    served = model(f" {upstream.url}\n")
    assert texts(answers(served, REQUESTS[:1])) == right(REQUESTS[:1])
    assert served.identity == model(upstream.url).identity


def test_an_address_in_the_environment_is_refused_by_its_variable(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000/v1")
    with pytest.raises(UserError, match="OPENAI_BASE_URL localhost:8000/v1") as told:
        ServerModel("m", BackendSettings(backend="openai"), max_new_tokens=1)
    assert "--base_url" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "http://u:geheim@127.0.0.1:port"),
        ("https_proxy", "ftp://u:geheim@127.0.0.1:9"),
        ("ALL_PROXY", "http://[::1"),
        ("HTTP_PROXY", " "),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),  # a package for it may be missing
        ("SSL_CERT_FILE", "/no/such/file.pem"),
    ],
)
def test_what_the_environment_sets_and_nobody_can_use_is_named(name, value, upstream, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(NLFTError) as told:
        answers(model(upstream.url, max_retries=0), REQUESTS[:1])
    assert name in str(told.value)
    assert "geheim" not in str(told.value)
    assert value in str(told.value) or name != "SSL_CERT_FILE"


def test_a_proxy_that_is_gone_is_named_and_no_server_is_blamed_alone(upstream, monkeypatch):
    with FaultProxy(upstream.url) as proxy:
        gone = proxy.url.removeprefix("http://").removesuffix("/v1")
    monkeypatch.setenv("HTTP_PROXY", f"http://u:geheim@{gone}")
    with pytest.raises(NLFTError, match=rf"{gone} \(HTTP_PROXY\)") as told:
        answers(model(upstream.url, max_retries=0), REQUESTS[:1])
    assert "geheim" not in str(told.value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert texts(answers(model(upstream.url), REQUESTS[:1])) == right(REQUESTS[:1])


def test_no_variable_for_the_client_replaces_the_key_or_reaches_another_server(upstream, monkeypatch):
    custom = "Authorization: Bearer geheim\nX-Gateway: gateway-Zq3x9wVt7Lk2mN5p"
    for name, value in {"CUSTOM_HEADERS": custom, "ORG_ID": "org-7", "PROJECT_ID": "proj-7", "API_KEY": KEY}.items():
        monkeypatch.setenv(f"OPENAI_{name}", value)
    mine = ("x-gateway", "openai-organization", "openai-project")
    answers(model(upstream.url), REQUESTS[:1])
    assert upstream.headers[-1]["authorization"] == f"Bearer {KEY}"
    assert not [name for name in mine if name in upstream.headers[-1]]
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    upstream.text = lambda body, headers: f"You sent {headers['x-gateway']}."
    for url in (upstream.url, None):
        served = ServerModel("m", BackendSettings(backend="openai", base_url=url), max_new_tokens=9)
        assert texts(answers(served, REQUESTS[:1])) == {0: "You sent [key]."}
        assert upstream.headers[-1]["authorization"] == f"Bearer {KEY}"
        assert [upstream.headers[-1][name][:7] for name in mine] == ["gateway", "org-7", "proj-7"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_the_variables_that_the_server_does_not_get(status, monkeypatch):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: geheim")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-7")
    with AnsweringServer(lambda body, headers: (status, "no")) as server:
        with pytest.raises(UserError) as told:
            answers(model(server.url), REQUESTS[:1])
        cure = str(told.value).splitlines()[-1]
        names = ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS", "OPENAI_ORG_ID"]
        assert sorted(set(re.findall("OPENAI_[A-Z_]+", cure))) == names
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(UserError) as told:
            answers(model(server.url), REQUESTS[:1])
    assert set(re.findall("OPENAI_[A-Z_]+", str(told.value).splitlines()[-1])) == {"OPENAI_API_KEY"}


@pytest.mark.parametrize("hosts", ["*", "example.org, *"])
def test_an_unusable_proxy_that_no_request_uses_is_passed_over(hosts, upstream, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:port")
    monkeypatch.setenv("NO_PROXY", hosts)
    assert texts(answers(model(upstream.url), REQUESTS[:1])) == right(REQUESTS[:1])


def test_a_key_given_in_place_of_its_variables_name_is_refused_and_not_repeated():
    with pytest.raises(UserError) as told:
        model("http://localhost/v1", api_key_env=KEY)
    assert KEY not in str(told.value)


def test_a_key_with_a_line_break_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "geheim\nnis")
    with pytest.raises(UserError) as told:
        model("http://localhost/v1")
    assert "geheim" not in str(told.value)
    assert "nis" not in str(told.value).split()


def test_the_hosted_server_wants_a_key_and_a_local_one_none(upstream, monkeypatch):
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        ServerModel("gpt", BackendSettings(backend="openai"), max_new_tokens=1)
    assert texts(answers(model(upstream.url))) == right()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert ServerModel("gpt", BackendSettings(backend="openai"), max_new_tokens=1).server == "api.openai.com/v1"


def test_base_url_implies_the_backend():
    assert BackendSettings().backend == "local"
    assert BackendSettings(base_url="http://localhost/v1").backend == "openai"


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch, capsys, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with AnsweringServer(text=lambda body, headers: f"You sent {headers['authorization']}.") as server:
        served = model(server.url)
        found = answers(served, REQUESTS[:2])
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        refusals = [Fault("status", 400, body=f"no {KEY} here"), Fault("status", 200, body=KEY * 9)]
        with FaultProxy(server.url, lambda a: refusals[0]) as proxy, pytest.raises(NLFTError) as told:
            answers(model(proxy.url), REQUESTS[:2])
        with FaultProxy(server.url, lambda a: refusals[1]) as proxy, pytest.raises(NLFTError) as garbled:
            answers(model(proxy.url, max_retries=0), REQUESTS[:2])
    everything = [found, served, vars(served.settings), served.identity, told.value, garbled.value, capsys.readouterr()]
    assert found[0].text == "You sent Bearer [key]."
    assert "[key]" in str(told.value)
    assert len(caplog.text) > 100
    for text in [*map(repr, everything), caplog.text]:
        assert KEY not in text
        assert KEY[:12] not in text


REAL_KEYS = ["hunter-secret", "gpustack_key", "Passw0rd!", "correct-horse-battery-staple", "mysecretpassword"]
SAID = "There are none left: 10 - 10 = 0. The box is EMPTY, extra ollama, lm-studio. sk-no-key-required #### 0"


@pytest.mark.parametrize("key", ["none", "EMPTY", "0", "x", "ollama", "lm-studio", "sk-no-key-required", "extra"])
def test_a_placeholder_or_short_key_changes_no_answer(key, upstream, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    upstream.text = lambda body, headers: SAID
    assert texts(answers(model(upstream.url), REQUESTS[:1])) == {0: SAID}
    assert upstream.headers[-1]["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize(
    ("key", "message", "told"),
    [
        ("0", "no room: 10 of 10 seats, again in 0 s", "no room: 10 of 10 seats, again in 0 s"),
        ("x", "extra x", "extra x"),
        ("not-needed", "a key is not-needed", "a key is not-needed"),
        *(
            (key, f"Incorrect API key: {key}. {key}s", f"Incorrect API key: [key]. {key}s")
            for key in [*REAL_KEYS, "letmein"]
        ),
        ("token-abc123", "token-abc123 is unknown, token-abc1234 is not", "[key] is unknown, token-abc1234 is not"),
    ],
)
def test_a_message_loses_a_short_key_only_as_a_word_and_a_placeholder_never(key, message, told, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with AnsweringServer(lambda body, headers: (400, message)) as server, pytest.raises(NLFTError) as error:
        answers(model(server.url), REQUESTS[:1])
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("key", "elsewhere"),
    [
        *(
            (key, "[key]")
            for key in (*REAL_KEYS, "My_Long_Secret_Pass", "12345678901234567890", "token-abc1", "sk-abc123")
        ),
        *((key, key) for key in ("marigold", "letmein", "abc-12", "A1b2c3")),  # may be words of the answer
    ],
)
def test_an_answer_loses_a_key_after_bearer_and_a_long_one_as_a_word(key, elsewhere, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    said = f"Bearer {key}, x={key}, Bearer {key}2 and a{key}"
    body = {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}
    served = model("http://127.0.0.1:1/v1")
    found = served.parse(json.dumps(body).encode()).text
    assert found == f"Bearer [key], x={elsewhere}, Bearer {key}2 and a{key}"


def test_of_the_custom_headers_only_a_secret_one_is_removed_from_answers(upstream, monkeypatch):
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "Accept: application/json\nX-Api-Token: hunter-secret\nX-Title: Reasoning"
    )
    upstream.text = lambda body, headers: "Reasoning: application/json, hunter-secret"
    assert texts(answers(model(upstream.url), REQUESTS[:1])) == {0: "Reasoning: application/json, [key]"}


@pytest.mark.parametrize("key", [KEY, "3f9c1e5b7a2d4068", "AbCdEfGhIjKlMnOpQrStUvWx", "sk-mine-123456"])
def test_a_secret_is_removed_from_an_answer_wherever_it_stands(key, upstream, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    upstream.text = lambda body, headers: f"a{key}b"
    assert texts(answers(model(upstream.url), REQUESTS[:1])) == {0: "a[key]b"}


def test_a_caller_that_wants_no_more_ends_the_requests(upstream):
    upstream.seconds = 0.05
    coming = model(upstream.url, concurrency=2).answer([CompletionRequest(f"q{i}", f"{i}?") for i in range(200)])
    next(coming)
    coming.close()
    asked = len(upstream.bodies)
    time.sleep(0.3)
    assert len(upstream.bodies) <= asked + 2
    assert not [t for t in threading.enumerate() if t.name == "nlft-requests"]


# Started in the background, pytest ignores SIGINT, and a child of its would too: hence the handler.
CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from nlft.models.answerer import CompletionRequest
from nlft.models.ledger import Ledgered, request_hash
from nlft.models.ledger_file import Ledger
from nlft.models.server import BackendSettings, ServerModel
model = ServerModel("stub", BackendSettings(base_url=sys.argv[1], request_timeout=100), max_new_tokens=5)
print("ready", flush=True)
try:
    for batch in model.answer([CompletionRequest(str(i), str(i)) for i in range(50)]):
        print("answered", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_it_at_once_while_a_server_hangs(upstream):
    with FaultProxy(upstream.url, lambda a: Fault("hang") if a.number > 3 else None) as proxy:
        child = subprocess.Popen([sys.executable, "-c", CHILD, proxy.url], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout.readline() == "ready\n"
            assert child.stdout.readline() == "answered\n"
            time.sleep(0.3)
            os.kill(child.pid, signal.SIGINT)
            rest = child.communicate(timeout=20)[0]  # a request alone would be waited for for 100 s
            assert rest.endswith("interrupted\n")
            assert child.returncode == 0
        finally:
            child.kill()
            child.wait()


def test_it_works_inside_a_running_event_loop(upstream):
    import asyncio

    async def notebook():
        return texts(answers(model(upstream.url)))

    # A thread of its own: the browser tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(lambda: asyncio.run(notebook())).result() == right()


def test_nothing_to_ask_asks_nothing(upstream):
    assert answers(model(upstream.url), []) == {}
    assert not upstream.bodies


def test_estimates_of_tokens_are_rather_high():
    from nlft.experiments.demo import model_cache

    if not (model_cache() / "config.json").exists():
        pytest.skip(f"SmolLM2 is not in {model_cache()}: run `nlft demo` once")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_cache())
    for text in [
        "Tom has 5 apples and buys 12 more. How many?",
        "x" * 50,
        "1234567890" * 9,
        "¿Qué? 你好，世界",
        "a b c d",
    ]:
        estimate = estimated_tokens([{"content": text}])
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        assert len(tokenizer(text)["input_ids"]) <= estimate
        assert estimate <= 3 * len(rendered)
