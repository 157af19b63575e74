// What pointer and keys do to the map, by the tool that is chosen.

import { byId } from "./elements.js";
import { fill, polygon, rectangle, stroke } from "./shapes.js";
import { classOf, segmentOf } from "./layout.js";

export class Tools {
  constructor(page) {
    this.page = page;
    this.before = null; // the numbers from before the stroke at hand
  }

  get name() {
    return document.querySelector("input[name=tool]:checked").value;
  }

  take(name) {
    document.querySelector(`input[name=tool][value=${name}]`).checked = true;
  }

  begin(point, event) {
    const { page } = this, { layout } = page;
    this.acting = event.altKey ? "pick" : this.name;
    if (this.acting === "pick") return page.pick(layout.at(...point));
    this.before = layout.values.slice();
    this.value = this.acting === "eraser" ? page.blank : this.own(page.current);
    this.points = [point];
    this.box = null;
    if (this.acting === "fill") fill(layout, point, this.value);
    if (["brush", "eraser"].includes(this.acting)) this.brush(point, point);
    this.repaint();
  }

  // A number may have come back with another class, by Undo: then the stroke gets one of its own.
  own(value) {
    const there = this.page.segments.get(segmentOf(value));
    if (there && there.classId !== classOf(value)) this.page.choose(this.page.fresh(classOf(value)));
    return this.page.current;
  }

  move(point) {
    if (!this.before) return;
    const last = this.points.at(-1);
    if (point[0] === last[0] && point[1] === last[1]) return;
    if (["brush", "eraser"].includes(this.acting)) this.brush(last, point);
    if (this.acting === "rectangle") this.points.length = 1;
    this.points.push(point);
    this.repaint();
  }

  end() {
    if (!this.before) return;
    const { page, points } = this, { layout } = page;
    if (this.acting === "rectangle") rectangle(layout, points[0], points.at(-1), this.value);
    if (this.acting === "lasso") polygon(layout, points, this.value);
    const { before } = this;
    this.before = null;
    if (!page.undo.stroke(layout, before)) return page.view.draft();
    page.changed();
    if (this.acting !== "eraser") page.choose(this.value);
  }

  brush(from, to) {
    const { layout } = this.page, width = byId("brush").valueAsNumber;
    stroke(layout, from, to, width, this.value);
    // Borders are drawn on the pixel before them, so that one more is to be painted.
    const [xs, ys, far] = [[from[0], to[0]], [from[1], to[1]], width / 2 + 2];
    const box = [Math.min(...xs) - far, Math.min(...ys) - far, Math.max(...xs) + far, Math.max(...ys) + far];
    this.box = this.box ? united(this.box, box) : box;
  }

  // Once a frame, however fast the pointer.
  repaint() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      if (!this.before) return;
      if (["rectangle", "lasso"].includes(this.acting)) this.page.view.draft(this.outline());
      else this.page.view.paint(undefined, this.painted());
    });
  }

  // The box that strokes have changed since it was last asked for; all where it is not known.
  painted() {
    const { box } = this, { width, height } = this.page.layout;
    this.box = null;
    if (!box) return undefined;
    const [left, top, right, bottom] = box.map(Math.round);
    return [Math.max(0, left), Math.max(0, top), Math.min(width, right), Math.min(height, bottom)];
  }

  outline() {
    const [first, last] = [this.points[0], this.points.at(-1)];
    if (this.acting === "lasso") return this.points;
    return [first, [last[0], first[1]], last, [first[0], last[1]]];
  }

  look([x, y], aloud = false) {
    const { page } = this;
    const words = `${x}, ${y}: ${page.describe(page.layout.at(x, y))}`;
    byId("under").textContent = words;
    if (aloud) page.say(words);
  }

  leave() {
    byId("under").textContent = "";
  }
}

const united = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
