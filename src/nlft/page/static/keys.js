// The page's keys, and the list of them that `?` opens.

import { byId } from "./dom.js";
import { hideTooltip } from "./tokens.js";

/** acts: {list, step(way), tab(place)}, see examples.js and app.js. */
export function watchKeys(acts) {
  const dialog = byId("keys");
  byId("help").addEventListener("click", () => dialog.showModal());
  byId("keys-close").addEventListener("click", () => dialog.close());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    const act = pageAct(event.key, acts);
    if (!act || document.activeElement?.matches("input, textarea, select")) return;
    event.preventDefault();
    act();
  });
}

function pageAct(key, { list, step, tab }) {
  if (key >= "1" && key <= "9") return () => tab(Number(key) - 1);
  return {
    j: () => list.move(1), k: () => list.move(-1), y: () => list.explain(), ",": () => step(-1), ".": () => step(1),
    "?": () => { hideTooltip(); byId("keys").showModal(); }, "/": () => byId("search").focus(),
  }[key];
}
