// Having the map drawn: progress, cancelling, and what comes of it.

import { byId } from "./elements.js";
import { fromBase64, toBase64 } from "./png.js";
import * as server from "./server.js";

export class Drawing {
  constructor(page) {
    this.page = page;
    byId("draw").addEventListener("click", () => this.draw(null));
    byId("cancel").addEventListener("click", () => this.stop?.abort());
  }

  // All of the map, or one segment anew in the picture that is shown.
  async draw(only) {
    const numbers = ["seed", "steps", "guidance"].map(byId);
    if (this.stop || !numbers.every((field) => field.reportValidity())) return;
    const { page } = this;
    this.stop = new AbortController();
    this.busy(true);
    byId("alert").hidden = true;
    try {
      const png = await page.png(), words = page.words();
      await page.measure();
      const map = await new Promise((resolve) => byId("map").toBlob(resolve));
      const { taxonomy, ...asked } = words;
      const part = only === null ? {} : { only, picture: await this.shown() };
      const wish = { ...asked, ...part, map: toBase64(png) };
      const drawn = await server.draw(wish, this.stop.signal, (event) => this.heard(event));
      const picture = new Blob([fromBase64(drawn.picture)], { type: "image/png" });
      page.pictures.add({ picture, map, png, words: readable(words), record: drawn.record, seconds: drawn.seconds });
      this.say([`Drawn in ${drawn.seconds} s.`, ...drawn.notes].join(" "));
      await page.keepPictures();
    } catch (error) {
      const cancelled = error.name === "AbortError";
      this.say(cancelled ? "Cancelled." : "Nothing was drawn.");
      if (!cancelled) page.complain(error.message);
    } finally {
      this.stop = null;
      this.busy(false);
    }
  }

  async shown() {
    const { chosen } = this.page.pictures;
    if (!chosen) throw new Error("There is no picture yet to redraw a part of: draw all of it first.");
    return toBase64(new Uint8Array(await chosen.picture.arrayBuffer()));
  }

  heard(event) {
    if (event.waiting) this.say("Waiting for the model …");
    if (event.of === undefined) return;
    this.say(`Step ${event.step} of ${event.of}`);
    Object.assign(byId("progress"), { max: event.of, value: event.step });
  }

  busy(yes) {
    byId("draw").disabled = yes;
    byId("cancel").hidden = byId("progress").hidden = !yes;
    byId("progress").removeAttribute("value");
  }

  say(text) {
    byId("said").textContent = text;
  }
}

// The words as a file's are read.
const readable = (words) => ({
  ...words,
  prompts: new Map(Object.entries(words.instance_prompts).map(([segment, text]) => [Number(segment), text])),
});
