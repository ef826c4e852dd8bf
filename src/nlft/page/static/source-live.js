// The source of the live page: its server.

async function answer(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const refused = body.refused?.map(({ control, reason }) => `${control.replace(/^saliency\./, "")}: ${reason}.`);
  const said = refused?.join(" ") ?? body.error ?? `The server answered ${response.status}.`;
  throw Object.assign(new Error(said), { status: response.status, body });
}

export const liveSource = {
  async about() {
    return (await answer(await fetch("api/runs"))).json();
  },

  async changes(run, have) {
    return (await answer(await fetch(`api/runs/${run}/changes?${new URLSearchParams(have)}`))).json();
  },

  async stepBytes(run, step) {
    return (await answer(await fetch(`api/runs/${run}/steps/${step}`))).arrayBuffer();
  },

  async get(path) {
    return (await answer(await fetch(`api/${path}`))).json();
  },

  async post(path, body, signal) {
    return answer(await fetch(`api/${path}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
    }));
  },

  csvAddress(run, step) {
    return `api/runs/${run}/tokens.csv${step === null ? "" : `?step=${step}`}`;
  },

  /**
   * Call `news` whenever the server has new data. Call `connected` with true while the connection is alive, else false.
   *
   * A browser opens at most six connections to a server over all its tabs. So one tab listens and informs the others.
   * When it closes, the lock passes to another tab. Without locks, each tab listens for itself.
   */
  listen(news, connected) {
    if (!navigator.locks) return void listenHere(news, connected, () => {});
    const name = `nlft-map${location.pathname}`; // a server may show several runs, each at its own address
    const channel = new BroadcastChannel(name);
    channel.onmessage = ({ data }) => (data === "news" ? news() : connected(data === "connected"));
    navigator.locks.request(name, () => new Promise(() => {
      listenHere(news, connected, (word) => channel.postMessage(word));
    }));
    connected(true);
  },
};

const RETRY_MS = 2000;

function listenHere(news, connected, tell) {
  const stream = new EventSource("api/stream");
  stream.onmessage = () => { tell("news"); news(); };
  stream.onopen = () => { tell("connected"); connected(true); };
  stream.onerror = () => {
    tell("lost");
    connected(false);
    // The stream is closed, for example because the server restarted. A newly opened page renews this tab's cookie.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => listenHere(news, connected, tell), RETRY_MS);
  };
}
