/* How each point looks: its colour, size, shape and ring, and what is drawn over what. */
"use strict";

(() => {
  /* [r, g, b] of a colour in any notation: a canvas writes opaque ones as #rrggbb. */
  function numbers(css) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.fillStyle = css;
    return ibot.mapGroups.rgb(pen.fillStyle);
  }

  /* Colours of the page as [r, g, b], and whether it is dark. */
  const inks = () => {
    const paper = numbers(ibot.ink("--paper")), ink = numbers(ibot.ink("--ink"));
    return { paper, ink, dark: paper[0] + paper[1] + paper[2] < 384 };
  };

  /* In quarters of a CSS pixel, of the radius. Fewer points may be larger. */
  const radius = (n) => (n < 300 ? 20 : n < 3000 ? 15 : n < 10000 ? 12 : 10);

  const RINGED = 200; // chosen points that get a ring each; more would be one blot

  /* Arrays over n points; `hidden` points are those that the legend leaves out. What is not chosen
     steps back while something is. */
  function look({ groups, pressed, selected }, n, { paper, ink }) {
    const colour = new Uint8Array(4 * n), size = new Uint8Array(n), shape = new Uint8Array(n);
    const hidden = new Uint8Array(n), ring = new Uint8Array(n), rank = new Uint8Array(n);
    const usual = radius(n), chosen = selected.reduce((sum, one) => sum + one, 0);
    for (let i = 0; i < n; i++) {
      const group = groups.list[groups.of[i]];
      hidden[i] = pressed.size && !pressed.has(groups.of[i]) ? 1 : 0;
      // A group without a colour of its own still stands out when it was asked for.
      const rgb = pressed.size && !hidden[i] && !group.big ? ink : group.rgb;
      const solid = chosen && !selected[i] ? 70 : group.big || pressed.size ? 255 : 150;
      colour.set(hidden[i] ? [128, 128, 128, 45] : [...rgb, solid], 4 * i);
      size[i] = hidden[i] || !(group.big || pressed.size) ? usual - 3 : usual;
      shape[i] = group.shape;
      if (selected[i] && !hidden[i] && chosen <= RINGED) ring[i] = 1;
      rank[i] = hidden[i] ? 0 : selected[i] ? 3 : group.big ? 2 : 1;
    }
    return { colour, size, shape, ring, hidden, order: ordered(rank), paper, ink };
  }

  /* Numbers of points, those of lower rank first. */
  function ordered(rank) {
    const order = new Uint32Array(rank.length);
    let at = 0;
    for (let level = 0; level < 4; level++)
      for (let i = 0; i < rank.length; i++) if (rank[i] === level) order[at++] = i;
    return order;
  }

  ibot.mapLook = { look, inks };
})();
