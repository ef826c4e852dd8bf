import { begin } from "./app.js";
import { byId, element } from "./dom.js";
import { mountReplies } from "./replies.js";
import { liveSource } from "./source-live.js";
import { state } from "./state.js";

// Remove the token from the address, so that others can see the address. The cookie has it now.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

/** The conversation with the run's models, if the server has them. An exported page has none. */
function addReplies() {
  if (!state.chat) return;
  const body = element("div", { className: "body" });
  const summary = element("summary", {}, element("h2", { text: "Replies" }));
  byId("curves").before(element("details", { id: "replies", className: "replies", open: true }, summary, body));
  mountReplies(body, liveSource);
}

begin(liveSource).then(addReplies).catch((error) => {
  byId("notes").hidden = false;
  byId("notes").textContent = `The page cannot be shown: ${error.message}`;
});
