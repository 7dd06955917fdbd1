/* Pieces that several views put together: choices, word pictures, tiles of patches, small charts. */
"use strict";

(() => {
  const { el, svg, state } = ibot;
  let groups = 0;

  /* One of several as radio buttons; options: [value, text, why it cannot be chosen]. */
  ibot.choice = (label, options, value, onchange) => {
    const name = `choice-${++groups}`;
    return el("div", { class: "choice", role: "radiogroup", "aria-label": label },
      options.map(([key, text, why]) =>
        el("label", { title: why || null },
          el("input", { type: "radio", name, value: key, checked: key === value,
            disabled: Boolean(why), onchange: () => onchange(key) }),
          el("span", {}, text))));
  };

  ibot.select = (label, options, value, onchange, full = label) =>
    el("label", {}, el("span", { class: "said" }, label),
      el("select", { value, "aria-label": full, onchange: (e) => onchange(e.target.value) },
        ...options.map(([key, text]) => el("option", { value: key }, text))));

  ibot.check = (text, checked, onchange) =>
    el("label", {}, el("input", { type: "checkbox", checked,
      onchange: (event) => onchange(event.target.checked) }), el("span", {}, text));

  /* Draws anew, and gives the focus back to what had it, found by its label; once more when a
     promise that `draw` returns is kept. */
  ibot.keepFocus = (root, draw) => {
    const named = (element) =>
      element.closest("[role=radiogroup]") || element.closest("label") || element;
    const label = (element) => named(element).getAttribute("aria-label") || named(element).textContent;
    const held = root.contains(document.activeElement) ? label(document.activeElement) : null;
    const controls = "input:not([type=radio]), input:checked, select, button, a";
    const again = () => {
      const same = [...root.querySelectorAll(controls)].find((element) => label(element) === held);
      if (same) same.focus({ preventScroll: true });
    };
    const drawn = draw();
    if (held === null || root === document.activeElement) return;
    again();
    if (drawn && drawn.then) drawn.then(again);
  };

  const c = () => state.checkpoint;
  const kindParam = (kind) => (kind === "class" ? { kind } : {});

  ibot.mosaic = (word, { kind = "patch", count = 9, px = 64, checkpoint = c(), side = 5, then } = {}) => {
    const across = Math.ceil(Math.sqrt(count));
    return ibot.picture(`/api/mosaic/${word}.webp`,
      { c: checkpoint, count, px, side, then, ...kindParam(kind) },
      { alt: `Places of word ${word}`, class: "square sheet", width: across * px, height: across * px });
  };

  /* Tag and address of what leads to a word; no link where an export lacks it. */
  const wordPlace = (word, kind, props = {}) =>
    ibot.api.has(`/api/word/${word}`, kindParam(kind))
      ? ["a", { ...props, href: ibot.address({ view: "word", id: word, ...kindParam(kind) }) }]
      : ["span", props];

  ibot.wordLink = (word, kind = "patch", text = `Word ${word}`) =>
    el(...wordPlace(word, kind), text);

  /* The image before or after one, or null at the ends and for own images. */
  ibot.imageBeside = (id, by) => {
    const { listed, about } = state; // an export lists its few images
    const at = listed ? listed.findIndex((one) => String(one) === String(id)) : Number(id);
    const next = at + by;
    if (Number.isNaN(at) || at < 0 || next < 0 || next >= (listed || { length: about.images.count }).length)
      return null;
    return listed ? listed[next] : next;
  };

  ibot.swatch = (word) =>
    el("span", { class: "swatch", style: { background: ibot.colours.word(word) } });

  /* A word as a small card: its places, its number, and one line about it. */
  ibot.wordTile = (word, line, { kind = "patch" } = {}) =>
    el(...wordPlace(word, kind, { class: "tile", title: `Word ${word}` }),
    ibot.mosaic(word, { kind, count: 4, px: 48, side: 3 }),
    el("span", {}, line));

  /* A patch in its surroundings, linked to its image. */
  ibot.patchTile = (found, line) => {
    const { image, name, patch, row, col } = found;
    const place = patch === null || patch === undefined ? {} : { patch };
    const title = row === undefined || row === null ? name : `${name}\nrow ${row + 1}, column ${col + 1}`;
    const source = "patch" in place
      ? ["/api/window.jpg", { image, patch, c: c(), side: 5, px: 96 }]
      : [`/api/image/${image}/thumb.jpg`, { px: 128 }];
    const there = ibot.api.has(`/api/image/${image}`);
    return el(there ? "a" : "span", { class: "tile", title,
      href: there ? ibot.address({ view: "image", id: image, ...place }) : null },
    ibot.picture(...source, { alt: title, class: "square" }),
    line && el("span", { class: "numbers" }, line));
  };

  /* Uses over checkpoints as a line of 5 em. */
  ibot.sparkline = (values, label) => {
    const top = Math.max(...values, 1);
    const last = Math.max(values.length - 1, 1);
    const points = values.map((v, i) => [(100 * i) / last, 19 - (18 * v) / top]);
    const line = points.map((p) => p.map((x) => x.toFixed(1)).join(",")).join(" ");
    return svg("svg", { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none",
      role: "img", "aria-label": label },
    svg("polygon", { points: `0,20 ${line} 100,20` }), svg("polyline", { points: line }));
  };

  /* Shares as bars: [text, share of the longest, figure, address]. */
  ibot.bars = (rows) =>
    el("ul", { class: "bars" },
      rows.map(([text, share, figure]) =>
        el("li", {}, el("span", { class: "bar", style: { width: `${100 * share}%` } }),
          el("bdi", {}, text), el("span", { class: "numbers" }, figure))));

  ibot.facts = (pairs) =>
    el("dl", { class: "facts" },
      pairs.filter(Boolean).map(([term, value]) =>
        el("div", {}, el("dt", {}, term), el("dd", { class: "numbers" }, value))));

  /* "since step 78", "gone after step 234": marks of birth and death, or nothing. */
  ibot.lifeMarks = ({ born, died }) => {
    const name = (id) => state.about.checkpoints[id] && state.about.checkpoints[id].name;
    const marks = [];
    if (born && name(born)) marks.push(el("span", { class: "mark born" }, `since ${name(born)}`));
    if (died && name(died)) marks.push(el("span", { class: "mark died" }, `gone at ${name(died)}`));
    return marks;
  };

  /* A field that finds images by name; `chosen(id)`. Arrow keys and Enter choose from the list. */
  ibot.imageSearch = (label, chosen) => {
    const id = `found-${++groups}`;
    const list = el("ul", { class: "found", id, role: "listbox", "aria-label": "Images", hidden: true });
    const field = el("input", { type: "search", placeholder: "Find image", "aria-label": label,
      role: "combobox", "aria-expanded": "false", "aria-controls": id, autocomplete: "off",
      spellcheck: "false" });
    let at = -1;
    let asked = 0;

    const open = (yes) => {
      list.hidden = !yes;
      field.setAttribute("aria-expanded", String(yes));
    };
    const pick = (image) => {
      open(false);
      field.value = "";
      chosen(image);
    };
    const show = (images) => {
      at = -1;
      list.replaceChildren(...images.map((image) =>
        el("li", { role: "option", "data-id": image.id, onmousedown: (event) => event.preventDefault(),
          onclick: () => pick(image.id) },
        ibot.picture(`/api/image/${image.id}/thumb.jpg`, { px: 64 }), el("bdi", {}, image.name))));
      if (!images.length) list.append(el("li", { class: "quiet" }, "No image has this in its name."));
      open(true);
    };
    const find = async () => {
      const query = field.value.trim();
      const mine = ++asked;
      if (!query) return open(false);
      await new Promise((resolve) => setTimeout(resolve, 120)); // until typing pauses
      if (mine !== asked) return;
      try {
        const { images } = await ibot.api.get("/api/search", { q: query });
        if (mine === asked) show(images);
      } catch (error) {
        ibot.notice(error.message, error.fix);
      }
    };
    const move = (by) => {
      const options = [...list.querySelectorAll("[role=option]")];
      if (!options.length) return;
      at = (at + by + options.length) % options.length;
      options.forEach((option, i) => option.setAttribute("aria-selected", String(i === at)));
      options[at].scrollIntoView({ block: "nearest" });
    };
    const choose = () => {
      const options = list.querySelectorAll("[role=option]");
      const option = options[Math.max(at, 0)];
      if (!list.hidden && option) option.click();
    };
    const keys = { ArrowDown: () => move(1), ArrowUp: () => move(-1), Enter: choose,
      Escape: () => open(false) };
    field.addEventListener("input", find);
    field.addEventListener("blur", () => open(false));
    field.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      keys[event.key]();
    });
    return el("div", { class: "search" }, field, list);
  };

  /* Calls `more` when `element` comes near the window, until the view is left. */
  ibot.whenNear = (element, more, signal) => {
    const watch = new IntersectionObserver(
      (entries) => entries.some((entry) => entry.isIntersecting) && more(),
      { rootMargin: "800px" });
    watch.observe(element);
    signal.addEventListener("abort", () => watch.disconnect());
    return watch;
  };

  /* Arrow keys between the links of a grid, as they lie on the screen. */
  ibot.arrows = (grid) =>
    grid.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 0, ArrowUp: 0 };
      const items = [...grid.querySelectorAll("a")];
      const here = items.indexOf(document.activeElement);
      if (!(event.key in steps) || here < 0) return;
      const row = items.filter((item) => item.offsetTop === items[0].offsetTop).length;
      const by = { ArrowDown: row, ArrowUp: -row }[event.key] || steps[event.key];
      const next = items[here + by];
      event.preventDefault();
      if (next) next.focus();
    });
})();
