"""Spoiled input: texts, JSON and files, made from a seed that hypothesis chooses, and a loop that collects faults."""

import json
import random
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from helpers.limits import cpu_limit
from nlft.errors import NLFTError

SLOWEST = 1.0  # CPU seconds for one input of at most 100 kB
BATCH = 2000

ODD_TEXTS = [
    *("", " ", "\n", "\t\r\n", "0", "-1", "1", "5", "true", "no", "null", "nan", "inf", "1e999", "9" * 400, "9" * 5000),
    *("\x00", "\x1b[31m", "\u202eevil", "\u2028", "\ud83d", "é", "e\u0301", "ß", "İ", "٣", "²", "👍🏽", "👩‍👩‍👧", "🇩🇪"),
    *("<script>alert(1)</script>", "</style>", "{a}", "{}", "{{", "{prompt}", "%s", "${x}", "__proto__", "constructor"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "file:///etc",
        "~",
        "$HOME",
        "a/b:c:d",
        "=1+1",
        "@x",
        "-",
        "--",
        "...",
    ),
    *('"', "'", '"a" is wrong', "“a” b", "Correction: 5", "Verdict: wrong", "#### 5", "\\boxed{5}", "<think>", "1/0"),
    *("a" * 1000, "(" * 500, "[" * 500, "1," * 300, "é" * 300, "\n" * 500, " " * 500),
]
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], [{}], {"": None}, [None], [1, "a", None], {"a": {"b": [1]}}, {"__proto__": 1}, "", "text", "5"),
    *([{"role": "user", "content": "a"}], [{"role": "assistant", "content": None}], {"role": [], "content": {}}),
    *({"start": 0, "end": 2}, [{"start": 0, "end": 10**30}], [{"start": True, "end": "1"}], {"value": {"text": []}}),
]


def odd_text(rng: random.Random) -> str:
    """Return a short text of odd pieces."""
    return "".join(rng.choice(ODD_TEXTS) for _ in range(rng.choice((1, 1, 2, 4))))


def odd_value(rng: random.Random) -> Any:
    """Return a JSON value, or one that JSON does not allow."""
    return odd_text(rng) if rng.random() < 0.4 else json_copy(rng.choice(ODD_VALUES))


def json_copy(value: Any) -> Any:
    """Return a copy whose lists and objects can be changed."""
    if isinstance(value, dict):
        return {key: json_copy(part) for key, part in value.items()}
    return [json_copy(part) for part in value] if isinstance(value, list) else value


def spoiled(value: Any, rng: random.Random, times: int = 3) -> Any:
    """Return a copy of a JSON value in which a few places are replaced, dropped, doubled, renamed or wrapped."""
    value = json_copy(value)
    for _ in range(rng.randint(1, times)):
        places = _places(value)
        if not places:
            return odd_value(rng)
        holder, key = rng.choice(places)
        way = rng.randrange(8)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[rng.choice(ODD_TEXTS[:60])] = holder.pop(key)
        elif way == 2 and isinstance(holder, list):
            holder.insert(key, json_copy(holder[key]))
        elif way == 3:
            holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key])[:500]))
        elif way == 4:
            other, at = rng.choice(places)
            if isinstance(other, dict) or at < len(other):
                holder[key] = json_copy(other.get(at) if isinstance(other, dict) else other[at])
        elif way == 5 and isinstance(holder[key], str) and holder[key]:
            cut = rng.randrange(len(holder[key]))
            holder[key] = holder[key][:cut] + odd_text(rng) + holder[key][cut:]
        else:
            holder[key] = odd_value(rng)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        parts = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
        for key, part in parts:
            found.append((holder, key))
            if isinstance(part, dict | list):
                waiting.append(part)
    return found if isinstance(value, dict | list) else []


def spoiled_bytes(data: bytes, rng: random.Random, times: int = 4) -> bytes:
    """Return the bytes with a few of them flipped, cut out, doubled, or replaced with odd ones."""
    data = bytes(data)
    for _ in range(rng.randint(1, times)):
        at = rng.randrange(len(data) + 1)
        until = min(len(data), at + rng.choice((0, 1, 1, 2, 8, 64)))
        odd = odd_text(rng).encode("utf-8", "surrogatepass") if rng.random() < 0.7 else rng.randbytes(rng.randint(1, 8))
        way = rng.randrange(4)
        if way == 0:
            data = data[:at] + data[until:]
        elif way == 1:
            data = data[:at] + data[at:until] * rng.randint(2, 5) + data[until:]
        elif way == 2 and rng.random() < 0.2:
            data = data[:at]
        else:
            data = data[:at] + odd + data[until:]
    return data


def as_json(value: Any) -> bytes:
    """Write a value as JSON, as Python would: NaN and half characters stay."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@dataclass
class Target:
    """A public reader that is fuzzed.

    Attributes:
        read: reads one input, which it makes from the random numbers; the folder is for its files.
        allowed: errors that it may raise besides NLFTError.
        share: its part of the long mode's inputs: 1 for a reader that takes about a millisecond.
    """

    name: str
    read: Callable[[random.Random, Path], object]
    allowed: tuple[type[BaseException], ...] = ()
    share: float = 1.0

    def read_once(self, folder: Path) -> None:
        """Read one input, whatever comes of it."""
        with suppress(Exception):
            self.read(random.Random(0), folder)


@dataclass
class Found:
    """What the inputs of a target did.

    Attributes:
        faults: by kind and place, the smallest seed that shows it, and the end of its traceback.
        slowest: CPU seconds of the slowest call, and its seed.
    """

    name: str
    inputs: int = 0
    refused: int = 0
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)


def fuzz(target: Target, count: int, folder: Path, seed: int = 0) -> Found:
    """Give a reader `count` inputs. hypothesis chooses the seeds, the same ones every time."""
    found = Found(target.name)

    def check(number: int) -> None:
        found.inputs += 1
        start = time.process_time()
        try:
            with cpu_limit(3 * SLOWEST):
                target.read(random.Random(number), folder)
        except (NLFTError, *target.allowed):
            found.refused += 1
        except TimeoutError:
            _note(found, "over the time limit", number, "")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            last = next(
                (f for f in reversed(traceback.extract_tb(error.__traceback__)) if "/nlft/" in f.filename),
                traceback.extract_tb(error.__traceback__)[-1],
            )
            place = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
            _note(found, place, number, "".join(traceback.format_exception(error)[-3:])[-1500:])
        took = time.process_time() - start
        found.slowest = max(found.slowest, (took, number))

    for batch in range(0, count, BATCH):
        settings = hypothesis.settings(
            max_examples=min(BATCH, count - batch),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        hypothesis.seed(seed + batch)(settings(hypothesis.given(st.integers(0, 2**62))(check)))()
    return found


def _note(found: Found, place: str, number: int, told: str) -> None:
    if place not in found.faults:
        found.faults[place] = (number, told)


def told(results: Sequence[Found]) -> str:
    """Return the figures as a table: inputs, refused ones, faults, slowest call."""
    rows = [
        f"{one.name:28} {one.inputs:>8,} inputs  {one.refused:>8,} refused  {len(one.faults):>3} faults  "
        f"slowest {one.slowest[0]:.2f} s (seed {one.slowest[1]})"
        for one in results
    ]
    total = f"{'all':28} {sum(one.inputs for one in results):>8,} inputs"
    return "\n".join([*rows, total])
