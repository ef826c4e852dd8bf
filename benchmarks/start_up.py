"""How long Python takes to import nlft, and the command to print its help: the CPU seconds of a fresh process.

    python benchmarks/start_up.py

Prints the least of several starts for each, and of `python -c pass`, which the others contain.
"""

import argparse
import os
import resource
import subprocess
import sys

STARTS = {
    "python -c pass": ["-c", "pass"],
    "import nlft": ["-c", "import nlft"],
    "nlft --help": ["-m", "nlft.cli", "--help"],
    "nlft train --help": ["-m", "nlft.cli", "train", "--help"],
    "nlft compare --help": ["-m", "nlft.cli", "compare", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    for name, arguments in STARTS.items():
        print(f"{name:20} {min(cpu_seconds(arguments) for _ in range(times)):.2f} s")


def cpu_seconds(arguments: list[str]) -> float:
    """CPU seconds, user and system, of one Python process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
