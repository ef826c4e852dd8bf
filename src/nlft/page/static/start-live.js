import { begin } from "./app.js";
import { byId } from "./dom.js";
import { liveSource } from "./source-live.js";

// The token has done its work: the cookie carries on, and the address may be looked at.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

begin(liveSource).catch((error) => {
  byId("notes").hidden = false;
  byId("notes").textContent = `The page cannot be shown: ${error.message}`;
});
