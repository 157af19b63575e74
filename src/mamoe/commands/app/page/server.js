// What is asked of the server. Every failure is an Error whose message can be shown to people.

const UNREACHED =
  "The server does not answer. What is painted stays here: start `mamoe app` again with the same --port, and go on.";
const TOKEN = "mamoe-token";

// The address brings the token once; then it is kept for this tab alone, and out of sight.
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  sessionStorage.setItem(TOKEN, given);
  history.replaceState(null, "", location.pathname);
}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(`api/${path}`, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(UNREACHED);
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error ?? `The server answered with ${response.status}.`);
  }
  return response;
}

const asked = async (path, options) => (await ask(path, options)).json();

export const about = () => asked("about");
export const mapNames = (split, like) => asked(`maps/${encodeURIComponent(split)}?like=${encodeURIComponent(like)}`);
export const openMap = (split, name) =>
  asked(`maps/${encodeURIComponent(split)}/${name.split("/").map(encodeURIComponent).join("/")}`);
export const template = (width, height) => asked(`template?width=${width}&height=${height}`);
export const readMap = (file) => asked("read", { method: "POST", body: file });
export const sizes = (png) => asked("sizes", { method: "POST", body: png });

// Have a picture drawn: `heard(event)` gets every line the server says; the last one is returned.
export async function draw(wish, signal, heard) {
  const response = await ask("draw", { method: "POST", body: JSON.stringify(wish), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = {};
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) heard((last = JSON.parse(line)));
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(UNREACHED);
  }
  if (last.error) throw new Error(last.error);
  if (!last.picture) throw new Error(UNREACHED);
  return last;
}
