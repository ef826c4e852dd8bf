"""The page of `nlft label` over a file: its real server in a thread, and the files that it writes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlft.label.decisions import Decision
from nlft.label.labelling import Labelling, default_out
from nlft.label.model import LabelProcess
from nlft.label.replies import read_replies
from nlft.label.server import LabelServer
from nlft.page.connections import listen
from nlft.page.serving import web_server

TOKEN = "the-token"


def write_replies(path: Path, texts: list[str], **more: Any) -> Path:
    """A file of replies without ids and labels, as a person has it."""
    rows = [{"prompt": f"Describe product {at}.", "completion": text, **more} for at, text in enumerate(texts, 1)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def opened(file: Path, out: Path | None = None) -> Labelling:
    return Labelling(read_replies(file), out or default_out(file))


def decide(labelling: Labelling, place: int, step: str = "", **changes: Any) -> None:
    decision = {**labelling.now[place].as_json(), **changes}
    labelling.decide(place, decision, labelling.revisions[place], step)


def states(labelling: Labelling) -> list[str]:
    return [decision.state for decision in labelling.now]


def liked(feedback: str = "") -> Decision:
    return Decision(label=True, feedback=feedback)


@contextmanager
def served(labelling: Labelling, model: LabelProcess | None = None) -> Iterator[str]:
    """Serve the page. Yields its address with the token."""
    listening = listen("127.0.0.1", 0, 0)
    server = web_server(LabelServer(labelling, "replies.jsonl", model), listening, TOKEN, set())
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/?token={TOKEN}"
    finally:
        server.stop()
        thread.join(20)
        labelling.close()
