// The dialog with everything a map can be begun from.

import { byId, element, later } from "./elements.js";
import * as keep from "./keep.js";
import { Layout } from "./layout.js";
import * as server from "./server.js";

export class Start {
  constructor(page) {
    this.page = page;
    const { size, multiple, most_side: most, maps } = page.about;
    for (const [id, side] of [["new-width", size[1]], ["new-height", size[0]]]) {
      Object.assign(byId(id), { min: multiple, max: most, step: multiple, value: side });
    }
    byId("split").append(...Object.entries(maps).map(([split, count]) =>
      element("option", { value: split, textContent: `${split} (${count})` })));
    const none = !Object.keys(maps).length;
    byId("start-data").hidden = none;
    byId("start-template").disabled = none;
    if (none) byId("start-template").title = "There is no data set here: start mamoe app with --data FOLDER.";
    this.listen();
  }

  listen() {
    const { page } = this;
    const on = (id, act) =>
      byId(id).addEventListener("click", () => {
        byId("start").close();
        page.tried(act);
      });
    byId("new").addEventListener("click", () => page.tried(() => this.show()));
    on("start-empty", () => {
      const [width, height] = this.size();
      page.replace({ layout: Layout.empty(width, height, page.about.void_id), prompt: "", prompts: new Map() });
    });
    on("start-template", async () => {
      page.drawing.say("Reading the maps of the data set …");
      page.putSent(await server.template(...this.size()).finally(() => page.drawing.say("")));
    });
    on("start-map", async () => page.putSent(await server.openMap(byId("split").value, byId("map-name").value)));
    on("start-again", () => page.putWork(this.kept[byId("earlier").selectedIndex]));
    byId("files").addEventListener("change", () => {
      const files = [...byId("files").files];
      byId("start").close();
      byId("files").value = "";
      page.tried(() => page.readFiles(files));
    });
    const names = later(() => page.tried(() => this.listNames()), 200);
    byId("map-name").addEventListener("input", names);
    byId("split").addEventListener("change", () => {
      byId("map-name").value = "";
      names();
    });
  }

  async show() {
    await this.offer();
    byId("start").showModal();
    if (!byId("start-data").hidden) await this.listNames();
  }

  async listNames() {
    const { names } = await server.mapNames(byId("split").value, byId("map-name").value);
    byId("map-names").replaceChildren(...names.map((value) => element("option", { value })));
    if (!byId("map-name").value && names.length) byId("map-name").placeholder = `such as ${names[0]}`;
  }

  // Work of tabs that are closed, or of other ones.
  async offer() {
    this.kept = (await keep.earlier(this.page.tab)).filter((work) => work.kind === this.page.kind);
    byId("earlier").replaceChildren(...this.kept.map((work) => element("option", { textContent: wordsOf(work) })));
    byId("start-earlier").hidden = !this.kept.length;
  }

  size() {
    const { multiple, most_side: most } = this.page.about;
    const sides = [byId("new-width").valueAsNumber, byId("new-height").valueAsNumber];
    if (!sides.every((side) => Number.isInteger(side) && side > 0 && side <= most && side % multiple === 0)) {
      throw new Error(`Width and height must be multiples of ${multiple}, up to ${most} pixels.`);
    }
    return sides;
  }
}

const wordsOf = ({ at, width, height, prompt }) =>
  `${new Date(at).toLocaleString()}, ${width} × ${height}${prompt ? `, “${prompt.slice(0, 40)}”` : ""}`;
