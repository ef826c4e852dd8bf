"""The page's twin of the saliency schemes, run in a real browser against Python on the same inputs.

Inputs travel as float32 and float16 bits, never as decimals. Tags must agree everywhere, also at thresholds; weights to
1e-6, but where float32 itself leaves less (see `tolerance`).
"""

import base64
import json
import re
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from nlft.config import Range
from nlft.core.loss import Window, normalize, sample_losses
from nlft.core.neighbourhood import hidden_band, neighbourhood
from nlft.core.saliency import TAG_NAMES, ConditionLogprobs, Tag
from nlft.core.schemes.cut import CutSettings
from nlft.core.schemes.dft import DFTSettings
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme, usable_schemes
from nlft.core.schemes.rlsd import RLSDSettings
from nlft.core.schemes.scheme import HoldSettings
from nlft.core.schemes.uniform import UniformSettings

pytest_plugins = ["helpers.browser"]

ROOT = Path(__file__).parents[1]
SOURCE = (ROOT / "src/nlft/page/static/saliency.js").read_text()
GOLDEN = json.loads((ROOT / "tests/golden/nlft_reference_cases.json").read_text())["cases"]
PAPER = NLFTSettings()
CONTRAST = RLSDSettings(credit_contrast=True)
# `strike` and `ftpo` tag by spans, of which the page knows only the tags.
TWINS = {name: one for name, one in usable_schemes().items() if name != "nlft-original" and not one.strikes}
EXPORTS = re.findall(r"^export (?:function|const) (\w+)", SOURCE, re.MULTILINE)

# What the tests ask of the page: decode, weigh, encode.
HARNESS = """
const decode = (Type, text) => new Type(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer);
function encode(parts) {
  let text = "";
  for (const part of parts) {
    for (const byte of new Uint8Array(part.buffer, part.byteOffset, part.byteLength)) text += String.fromCharCode(byte);
  }
  return btoa(text);
}
window.examplesOf = ({ lengths, labels, masks, base, standard, judge, band }) => {
  const [b, s, j, h, m] = [[Float32Array, base], [Float32Array, standard], [Float32Array, judge], [Uint16Array, band],
    [Uint8Array, masks]].map(([Type, text]) => decode(Type, text));
  let at = 0;
  return lengths.map((length, i) => {
    const part = [at, at += length];
    return { base: b.slice(...part), standard: s.slice(...part), judge: labels[i] ? null : j.slice(...part),
      band: h.slice(17 * part[0], 17 * part[1]), label: labels[i], mask: m.slice(...part) };
  });
};
window.weighAll = ({ scheme, settings, examples }) => {
  const found = window.examplesOf(examples);
  const weights = found.map((example) => twin.SCHEMES[scheme].weigh(example, settings));
  const lost = found.map((example, i) => twin.losses(weights[i], example.base));
  return {
    likelihood: encode(weights.map((w) => w.likelihood)), unlikelihood: encode(weights.map((w) => w.unlikelihood)),
    tag: encode(weights.map((w) => w.tag)), gated: weights.map((w) => w.gated),
    losses: encode(lost.map((l) => Float64Array.of(l.likelihood, l.unlikelihood))),
  };
};
"""


@dataclass
class Weighed:
    """What a scheme gives a batch; each (batch, width), 0 beyond a sample's end; gated (batch,), losses (batch, 2)."""

    likelihood: Any
    unlikelihood: Any
    tag: Any
    gated: Any
    losses: Any


class Twin:
    """saliency.js, or an altered copy of it, in an open page."""

    def __init__(self, open_page, folder, source=SOURCE, module=False):
        names = f"window.twin = {{ {', '.join(EXPORTS)} }};"
        kind = ' type="module"' if module else ""
        source = source if module else classic(source)
        assert "</script" not in source
        path = folder / f"twin-{abs(hash((source, module)))}.html"
        path.write_text(
            f'<!DOCTYPE html><meta charset="utf-8"><script{kind}>{source}\n{names}</script><script>{HARNESS}</script>'
        )
        self.page = open_page(path)

    def ask(self, expression, argument=None):
        return self.page.evaluate(expression, argument)

    def weigh(self, scheme, settings, batch, padded=False):
        lengths = batch.mask.sum(1).tolist()
        width = batch.mask.shape[1]
        examples = sent(batch, padded)
        found = self.ask(
            "(given) => weighAll(given)",
            {"scheme": scheme, "settings": asdict(settings), "examples": examples},
        )
        sizes = [width] * len(lengths) if padded else lengths

        def rows(name, kind):
            flat = np.frombuffer(base64.b64decode(found[name]), kind)
            out = np.zeros((len(sizes), width), kind)
            for row, part in zip(out, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
                row[: len(part)] = part
            return out

        return Weighed(
            likelihood=rows("likelihood", np.float32),
            unlikelihood=rows("unlikelihood", np.float32),
            tag=rows("tag", np.uint8),
            gated=np.array(found["gated"]),
            losses=np.frombuffer(base64.b64decode(found["losses"])).reshape(-1, 2),
        )


def classic(source):
    """As an exporter inlines it into a classic script."""
    return re.sub(r"^export ", "", source, flags=re.MULTILINE)


def sent(batch, padded=False):
    """A batch, sample after sample without its padding, in base64."""
    which = torch.ones_like(batch.mask) if padded else batch.mask

    def packed(tensor):
        return base64.b64encode(np.ascontiguousarray(tensor[which].numpy()).tobytes()).decode()

    return {
        "lengths": which.sum(1).tolist(),
        "labels": batch.label.tolist(),
        "masks": packed(batch.mask),
        **{name: packed(getattr(batch, name)) for name in ("base", "standard", "judge", "band")},
    }


def log1mp_of(logp):
    """log(1-p) in float64; the least float32 stands for the 1-p of a log p that is 0."""
    rest = -torch.expm1(logp.double())
    return torch.where(logp == 0, 2.0**-149, rest).log()


def python_weighs(scheme, settings, batch):
    weights = get_scheme(scheme).weigh(batch, settings)
    # Padding is 0 in the twin, whatever infinity a threshold of 0 makes of it.
    weights = replace(weights, likelihood=weights.likelihood.masked_fill(~batch.mask, 0))
    losses = sample_losses(weights, batch.base, log1mp_of(batch.base))
    return Weighed(
        likelihood=weights.likelihood.numpy(),
        unlikelihood=weights.unlikelihood.numpy(),
        tag=weights.tag.numpy(),
        gated=weights.gated.numpy(),
        losses=torch.stack([losses.likelihood, losses.unlikelihood], 1).double().numpy(),
    )


def tolerance(settings, batch, tag):
    """What is allowed of a likelihood besides 1e-6, (batch, width).

    torch's float32 exp is off by one unit in the last place for one token in a hundred, in which (pS − θ)/(1 − θ)
    magnifies what pS has lost.
    """
    if not isinstance(settings, NLFTSettings):
        return 0.0
    exponent = settings.certain_exponent
    off = 2**-23 / max(1 - settings.certain_threshold, 1e-12)
    most = exponent * off * (1 + off) ** max(exponent - 1, 0) if exponent >= 1 else off**exponent
    return settings.branch_weight * most * ((tag == Tag.SALIENT) & batch.label.numpy()[:, None])


def assert_same(found, expected, settings, batch):
    """The twin's tags are Python's, and its weights and losses as near as float32 lets them be."""
    np.testing.assert_array_equal(found.tag, expected.tag)
    np.testing.assert_array_equal(found.gated, expected.gated)
    magnified = tolerance(settings, batch, expected.tag)
    for name, extra in (("likelihood", magnified), ("unlikelihood", 0.0)):
        ours, theirs = (getattr(x, name).astype(np.float64) for x in (found, expected))
        with np.errstate(invalid="ignore"):
            near = np.abs(ours - theirs) <= 1e-6 + 1e-6 * np.abs(theirs) + extra
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        assert (near | same).all(), f"{name}: {ours[~(near | same)][:5]} is not {theirs[~(near | same)][:5]}"
    size = batch.base.clamp(min=-1e3).abs().sum(1, keepdim=True).double().numpy()
    slack = 1e-6 + (1e-6 + np.max(magnified)) * size * (1 + np.nanmax(np.where(np.isinf(expected.likelihood), 0, 1)))
    with np.errstate(invalid="ignore"):
        near = np.abs(found.losses - expected.losses) <= slack + 1e-5 * np.abs(expected.losses)
    assert (near | ~np.isfinite(expected.losses)).all()


# Random examples.


def random_settings(kind, rng):
    """Defaults, ends of the ranges, and anything between, field by field."""
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{f.name: random_value(f.default, hints[f.name], rng) for f in fields(kind)})


def random_value(default, hint, rng):
    if get_origin(hint) is Literal:
        return str(rng.choice(get_args(hint)))
    if hint is bool:
        return bool(rng.random() < 0.5)
    (limits,) = (x for x in get_args(hint) if isinstance(x, Range))
    draw = rng.random()
    if draw < 0.4:
        return default
    if draw < 0.5:
        return float(limits.low)
    if limits.high == inf:
        return float(max(limits.low, default * np.exp(0.7 * rng.standard_normal())))
    return float(limits.high if draw < 0.55 else rng.uniform(limits.low, limits.high))


def random_batch(rng, settings, count=40, longest=64):
    """Examples of 1 to 64 tokens: ordinary, near-certain and near-excluded tokens, and tokens at every threshold."""
    lengths = torch.from_numpy(rng.integers(1, longest + 1, count))
    mask = torch.arange(longest) < lengths[:, None]
    shape = (count, longest)
    base, standard, judge = (random_logprobs(rng, shape) for _ in range(3))
    close = rng.random(shape) < 0.3  # conditions that hardly differ
    standard = np.where(close, np.minimum(base + rng.normal(0, 0.05, shape), 0), standard).astype(np.float32)
    names = ("mistake_floor", "certain_threshold", "contradiction_base", "contradiction_standard")
    levels = [level for name in names if (level := getattr(settings, name, 0)) > 0]
    for values in (base, standard, judge):
        for level in levels:
            put_near(values, np.full(shape, np.log(level)), rng, 0.05)
    for ratio in (getattr(settings, name, 0) for name in ("mistake_ratio", "inappropriate_ratio")):
        if ratio:
            put_near(judge, base + np.log(ratio), rng, 0.2)
            put_near(judge, standard + np.log(ratio), rng, 0.2)
    if clip := getattr(settings, "credit_clip", 0):
        for side in (1, -1):
            put_near(standard, base + side * np.log1p(clip), rng, 0.2)
    standard[rng.random(shape) < 0.005] = -inf
    judge[rng.random(shape) < 0.005] = -inf
    kept = mask.numpy()
    # States that resemble each other from hardly to nearly, sample by sample: walks of every length.
    alike, drift = rng.uniform(0, 3, (2, count, 1, 1)) * (rng.random((2, count, 1, 1)) < 0.6)
    steps = rng.standard_normal((*shape, 4))
    hidden = steps + alike * rng.standard_normal((count, 1, 4)) + drift * 0.4 * steps.cumsum(1)
    return ConditionLogprobs(
        **{n: torch.from_numpy(np.where(kept, v, 0)) for n, v in [("base", base), ("standard", standard)]},
        judge=torch.from_numpy(np.where(kept, judge, 0)),
        mask=mask,
        label=torch.from_numpy(rng.random(count) < 0.5),
        band=hidden_band(torch.from_numpy(hidden), mask),
    )


def random_logprobs(rng, shape):
    odds = rng.choice([0.5, 2.0, 6.0], (shape[0], 1)) * rng.standard_normal(shape) + rng.normal(0, 2, (shape[0], 1))
    values = -np.logaddexp(0, -odds)
    kind = rng.random(shape)
    values = np.where(kind < 0.1, -(10 ** rng.uniform(-9, -1, shape)), values)
    values = np.where((kind > 0.1) & (kind < 0.13), -rng.uniform(10, 120, shape), values)
    return np.where((kind > 0.13) & (kind < 0.14), 0, values).astype(np.float32)


def put_near(values, centre, rng, share):
    """Puts a share of them at `centre`, or up to three units in the last place from it."""
    near = centre.astype(np.float32)
    # The next integer is the next float32.
    near = np.where(near < 0, (near.view(np.int32) + rng.integers(-3, 4, near.shape, np.int32)).view(np.float32), near)
    put = (rng.random(near.shape) < share) & (near <= 0)
    values[put] = near[put]


def random_cases(batches, seed=0):
    """(scheme, settings, batch) of 40 examples: five in eight are `nlft`."""
    rng = np.random.default_rng(seed)
    for number in range(batches):
        name = ("nlft", "nlft", "cut", "nlft", "rlsd", "nlft", "uniform", "nlft")[number % 8]
        settings = PAPER if number == 0 else random_settings(get_scheme(name).settings, rng)
        yield name, settings, random_batch(rng, settings)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These tensors are small: threads would wait for each other, the browser for all of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def twin(open_page, tmp_path):
    return Twin(open_page, tmp_path)


def compare_random_examples(twin, batches):
    """Returns (examples compared, tokens of each tag, the `nlft` settings they were compared under)."""
    examples, tags, seen = 0, np.zeros(len(TAG_NAMES), int), []
    for name, settings, batch in random_cases(batches):
        found, expected = twin.weigh(name, settings, batch), python_weighs(name, settings, batch)
        assert_same(found, expected, settings, batch)
        examples += len(batch.label)
        if name == "nlft":
            tags += np.bincount(expected.tag[batch.mask.numpy()], minlength=len(TAG_NAMES))
            seen.append(settings)
    return examples, tags, seen


@pytest.mark.parametrize("number", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_random_examples_get_pythons_tags_weights_and_losses(twin, number):
    examples, tags, seen = compare_random_examples(twin, number // 40)
    assert examples == number
    drawn = [Tag.PLAIN, Tag.SALIENT, Tag.NEIGHBOUR, Tag.GATED]  # all that the twin computes: `strike` has no twin
    assert (tags[drawn] > 0.3 * number).all(), "a comparison without mistakes or neighbours compares little"
    assert PAPER in seen
    assert any(settings.branch_weight == 0 for settings in seen)


MUTATIONS = [
    ("Math.fround;", "((x) => x);"),
    ("f32(standard[t] / 2)", "f32(standard[t] / 2.0001)"),
    ("f32(judge[t] - base[t]) > ratio &&", "f32(judge[t] - base[t]) >= ratio &&"),
    ("judge[t] > floor", "judge[t] >= floor"),
    ("standard[t] < excluded", "standard[t] <= excluded"),
    ("standard[t] > threshold", "standard[t] >= threshold"),
    ("count(salient) > limit", "count(salient) >= limit"),
    ("least);", "0);"),
    ("certainty ** f32(settings.certain_exponent)", "certainty ** (f32(settings.certain_exponent) * 1.0001)"),
    ("[TAG.PLAIN]: f32(settings.plain_exponent)", "[TAG.PLAIN]: f32(settings.neighbour_exponent)"),
    ("weight) + nll", "weight) + nll * 1.00001"),
    ("weights.tag[t] = TAG.NEIGHBOUR", "weights.tag[t] = TAG.PLAIN"),
    ("+ 2 * dot + own) / 4;", "+ 2 * dot + own) / 4.01;"),
    ("weight /= 2;", "weight /= 2.01;"),
    ("[-1, 1]", "[1]"),
    ("[-1, 1]", "[-1]"),
    ('=== "zero"', '=== "never"'),
    ("f32(judge[t] - base[t]) > ratio)) continue", "f32(judge[t] - base[t]) >= ratio)) continue"),
    ("f32(judge[t] * exponent)", "f32(judge[t] + exponent)"),
    ("factor * exp32", "1 * exp32"),
    ("evidence > most", "evidence >= most"),
    ("f32(settings.wrong_weight) * weight", "f32(settings.wrong_weight) * weight * 1.00001"),
    ("unlikelihood -= ", "unlikelihood -= 1.001 * "),
]


@pytest.mark.parametrize(("old", "new"), MUTATIONS)
def test_the_comparison_notices_a_twin_that_differs(open_page, tmp_path, old, new):
    assert SOURCE.count(old) == 1
    altered = Twin(open_page, tmp_path, SOURCE.replace(old, new))
    with pytest.raises(AssertionError):
        compare_random_examples(altered, 250)


# Walks decided by the last bit.


def close_calls(count, seed=0):
    """(salient, band, kappa): one of the walks meets kappa to the bit, 16 or more tokens from where it began."""
    rng = np.random.default_rng(seed)
    while count:
        steps = rng.standard_normal((1, 90, 6))
        states = steps + rng.uniform(0, 1) * steps.cumsum(1) + 2 * rng.standard_normal((1, 1, 6))
        band = hidden_band(torch.from_numpy(states), torch.ones(1, 90, dtype=torch.bool))
        start = int(rng.integers(4, 40))
        cosines = walked_cosines(band[0].double().numpy(), start)
        calls = np.flatnonzero(cosines == np.minimum.accumulate(cosines))
        if calls[-1] >= 16:
            salient = torch.from_numpy(rng.random((1, 90)) < 0.1)
            salient[0, start - 4 : start + 5] = True  # walks that differ by little
            count -= 1
            yield salient, band, float(cosines[calls[calls >= 16][0]])


def walked_cosines(band, start):
    """Similarity of each token right of `start` to the centre of a walk that joins them all."""
    norm, found = band[start, 0], []
    for joined, at in enumerate(range(start + 1, len(band))):
        lags = range(1, min(joined + 1, 16) + 1)
        dot = sum(2.0 ** -min(lag, joined) * band[at - lag, lag] for lag in lags)
        found.append(dot / np.sqrt(norm * band[at, 0]))
        norm = (norm + 2 * dot + band[at, 0]) / 4
    return np.array(found)


def assert_same_walks(twin, count):
    """Returns how many tokens were reached."""
    total = 0
    for salient, band, kappa in close_calls(count):
        expected = neighbourhood(salient, band, kappa)[0].tolist()
        numbers = [salient[0].tolist(), band.double().flatten().tolist(), kappa]
        found = twin.ask("(given) => Array.from(twin.neighbourhood(...given), Boolean)", numbers)
        assert found == expected
        total += sum(expected)
    return total


def test_walks_end_where_pythons_do_when_the_last_bit_decides(twin):
    assert assert_same_walks(twin, 100) > 100 * 30


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("const WINDOW = 16;\nconst BAND = WINDOW + 1;", "const WINDOW = 15;\nconst BAND = 17;"),
        ("been[next] === norm", "been[next] > 0"),
        ("similarity * Math.sqrt(scale)", "f32(similarity * Math.sqrt(scale))"),
        ("dot > similarity", "dot >= similarity"),
    ],
)
def test_the_comparison_notices_walks_that_differ_in_little(open_page, tmp_path, old, new):
    assert SOURCE.count(old) == 1
    with pytest.raises(AssertionError):
        assert_same_walks(Twin(open_page, tmp_path, SOURCE.replace(old, new)), 100)


def test_padded_rows_with_a_mask_get_what_they_get_without_padding(twin):
    for name, settings, batch in random_cases(8, seed=1):
        padded = twin.weigh(name, settings, batch, padded=True)
        assert_same(padded, python_weighs(name, settings, batch), settings, batch)
        assert not padded.likelihood[~batch.mask.numpy()].any()


# The recorded cases.


def golden_batch(case, sample):
    """One sample of a case; the recorded values are probabilities, of which some are 0."""
    given = case["inputs"]

    def logs(name):
        found = given[name] if given[name] is not None else given["p_base"]
        return torch.tensor([[float(p) for p in found[sample]]], dtype=torch.float32).log()

    mask = torch.ones_like(logs("p_base"), dtype=torch.bool)
    hidden = torch.tensor([given["hidden"][sample]], dtype=torch.float32)
    return ConditionLogprobs(
        base=logs("p_base"),
        standard=logs("p_standard"),
        judge=logs("p_judge"),
        mask=mask,
        label=torch.tensor([case["branch"] == "correct"]),
        band=hidden_band(hidden, mask),
    )


def golden_settings(case):
    given = case["params"]
    return replace(
        PAPER,
        mistake_ratio=given["ratio"],
        mistake_floor=given["judge_floor"],
        unlikelihood_shift=given["threshold"],
        gate_fraction=given["salient_fraction"],
        certain_threshold=given["correct_threshold"],
    )


def test_recorded_cases_get_what_python_gives_them_and_their_recorded_mistakes(twin):
    """Salient tokens and their weights are as recorded, but at a threshold, where the record compares probabilities
    and `nlft` their logarithms. Neighbours and gating are not meant to be the same."""
    assert len(GOLDEN) == 24
    off = 0
    for case, sample in [(each, sample) for each in GOLDEN for sample in range(each["batch_size"])]:
        settings, batch = golden_settings(case), golden_batch(case, sample)
        found = twin.weigh("nlft", settings, batch)
        assert_same(found, python_weighs("nlft", settings, batch), settings, batch)
        recorded = np.array(case["expected"]["salient"][sample])
        differs = (found.tag[0] == Tag.SALIENT) != recorded
        assert not (differs & ~at_threshold(batch, settings)).any(), case["id"]
        weight = np.array([float(w) for w in case["expected"]["weight"][sample]])
        ours = found.unlikelihood[0] if case["branch"] == "incorrect" else found.likelihood[0] - PAPER.nll_weight
        agreed = recorded & ~differs
        np.testing.assert_allclose(ours[agreed], weight[agreed], rtol=2e-5, err_msg=case["id"])
        off += differs.sum()
    assert off <= 4


def at_threshold(batch, settings):
    """Tokens within 1e-6 of a threshold of a wrong sample, (width,)."""
    base, standard, judge = (x[0].double().exp().numpy() for x in (batch.base, batch.standard, batch.judge))
    pairs = [(base * settings.mistake_ratio, judge), (standard * settings.mistake_ratio, judge)]
    pairs += [(np.full_like(judge, settings.mistake_floor), judge)]
    return np.any([np.isclose(a, b, rtol=1e-6, atol=0) for a, b in pairs], axis=0) & (judge > 0)


# Losses, totals and what changes.


def test_log1mp_is_what_training_has_from_the_log_odds(twin):
    odds = torch.linspace(-100, 87, 4001)  # beyond, logp is no normal float32
    odds = torch.cat([odds, odds / 10])
    logp, expected = torch.nn.functional.logsigmoid(odds), torch.nn.functional.logsigmoid(-odds.double())
    found = torch.tensor(twin.ask("(x) => Array.from(twin.log1mp(Float32Array.from(x)))", logp.tolist()))
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-6, atol=1e-6)


def test_log1mp_stays_finite_where_float32_has_no_doubt_left(twin):
    at_one, at_zero = twin.ask("() => Array.from(twin.log1mp([0, -Infinity]), Math.abs)")
    assert 103 < at_one < 104
    assert at_zero == 0


@pytest.mark.parametrize("normalization", ["sample", "token"])
@pytest.mark.parametrize("name", TWINS)
def test_totals_are_one_steps_metrics(twin, name, normalization):
    rng = np.random.default_rng(7)
    settings = get_scheme(name).settings()
    batch = random_batch(rng, settings)
    batch = replace(batch, standard=batch.standard.clamp(min=-50), judge=batch.judge.clamp(min=-50))
    weights = get_scheme(name).weigh(batch, settings)
    lengths = batch.mask.sum(1)
    losses = sample_losses(weights, batch.base, log1mp_of(batch.base))
    window = Window(len(lengths), float(lengths.sum()))
    found = twin.ask(
        """({ name, settings, examples, normalization }) => {
          const found = examplesOf(examples).map(twin.prepare);
          return twin.totals(found, found.map((one) => twin.SCHEMES[name].weigh(one, settings)), normalization);
        }""",
        {"name": name, "settings": asdict(settings), "examples": sent(batch), "normalization": normalization},
    )
    for part in ("likelihood", "unlikelihood"):
        expected = float(normalize(getattr(losses, part), lengths, window, normalization))
        assert found[part] == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert found["loss"] == pytest.approx(found["likelihood"] + found["unlikelihood"])
    assert found["tags"] == np.bincount(weights.tag[batch.mask].numpy(), minlength=len(TAG_NAMES)).tolist()
    wrong = int((~batch.label).sum())
    assert (found["examples"], found["tokens"], found["wrong"]) == (40, int(lengths.sum()), wrong)
    assert found["salientFraction"] == pytest.approx(float(weights.salient.sum() / lengths.sum()))
    assert found["gated"] == int(weights.gated.sum())
    assert found["gatedFraction"] == pytest.approx(int(weights.gated.sum()) / wrong)


def test_totals_count_no_tag_that_has_no_name_here(twin):
    tags = twin.ask(
        """() => twin.totals([{ base: [-1, -1], label: true }],
          [{ likelihood: [1, 1], unlikelihood: [0, 0], tag: [255, 1], gated: false }]).tags"""
    )
    assert tags == [0, 1, *[0] * (len(TAG_NAMES) - 2)]


def test_compare_counts_what_a_setting_changes(twin):
    rng = np.random.default_rng(8)
    before = replace(PAPER, gate_fraction=0.4)
    after = replace(before, mistake_ratio=3.0)
    batch = random_batch(rng, before)
    found = twin.ask(
        """({ examples, before, after }) => {
          const found = examplesOf(examples);
          const [a, b] = [before, after].map((s) => found.map((one) => twin.SCHEMES.nlft.weigh(one, s)));
          return [twin.compare(a, b), twin.compare(a, a)];
        }""",
        {"examples": sent(batch), "before": asdict(before), "after": asdict(after)},
    )
    old, new = (python_weighs("nlft", settings, batch) for settings in (before, after))
    moved = old.tag != new.tag
    reweighted = (np.abs(old.likelihood - new.likelihood) > 1e-5) | (np.abs(old.unlikelihood - new.unlikelihood) > 1e-5)
    tokens = int(batch.mask.sum())
    assert found[0] == {
        "tokens": tokens,
        "retagged": int(moved.sum()),
        "gained": int((moved & (new.tag == Tag.SALIENT)).sum()),
        "lost": int((moved & (old.tag == Tag.SALIENT)).sum()),
        "reweighted": int(reweighted.sum()),
        "examples": int((moved | reweighted).any(1).sum()),
    }
    assert found[0]["lost"] > 10
    nothing = {"retagged": 0, "gained": 0, "lost": 0, "reweighted": 0, "examples": 0}
    assert found[1] == {"tokens": tokens, **nothing}


# What the page builds on.


def test_every_scheme_but_three_has_its_twin_with_the_same_settings_and_needs(twin):
    found = twin.ask("() => Object.fromEntries(Object.entries(twin.SCHEMES).map(([k, v]) => [k, v.settings]))")
    held = {f.name for f in fields(HoldSettings)}  # the hold weighs no token, and runs without it are older
    read = {name: [f.name for f in fields(s.settings) if f.name not in held] for name, s in TWINS.items()}
    assert found == read
    assert twin.ask("() => twin.TAG_NAMES") == TAG_NAMES
    off = replace(PAPER, branch_weight=0.0)
    others = [("cut", CutSettings()), ("dft", DFTSettings()), ("uniform", UniformSettings())]
    for name, settings in [("nlft", PAPER), ("nlft", off), ("rlsd", RLSDSettings()), ("rlsd", CONTRAST), *others]:
        needs = twin.ask("([name, settings]) => twin.SCHEMES[name].needs(settings)", [name, asdict(settings)])
        assert sorted(needs) == sorted(get_scheme(name).needs(settings))


def test_it_works_as_a_module_and_as_part_of_a_classic_script(open_page, tmp_path):
    assert "import" not in re.sub(r"//.*", "", SOURCE)
    assert len(EXPORTS) == SOURCE.count("export ") - SOURCE.split("\nexport")[0].count("export ")
    rng = np.random.default_rng(9)
    batch = random_batch(rng, PAPER)
    expected = python_weighs("nlft", PAPER, batch)
    for module in (False, True):
        found = Twin(open_page, tmp_path, module=module).weigh("nlft", PAPER, batch)
        assert_same(found, expected, PAPER, batch)


def test_a_band_may_come_as_bits_or_as_numbers_flat_or_in_rows_and_log_probs_in_plain_arrays(twin):
    rng = np.random.default_rng(10)
    settings = replace(PAPER, gate_fraction=0.8)
    batch = random_batch(rng, settings)
    alike = twin.ask(
        """({ examples, settings }) => examplesOf(examples).map((example) => {
          const weigh = (one) => JSON.stringify(twin.SCHEMES.nlft.weigh(one, settings));
          const { base, standard, judge, band } = example;
          const numbers = twin.prepare(example).band;
          const rows = Array.from(base, (_, t) => Array.from(numbers.slice(17 * t, 17 * t + 17)));
          const plain = { base: [...base], standard: [...standard], judge: judge && [...judge], label: example.label };
          const given = [twin.prepare(example), twin.prepare(twin.prepare(example)), { ...example, band: numbers },
            { ...example, band: Array.from(numbers) }, { ...example, band: rows }, { ...plain, band },
            { ...twin.prepare(example), band }];
          return new Set([example, ...given].map(weigh)).size;
        })""",
        {"examples": sent(batch), "settings": asdict(settings)},
    )
    assert alike == [1] * 40


def test_every_float16_is_read_as_numpy_reads_it(twin):
    bits = np.arange(2**16, dtype=np.uint16)
    ask = """() => {
      const band = Uint16Array.from({ length: 65536 * 17 }, (_, i) => i % 17 ? 0 : i / 17);
      const numbers = twin.prepare({ base: new Float32Array(65536), band, label: true }).band;
      return Array.from({ length: 65536 }, (_, i) => String(numbers[i * 17]));
    }"""
    found = np.array([float(text.replace("Infinity", "inf")) for text in twin.ask(ask)])
    np.testing.assert_array_equal(found, bits.view(np.float16).astype(np.float64))


def test_a_null_reads_as_no_number_and_is_never_tagged(twin):
    tags, likelihood = twin.ask(
        """(settings) => {
          const given = { base: [-3, -3], judge: [null, -0.1], standard: [-3, -3], band: new Uint16Array(34) };
          const { tag } = twin.SCHEMES.nlft.weigh({ ...given, label: false }, settings);
          const right = twin.SCHEMES.nlft.weigh({ ...given, standard: [null, -3], label: true }, settings);
          return [Array.from(tag), Array.from(right.likelihood, String)];
        }""",
        asdict(replace(PAPER, gate_fraction=1.0)),
    )
    assert tags == [Tag.PLAIN, Tag.SALIENT]
    assert likelihood[0] == "NaN"
    assert float(likelihood[1]) > 0


def failure(twin, change, settings=None):
    return twin.ask(
        """([change, settings]) => {
          const logp = Float32Array.of(-1, -2);
          const whole = { base: logp, standard: logp, judge: logp, band: new Uint16Array(34), label: false };
          const example = { ...whole, ...Object.fromEntries(Object.entries(change)) };
          try { twin.SCHEMES.nlft.weigh(example, settings); } catch (error) { return error.message; }
          return twin.missing("nlft", settings, example).join();
        }""",
        [change, asdict(PAPER) if settings is None else settings],
    )


def test_an_example_that_lacks_what_the_scheme_needs_is_refused_by_name(twin):
    assert failure(twin, {}) == ""
    assert failure(twin, {"band": None, "standard": None}) == "the example lacks standard, band"
    assert failure(twin, {"judge": None}) == "the example lacks judge"
    assert failure(twin, {"judge": None, "label": True}) == ""
    assert failure(twin, {"judge": None, "band": None}, asdict(replace(PAPER, branch_weight=0.0))) == ""
    assert failure(twin, {"judge": [-1]}) == '"judge" holds 1 numbers where 2 are wanted'
    assert failure(twin, {"band": [0] * 33}) == '"band" holds 33 numbers where 34 are wanted'


def test_a_missing_setting_is_refused_by_name_and_never_guessed(twin):
    some = {name: value for name, value in asdict(PAPER).items() if name != "mistake_ratio"}
    assert failure(twin, {}, {**some, "nll_weight": None}) == "settings lack mistake_ratio, nll_weight"
