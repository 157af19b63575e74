// The classes to choose from. Pointing at one shows where it is on the canvas.

import { byId, element, swatch } from "./elements.js";

export class Palette {
  constructor(classes, { chosen, pointed }) {
    this.rows = new Map();
    for (const row of classes) {
      const radio = element("input", { type: "radio", name: "class", value: row.id });
      radio.setAttribute("aria-label", row.name);
      const count = element("span", { className: "count" });
      const name = element("span", { className: "name", textContent: row.name });
      const label = element("label", { title: row.thing ? "thing" : "stuff" }, radio, swatch(row.colour), name, count);
      radio.addEventListener("change", () => chosen(row.id));
      label.addEventListener("pointerenter", () => pointed(row.id));
      radio.addEventListener("focus", () => radio.matches(":focus-visible") && pointed(row.id));
      label.addEventListener("pointerleave", () => pointed(null));
      radio.addEventListener("blur", () => pointed(null));
      byId("palette").append(label);
      this.rows.set(row.id, { radio, label, count, name: row.name });
    }
    byId("filter").addEventListener("input", () => this.filter(byId("filter").value));
  }

  choose(classId) {
    const row = this.rows.get(classId);
    if (!row) return;
    row.radio.checked = true;
    row.label.scrollIntoView({ block: "nearest" });
  }

  // How many segments of every class there are.
  counted(segments) {
    const counts = new Map();
    for (const { classId } of segments.values()) counts.set(classId, (counts.get(classId) ?? 0) + 1);
    for (const [id, { count }] of this.rows) count.textContent = counts.has(id) ? `×${counts.get(id)}` : "";
  }

  filter(text) {
    for (const { label, name } of this.rows.values()) label.hidden = !name.toLowerCase().includes(text.toLowerCase());
  }
}
