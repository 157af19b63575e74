// The canvas: numbers become colours, and pointer and keys become strokes over pixels.

import { classOf, segmentOf } from "./layout.js";

const ZOOMS = [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16];

export class View {
  // `tool` has begin(point, event), move(point), end(), leave() and look(point); points are [x, y] in pixels.
  constructor({ map, above, stage, scroll }, colours, voidId, cell, tool) {
    Object.assign(this, { map, above, stage, scroll, voidId, cell, tool });
    this.colours = Uint32Array.from({ length: 256 }, (_, id) => packed(colours.get(id) ?? [0, 0, 0]));
    this.zoom = 1;
    this.cursor = null; // of the keyboard
    this.marked = null; // a test of values that are to be seen, the others are dimmed
    this.down = false;
    this.listen();
  }

  show(layout) {
    this.layout = layout;
    for (const canvas of [this.map, this.above]) Object.assign(canvas, { width: layout.width, height: layout.height });
    this.cursor = null;
    this.paint();
  }

  // Pixels in the colours of their classes, the borders of segments darker, those of the current one light; all of
  // them, or those in a box [left, top, right, bottom], right and bottom not included.
  paint(current = this.current, box = [0, 0, this.layout.width, this.layout.height]) {
    this.current = current;
    const { width, height, values } = this.layout, [left, top, right, bottom] = box;
    if (right <= left || bottom <= top) return;
    const picture = new ImageData(right - left, bottom - top), pixels = new Uint32Array(picture.data.buffer);
    for (let y = top, at = 0; y < bottom; y++) {
      for (let x = left, i = y * width + left; x < right; x++, i++, at++) {
        const value = values[i];
        if (classOf(value) === this.voidId && segmentOf(value) === 0) {
          pixels[at] = ((x >> 3) + (y >> 3)) & 1 ? 0xff3a3632 : 0xff443f3b;
          continue;
        }
        const colour = this.colours[classOf(value)];
        const border = (x + 1 < width && values[i + 1] !== value) || (y + 1 < height && values[i + width] !== value);
        pixels[at] = !border ? colour : value === current && segmentOf(value) ? 0xffffffff : darker(colour);
      }
    }
    this.map.getContext("2d").putImageData(picture, left, top);
    this.draft();
  }

  // What lies above the map: what is not marked is dimmed, the shape that a tool would paint, the keyboard's cursor.
  draft(shape) {
    const { width, height, values } = this.layout, pen = this.above.getContext("2d");
    pen.clearRect(0, 0, width, height);
    if (this.marked) {
      const picture = new ImageData(width, height), pixels = new Uint32Array(picture.data.buffer);
      for (let i = 0; i < values.length; i++) if (!this.marked(values[i])) pixels[i] = 0xb8000000;
      pen.putImageData(picture, 0, 0);
    }
    pen.lineWidth = Math.max(1, 1.5 / this.zoom);
    if (shape?.length) {
      for (const [colour, dash] of [["#000", []], ["#fff", [4 / this.zoom, 4 / this.zoom]]]) {
        pen.strokeStyle = colour;
        pen.setLineDash(dash);
        pen.beginPath();
        shape.forEach(([x, y], i) => (i ? pen.lineTo(x + 0.5, y + 0.5) : pen.moveTo(x + 0.5, y + 0.5)));
        pen.closePath();
        pen.stroke();
      }
    }
    if (this.cursor) {
      const [x, y] = this.cursor, arm = Math.max(3, 9 / this.zoom);
      pen.setLineDash([]);
      for (const [colour, wide] of [["#000", 3], ["#fff", 1.2]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = wide / this.zoom;
        pen.beginPath();
        pen.moveTo(x + 0.5 - arm, y + 0.5);
        pen.lineTo(x + 0.5 + arm, y + 0.5);
        pen.moveTo(x + 0.5, y + 0.5 - arm);
        pen.lineTo(x + 0.5, y + 0.5 + arm);
        pen.stroke();
      }
    }
  }

  mark(test) {
    this.marked = test;
    this.draft();
  }

  setZoom(zoom) {
    this.zoom = zoom;
    this.stage.style.width = `${this.layout.width * zoom}px`;
    this.stage.style.height = `${this.layout.height * zoom}px`;
    this.draft();
    this.zoomed?.(zoom);
  }

  zoomBy(direction) {
    const next = direction > 0 ? ZOOMS.find((z) => z > this.zoom) : ZOOMS.findLast((z) => z < this.zoom);
    this.setZoom(next ?? this.zoom);
  }

  fit() {
    const { width, height } = this.layout, room = this.scroll.clientWidth - 8;
    const most = Math.min(room / width, (window.innerHeight * 0.6) / height);
    this.setZoom(Math.max(ZOOMS[0], Math.floor(most * 8) / 8));
  }

  listen() {
    const { map } = this;
    map.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.down) return;
      map.setPointerCapture(event.pointerId);
      this.cursor = null;
      this.down = true;
      this.tool.begin(this.pointOf(event), event);
    });
    map.addEventListener("pointermove", (event) => {
      const all = event.getCoalescedEvents?.() ?? [];
      if (this.down) for (const one of all.length ? all : [event]) this.tool.move(this.pointOf(one));
      this.tool.look(this.pointOf(event));
    });
    for (const kind of ["pointerup", "pointercancel"]) map.addEventListener(kind, () => this.lift());
    map.addEventListener("pointerleave", () => this.tool.leave());
    map.addEventListener("keydown", (event) => this.key(event));
    map.addEventListener("blur", () => {
      this.lift();
      this.cursor = null;
      this.draft();
    });
    this.scroll.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoomBy(-event.deltaY);
    }, { passive: false });
  }

  lift() {
    if (!this.down) return;
    this.down = false;
    this.tool.end();
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const { width, height } = this.layout;
    const [x, y] = this.cursor ?? [width >> 1, height >> 1];
    const far = event.shiftKey ? 1 : this.cell;
    this.cursor = move
      ? [clamp(x + move[0] * far, width), clamp(y + move[1] * far, height)]
      : [x, y];
    if (event.key === " " && !event.repeat) {
      if (this.down) {
        this.lift();
      } else {
        this.down = true;
        this.tool.begin(this.cursor, event);
      }
    } else if (this.down) {
      this.tool.move(this.cursor);
    }
    this.tool.look(this.cursor, true);
    if (!this.down) this.draft();
  }

  pointOf(event) {
    const box = this.map.getBoundingClientRect(), { width, height } = this.layout;
    return [
      clamp(Math.floor(((event.clientX - box.left) / box.width) * width), width),
      clamp(Math.floor(((event.clientY - box.top) / box.height) * height), height),
    ];
  }
}

const clamp = (at, end) => Math.min(end - 1, Math.max(0, at));
const packed = ([r, g, b]) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
const darker = (colour) => (0xff000000 | ((colour >>> 1) & 0x7f7f7f)) >>> 0;
