// The page's tabs: one list. A tab without `mount` is not shown. The address's hash names the tab, or an example.

import { byId, element } from "./dom.js";
import { rove } from "./toolbar.js";

/** @typedef {{ name: string, title: string, mount: ((element: HTMLElement) => void) | null }} Tab */

/**
 * The tabs, in their order. `mount` fills the tab's element when it is shown for the first time; what it returns, if it
 * is a function, is called each time after that.
 * @param {{ [name: string]: ((element: HTMLElement) => void) | null }} mounts
 * @returns {Tab[]}
 */
export function tabList(mounts) {
  return [
    { name: "map", title: "Map", mount: mounts.map },
    { name: "replies", title: "Replies", mount: mounts.replies },
    { name: "feedback", title: "Feedback", mount: mounts.feedback },
    { name: "curves", title: "Curves", mount: mounts.curves },
    { name: "runs", title: "Runs", mount: mounts.runs },
  ];
}

export class Tabs {
  /** @param {Tab[]} list */
  constructor(list) {
    this.list = list.filter((tab) => tab.mount);
    this.shown = null;
    this.mounted = new Map(); // name -> what mount returned
    /** @type {((index: number) => void) | null} */
    this.reveal = null; // shows an example that the address names
    this.bar = byId("tabs");
    for (const { name, title } of this.list) {
      const tab = element("button", {
        text: title, type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`,
      });
      tab.addEventListener("click", () => { location.hash = name; this.show(name); });
      this.bar.append(tab);
    }
    rove(this.bar);
    window.addEventListener("hashchange", () => this.follow());
  }

  /** Show the tab that the address names; the first one if it names none. */
  follow() {
    const wanted = location.hash.slice(1);
    const example = wanted.startsWith("example-");
    this.show(this.list.some((tab) => tab.name === wanted) ? wanted : this.list[0].name);
    if (example) this.reveal?.(Number(wanted.slice("example-".length)));
  }

  show(name) {
    this.shown = name;
    for (const tab of this.list) {
      const on = tab.name === name;
      const own = byId(`tab-${tab.name}`);
      own.setAttribute("aria-selected", String(on));
      if (on) for (const other of this.bar.children) /** @type {HTMLElement} */ (other).tabIndex = other === own ? 0 : -1;
      const panel = byId(`panel-${tab.name}`);
      panel.hidden = !on;
      if (!on) continue;
      if (!this.mounted.has(name)) this.mounted.set(name, tab.mount(panel));
      else this.redraw();
    }
  }

  /** Draw the shown tab again, because the data changed. */
  redraw() {
    const again = this.mounted.get(this.shown);
    if (typeof again === "function") again();
  }
}
