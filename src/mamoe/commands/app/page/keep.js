// The work of every tab, kept in the browser: it survives a reload, a closed tab and a server that is started again.

const MOST_KEPT = 6; // of tabs that are closed
const TAB = "mamoe-tab";
const WORK = "work", PICTURES = "pictures"; // apart, since pictures are many bytes and change seldom

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("mamoe", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(WORK, { keyPath: "tab" });
      request.result.createObjectStore(PICTURES, { keyPath: "tab" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function within(name, mode, act) {
  const base = await opened();
  try {
    const transaction = base.transaction(name, mode);
    const request = act(transaction.objectStore(name));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    base.close();
  }
}

// The number of this tab. A tab that was duplicated brings that of the other, and gets its own.
export function tabOf() {
  const same = performance.getEntriesByType("navigation")[0]?.type === "reload";
  const before = sessionStorage.getItem(TAB);
  const tab = same && before ? before : crypto.randomUUID?.() ?? String(Math.random());
  sessionStorage.setItem(TAB, tab);
  return { tab, before };
}

export const put = (work) => within(WORK, "readwrite", (store) => store.put(work));
export const get = (tab) => within(WORK, "readonly", (store) => store.get(tab));
export const putPictures = (tab, all) => within(PICTURES, "readwrite", (store) => store.put({ tab, all }));
export const pictures = async (tab) => (await within(PICTURES, "readonly", (store) => store.get(tab)))?.all ?? [];

// What other tabs left, the newest first; the oldest are let go.
export async function earlier(tab) {
  const others = (await within(WORK, "readonly", (store) => store.getAll())).filter((work) => work.tab !== tab);
  others.sort((a, b) => b.at - a.at);
  for (const old of others.splice(MOST_KEPT)) {
    for (const name of [WORK, PICTURES]) await within(name, "readwrite", (store) => store.delete(old.tab));
  }
  return others;
}
