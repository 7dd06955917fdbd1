/* A picture that can be pointed at: pixels, a layer above them, marks on patches, keys.

   ibot.stage({label, hovered(patch | null), picked(patch)}) -> {element, canvas, show(image, params),
   mark({hover, picked, same}), borders(values | null), tip(text, patch), busy(yes), at, start} */
"use strict";

(() => {
  const { el, svg, api } = ibot;

  /* Each mark is drawn twice: dark and wide below, so that it is seen on any picture. */
  const marked = (patches, grid, name) => {
    const d = ibot.layers.outline(patches, grid);
    return d ? ["under", name].map((part) => svg("path", { class: part, d })) : [];
  };

  ibot.stage = ({ label, hovered, picked }) => {
    const pixels = el("img", { class: "pixels", alt: "", draggable: "false" });
    const canvas = el("canvas", { class: "layer", width: 1, height: 1, "aria-hidden": "true" });
    const edges = svg("path", { class: "edges" });
    const marks = svg("g");
    const drawing = svg("svg", { class: "marks", preserveAspectRatio: "none", "aria-hidden": "true" },
      edges, marks);
    const tip = el("div", { class: "tip numbers", hidden: true });
    const element = el("div", { class: "stage", tabindex: 0, role: "application",
      "aria-roledescription": "picture of patches" }, pixels, canvas, drawing, tip);
    const stage = { element, canvas, image: null, at: null };

    stage.show = (image, params = {}) => {
      const [h, w] = image.grid;
      stage.image = image;
      element.setAttribute("aria-label",
        `${label}${image.name}: ${h} by ${w} patches, arrow keys go from patch to patch`);
      element.style.aspectRatio = `${image.view[1]} / ${image.view[0]}`;
      element.style.setProperty("--ratio", image.view[1] / image.view[0]);
      drawing.setAttribute("viewBox", `0 0 ${w} ${h}`);
      pixels.alt = image.name;
      const source = api.url(`/api/image/${image.id}/pixels.jpg`, { view: 1, ...params });
      if (source) pixels.src = source;
    };

    stage.borders = (values) =>
      edges.setAttribute("d", values ? ibot.layers.borders(values, stage.image.grid) : "");

    stage.mark = ({ hover = null, picked: chosen = null, same = [] }) => {
      const { grid } = stage.image;
      marks.replaceChildren(
        ...marked(same, grid, "same"),
        ...marked(hover === null || hover === chosen ? [] : [hover], grid, "hover"),
        ...marked(chosen === null ? [] : [chosen], grid, "picked"));
    };

    /* A layer is on its way; the last one stays until then. */
    stage.busy = (yes) => element.setAttribute("aria-busy", String(yes));

    stage.tip = (text, patch) => {
      tip.hidden = !text;
      if (!text) return;
      const [h, w] = stage.image.grid;
      const [row, col] = [Math.floor(patch / w), patch % w];
      tip.textContent = text;
      tip.classList.toggle("below", row < h / 2);
      tip.style.left = `${(100 * (col + 0.5)) / w}%`;
      tip.style.top = `${(100 * (row < h / 2 ? row + 1 : row)) / h}%`;
      tip.style.setProperty("--shift", `${Math.round((-100 * (col + 0.5)) / w)}%`);
    };

    const under = (event) => {
      const box = drawing.getBoundingClientRect();
      const [h, w] = stage.image.grid;
      const x = Math.floor(((event.clientX - box.left) / box.width) * w);
      const y = Math.floor(((event.clientY - box.top) / box.height) * h);
      return x < 0 || y < 0 || x >= w || y >= h ? null : y * w + x;
    };
    const over = (patch) => {
      if (patch === stage.at) return;
      stage.at = patch;
      hovered(patch);
    };
    element.addEventListener("pointermove", (event) => stage.image && over(under(event)));
    element.addEventListener("pointerleave", () => over(null));
    element.addEventListener("click", (event) => {
      const patch = stage.image && under(event);
      if (patch !== null && patch !== undefined) picked(patch);
    });
    element.addEventListener("blur", () => over(null));
    element.addEventListener("keydown", (event) => {
      if (!stage.image || event.ctrlKey || event.metaKey || event.altKey) return;
      const next = moved(event.key, stage.at ?? stage.start ?? null, stage.image.grid);
      if (next === null) return;
      event.preventDefault();
      if (event.key === "Enter" || event.key === " ") picked(next);
      else over(next);
    });
    return stage;
  };

  /* The patch that a key leads to, or null where the key means nothing here. */
  function moved(key, from, [h, w]) {
    const first = from === null;
    const [row, col] = first ? [h >> 1, w >> 1] : [Math.floor(from / w), from % w];
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      Home: [0, -col], End: [0, w - 1 - col], Enter: [0, 0], " ": [0, 0] };
    if (!(key in steps)) return null;
    const [y, x] = first ? [0, 0] : steps[key];
    const limited = (value, size) => Math.min(Math.max(value, 0), size - 1);
    return limited(row + y, h) * w + limited(col + x, w);
  }
})();
