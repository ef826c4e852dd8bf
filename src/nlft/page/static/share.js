// Share the view: as one HTML file with a working what-if, or the tokens as CSV.

import { button, element } from "./dom.js";
import { state, view } from "./state.js";

/** Fill the menu. `post` sends to the server; `choices` returns the page's other choices, see state.js. */
export function buildShare(menu, source, choices) {
  const one = element("input", { type: "radio", name: "share-steps", id: "share-one" });
  const all = element("input", { type: "radio", name: "share-steps", id: "share-all", checked: true });
  const said = element("p", { className: "said", role: "status" });
  const shown = () => state.runs[0].steps[state.at] ?? null;

  const save = button("HTML file", async () => {
    said.textContent = "Writing the file …";
    try {
      const body = { step: one.checked ? shown() : null, view: view(choices()) };
      const found = await (await source.post("export", body)).blob();
      download(URL.createObjectURL(found), `${state.runs[0].about.run}-map.html`);
      said.textContent = `Written: ${(found.size / 1e6).toFixed(1)} MB. It opens anywhere, without a server.`;
    } catch (error) {
      said.textContent = error.message;
    }
  }, { className: "main" });
  const csv = (text, step) => button(text, () => download(source.csvAddress(0, step()), "tokens.csv"));
  menu.querySelector(".sheet").append(
    element("h2", { text: "This view as one file" }),
    element("label", {}, all, " all steps, at most 200"),
    element("label", {}, one, " the shown step only"),
    save, said,
    element("h2", { text: "The tokens as recorded" }),
    element("div", { className: "actions" }, csv("CSV of this step", shown), csv("CSV of all steps", () => null)));
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  menu.hidden = false;
}

function download(address, filename) {
  const link = element("a", { href: address, download: filename });
  link.addEventListener("click", (event) => event.stopPropagation()); // keep the menu open, to show the result
  document.body.append(link);
  link.click();
  link.remove();
  if (address.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
