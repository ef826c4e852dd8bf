"""Bad input: no traceback, no hang, no file outside the folder, no memory without a bound. The long mode tries 200,000.

`pytest -m long -rP tests/test_fuzz.py` prints the number of inputs, the faults and the slowest call of each reader.
"""

import ast
import gzip
import importlib
import io
import json
import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers.degenerate import PIECES
from helpers.fuzz_targets import TARGETS
from helpers.fuzzing import SLOWEST, Target, fuzz, told
from helpers.limits import Writes, cpu_limit, has_timers
from nlft import cli
from nlft.errors import UserError
from nlft.yaml_files import yaml_entries, yaml_node

SOURCE = Path(__file__).parents[1] / "src" / "nlft"
SHORT, LONG = 200, 14_000  # inputs of a reader with the share 1
needs_timers = pytest.mark.skipif(not has_timers, reason="Windows has no timers that stop a call")


@cache
def writes() -> Writes:
    return Writes()


def check(target: Target, count: int, folder: Path, seed: int) -> None:
    folder.mkdir()
    target.read_once(folder)  # what is loaded and cached at the first call counts as no input's time
    with writes().outside(folder) as outside:
        found = fuzz(target, count, folder, seed)
    print(told([found]))
    assert not found.faults, "\n".join(f"{place}, seed {seed}: {text}" for place, (seed, text) in found.faults.items())
    assert found.slowest[0] < SLOWEST
    assert [path for path in outside if "/.hypothesis/" not in path] == []
    assert found.inputs >= 0.9 * count  # hypothesis does not try a number twice


@needs_timers
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_is_met_with_a_traceback_a_hang_or_a_stray_file(target: Target, tmp_path: Path) -> None:
    check(target, max(20, int(SHORT * min(1.0, target.share))), tmp_path / "in", seed=1)


@pytest.mark.long
@needs_timers
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_many_inputs_are_met_with_a_result_or_a_sentence(target: Target, tmp_path: Path) -> None:
    check(target, int(LONG * target.share), tmp_path / "in", seed=1_000_000)


def test_the_long_mode_tries_200_000_inputs() -> None:
    assert sum(int(LONG * target.share) for target in TARGETS) >= 200_000


# ---- patterns ----

AT_ONE_PLACE = (
    r"\s*The (?:(?:step|final answer)",  # core.prompts
    "[0-9]+,[0-9]+",  # data.answers.quantities
    r"(.+):([+-]?\d+",  # sources.columns
    r"\s*[:–—]\s*\w+\W+\w",  # auditing.rules
    "[0-9.,/%)]+|half|double",  # collect.arithmetic
    r"\s*(?:[ap]\.?\s?m\b|o['’]clock)",  # collect.arithmetic
    r"[ \t*_]*([0-9]{1,2})[.)]",  # data.answers.final_answers
    " ?[-+]?[0-9][0-9,]* ?/",  # data.answers.plain_text
    r"\W*(yes|no)\b",  # data.checks_grader
    r"(?P<path>\w[\w.-]*/",  # sources.reading
)
"""How the patterns begin that the code tries at one place only, with `match` or `fullmatch`."""


def patterns() -> dict[tuple[str | bytes, int], str]:
    """Every regular expression of the source: those that modules keep, and those written in calls of `re`."""
    found: dict[tuple[str | bytes, int], str] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(("nlft", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        if "re." not in text or name.endswith("__main__"):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.") and node.args:
                first = node.args[0]
                written = [ast.unparse(a) for a in (*node.args[1:], *(k.value for k in node.keywords))]
                flags = next((w for w in written if re.fullmatch(r"re\.\w+( \| re\.\w+)*", w)), "0")
                if isinstance(first, ast.Constant) and isinstance(first.value, str | bytes):
                    pattern = re.compile(first.value, eval(flags, {"re": re}))
                    found.setdefault((pattern.pattern, pattern.flags), f"{name}:{node.lineno}")
        if "re.compile(" in text:
            for key, value in vars(importlib.import_module(name)).items():
                for one in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(one, re.Pattern):
                        found.setdefault((one.pattern, one.flags), f"{name}.{key}")
    return found


def slow_patterns(pieces: list[str], size: int, seconds: float) -> dict[str, str]:
    slow = {}
    for (text, flags), name in patterns().items():
        pattern = re.compile(text, flags)
        for piece in pieces:
            long = (piece * (size // len(piece) + 1))[:size] + "5x"
            tried = long.encode("utf-8", "replace") if isinstance(text, bytes) else long
            try:
                with cpu_limit(seconds):
                    if str(text).startswith(AT_ONE_PLACE):
                        pattern.match(tried)
                    else:
                        sum(1 for _ in pattern.finditer(tried))
            except TimeoutError:
                slow[name] = repr(piece)
                break
    return slow


@needs_timers
@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        (["3", " ", "\n", "-", "(", '"', "a", "[", "#", "."], 4000),
        pytest.param(PIECES, 10_000, marks=pytest.mark.long),
    ],
    ids=["some", "all"],
)
def test_every_pattern_of_the_source_reads_degenerate_text_in_a_moment(pieces: list[str], size: int) -> None:
    slow = slow_patterns(pieces, size, 0.1)
    assert slow == {}


# ---- bombs ----


def test_aliases_that_repeat_each_other_are_refused_before_they_are_written_out(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(levels))
    for read in (yaml_entries, lambda path: yaml_node(path, "")):
        with pytest.raises(UserError, match=r"bomb\.yaml.*alias"):
            read(file)
    file.write_text("a: &a [*a]\n")
    with pytest.raises(UserError, match="alias"):
        yaml_entries(file)
    file.write_text("a: &a [1, 2]\nb: *a\n")
    assert [entry.value for entry in yaml_entries(file)] == [[1, 2], [1, 2]]


READ = """
import resource, sys
from pathlib import Path
from nlft.data.records import read_examples
from nlft.errors import NLFTError
from nlft.yaml_files import yaml_entries
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        (yaml_entries if name.endswith(".yaml") else read_examples)(Path(name))
    except NLFTError as error:
        print("refused", Path(name).name, str(error)[:60].replace(chr(10), " "))
print("grew", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts kibibytes of memory as Linux does")
def test_files_that_unpack_to_gigabytes_or_nest_for_ever_take_no_memory(tmp_path: Path) -> None:
    block = b" " * (1 << 20)
    for name in ("lines.jsonl.gz", "whole.json.gz"):
        (tmp_path / name).write_bytes(gzip.compress(block) * 700)
    from helpers.fuzz_targets import _workbook

    with (
        zipfile.ZipFile(io.BytesIO(_workbook())) as old,
        zipfile.ZipFile(tmp_path / "book.xlsx", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as part:
                part.write(old.read(name))
                for _ in range(300 if name.endswith("sheet1.xml") else 0):
                    part.write(block)
    (tmp_path / "deep.json").write_bytes(b"[" * 1_000_000)
    (tmp_path / "deep.yaml").write_bytes(b"a: " + b"[" * 20_000)
    (tmp_path / "digits.jsonl").write_bytes(b'{"id": ' + b"9" * 1_000_000 + b"}\n")
    table = b"PAR1" + b"\xff" * 200 + (0x7FFFFF00).to_bytes(4, "little") + b"PAR1"
    (tmp_path / "table.parquet").write_bytes(table)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array(["x" * (1 << 20)]))
    columns = {"prompt": text, "completion": pa.array(["a"] * 600), "label": pa.array([True] * 600)}
    parquet.write_table(pa.table(columns), tmp_path / "text.parquet", compression="zstd")
    assert (tmp_path / "text.parquet").stat().st_size < 10_000
    names = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", READ, *names], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    refused = [line.split()[1] for line in lines if line.startswith("refused")]
    assert refused == [Path(name).name for name in names]
    assert int(lines[-1].split()[1]) < 250  # MiB; each bomb unpacks to 300 or more


# ---- settings with wrong names ----


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rte: 1e-4\n", "learning_rate"),
        ("saliency:\n  gate_fractoin: 0.5\n", "gate_fraction"),
        ("saliency.gate_fractoin: 0.5\n", "gate_fraction"),
        ("lr: 1e-4\n", "learning_rate"),
    ],
)
def test_an_unknown_key_of_a_config_is_an_error_with_the_nearest_name(
    text: str, said: str, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "e.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b", "label": True}) + "\n")
    argv = ["train", str(tmp_path / "e.jsonl"), "--model_name_or_path", model_folder, "--config"]
    assert cli.main([*argv, str(tmp_path / "c.yaml"), "--output_dir", str(tmp_path / "out")]) == 2
    assert f"Did you mean {said}" in capsys.readouterr().err.replace("--", "").replace("saliency.", "")
    assert not (tmp_path / "out").exists()
