"""A command in one of the processes that torchrun started: it kills itself, or all of them, at a chosen moment."""

import json
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.kills import at_operations
from nlft import cli


def main() -> int:
    plan, rank = json.loads(os.environ["NLFT_TEST_KILL"]), int(os.environ["RANK"])
    folder, count = Path(plan["folder"]), 0

    def fall(*_: object) -> None:
        (folder / "fallen").write_text(str(rank))
        others = [os.getppid(), *_beside()] if plan["victim"] == 2 else []  # torchrun would end them politely
        for process in (*others, os.getpid()):
            os.kill(process, signal.SIGKILL)

    def counted() -> None:
        nonlocal count
        count += 1
        if count == plan["at"] and rank == plan["victim"] % 2:
            if plan["later"]:
                signal.signal(signal.SIGALRM, fall)
                signal.setitimer(signal.ITIMER_REAL, plan["later"])
            else:
                fall()

    at_operations(plan["folder"], plan["within"], counted)
    code = cli.main(sys.argv[1:])
    signal.setitimer(signal.ITIMER_REAL, 0)
    if rank == 0:
        (folder / "operations").write_text(str(count))
    return code


def _beside() -> list[int]:
    """The numbers of the other processes with this one's parent."""
    children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text()
    return [int(number) for number in children.split() if int(number) != os.getpid()]


if __name__ == "__main__":
    sys.exit(main())
