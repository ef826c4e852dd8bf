"""How long a request to a running training waits: a real server takes it over HTTP, a real training answers it."""

import threading
import time
from contextlib import contextmanager
from datetime import datetime

import httpx
from transformers import TrainerCallback

from helpers.training import nlft_trainer
from nlft.page.connections import listen
from nlft.page.server import page_of
from nlft.page.serving import web_server
from nlft.runs.run_dir import RunDir
from nlft.training import watching

TOKEN = "token"
KINDS = ("step", "scoring")  # what the training does when a request comes
STEP_SECONDS, SCORING_SECONDS = 0.15, 0.3  # added to each step, and to the scoring of each watched example


class _Training(TrainerCallback):
    """Knows what the training does, and when its steps ended."""

    def __init__(self):
        self.doing, self.ends = "start", []

    def on_step_begin(self, args, state, control, **_):
        self.doing = "step"
        time.sleep(STEP_SECONDS)

    def on_step_end(self, args, state, control, **_):
        self.doing = "end"
        self.ends.append(time.time())


def measure(folder, count=3):
    """Train a tiny model, and ask it `count` times during a step and during a scoring.

    Returns:
        (kind, seconds) of each request: from the step's end, or from the request if it came later, to the answer.
    """
    told = _Training()
    trainer = nlft_trainer(folder, max_steps=500, watch=8, watch_every=2, callbacks=[told])
    trainer.callback_handler.callbacks.remove(told)
    trainer.callback_handler.callbacks.insert(0, told)  # the step ends before anything else is done
    run, score = RunDir(folder), watching.score_with_alternatives

    def slow_score(*args):
        told.doing = "scoring"
        time.sleep(SCORING_SECONDS)
        return score(*args)

    sent, trouble = {}, []
    watching.score_with_alternatives = slow_score
    try:
        with _serving(run) as url:
            asking = threading.Thread(target=_ask, args=(url, told, run, count, sent, trouble))
            asking.start()
            trainer.train()
            asking.join()
    finally:
        watching.score_with_alternatives = score
    assert not trouble, trouble
    answers = {line["id"]: datetime.fromisoformat(line["time"]).timestamp() for line in run.controls()}
    return [
        (kind, answers[id] - max(asked, *(end for end in told.ends if end <= answers[id])))
        for id, (kind, asked) in sent.items()
    ]


@contextmanager
def _serving(run):
    listening = listen("127.0.0.1", 0, 0)
    server = web_server(page_of([run], read_only=False, dataset=None), listening, TOKEN, set())
    thread = threading.Thread(target=server.serve_until_stopped, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.stop()
        thread.join(20)


def _ask(url, told, run, count, sent, trouble):
    """Change the learning rate while the training does one thing or the other, then stop it."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client:
        try:
            for number in range(count * len(KINDS)):
                kind = KINDS[number % len(KINDS)]
                _wait(lambda: told.ends)
                client.get("/api/runs")  # as an open page does: the server reads what the run has written
                _wait(lambda kind=kind: told.doing == kind)
                asked = time.time()
                changes = [{"control": "learning_rate", "value": 1 + (number + 1) / 10}]
                answer = client.post("/api/requests", json={"changes": changes})
                assert answer.status_code == 202, answer.text
                (id,) = answer.json()["ids"]
                sent[id] = kind, asked
                _wait(lambda id=id: any(line["id"] == id for line in run.controls()))
        except Exception as error:  # the training must end in any case
            trouble.append(repr(error))
        run.write_request("stop", None, "page")


def _wait(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the training does not get there"
        time.sleep(0.002)
