"""What a CUDA GPU adds to the measurements: step times, tokens a second, utilisation, memory, and two whole trainings.

    python benchmarks/gpu.py --model Qwen2.5-0.5B-Instruct --out FOLDER

It takes at most 8 minutes: each part has a limit, and a part that comes too late is named and left out. FOLDER gets
`bench-gpu-512.json` and `bench-gpu-2048.json` for docs/BENCHMARKS.md, and the output of both trainings: one with the
conditions scored live, one with the base in 4 bits. `--small` tries the script itself on any machine, in a minute.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ARMS = "^(sft-trl|sft-nlft|nlft-mixed|nlft-mixed-frozen|strike|strike-frozen|original-step)$"
WHOLE_SECONDS = 480


def parts(model: str, out: Path, *, small: bool) -> list[tuple[str, list[str], float]]:
    """Return each part's name, its command, and the seconds that it may take."""
    made = []
    for length, batch in ((512, 8), (2048, 2)):
        half = 24 if small else length // 2
        sizes = {"prompt": half, "completion": half, "shown": half // 2, "judgment": half // 2}
        sizes |= {"batch": 2 if small else batch, "rounds": 1 if small else 5, "together": 7}
        options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
        command = [str(HERE / "bench.py"), "run", "--model", model, "--arms", ARMS, *options]
        made.append((f"bench-gpu-{length}", [*command, "--out", str(out / f"bench-gpu-{length}.json")], 160.0))
    examples = str(HERE.parent / "examples" / "catalogue-read-1.jsonl")
    training = ["-m", "nlft", "train", examples, "--model_name_or_path", model, "--watch", "0"]
    training += ["--max_steps", "1"] if small else ["--num_train_epochs", "2"]
    made.append(("live", [*training, "--scheme", "strike", "--output_dir", str(out / "live")], 80.0))
    bits = [*training, "--scheme", "uniform", "--load_in_4bit", "--output_dir", str(out / "4bit")]
    return [*made, ("4bit", bits, 80.0)]


def main() -> int:
    """Run the parts. Return 1 if any failed, other than 4 bits on a machine without CUDA."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="folder or name of a model with some 152k tokens")
    made.add_argument("--out", type=Path, required=True, help="folder for the results")
    made.add_argument("--small", action="store_true", help="a few tokens, one step")
    given = made.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    began, failed = time.monotonic(), []
    for name, command, seconds in parts(given.model, given.out, small=given.small):
        left = min(seconds, WHOLE_SECONDS - (time.monotonic() - began))
        if left < 10:
            print(f"{name}: left out, no time is left", flush=True)
            failed.append(name)
            continue
        start = time.monotonic()
        with (given.out / f"{name}.log").open("w", encoding="utf-8") as log:
            try:
                code = subprocess.run([sys.executable, *command], stdout=log, stderr=log, timeout=left).returncode
            except subprocess.TimeoutExpired:
                code = -1
        how = {0: "done", -1: f"stopped after {left:.0f} s"}.get(code, f"failed with {code}")
        print(f"{name}: {how}, {time.monotonic() - start:.0f} s; {given.out / name}.log", flush=True)
        failed += [name] * (code != 0)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
