// The page: what is painted, what is written, what is drawn, and how these hang together.

import { byId, download, later } from "./elements.js";
import { Drawing } from "./drawing.js";
import { Instances } from "./instances.js";
import * as keep from "./keep.js";
import { Layout, MOST_SEGMENTS, classOf, segmentOf, valueOf } from "./layout.js";
import { Palette } from "./palette.js";
import { Pictures, pictureWords } from "./pictures.js";
import { encodePng, fromBase64 } from "./png.js";
import * as server from "./server.js";
import { Start } from "./start.js";
import { Tools } from "./tools.js";
import { Undo } from "./undo.js";
import { View } from "./view.js";
import { readWords, wordsOf } from "./words.js";

const QUIET = 300; // milliseconds after a change until it is kept and measured

class Page {
  constructor(about, tab) {
    Object.assign(this, { about, tab });
    this.classes = new Map(about.classes.map((row) => [row.id, row]));
    this.kind = `${about.taxonomy} ${[...this.classes.keys()].join()}`; // what of earlier work can be taken up
    this.blank = valueOf(0, about.void_id);
    this.prompts = new Map(); // segment -> text, of segments that are erased too: they may come back
    this.undo = new Undo();
    this.layout = Layout.empty(about.size[1], about.size[0], about.void_id);
    this.segments = new Map();
    this.tools = new Tools(this);
    this.view = new View(
      { map: byId("map"), above: byId("above"), stage: byId("stage"), scroll: byId("scroll") },
      new Map(about.classes.map((row) => [row.id, row.colour])), about.void_id, about.cell, this.tools,
    );
    this.view.zoomed = (zoom) => {
      byId("zoom").textContent = `${zoom * 100} %`;
      this.sizePicture();
    };
    this.palette = new Palette(about.classes, {
      chosen: (id) => this.chooseClass(id),
      pointed: (id) => this.view.mark(id === null ? null : (value) => classOf(value) === id),
    });
    this.instances = new Instances(this.classes, about.cell ** 2, {
      chosen: (segment) => this.choose(valueOf(segment, this.segments.get(segment).classId)),
      pointed: (segment) => this.view.mark(segment === null ? null : (value) => segmentOf(value) === segment),
      prompted: (segment, text) => {
        this.prompts.set(segment, text);
        this.keepSoon();
      },
      redrawn: (segment) => this.drawing.draw(segment),
    });
    this.pictures = new Pictures({
      shown: (one, url) => this.showPicture(one, url),
      again: (one) => this.tried(() => this.takeUp(one)),
    });
    this.drawing = new Drawing(this);
    this.start = new Start(this);
    this.keepSoon = later(() => this.keep(), QUIET);
    this.measureSoon = later(() => this.measure(), QUIET);
    this.listen();
  }

  // --- what is painted ---

  show(layout) {
    this.layout = layout;
    byId("map-size").textContent = `${layout.width} × ${layout.height} pixels, ${this.cellsOf(layout)} latent cells`;
    this.view.show(layout);
    this.view.fit();
    this.changed();
  }

  cellsOf({ width, height }) {
    return `${Math.ceil(width / this.about.cell)} × ${Math.ceil(height / this.about.cell)}`;
  }

  changed() {
    this.segments = this.layout.segments();
    this.view.paint(this.current);
    this.palette.counted(this.segments);
    this.listInstances();
    byId("undo").disabled = !this.undo.past.length;
    byId("redo").disabled = !this.undo.future.length;
    this.keepSoon();
    this.measureSoon();
  }

  listInstances() {
    this.instances.show(this.segments, this.prompts, segmentOf(this.current ?? 0));
  }

  // Another canvas, with what is written about it; Undo brings back what was there.
  replace({ layout, prompt, prompts, ...numbers }) {
    this.undo.whole(this.canvas());
    this.putCanvas({ layout, prompt, prompts });
    this.putNumbers(numbers);
  }

  canvas() {
    return { layout: this.layout, prompt: byId("prompt").value, prompts: this.prompts };
  }

  putCanvas({ layout, prompt, prompts }) {
    byId("prompt").value = prompt;
    this.prompts = prompts;
    this.show(layout);
    this.choose(this.fresh(classOf(this.current)));
  }

  step(way) {
    const moved = this.undo[way](this.layout, (state) => {
      const before = this.canvas();
      this.putCanvas(state);
      return before;
    });
    if (moved) this.changed();
  }

  // --- what is painted with ---

  choose(value) {
    this.current = value;
    const segment = segmentOf(value), known = this.classes.get(classOf(value));
    this.palette.choose(classOf(value));
    byId("current").textContent =
      `${known?.name ?? "void"}, number ${segment}${this.segments.has(segment) ? "" : " (new)"}`;
    if (["eraser", "pick"].includes(this.tools.name)) this.tools.take("brush");
    this.view.paint(value);
    this.listInstances();
  }

  chooseClass(classId) {
    const last = [...this.segments].findLast(([, one]) => one.classId === classId);
    this.choose(last ? valueOf(last[0], classId) : this.fresh(classId));
  }

  // A number that no segment has, nor a prompt waits for.
  fresh(classId) {
    const taken = new Set(this.segments.keys());
    for (const [segment, text] of this.prompts) if (text) taken.add(segment);
    let segment = Math.max(0, ...taken) + 1;
    for (segment = segment > MOST_SEGMENTS ? 1 : segment; taken.has(segment); ) segment++;
    if (segment > MOST_SEGMENTS) throw new Error("A map has room for 65535 instances, and all are taken.");
    return valueOf(segment, classId);
  }

  pick(value) {
    const classId = classOf(value), segment = segmentOf(value);
    if (!this.classes.has(classId)) return;
    this.choose(segment ? value : this.fresh(classId));
    this.instances.rows.get(segment)?.line.scrollIntoView({ block: "nearest" });
    this.say(`${this.describe(value)} taken up`);
  }

  describe(value) {
    const segment = segmentOf(value), name = this.classes.get(classOf(value))?.name ?? "void";
    return segment ? `${name}, number ${segment}` : name;
  }

  // --- what is written, kept and said ---

  numbers() {
    return { seed: byId("seed").valueAsNumber, steps: byId("steps").valueAsNumber, guidance_scale: byId("guidance").valueAsNumber };
  }

  putNumbers({ seed, steps, guidance_scale: guidance }) {
    for (const [id, number] of Object.entries({ seed, steps, guidance })) if (number !== undefined) byId(id).value = number;
    this.keepSoon();
  }

  png() {
    return encodePng(this.layout.width, this.layout.height, this.layout.rgb());
  }

  words() {
    const prompts = new Map([...this.prompts].filter(([segment, text]) => text.trim() && this.segments.has(segment)));
    return wordsOf({ taxonomy: this.about.taxonomy, prompt: byId("prompt").value, prompts, ...this.numbers() });
  }

  async keep() {
    const { width, height, values } = this.layout;
    const work = { tab: this.tab, at: Date.now(), kind: this.kind, width, height, values };
    await this.tried(() => keep.put({ ...work, prompt: byId("prompt").value, prompts: this.prompts, numbers: this.numbers() }));
  }

  keepPictures() {
    return keep.putPictures(this.tab, this.pictures.all);
  }

  putWork(work) {
    this.replace({
      layout: new Layout(work.width, work.height, work.values), prompt: work.prompt, prompts: work.prompts, ...work.numbers,
    });
  }

  async takeUp({ png, words }) {
    this.putSent(await server.readMap(png), words);
  }

  // A map from the server; `words` are those of a file or picture, where there is one.
  putSent(sent, words) {
    const layout = Layout.ofRgb(sent.width, sent.height, fromBase64(sent.rgb));
    const own = new Map(Object.entries(sent.instance_prompts).map(([segment, text]) => [Number(segment), text]));
    this.replace({ layout, prompt: sent.prompt, prompts: own, ...words });
    this.nameOdd();
  }

  nameOdd() {
    const odd = [...this.prompts.keys()].filter((segment) => !this.segments.has(segment));
    if (odd.length) {
      this.complain(`${odd.length} prompts are for segments that this map does not have: ${odd.slice(0, 8).join(", ")}.`);
    }
  }

  async readFiles(files) {
    const large = files.find((file) => file.size > this.about.most_bytes);
    if (large) throw new Error(`${large.name} is larger than any map the page takes (${this.about.most_bytes >> 20} MiB).`);
    const isWords = (file) => file.name.toLowerCase().endsWith(".json");
    const words = files.find(isWords), map = files.find((file) => !isWords(file));
    if (files.length > 1 + Boolean(words && map)) throw new Error("Choose one map, one JSON with prompts, or one of each.");
    const said = words && readWords(await words.text(), words.name);
    if (map) this.putSent(await server.readMap(map), said);
    else this.putWords(said);
  }

  // The words of a file, for the canvas that is there.
  putWords(words) {
    const { width, height, values } = this.layout;
    this.replace({ layout: new Layout(width, height, values.slice()), ...words });
    this.nameOdd();
  }

  async measure() {
    const layout = this.layout;
    try {
      const found = (await server.sizes(await this.png())).segments.filter((one) => one.vanishes);
      if (layout !== this.layout) return;
      this.instances.lost(found.map((one) => one.id));
      const names = found.slice(0, 6).map(({ id }) => this.describe(valueOf(id, this.segments.get(id)?.classId ?? this.about.void_id)));
      byId("vanishing").textContent = `Vanishing at latent size: ${names.join("; ")}${found.length > 6 ? ` and ${found.length - 6} more` : ""}. No latent cell is ${found.length === 1 ? "its" : "their"} own, so the model hardly sees ${found.length === 1 ? "it" : "them"}: paint larger.`;
      byId("vanishing").hidden = !found.length;
      this.listInstances();
    } catch (error) {
      byId("vanishing").hidden = false;
      byId("vanishing").textContent = `What vanishes at latent size is not known: ${error.message}`;
    }
  }

  showPicture({ number, record, seconds }, url) {
    const words = `${pictureWords(number, record)}, ${seconds} s`;
    Object.assign(byId("picture"), { src: url, alt: words, hidden: false });
    Object.assign(byId("over-picture"), { src: url, hidden: false });
    byId("no-picture").hidden = true;
    byId("picture-words").textContent = words;
    this.picture = record.size;
    this.sizePicture();
  }

  sizePicture() {
    if (!this.picture) return;
    byId("picture").style.width = `${this.picture[1] * this.view.zoom}px`;
    byId("picture").style.height = `${this.picture[0] * this.view.zoom}px`;
  }

  say(text) {
    byId("status").textContent = text;
  }

  complain(text) {
    byId("alert").firstElementChild.textContent = text;
    byId("alert").hidden = false;
  }

  async tried(act) {
    try {
      await act();
    } catch (error) {
      this.complain(error.message);
    }
  }

  // --- buttons and keys ---

  listen() {
    const on = (id, act) => byId(id).addEventListener("click", () => this.tried(act));
    on("undo", () => this.step("back"));
    on("redo", () => this.step("forth"));
    on("new-instance", () => this.choose(this.fresh(classOf(this.current))));
    on("zoom-in", () => this.view.zoomBy(1));
    on("zoom-out", () => this.view.zoomBy(-1));
    on("zoom-fit", () => this.view.fit());
    on("dice", () => this.putNumbers({ seed: Math.floor(Math.random() * 2 ** 31) }));
    on("save-map", async () => download(new Blob([await this.png()], { type: "image/png" }), "layout.png"));
    on("save-words", () =>
      download(new Blob([JSON.stringify(this.words(), null, 1)], { type: "application/json" }), "layout.json"));
    byId("alert").lastElementChild.addEventListener("click", () => (byId("alert").hidden = true));
    byId("over").addEventListener("input", () => this.fade());
    byId("brush").addEventListener("input", () => (byId("brush").nextElementSibling.value = byId("brush").value));
    for (const id of ["prompt", "seed", "steps", "guidance"]) byId(id).addEventListener("input", () => this.keepSoon());
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("visibilitychange", () => document.hidden && this.keep());
  }

  fade() {
    byId("over-picture").style.opacity = byId("over").value / 100;
  }

  key(event) {
    if (byId("start").open) return;
    const control = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
    if (control && key === "enter") return this.press(event, "draw");
    if (key === "escape" && !byId("cancel").hidden) return this.press(event, "cancel");
    if (event.target.matches("textarea, select, input:not([type=radio], [type=range])") || event.altKey) return;
    if (control && key === "z") return this.press(event, event.shiftKey ? "redo" : "undo");
    if (control && key === "y") return this.press(event, "redo");
    if (control) return;
    const buttons = { n: "new-instance", "+": "zoom-in", "=": "zoom-in", "-": "zoom-out", 0: "zoom-fit" };
    const tools = { b: "brush", r: "rectangle", l: "lasso", f: "fill", e: "eraser", i: "pick" };
    if (buttons[key]) this.press(event, buttons[key]);
    else if (tools[key]) this.tools.take(tools[key]);
    else if (key === "[" || key === "]") {
      byId("brush").valueAsNumber += key === "[" ? -2 : 2;
      byId("brush").dispatchEvent(new Event("input"));
    }
  }

  press(event, id) {
    event.preventDefault();
    byId(id).click();
  }
}

// What this tab had before it was loaded again, or the tab that it is a copy of.
async function takeUpEarlier(page, before) {
  const work = before && (await keep.get(before));
  if (work?.kind === page.kind) {
    page.putWork(work);
    page.undo.past = [];
    page.changed();
    page.pictures.restore(await keep.pictures(before));
    if (page.tab !== before) await page.keepPictures();
  }
  await page.start.offer();
}

async function open() {
  server.takeToken();
  const { tab, before } = keep.tabOf();
  const about = await server.about();
  byId("model").textContent = about.name;
  byId("filter-line").hidden = about.classes.length <= 24;
  byId("prompt-note").hidden = about.reads_prompt;
  byId("steps").max = about.most_steps;
  byId("steps").value = about.steps;
  byId("guidance").value = about.guidance_scale;
  document.querySelector("main").hidden = false;
  const page = new Page(about, tab);
  page.current = valueOf(1, about.classes[0].id);
  page.fade();
  page.show(page.layout);
  page.choose(page.current);
  await page.tried(() => takeUpEarlier(page, before));
  document.documentElement.dataset.ready = "yes"; // for whoever waits for the page
}

open().catch((error) => {
  byId("alert").firstElementChild.textContent = error.message;
  byId("alert").hidden = false;
});
