// The tab of the feedback: every watched example with what was said about it, and what was changed here.

import { labelWords } from "./cards.js";
import { button, element, shownText } from "./dom.js";
import { state } from "./state.js";

/** Fill the tab. `open` shows an example on the map. Return what draws it again. */
export function mountFeedback(root, open) {
  const list = element("ol", { className: "feedback-list" });
  const said = element("p", { className: "lead" });
  root.append(element("h2", { text: "Feedback" }), said, list);
  const draw = () => {
    const { examples } = state.runs[0];
    const saved = new Map(state.saved.map((one) => [one.example, one]));
    said.textContent = saved.size
      ? `${saved.size} of ${examples.length} examples were changed here, for the next run.`
      : `What readers said about the ${examples.length} watched examples.`;
    list.replaceChildren(...examples.map((example, index) => feedbackLine(example, saved.get(index), () => open(index))));
  };
  draw();
  return draw;
}

function feedbackLine(example, changed, open) {
  const now = changed ? { ...example, label: changed.label, judgment: changed.judgment } : example;
  const text = now.judgment ?? now.feedback ?? "nothing in words";
  return element("li", {},
    element("span", { text: labelWords(now), className: `badge ${now.label ? "right" : "wrong"}` }),
    shownText("bdi", String(example.id), { className: "id" }),
    shownText("div", text, { className: "prose", dir: "auto" }, true),
    ...(changed ? [element("span", { className: "edited", text: "changed here" })] : []),
    button("Show", open, { "aria-label": `Show ${example.id} on the map` }));
}
