// Making parts of the page. Text is only ever text.

export const byId = (id) => document.getElementById(id);

export function element(kind, properties = {}, ...inside) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...inside);
  return made;
}

export function swatch([r, g, b]) {
  const made = element("span", { className: "swatch" });
  made.style.backgroundColor = `rgb(${r} ${g} ${b})`;
  return made;
}

export function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Run `act` once after things have been quiet for a while.
export function later(act, wait) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  };
}
