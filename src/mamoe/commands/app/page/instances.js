// The table of what is painted: number, class, size in latent cells, prompt.

import { byId, element, swatch } from "./elements.js";

export class Instances {
  constructor(classes, cellPixels, { chosen, pointed, prompted, redrawn }) {
    Object.assign(this, { classes, cellPixels, chosen, pointed, prompted, redrawn });
    this.body = byId("instances").tBodies[0];
    this.rows = new Map();
    this.vanishing = new Set();
  }

  // Rows that are there stay, so that nobody is interrupted while writing.
  show(segments, prompts, current) {
    for (const [segment, row] of this.rows) {
      if (segments.get(segment)?.classId === row.classId) continue;
      row.line.remove();
      this.rows.delete(segment);
    }
    let place = this.body.firstElementChild; // where the next row stands, or comes
    for (const [segment, { classId, pixels }] of segments) {
      const row = this.rows.get(segment) ?? this.row(segment, classId);
      row.line.classList.toggle("current", segment === current);
      row.button.setAttribute("aria-pressed", segment === current);
      const lost = this.vanishing.has(segment);
      row.cells.textContent = (pixels / this.cellPixels).toFixed(1) + (lost ? " – vanishes" : "");
      row.cells.classList.toggle("lost", lost);
      const text = prompts.get(segment) ?? "";
      if (document.activeElement !== row.input && row.input.value !== text) row.input.value = text;
      if (row.line !== place) this.body.insertBefore(row.line, place);
      place = row.line.nextElementSibling;
    }
    byId("no-instances").hidden = segments.size > 0;
    byId("instances").hidden = segments.size === 0;
  }

  row(segment, classId) {
    const known = this.classes.get(classId) ?? { name: "void", colour: [0, 0, 0], prompt: "", own_prompt: true };
    const button = element("button", { type: "button", textContent: segment, title: "Paint on with this one" });
    button.setAttribute("aria-label", `Paint on with number ${segment}, ${known.name}`);
    const name = element("span", { className: "class" }, swatch(known.colour), known.name);
    const cells = element("td");
    const input = element("input", { type: "text", placeholder: known.prompt, disabled: !known.own_prompt });
    input.setAttribute("aria-label", `Prompt of number ${segment}, ${known.name}`);
    if (!known.own_prompt) input.title = "This model reads no prompt for this class.";
    const redraw = element("button", { type: "button", textContent: "Redraw", className: "redraw" });
    redraw.setAttribute("aria-label", `Redraw number ${segment}, ${known.name}, alone`);
    redraw.title = "Draw this one anew in the picture shown; all else of it stays";
    const cellsOfRow = [button, name].map((inside) => element("td", {}, inside));
    const line = element("tr", {}, ...cellsOfRow, cells, element("td", {}, input), element("td", {}, redraw));
    redraw.addEventListener("click", () => this.redrawn(segment));
    button.addEventListener("click", () => this.chosen(segment));
    input.addEventListener("input", () => this.prompted(segment, input.value));
    line.addEventListener("pointerenter", () => this.pointed(segment));
    line.addEventListener("pointerleave", () => this.pointed(null));
    const row = { classId, line, button, cells, input };
    this.rows.set(segment, row);
    return row;
  }

  // What the server found: segments no latent cell is left of.
  lost(segments) {
    this.vanishing = new Set(segments);
  }
}
