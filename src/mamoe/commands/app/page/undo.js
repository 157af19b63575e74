// Steps back and forth: of a stroke the part of the numbers that it changed, of a new canvas all that was there.

const MOST_STEPS = 200;

export class Undo {
  constructor() {
    this.past = [];
    this.future = [];
  }

  // A stroke is over: `before` are the numbers from before it. Whether it changed any.
  stroke(layout, before) {
    const box = changedBox(layout, before);
    if (!box) return false;
    this.push({ box, numbers: cut(before, layout.width, box) });
    return true;
  }

  // Another canvas takes the place of `state` (any object).
  whole(state) {
    this.push({ state });
  }

  push(step) {
    this.past.push(step);
    this.past.splice(0, this.past.length - MOST_STEPS);
    this.future = [];
  }

  // Take one step from a list: `swap(state)` puts back another canvas and returns that which was there.
  step(from, to, layout, swap) {
    const step = from.pop();
    if (!step) return false;
    if (step.state) {
      to.push({ state: swap(step.state) });
    } else {
      to.push({ box: step.box, numbers: cut(layout.values, layout.width, step.box) });
      paste(layout.values, layout.width, step.box, step.numbers);
    }
    return true;
  }

  back(layout, swap) {
    return this.step(this.past, this.future, layout, swap);
  }

  forth(layout, swap) {
    return this.step(this.future, this.past, layout, swap);
  }
}

function changedBox({ width, height, values }, before) {
  let left = width, right = -1, top = height, bottom = -1;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (values[i] === before[i]) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  return bottom < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

function cut(values, width, box) {
  const numbers = new Uint32Array(box.width * box.height);
  for (let y = 0; y < box.height; y++) {
    const start = (box.top + y) * width + box.left;
    numbers.set(values.subarray(start, start + box.width), y * box.width);
  }
  return numbers;
}

function paste(values, width, box, numbers) {
  for (let y = 0; y < box.height; y++) {
    values.set(numbers.subarray(y * box.width, (y + 1) * box.width), (box.top + y) * width + box.left);
  }
}
