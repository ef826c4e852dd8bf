"""How quickly the Saliency Map answers, in a real Chromium: what-if moves, and the opening of a long run.

    python benchmarks/page_latency.py

Prints, for 1,000 tokens and for 20 examples of 300, the time from the address to the first paint and to the drawn
tokens, and the median and the 95th percentile of 50 slider moves, from the input event until the frame that shows its
result has been painted: with one example open, as the page starts, and with all open; and for a run of 2,000 logged
steps x 8 watched examples of 200 tokens, the time from the address to the drawn tokens, the browser's memory, and the
server's; the time from the writing of a step until the page shows it, the median of ten; and the time from a step's end
until the training takes a request that came over HTTP during the step or during a scoring of 8 examples, 0.3 s each.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from playwright.sync_api import Page, Playwright, sync_playwright

from helpers.browser import FLAGS
from helpers.page_runs import event, make_run
from helpers.request_latency import KINDS, measure
from nlft.runs.run_dir import RunDir

MOVES = 50
# From the input event to the end of the frame after it: a message posted in a frame's callback comes after its paint.
MOVE = """
([id, place]) => new Promise((resolve) => {
  const slider = document.getElementById(id);
  const start = performance.now();
  slider.value = place;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(performance.now() - start);
    port2.postMessage(null);
  });
})
"""


def long_run(path: Path, steps: int) -> RunDir:
    """A run with a snapshot and an event at each step; its snapshots repeat the first eight."""
    run = make_run(path, steps=8, every=1, examples=8, length=200)
    first = [run.snapshot(step) for step in range(8)]
    for step in range(8, steps):
        run.store_snapshot(replace(first[step % 8], step=step, epoch=step / 40))
        run.append_event(event(step, steps))
    return run


def serve(run: RunDir) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    return server, server.stdout.readline().split()[1]


def resident(pid: int) -> float:
    """Megabytes of memory of a process and its children."""
    own = Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(own) / 1024 + sum(resident(int(child)) for child in children)


def moves(page: Page, knob: str) -> dict[str, float]:
    """Milliseconds of `MOVES` moves of a setting's slider, to and fro."""
    times = [page.evaluate(MOVE, [f"knob-{knob}", 40 + 397 * move % 400]) for move in range(MOVES)]
    return {"median": round(statistics.median(times), 1), "p95": round(statistics.quantiles(times, n=20)[-1], 1)}


def opening(playwright: Playwright, executable: str, run: RunDir, steps: int) -> dict[str, float]:
    """Seconds until a long run's last step is drawn, and megabytes after all of it has been gone through."""
    server, url = serve(run)
    browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(url)
    page.locator(".spark .trace").first.wait_for(state="attached")
    drawn = page.evaluate("performance.getEntriesByName('nlft-drawn')[0].startTime") / 1000
    for place in range(0, steps, 10):
        page.locator("#step").fill(str(place))
    page.wait_for_timeout(1000)
    page.context.new_cdp_session(page).send("HeapProfiler.collectGarbage")
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    found = {
        "seconds to the tokens": round(drawn, 2),
        "megabytes of script heap": round(page.evaluate("performance.memory.usedJSHeapSize") / 1e6, 1),
        "megabytes of the page's process": round(
            max(resident(p["id"]) for p in processes if p["type"] == "renderer"), 1
        ),
        "megabytes of the server": round(resident(server.pid), 1),
    }
    browser.close()
    server.kill()
    return found


def news(playwright: Playwright, executable: str, run: RunDir) -> float:
    """Seconds from before a step is written until the page shows it by itself: the median of ten steps."""
    server, url = serve(run)
    browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(url)
    page.locator(".token[data-tag]").first.wait_for()
    first, times = run.snapshot(0), []
    for step in range(100, 110):
        page.wait_for_timeout(137 * (step % 7))  # not in time with the server's looks
        start = time.monotonic()
        run.store_snapshot(replace(first, step=step))
        page.locator("#where", has_text=f"step {step},").wait_for()
        times.append(time.monotonic() - start)
    browser.close()
    server.kill()
    return round(statistics.median(times), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    executable = shutil.which("chromium")
    assert executable, "there is no chromium to measure"
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        for name, examples, length in [("1000 tokens", 5, 200), ("20 examples of 300", 20, 300)]:
            server, url = serve(make_run(home / name.replace(" ", "-"), steps=2, examples=examples, length=length))
            browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.goto(url)
            page.locator(".token[data-tag]").first.wait_for()
            page.wait_for_timeout(1500)  # the curves draw themselves meanwhile
            drawn = page.evaluate("performance.getEntriesByName('nlft-drawn')[0].startTime")
            painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            found[f"{name}: ms to the first paint, to the tokens"] = [round(painted), round(drawn)]
            knobs = ("mistake_ratio", "neighbour_similarity", "nll_weight")
            found[name] = {knob: moves(page, knob) for knob in knobs}
            page.locator("#open-all").click()
            found[f"{name}, all open"] = {knob: moves(page, knob) for knob in knobs}
            browser.close()
            server.kill()
        found[f"{args.steps} steps x 8"] = opening(
            playwright, executable, long_run(home / "long", args.steps), args.steps
        )
        waits = measure(home / "asked", count=10)
        for kind in KINDS:
            seconds = sorted(seconds for one, seconds in waits if one == kind)
            shown = {"median": round(statistics.median(seconds), 3), "longest": round(seconds[-1], 3)}
            found[f"seconds from a step's end until a request made during a {kind} is taken"] = shown
        found["seconds until news are shown"] = news(playwright, executable, make_run(home / "news", steps=2))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
