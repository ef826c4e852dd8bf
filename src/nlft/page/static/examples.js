// The list of examples: which one stands first and large, which ones match, and which are open.

import { buildCard, setOpen, setWhy } from "./cards.js";
import { byId, element } from "./dom.js";
import { effectsOf, tellingOf } from "./effects.js";
import { differing, matches, recordedVerdict, sortedOrder } from "./logic.js";
import { state } from "./state.js";
import { hideTooltip } from "./tokens.js";

export class Examples {
  /** acts: see buildCard. */
  constructor(acts) {
    this.acts = acts;
    this.views = [];
    this.order = [];
    this.telling = null; // how much each example told when the page first had its scores: the order must not jump
    byId("search").addEventListener("input", () => this.filter());
    byId("label").addEventListener("change", () => this.filter());
    byId("open-all").addEventListener("click", () => this.openAll());
  }

  build() {
    hideTooltip();
    const { examples } = state.runs[0];
    const longest = Math.max(1, ...examples.map((example) => example.tokens.length));
    this.views = examples.map((example, index) => buildCard(example, index, longest, this.acts));
    this.order = [];
    this.telling = null;
    byId("first").replaceChildren();
    byId("others").replaceChildren(...this.views.map((view) => view.card));
    if (!this.views.length) {
      const text = state.runs[0].about.begun === false
        ? "Waiting for this run to begin: nothing is in its folder yet. The map appears here by itself."
        : "This run has no watched examples yet. Train with --watch 8 to see their tokens here.";
      byId("others").append(element("p", { className: "note", text }));
    }
    this.filter();
  }

  /** Put the cards in order. The first of them stands above the others, and is open. */
  sort(here, first, tried) {
    if (!this.views.length) return;
    if (!this.telling && here?.scores.some(Boolean)) {
      this.telling = here.scores.map((scores) => (scores ? tellingOf(scores, recordedVerdict(scores)) : 0));
    }
    const items = this.views.map(({ example, index }) => this.item(example, index, here, first, tried));
    const order = sortedOrder(items, byId("sort").value);
    if (order.every((index, place) => index === this.order[place])) return;
    const fresh = this.order.length === 0, focused = document.activeElement;
    this.order = order;
    const [top, ...rest] = order.map((index) => this.views[index]);
    byId("first").replaceChildren(top.card);
    byId("others").append(...rest.map((view) => view.card));
    if (this.telling || !fresh) setOpen(top, true);
    if (!this.telling) this.order = [];
    if (focused !== document.activeElement && focused instanceof HTMLElement && focused.isConnected) focused.focus({ preventScroll: true });
  }

  item(example, index, here, first, tried) {
    const verdictAt = (step) => (step?.scores[index] ? recordedVerdict(step.scores[index]) : null);
    const now = tried?.[index] ?? verdictAt(here);
    const marks = differing(verdictAt(first), now);
    const found = now ? effectsOf(here.scores[index], now) : null;
    return {
      pinned: state.pins.has(example.id), label: example.label, telling: this.telling?.[index] ?? 0,
      share: found ? found.touched / Math.max(1, found.tokens) : 0,
      change: marks ? marks.reduce((sum, one) => sum + one, 0) / marks.length : 0,
    };
  }

  filter() {
    const wanted = this.views.filter((view) => matches(view.example, byId("search").value.trim(), byId("label").value));
    for (const view of this.views) view.card.hidden = !wanted.includes(view);
    byId("count").textContent = `${wanted.length} of ${this.views.length} examples`;
    hideTooltip();
  }

  get visible() {
    const order = this.order.length ? this.order : this.views.map((view) => view.index);
    return order.map((index) => this.views[index]).filter((view) => !view.card.hidden);
  }

  openAll() {
    const all = this.visible.every((view) => view.open);
    this.visible.forEach((view, place) => setOpen(view, !all || place === 0));
    byId("open-all").textContent = all ? "Open all" : "Close all";
  }

  open(index) {
    if (this.views[index]) setOpen(this.views[index], true);
  }

  /** The view of the card that has the focus, or undefined. */
  get current() {
    const card = document.activeElement?.closest("article");
    return this.views.find((view) => view.card === card);
  }

  /** Open the next example (way 1) or the previous one (way -1), and go to it. */
  move(way) {
    const all = this.visible;
    const at = all.indexOf(this.current);
    const next = at < 0 ? all[way > 0 ? 0 : all.length - 1] : all[at + way];
    if (next) this.goTo(next);
  }

  goTo(view) {
    setOpen(view, true);
    view.toggle.focus({ preventScroll: true });
    view.card.scrollIntoView({ block: "nearest" });
  }

  explain() {
    const view = this.current ?? this.visible[0];
    if (!view) return;
    setOpen(view, true);
    setWhy(view, !view.panel.explained);
  }
}
