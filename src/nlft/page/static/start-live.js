import { begin } from "./app.js";
import { byId } from "./dom.js";
import { mountReplies } from "./replies.js";
import { liveSource } from "./source-live.js";

// Remove the token from the address, so that others can see the address. The cookie has it now.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

begin(liveSource, { replies: (root) => mountReplies(root, liveSource) }).catch((error) => {
  byId("notes").hidden = false;
  byId("notes").textContent = `The page cannot be shown: ${error.message}`;
});
