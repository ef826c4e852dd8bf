"""Generated problems in any number, for examples/compare-problems.yaml and the like.

python benchmarks/problems.py FOLDER --train 120 --test 1000
"""

import argparse
from pathlib import Path

from nlft.data.problems import make_splits
from nlft.experiments.stages import write_rows


def main() -> None:
    """Write FOLDER/train.jsonl and FOLDER/test.jsonl, which share no question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=120)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    train, test = make_splits(args.train, args.test, args.seed)
    write_rows(args.folder / "train.jsonl", train)
    write_rows(args.folder / "test.jsonl", test)


if __name__ == "__main__":
    main()
