/* Points drawn without WebGL: stamps written into the pixels of a 2D canvas. Paths and drawImage
   cost tens of milliseconds for 20,000 points; this costs a few. */
"use strict";

(() => {
  ibot.points = ibot.points || {};

  ibot.points.canvas = function (canvas) {
    const context = canvas.getContext("2d", { alpha: false });
    if (!context) return null;
    let image = null, pixels = null, scene = null, stamps = new Map();

    return {
      kind: "Canvas",
      load(next) {
        scene = next;
        stamps = new Map();
      },
      draw(camera, moved) {
        if (!image || image.width !== canvas.width || image.height !== canvas.height) {
          image = context.createImageData(canvas.width, canvas.height);
          pixels = new Uint32Array(image.data.buffer);
        }
        pixels.fill(packed(scene.paper));
        const { width, height } = image, { order, to, from, size, shape, ring, colour } = scene;
        const scale = camera.scale * camera.ratio, still = 1 - moved;
        const left = width / 2 - camera.x * scale, top = height / 2 + camera.y * scale;
        for (let at = 0; at < order.length; at++) {
          const i = order[at];
          const x = left + (to[2 * i] * moved + from[2 * i] * still) * scale;
          const y = top - (to[2 * i + 1] * moved + from[2 * i + 1] * still) * scale;
          if (x < -20 || y < -20 || x > width + 20 || y > height + 20) continue;
          const key = size[i] | (shape[i] << 8) | (ring[i] << 16);
          let stamp = stamps.get(key);
          if (!stamp) stamps.set(key, (stamp = drawn(size[i], shape[i], ring[i], camera.ratio)));
          press(pixels, width, height, stamp, Math.floor(x), Math.floor(y), colour, 4 * i, scene.ink);
        }
        context.putImageData(image, 0, 0);
      },
      finish() {},
      close() {
        image = pixels = scene = null;
      },
    };
  };

  const packed = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

  // The formulas of the fragment shader in points_webgl.js, once per kind of point.
  function drawn(size, shape, ring, ratio) {
    const radius = size * 0.25 * ratio, half = Math.ceil(1.25 * (radius + ring * 2.5 * ratio) + 1);
    const cells = [];
    for (let y = -half; y <= half; y++)
      for (let x = -half; x <= half; x++) {
        const across = Math.abs(x), up = Math.abs(y);
        const distance =
          shape === 0 ? Math.hypot(x, y) : shape === 1 ? Math.max(across, up) * 1.13 : (across + up) * 0.8;
        const inside = clamp(radius - distance + 0.5), rim = clamp(distance - radius + 1.5);
        const edge = ring * clamp(ratio - Math.abs(distance - radius - 1.2 * ratio) + 0.5);
        if (inside > 0.004 || edge > 0.004) {
          const whole = inside === 1 && rim === 0 && edge === 0;
          cells.push({ x, y, inside, shade: 1 - 0.35 * rim, edge, whole });
        }
      }
    return cells;
  }

  const clamp = (value) => Math.min(1, Math.max(0, value));

  function press(pixels, width, height, stamp, x, y, colour, at, ink) {
    const red = colour[at], green = colour[at + 1], blue = colour[at + 2], solid = colour[at + 3] / 255;
    const opaque = solid === 1, plain = packed([red, green, blue]);
    for (const cell of stamp) {
      const px = x + cell.x, py = y + cell.y;
      if (px < 0 || py < 0 || px >= width || py >= height) continue;
      if (opaque && cell.whole) {
        pixels[py * width + px] = plain; // most pixels of most points
        continue;
      }
      const below = pixels[py * width + px];
      const edge = cell.edge, alpha = cell.inside * solid * (1 - edge);
      const rest = 1 - alpha - edge, lit = alpha * cell.shade;
      const r = red * lit + ink[0] * edge + (below & 255) * rest;
      const g = green * lit + ink[1] * edge + ((below >> 8) & 255) * rest;
      const b = blue * lit + ink[2] * edge + ((below >> 16) & 255) * rest;
      pixels[py * width + px] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    }
  }
})();
