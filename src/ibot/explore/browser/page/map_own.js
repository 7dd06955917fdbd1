/* One's own images on the map: stars where the principal components put them. */
"use strict";

(() => {
  const { el } = ibot;

  ibot.mapOwn = (map) => {
    const box = el("section", { class: "map-panel own", "aria-label": "Your images", hidden: true });
    let placed = [];

    /* Ask where the dropped images lie; a neighbour embedding has no place for new ones. */
    async function update() {
      const ids = ibot.state.own || [];
      box.hidden = !ids.length;
      if (!ids.length) return;
      const method = map.method, placed_by = method === "pca";
      const told = await Promise.all(ids.map((id) => asked(map.c, id, placed_by)));
      if (method !== map.method) return;
      placed = told;
      map.plot.setOwn(placed.filter(({ at }) => at).map(({ at: [x, y] }) => ({ x, y })));
      map.plot.host.dataset.own = placed.filter(({ at }) => at).length;
      box.replaceChildren(el("h2", {}, "Your images"), el("ul", { class: "near-list" }, placed.map(row)));
    }

    async function asked(c, id, placed_by) {
      try {
        const { name } = await ibot.api.get(`/api/image/${id}`, { c });
        const { place = null } = placed_by ? await ibot.api.get("/api/map/place", { c, image: id }) : {};
        return { id, name, at: place };
      } catch (error) {
        return { id, name: "your image", at: null, error };
      }
    }

    function row({ id, name, at, error }) {
      const [x, y] = at || [0, 0], outside = x < 0 || y < 0 || x > 1 || y > 1;
      const place = error ? error.message
        : !at ? "can be placed among principal components only"
          : outside ? "★ at the rim: it lies beyond all images of the set" : "★ on the map";
      return el("li", {}, el("a", { href: ibot.address({ view: "image", id }) },
        ibot.mapPanels.thumb(id, 64), el("span", { class: "name" }, name)),
      el("span", { class: "quiet" }, place),
      at ? el("button", { class: "button quiet small", onclick: () => {
        const beside = map.plot.nearestTo(x, y);
        map.plot.setCamera(...map.plot.placeOf(beside), Math.max(map.plot.magnification(), 6));
        map.show(beside);
      } }, "what is beside it") : "");
    }

    /* The own image drawn at a place of the picture, or null. */
    const hit = (px, py) => placed.find(({ at }) =>
      at && Math.hypot(...map.plot.rim(...at).map((v, axis) => v - [px, py][axis])) < 16) || null;
    return { box, update, hit };
  };
})();
