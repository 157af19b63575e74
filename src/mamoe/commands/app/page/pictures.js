// The pictures drawn so far, each beside the map it was drawn from.

import { byId, download, element } from "./elements.js";

const MOST = 24;

export class Pictures {
  constructor({ shown, again }) {
    Object.assign(this, { shown, again });
    this.all = []; // the newest first: {number, picture: Blob, map: Blob, layout, record, seconds}
  }

  restore(all) {
    this.all = all;
    this.list();
    if (all.length) this.choose(all[0]);
  }

  add(one) {
    this.all.unshift({ ...one, number: (this.all[0]?.number ?? 0) + 1 });
    this.all.splice(MOST);
    this.list();
    this.choose(this.all[0]);
  }

  choose(one) {
    this.chosen = one;
    for (const item of byId("history").children) item.classList.toggle("shown", item.dataset.number === String(one.number));
    this.shown(one, urlOf(one.picture));
  }

  list() {
    byId("history").replaceChildren(...this.all.map((one) => this.item(one)));
  }

  item(one) {
    const { number, record } = one;
    const words = pictureWords(number, record);
    const pair = element(
      "div", { className: "pair" },
      element("img", { src: urlOf(one.map), alt: `Map of picture ${number}` }),
      element("img", { src: urlOf(one.picture), alt: words }),
    );
    const button = (textContent, act) => {
      const made = element("button", { type: "button", textContent });
      made.setAttribute("aria-label", `${textContent}: picture ${number}`);
      made.addEventListener("click", act);
      return made;
    };
    const item = element(
      "li", {}, pair,
      element("p", { className: "soft", textContent: words + (record.prompt ? `, “${record.prompt}”` : "") }),
      element(
        "div", { className: "bar" },
        button("Show", () => this.choose(one)),
        button("Take up its layout", () => this.again(one)),
        button("Save picture", () => download(one.picture, `picture-${number}.png`)),
      ),
    );
    item.dataset.number = number;
    return item;
  }
}

const urls = new WeakMap();

function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

export function pictureWords(number, record) {
  const part = record.only_instances ? `, number ${record.only_instances} redrawn` : "";
  return `Picture ${number}${part}: seed ${record.seed}, ${record.steps} steps, guidance ${record.guidance_scale}`;
}
