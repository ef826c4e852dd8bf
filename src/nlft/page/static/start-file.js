import { begin } from "./app.js";
import { byId } from "./dom.js";
import { fileSource } from "./source-file.js";

begin(fileSource(JSON.parse(byId("data").textContent)));
