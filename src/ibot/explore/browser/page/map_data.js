/* What the map asks the server: places, groups, names. */
"use strict";

(() => {
  const POLL = 700, PAGE = 100;

  const pause = (ms, signal) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, ms);
      signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
    });

  /* Labels, words and methods of checkpoint `c`; `ids` of the points, null where they are 0, 1, ..
     While the server looks at the images, or compares them, `progress` is called. */
  async function about(c, signal, progress) {
    for (;;) {
      const told = await ibot.api.get("/api/map/about", { c }, { fresh: true });
      if (told.state === "failed") throw new ibot.Failure("The images could not be placed.", told);
      if (told.state !== "computing")
        return { ...told, ids: Array.isArray(told.ids) ? told.ids : null };
      progress(told);
      await pause(POLL, signal);
    }
  }

  /* {places: Float32Array [2n], method: how they came to be}; `progress({done, total, why})` is
     called while the server still computes. Rejects with an ibot.Failure or when aborted. */
  async function places(c, method, signal, progress) {
    for (;;) {
      const response = await ibot.api.raw("/api/map", { c, method }, { signal });
      if (response.status === 202) {
        const told = await response.json();
        if (told.state === "failed")
          throw new ibot.Failure("This map could not be computed.", told);
        progress(told);
        await pause(POLL, signal);
        continue;
      }
      const buffer = await response.arrayBuffer();
      const usable = buffer.slice(0, buffer.byteLength - (buffer.byteLength % 8));
      return { places: new Float32Array(usable), method: response.headers.get("X-Method") || "" };
    }
  }

  /* Names by image, asked for a hundred at a time. */
  function names() {
    const pages = new Map();
    return async (id) => {
      if (typeof id === "string") return { id, name: "your image", label: null };
      const offset = Math.floor(id / PAGE) * PAGE;
      if (!pages.has(offset)) {
        const asked = ibot.api.get("/api/images", { offset, limit: PAGE });
        pages.set(offset, asked.then(({ images }) => new Map(images.map((one) => [one.id, one]))));
        asked.catch(() => pages.delete(offset));
      }
      const found = await pages.get(offset).catch(() => new Map());
      return found.get(id) || { id, name: `image ${id}`, label: null };
    };
  }

  ibot.mapData = { about, places, names };
})();
