"""The screenshots in docs/: a short real training, steered on the way, and its map in light and dark at three sizes.

    python benchmarks/map_screenshots.py MODEL [--out docs] [--steps 24]
    python benchmarks/map_screenshots.py MODEL --run RUN --name map-strike  # of a run that is there

Needs Chromium on the PATH and Pillow. The examples are those of examples/repair-shop.jsonl: replies that were liked or
not, and why.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from nlft.runs.run_dir import RunDir

EXAMPLES = Path(__file__).parent.parent / "examples" / "repair-shop.jsonl"
SIZES = {"": (1440, 900), "-tablet": (1024, 768), "-phone": (390, 844)}
STEERING = {0.4: ("learning_rate", 0.5), 0.7: ("saliency.mistake_ratio", 1.3)}  # at which share of the steps


def train(model: str, folder: Path, steps: int) -> RunDir:
    """A real training in another process, with two requests made of it while it trains."""
    run = RunDir(folder / "repair-shop")
    options = {
        "model_name_or_path": model, "output_dir": run.path, "max_steps": steps, "per_device_train_batch_size": 4,
        "learning_rate": 2e-4, "logging_steps": 1, "watch": 8, "watch_every": 2, "save_strategy": "no",
        "activation_checkpointing": "false", "disable_tqdm": "true",
    }  # fmt: skip
    flags = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "nlft.cli", "train", str(EXAMPLES), *flags]
    training = subprocess.Popen(command)
    for share, (control, value) in STEERING.items():
        while training.poll() is None and len(run.events()) < share * steps:
            time.sleep(0.05)
        run.write_request(control, value, "page")
    assert training.wait() == 0
    return run


def picture(browser: Browser, url: str, scheme: str, size: tuple[int, int], out: Path) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(url)
    page.locator("#first .token[data-tag]").first.wait_for()
    page.locator(".spark .trace").first.wait_for(state="attached")
    page.wait_for_timeout(1000)
    if size == SIZES[""]:
        show_something(page)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few_colours(image).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")
    page.close()


def few_colours(image: Image.Image) -> Image.Image:
    """The image with the 256 colours that it has most of: coloured tokens are few pixels, but of few colours."""
    counted = sorted(image.getcolors(image.width * image.height) or [], reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for _, colour in counted for channel in colour])  # type: ignore[union-attr]
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def show_something(page: Page) -> None:
    """The numbers of the token that gets the most of the training signal."""
    strengths = "(all) => all.map((one) => Number(getComputedStyle(one).getPropertyValue('--strength')))"
    tokens = page.locator("#first .token")
    found = tokens.evaluate_all(strengths)
    tokens.nth(found.index(max(found))).hover()
    page.locator("#tooltip .token-spark").wait_for()
    page.wait_for_timeout(300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--run", type=Path, help="a run that is there already, instead of training one")
    parser.add_argument("--name", default="map", help="how the files' names begin")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = RunDir(args.run) if args.run else train(args.model, Path(folder), args.steps)
        command = [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        url = server.stdout.readline().split()[1]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for suffix, size in SIZES.items():
                picture(browser, url, scheme, size, args.out / f"{args.name}{suffix}-{scheme}.png")
        browser.close()
        server.kill()
        server.communicate()


if __name__ == "__main__":
    main()
