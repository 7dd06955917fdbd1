/* What the colours of the map mean: points in groups, each with a colour and a shape. */
"use strict";

(() => {
  const SHAPES = ["circle", "square", "diamond"];
  const HUES = ibot.colours.classes.slice(0, 7);
  const COLOURED = HUES.length * SHAPES.length;
  /* Shares of the set, the most outlying first; the rest is what nobody needs to look at. */
  const OUTLYING = [[0.01, "most outlying 1 %"], [0.05, "next 4 %"], [0.2, "next 15 %"],
    [0.5, "next 30 %"], [1, "the other half"]];

  const modes = [
    { id: "label", name: "label", has: (about) => Boolean(about.labels) },
    { id: "word", name: "class word", has: (about) => Boolean(about.class_words) },
    { id: "outlier", name: "outlier", has: (about) => Boolean(about.outlier || about.outlier_state) },
    { id: "none", name: "nothing", has: () => true },
  ];

  /* {of: Uint16Array [n] group of each point, list: [{key, name, count, rgb, shape, big}]} */
  function grouped(about, n, mode, dark) {
    if (mode === "label") {
      const names = about.classes || [];
      const name = (key) => (key < 0 ? "without a label" : String(names[key] ?? key));
      return counted(about.labels, n, name);
    }
    if (mode === "word") return counted(about.class_words, n, (key) => `word ${key}`);
    if (mode === "outlier") return outlying(about.outlier, n, dark);
    const all = { key: "all", name: "all images", count: n, rgb: rgb(HUES[0]), shape: 0, big: true };
    return { of: new Uint16Array(n), list: [all], kinds: 1 };
  }

  /* The largest groups get colour and shape, what is left stays grey. */
  function counted(values, n, name) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    // By size, so that neighbouring colours go to what is seen most; equal sizes by key.
    const keys = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a - b);
    const number = new Map(keys.map((key, at) => [key, at]));
    const of = new Uint16Array(n);
    for (let i = 0; i < n; i++) of[i] = number.get(values[i]);
    const list = keys.map((key, at) => {
      const coloured = at < COLOURED && key !== -1;
      return {
        key, name: name(key), count: counts.get(key), big: coloured,
        rgb: coloured ? rgb(HUES[at % HUES.length]) : [128, 128, 128],
        shape: coloured ? Math.floor(at / HUES.length) : 0,
      };
    });
    return { of, list, kinds: keys.length };
  }

  function outlying(values, n, dark) {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    order.sort((a, b) => values[b] - values[a]);
    const of = new Uint16Array(n), list = [];
    let at = 0;
    OUTLYING.forEach(([share, name], group) => {
      const end = group === OUTLYING.length - 1 ? n : Math.max(Math.round(share * n), Math.min(n, at + 1));
      // What stands out is far from the paper: bright on dark, dark on bright.
      const shade = 1 - group / (OUTLYING.length - 1);
      const colour = ibot.colours.cividis(dark ? 0.15 + 0.85 * shade : 0.88 * (1 - shade));
      list.push({ key: group, name, count: Math.max(end - at, 0), rgb: colour, shape: 0, big: group < 3 });
      for (; at < end; at++) of[order[at]] = group;
    });
    return { of, list: list.filter((group) => group.count), kinds: list.length };
  }

  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  /* The sign of a group, for the legend. */
  function sign({ rgb: [r, g, b], shape }) {
    const fill = `rgb(${r},${g},${b})`;
    const mark = [
      () => ibot.svg("circle", { cx: 7, cy: 7, r: 5.5, fill }),
      () => ibot.svg("rect", { x: 2, y: 2, width: 10, height: 10, fill }),
      () => ibot.svg("path", { d: "M7 0.5L13.5 7L7 13.5L0.5 7Z", fill }),
    ][shape]();
    return ibot.svg("svg", { class: "sign", viewBox: "0 0 14 14", "aria-hidden": "true" }, mark);
  }

  ibot.mapGroups = { modes, grouped, sign, rgb };
})();
