// What is painted: whole numbers, one a pixel, as in the panoptic PNG: segment * 256 + class.

export const segmentOf = (value) => value >>> 8;
export const classOf = (value) => value & 255;
export const valueOf = (segment, classId) => segment * 256 + classId;
export const MOST_SEGMENTS = 0xffff;

export class Layout {
  constructor(width, height, values) {
    this.width = width;
    this.height = height;
    this.values = values; // Uint32Array [height * width], row by row
  }

  static empty(width, height, voidId) {
    return new Layout(width, height, new Uint32Array(width * height).fill(valueOf(0, voidId)));
  }

  // From the bytes R, G, B of the PNG's pixels.
  static ofRgb(width, height, rgb) {
    const values = new Uint32Array(width * height);
    for (let i = 0, j = 0; i < values.length; i++, j += 3) values[i] = (rgb[j] << 16) | (rgb[j + 1] << 8) | rgb[j + 2];
    return new Layout(width, height, values);
  }

  rgb() {
    const bytes = new Uint8Array(this.values.length * 3);
    for (let i = 0, j = 0; i < this.values.length; i++) {
      const value = this.values[i];
      bytes[j++] = value >>> 16;
      bytes[j++] = (value >>> 8) & 255;
      bytes[j++] = value & 255;
    }
    return bytes;
  }

  at(x, y) {
    return this.values[y * this.width + x];
  }

  // segment -> {classId, pixels} of all segments, in order of their ids. Segment 0 is none.
  segments() {
    const pixels = new Map();
    let last = -1, run = 0;
    for (const value of this.values) {
      if (value === last) { run++; continue; }
      if (run) pixels.set(last, (pixels.get(last) ?? 0) + run);
      last = value;
      run = 1;
    }
    if (run) pixels.set(last, (pixels.get(last) ?? 0) + run);
    const found = [...pixels].filter(([value]) => segmentOf(value) > 0).sort(([a], [b]) => a - b);
    return new Map(found.map(([value, count]) => [segmentOf(value), { classId: classOf(value), pixels: count }]));
  }
}
