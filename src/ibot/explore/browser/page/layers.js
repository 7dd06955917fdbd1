/* What can lie over a picture: map of words, attention, colours of principal components.
   Each painter fills a canvas of the size of its grid; the style sheet enlarges it. */
"use strict";

(() => {
  const { bytes, colours } = ibot;

  /* Pixels from a function of the cell: [r, g, b, alpha], each 0..255. */
  function fill(canvas, [h, w], cell) {
    canvas.width = w;
    canvas.height = h;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(w, h);
    for (let i = 0; i < h * w; i++) pixels.data.set(cell(i), 4 * i);
    context.putImageData(pixels, 0, 0);
  }

  function clear(canvas) {
    canvas.width = canvas.height = 1;
  }

  /* Any CSS colour as numbers, by letting the browser draw it. */
  const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgbOf = new Map();
  function rgb(colour) {
    if (!rgbOf.has(colour)) {
      scratch.fillStyle = colour;
      scratch.fillRect(0, 0, 1, 1);
      rgbOf.set(colour, [...scratch.getImageData(0, 0, 1, 1).data].slice(0, 3));
    }
    return rgbOf.get(colour);
  }

  const words = (canvas, image) =>
    fill(canvas, image.grid, (i) => [...rgb(colours.word(image.words[i])), 255]);

  /* Attention answers carry text; unpacked once per answer. */
  const unpacked = new WeakMap();
  function unpack(data) {
    if (!unpacked.has(data))
      unpacked.set(data, { maps: bytes(data.maps), mean: bytes(data.mean), mass: data.mass.map(bytes) });
    return unpacked.get(data);
  }

  /* head: "mean" or a number; mask: only the patches that hold 60 % of the mass. With the mean,
     the mask shows all heads, each patch in the colour of the head that looks at it most. */
  function attention(canvas, data, { head, mask }) {
    const { maps, mean, mass } = unpack(data);
    const [h, w] = data.grid;
    const size = h * w;
    if (head === "mean" && mask) return heads(canvas, data);
    const values = head === "mean" ? mean : maps.subarray(head * size, (head + 1) * size);
    const inside = mask ? mass[head] : null;
    fill(canvas, data.grid, (i) =>
      inside && !inside[i] ? [0, 0, 0, 190] : inside ? [0, 0, 0, 0]
        : [...colours.cividis(values[i] / 255), 255]);
  }

  function heads(canvas, data) {
    const { maps, mass } = unpack(data);
    const size = data.grid[0] * data.grid[1];
    fill(canvas, data.grid, (i) => {
      let best = -1;
      let most = -1;
      for (let head = 0; head < data.heads; head++)
        if (mass[head][i] && maps[head * size + i] > most) {
          best = head;
          most = maps[head * size + i];
        }
      return best < 0 ? [0, 0, 0, 190] : [...rgb(headColour(best)), 255];
    });
  }
  const headColour = (head) => colours.classes[head % colours.classes.length];

  /* Three components of the foreground as red, green and blue; the background is dimmed. */
  function features(canvas, data) {
    const values = bytes(data.rgb);
    const inside = bytes(data.foreground);
    fill(canvas, data.grid, (i) =>
      inside[i] ? [...values.subarray(3 * i, 3 * i + 3), 255] : [0, 0, 0, 190]);
  }

  /* Lines between neighbouring patches of different words, as an SVG path in units of patches. */
  function borders(values, [h, w]) {
    const parts = [];
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        const here = values[y * w + x];
        if (x + 1 < w && values[y * w + x + 1] !== here) parts.push(`M${x + 1} ${y}v1`);
        if (y + 1 < h && values[(y + 1) * w + x] !== here) parts.push(`M${x} ${y + 1}h1`);
      }
    return parts.join("");
  }

  /* The outline of a set of patches, as an SVG path. */
  function outline(patches, [h, w]) {
    const inside = new Set(patches);
    const has = (y, x) => y >= 0 && x >= 0 && y < h && x < w && inside.has(y * w + x);
    return patches.map((patch) => {
      const [y, x] = [Math.floor(patch / w), patch % w];
      return (has(y - 1, x) ? "" : `M${x} ${y}h1`) + (has(y + 1, x) ? "" : `M${x} ${y + 1}h1`) +
        (has(y, x - 1) ? "" : `M${x} ${y}v1`) + (has(y, x + 1) ? "" : `M${x + 1} ${y}v1`);
    }).join("");
  }

  ibot.layers = { words, attention, features, borders, outline, clear, headColour };
})();
