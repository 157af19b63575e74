// What the tools do to a layout's numbers. Pixels are painted or not; nothing is smoothed.

// A stroke of a round brush from one pixel to another.
export function stroke(layout, [x0, y0], [x1, y1], width, value) {
  const radius = width / 2;
  const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
  for (let i = 0; i <= steps; i++) {
    disc(layout, x0 + ((x1 - x0) * i) / steps + 0.5, y0 + ((y1 - y0) * i) / steps + 0.5, radius, value);
  }
}

function disc(layout, cx, cy, radius, value) {
  const top = Math.max(0, Math.floor(cy - radius)), bottom = Math.min(layout.height - 1, Math.ceil(cy + radius));
  for (let y = top; y <= bottom; y++) {
    const dy = y + 0.5 - cy;
    if (Math.abs(dy) > radius) continue;
    const half = Math.sqrt(radius * radius - dy * dy);
    span(layout, y, Math.ceil(cx - half - 0.5), Math.floor(cx + half - 0.5), value);
  }
}

export function rectangle(layout, [x0, y0], [x1, y1], value) {
  const bottom = Math.min(layout.height - 1, Math.max(y0, y1));
  for (let y = Math.max(0, Math.min(y0, y1)); y <= bottom; y++) span(layout, y, Math.min(x0, x1), Math.max(x0, x1), value);
}

// The connected area (four neighbours) of one number becomes another.
export function fill(layout, [x, y], value) {
  const { width, height, values } = layout;
  const old = values[y * width + x];
  if (old === value) return;
  const rows = [[x, y]];
  while (rows.length) {
    const [px, py] = rows.pop(), row = py * width;
    if (values[row + px] !== old) continue;
    let left = px, right = px;
    while (left > 0 && values[row + left - 1] === old) left--;
    while (right < width - 1 && values[row + right + 1] === old) right++;
    span(layout, py, left, right, value);
    for (const ny of [py - 1, py + 1]) {
      if (ny < 0 || ny >= height) continue;
      for (let i = left, inside = false; i <= right; i++) {
        const same = values[ny * width + i] === old;
        if (same && !inside) rows.push([i, ny]);
        inside = same;
      }
    }
  }
}

// The inside of a closed line, by the even-odd rule at pixel centres; and the line itself, one pixel wide.
export function polygon(layout, points, value) {
  for (let y = 0; y < layout.height; y++) {
    const crossings = [];
    points.forEach(([x0, y0], i) => {
      const [x1, y1] = points[(i + 1) % points.length];
      if (y0 <= y !== y1 <= y) crossings.push(x0 + ((y - y0) * (x1 - x0)) / (y1 - y0));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      span(layout, y, Math.ceil(crossings[i]), Math.floor(crossings[i + 1]), value);
    }
  }
  points.forEach((point, i) => stroke(layout, point, points[(i + 1) % points.length], 1, value));
}

function span(layout, y, left, right, value) {
  const row = y * layout.width;
  if (right >= 0 && left < layout.width) {
    layout.values.fill(value, row + Math.max(0, left), row + Math.min(layout.width - 1, right) + 1);
  }
}
