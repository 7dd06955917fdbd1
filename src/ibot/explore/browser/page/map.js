/* The view "map": all images in two dimensions, by the class token of each. */
"use strict";

(() => {
  const { el } = ibot;
  let present = null; // the map that is shown, for keys

  async function open(root, params, signal) {
    ibot.loading(root);
    const c = ibot.state.checkpoint;
    const about = await ibot.mapData.about(c, signal, (told) => waiting(root, told));
    const method = about.methods.some(({ id }) => id === params.method) ? params.method : "pca";
    const first = await ibot.mapData.places(c, "pca", signal, () => {});
    const n = first.places.length / 2;
    if (signal.aborted) return;
    if (!n) return ibot.empty(root, "There are no images to place.",
      "Point `ibot explore` at a folder that holds some: `--data DIR`.");
    const has = ibot.mapGroups.modes.filter((mode) => mode.has(about));
    const map = {
      about, n, c, renderer: params.renderer, method: "pca", signal, pressed: new Set(), selected: new Uint8Array(n),
      colour: (has.find(({ id }) => id === params.colour && known(about, id)) || has[0]).id,
      id: (i) => (about.ids ? about.ids[i] : i), name: ibot.mapData.names(),
    };
    build(root, map, has);
    present = map;
    signal.addEventListener("abort", () => {
      map.plot.close();
      if (present === map) present = null;
    });
    map.notes = about.notes || [];
    place(map, first, false);
    map.recolour();
    map.selection.update();
    map.aim(params);
    map.list.update(map.plot.nearestTo(map.plot.camera.x, map.plot.camera.y));
    map.own.update();
    compared(map, params.colour).catch(() => {}); // left, or the server stopped: the choice stays closed
    if (method !== "pca") choose(map, method, false);
  }

  const bar = ({ done, total }, label) => total > 0
    ? el("progress", { max: total, value: done, "aria-label": label }) : el("progress", { "aria-label": label });

  function waiting(root, told) {
    const text = told.why || "looking at the images";
    ibot.empty(root, "The map is being made.", `${text[0].toUpperCase()}${text.slice(1)} …`);
    root.firstChild.append(bar(told, text));
  }

  /* Outliers are known later than the rest. */
  const known = (about, colour) => colour !== "outlier" || Boolean(about.outlier);
  async function compared(map, wanted) {
    while (!map.about.outlier && map.about.outlier_state) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (map.signal.aborted) return;
      map.about = await ibot.mapData.about(map.c, map.signal, () => {});
    }
    const option = map.colours.querySelector("[value=outlier]");
    if (!option || !option.disabled || !map.about.outlier) return;
    option.disabled = false;
    if (wanted === "outlier") map.setColour(wanted);
  }

  /* ---- layout ---- */

  function build(root, map, has) {
    const host = el("div", { class: "map-plot", tabindex: 0, role: "application", "aria-label":
      `Map of ${ibot.number(map.n)} images. Arrows move it, plus and minus zoom, ` +
      "Shift with arrows walks from image to image; the same as a list follows." });
    const side = el("div", { class: "map-side" });
    map.status = el("p", { class: "map-status quiet", role: "status" });
    map.progress = el("div", { class: "map-progress", hidden: true });
    root.replaceChildren(toolbar(map, has), el("div", { class: "map-body" },
      el("div", { class: "map-main" }, host, map.progress, map.status), side));
    map.plot = ibot.mapPlot(host,
      { id: map.id, moved: () => moved(map), renderer: map.renderer });
    act(map);
    map.card = ibot.mapCard(map, { toggle: map.toggle, close: map.leave });
    map.legend = ibot.mapPanels.legend(map, map.restyle);
    map.selection = ibot.mapPanels.selection(map,
      { clear: map.clear, zoom: () => map.focus(map.chosen()), mark: map.mark });
    map.list = ibot.mapPanels.list(map, { mark: map.mark, show: (i) => map.show(i, true) });
    map.own = ibot.mapOwn(map);
    map.gestures = ibot.mapGestures(map.plot, map);
    host.append(zoomButtons(map), map.card.box);
    side.append(map.own.box, map.legend.box, map.selection.box, map.list.box);
    document.addEventListener("ibot:theme", map.recolour, { signal: map.signal });
  }

  function choice(name, title, options, chosen, changed) {
    return el("fieldset", { class: "choice", "aria-label": title }, options.map(({ id, text, title, why }) =>
      el("label", { title: why || title }, el("input", { type: "radio", name, value: id, checked: id === chosen,
        disabled: Boolean(why), onchange: () => changed(id) }), el("span", {}, text))));
  }

  function toolbar(map, has) {
    const methods = map.about.methods.map(({ id, name, available, why }) =>
      ({ id, text: name.split(" (")[0], title: name, why: available ? "" : why || "not available" }));
    const missing = methods.filter(({ why }) => why);
    map.colours = el("select", { onchange: (event) => map.setColour(event.target.value) },
      ...has.map(({ id, name }) => el("option",
        { value: id, disabled: !known(map.about, id), selected: id === map.colour }, name)));
    map.methods = choice("map-method", "Method", methods, "pca", (id) => choose(map, id, true));
    map.modes = choice("map-mode", "What dragging does",
      [{ id: "move", text: "Move" }, { id: "lasso", text: "Lasso" }, { id: "box", text: "Box" }],
      "move", (id) => map.setMode(id));
    return el("div", { class: "toolbar map-toolbar" }, map.methods,
      el("label", {}, "Colour by", map.colours), map.modes,
      ...missing.map(({ text, why }) => el("span", { class: "quiet" }, `${text}: ${why}`)));
  }

  function zoomButtons(map) {
    const button = (sign, title, run) =>
      el("button", { class: "button icon", title, "aria-label": title, onclick: run }, sign);
    return el("div", { class: "map-zoom" },
      button("+", "Zoom in (+)", () => map.plot.zoom(1.6)),
      button("−", "Zoom out (-)", () => map.plot.zoom(1 / 1.6)),
      button("⤢", "Show all (0)", () => map.plot.fit()));
  }

  /* ---- what can be done ---- */

  function act(map) {
    const { plot } = map, host = plot.host;
    map.restyle = () => plot.setLook(ibot.mapLook.look(map, map.n, map.inks));
    map.recolour = () => {
      map.inks = ibot.mapLook.inks();
      map.groups = ibot.mapGroups.grouped(map.about, map.n, map.colour, map.inks.dark);
      map.restyle();
      map.legend.update();
    };
    map.setColour = (id) => {
      map.colour = map.colours.value = id;
      map.pressed.clear();
      map.recolour();
      ibot.go({ colour: id }, { quiet: true, replace: true });
    };
    map.setMode = (id) => {
      map.gestures.mode = host.dataset.mode = id;
      map.modes.querySelector(`[value=${id}]`).checked = true;
    };
    map.mark = (i) => plot.mark(i);
    /* An image becomes the centre of the list; `focused` when the keyboard is there already. */
    map.show = (i, focused = false) => {
      plot.show(i);
      plot.mark(i);
      map.list.update(i, focused);
    };
    /* Chosen points, those nearest to their middle first. */
    map.chosen = () => {
      const chosen = [];
      let x = 0, y = 0;
      for (let i = 0; i < map.n; i++) if (map.selected[i]) chosen.push(i);
      for (const i of chosen) [x, y] = [x + plot.placeOf(i)[0], y + plot.placeOf(i)[1]];
      const away = (i) => Math.hypot(plot.placeOf(i)[0] - x / chosen.length, plot.placeOf(i)[1] - y / chosen.length);
      return chosen.map((i) => [away(i), i]).sort((a, b) => a[0] - b[0]).map((pair) => pair[1]);
    };
    const changed = () => {
      map.restyle();
      map.selection.update();
      map.card.refresh();
      host.dataset.selected = map.selected.reduce((sum, one) => sum + one, 0);
    };
    map.toggle = (i) => { map.selected[i] ^= 1; changed(); };
    map.around = (found, extend) => {
      if (!extend) map.selected.fill(0);
      for (const i of found) map.selected[i] = 1;
      changed();
    };
    map.clear = () => map.around([], false);
    map.focus = (chosen) => plot.frame(chosen);
    map.leave = () => { map.card.hide(); plot.mark(null); host.focus({ preventScroll: true }); };
    map.hover = (i, ...at) => {
      host.classList.toggle("pointing", i !== null || Boolean(at.length && map.own.hit(...at)));
      if (map.card.box.classList.contains("pinned") && !map.card.box.hidden) return;
      plot.mark(i);
      if (i === null) map.card.hide();
      else map.card.show(i, false);
    };
    map.tap = (i, extend, at) => {
      const own = at && map.own.hit(...at);
      if (own) return ibot.go({ view: "image", id: own.id });
      if (i === null) return map.card.hide(), plot.mark(null);
      if (extend) map.toggle(i);
      plot.mark(i);
      map.card.show(i, true);
      map.list.update(i);
    };
    map.open = (i) => ibot.go({ view: "image", id: map.id(i) });
    map.aim = ({ at, image }) => {
      const [x, y, magnification] = (at || "").split(",").map(Number);
      if (magnification > 0) plot.setCamera(x, y, magnification);
      const i = image === undefined ? -1 : map.about.ids ? map.about.ids.indexOf(Number(image)) : Number(image);
      if (i >= 0 && i < map.n) map.tap(i, false);
    };
  }

  let remembering = 0;
  function moved(map) {
    if (map.card) map.card.move();
    clearTimeout(remembering);
    remembering = setTimeout(() => {
      if (map.signal.aborted) return;
      const { x, y } = map.plot.camera, magnification = map.plot.magnification();
      const at = [x.toFixed(4), y.toFixed(4), magnification.toFixed(2)].join(",");
      ibot.go({ at: map.plot.isFitted() ? null : at }, { quiet: true, replace: true });
    }, 400);
  }

  /* ---- methods ---- */

  function place(map, { places, method: how }, morphing) {
    map.plot.setPlaces(places, { morphing });
    map.status.textContent =
      `${ibot.number(map.n)} images by class token · ${[how || map.method, ...map.notes].join(" · ")} · drawn by ${map.plot.kind}`;
    map.plot.host.dataset.method = map.method;
  }

  async function choose(map, id, remember) {
    map.wanted = id;
    map.methods.querySelector(`[value=${id}]`).checked = true;
    if (remember) ibot.go({ method: id, at: null }, { quiet: true });
    try {
      const told = await ibot.mapData.places(map.c, id, map.signal, (state) => under_way(map, id, state));
      if (map.wanted !== id || map.signal.aborted) return;
      if (told.places.length !== 2 * map.n) throw new ibot.Failure("The set of images has changed.",
        { fix: "Load this page again." });
      map.method = id;
      map.progress.hidden = true;
      place(map, told, true);
      map.plot.fit();
      map.card.hide();
      map.list.update(map.plot.marked ?? map.plot.nearestTo(map.plot.camera.x, map.plot.camera.y));
      map.own.update();
    } catch (error) {
      if (map.signal.aborted || map.wanted !== id) return;
      map.methods.querySelector(`[value=${map.method}]`).checked = true;
      map.progress.hidden = false;
      ibot.failed(map.progress, error, () => choose(map, id, false));
    }
  }

  function under_way(map, id, { done, total, why }) {
    if (map.wanted !== id) return;
    const { name } = map.about.methods.find((method) => method.id === id);
    map.progress.hidden = false;
    map.progress.replaceChildren(
      el("span", {}, `${name}: ${why || "computing"}`),
      bar({ done, total }, name),
      el("span", { class: "quiet" }, "the map shows principal components until then"));
  }

  const key = (name, text, run) => ({ key: name, text, run: (event) => present && run(present, event) });
  ibot.view("map", {
    title: "Map", open,
    dropped: (id) => {
      if (!present) return;
      if (present.method !== "pca") choose(present, "pca", true);
      present.own.update();
    },
    keys: [
      { key: "← → ↑ ↓", text: "move the map (with Shift: walk from image to image)" },
      { key: "Enter Space", text: "open or select the image that is marked" },
      key("+ =", "zoom in", (map) => map.plot.zoom(1.4)),
      key("-", "zoom out", (map) => map.plot.zoom(1 / 1.4)),
      key("0", "show all", (map) => map.plot.fit()),
      key("m", "dragging moves the map", (map) => map.setMode("move")),
      key("l", "dragging draws around points", (map) => map.setMode("lasso")),
      key("b", "dragging draws a box", (map) => map.setMode("box")),
      key("Escape", "let go: image, then selection", (map) =>
        map.plot.marked !== null ? map.leave() : map.clear()),
    ],
  });
})();
