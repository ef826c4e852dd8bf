"""A GGUF file, loaded by llama.cpp: score given tokens, render prompts, and see where answers end."""

import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from nlft.core.prompts import Message, TemplateInputs
from nlft.errors import NLFTError

_TAIL = 5  # lines of llama.cpp's notes that say why it ended
_SURE = 1e4  # added to a logit, so that this token is chosen where several are allowed


def is_installed() -> bool:
    """Return whether llama.cpp can be loaded here."""
    return find_spec("xllamacpp") is not None


# Never through a proxy: the server is on this machine, and texts and key must stay on it.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LlamaServer:
    """A running llama.cpp server on this machine."""

    def __init__(self, address: str, key: str) -> None:
        self.address = address
        self.key = key

    def render(self, messages: Sequence[Message], inputs: TemplateInputs) -> str:
        """Render a prompt with the file's own chat template."""
        asked: dict[str, Any] = {"messages": list(messages)}
        if inputs.tools:
            asked["tools"] = list(inputs.tools)
        if inputs.kwargs:
            asked["chat_template_kwargs"] = dict(inputs.kwargs)
        return str(self._post("/apply-template", asked)["prompt"])

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """Tokenise a text. `special`: as a prompt, with BOS if the file asks for it, and with control tokens."""
        asked = {"content": text, "add_special": special, "parse_special": special}
        return list(self._post("/tokenize", asked)["tokens"])

    def score(self, prompt: Sequence[int], ids: Sequence[int], end: int | None = None) -> list[tuple[int, float]]:
        """Write given tokens after a prompt, and read how likely each was.

        A grammar allows one token at each place, then only an end. The probabilities are those before the grammar.

        Args:
            ids: tokens of whole characters: llama.cpp's grammars know no others.
            end: the token that ends the reply there; None if the reply goes on.

        Returns:
            Each written token with its log-probability.
        """
        grammar = " ".join(f"<[{id}]>" for id in ids) if ids else '""'
        asked: dict[str, Any] = {
            "prompt": list(prompt),
            "n_predict": len(ids) + (end is not None),
            "grammar": f"root ::= {grammar}",
            "n_probs": 1,
            "temperature": 0,
        }
        if end is not None:
            asked["logit_bias"] = [[end, _SURE]]  # the grammar allows every end
        found = self._post("/completion", asked)
        return [(int(one["id"]), float(one["logprob"])) for one in found["completion_probabilities"]]

    def greedy(self, prompt: Sequence[int], length: int) -> tuple[list[int], str]:
        """Return the likeliest tokens after a prompt, up to and with an end, and their text."""
        asked = {"prompt": list(prompt), "n_predict": length, "temperature": 0, "return_tokens": True}
        found = self._post("/completion", asked)
        return list(found["tokens"]), str(found["content"])

    def eos(self) -> str:
        """Return the token that the file names as the end of a text."""
        return str(self._post("/props", None)["eos_token"])

    def ends_at(self, prompt: Sequence[int], id: int) -> bool:
        """Return whether an answer ends where the model writes this token."""
        asked = {"prompt": list(prompt), "n_predict": 2, "temperature": 0, "logit_bias": [[id, _SURE]]}
        return bool(self._post("/completion", asked)["stop_type"] == "eos")

    def chat(self, messages: Sequence[Message], inputs: TemplateInputs, length: int) -> tuple[str, int]:
        """Answer an OpenAI-style chat request greedily. Return the text and the number of the prompt's tokens."""
        asked: dict[str, Any] = {"messages": list(messages), "max_tokens": length, "temperature": 0}
        asked |= {"reasoning_format": "none"}  # a thought stays in the text
        if inputs.tools:
            asked["tools"] = list(inputs.tools)
        if inputs.kwargs:
            asked["chat_template_kwargs"] = dict(inputs.kwargs)
        found = self._post("/v1/chat/completions", asked)
        return str(found["choices"][0]["message"]["content"] or ""), int(found["usage"]["prompt_tokens"])

    def _post(self, path: str, asked: dict[str, Any] | None) -> dict[str, Any]:
        head = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        data = None if asked is None else json.dumps(asked).encode()
        request = urllib.request.Request(self.address + path, data, head)
        try:
            with _DIRECT.open(request, timeout=3600) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            raise NLFTError(f"llama.cpp refuses {path}: {told}\n  The GGUF file is not usable as it is.") from error
        except OSError as error:
            raise NLFTError(f"llama.cpp ended during {path}: {error}\n  The GGUF file is not usable.") from error


@contextmanager
def serving(path: Path, *, context: int, exact: bool = True) -> Iterator[LlamaServer]:
    """Load a GGUF file with llama.cpp, and serve it on this machine to this process alone.

    Args:
        context: number of tokens that a prompt and its reply may have.
        exact: keep keys and values in float32.

    Raises:
        NLFTError: llama.cpp does not load the file.
    """
    key = secrets.token_urlsafe(16)
    asked = {"model": str(path.resolve()), "context": context, "key": key, "exact": exact}
    asked["threads"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with TemporaryFile() as notes:
        child = subprocess.Popen(
            [sys.executable, "-m", "nlft.exporting.llama_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=notes,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(asked).encode() + b"\n")
            child.stdin.flush()
            address = child.stdout.readline().decode().strip()
            if not address:
                notes.seek(0)
                told = "\n  ".join(notes.read().decode(errors="replace").strip().splitlines()[-_TAIL:])
                raise NLFTError(f"llama.cpp does not load {path.name}:\n  {told}")
            yield LlamaServer(address, key)
        finally:
            child.stdin.close()
            child.stdout.close()
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
