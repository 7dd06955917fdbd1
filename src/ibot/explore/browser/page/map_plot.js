/* The picture of the map: a camera over points, small pictures where there is room, and marks. */
"use strict";

(() => {
  const DEEPEST = 400; // times the scale at which everything is seen
  const MORPH = 800; // milliseconds from one map to another
  const SETTLED = 120; // milliseconds without motion until small pictures are fetched
  const RIM = 8; // pixels between a picture and the edge, with the picture's own rim
  const SPARSE = 44; // pixels of room, squared, that a point must have to become a picture

  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const eased = (t) => (t < 0.5 ? 4 * t ** 3 : 1 - (2 - 2 * t) ** 3 / 2);

  /* `host` is filled. told: {id(i), moved(), renderer}, `moved` after each change of the camera;
     renderer "webgl" or "canvas" for one of them, else whichever is quick here. */
  ibot.mapPlot = (host, told) => {
    let base = ibot.el("canvas", { class: "map-points", "aria-hidden": "true" });
    const over = ibot.el("canvas", { class: "map-over", "aria-hidden": "true" });
    host.append(base, over);
    const pen = over.getContext("2d");
    const camera = { x: 0.5, y: 0.5, scale: 1, width: 1, height: 1, ratio: 1 };
    const plot = { host, camera, kind: "", marked: null, outline: null };
    let renderer = null, places = null, from = null, grid = null, look = null, own = [];
    let moved = 1, morph = 0, asked = 0, settling = 0, side = 40, closed = false;
    let bounds = [0, 0, 1, 1];
    const thumbs = ibot.mapThumbs(() => redraw());

    /* ---- what draws the points ---- */

    function start(webgl) {
      if (renderer) renderer.close();
      renderer = webgl ? ibot.points.webgl(base, () => start(false), told.renderer === "webgl") : null;
      if (!renderer) {
        base = swapped(base); // a canvas keeps the kind of its first context for good
        renderer = ibot.points.canvas(base);
      }
      plot.kind = host.dataset.renderer = renderer.kind;
      if (look) load();
    }

    function load() {
      renderer.load({ ...look, to: places, from });
      redraw();
    }

    /* ---- places and looks ---- */

    plot.setPlaces = (next, { morphing = false } = {}) => {
      const first = !places;
      from = morphing && places && places.length === next.length && !still() ? now() : next;
      places = next;
      grid = ibot.pointGrid(places);
      moved = from === next ? 1 : 0;
      morph = performance.now();
      bounds = extent(places);
      if (first) plot.fit();
      if (look) load();
    };
    function now() {
      if (moved >= 1) return places;
      const t = eased(moved);
      return places.map((value, at) => value * t + from[at] * (1 - t));
    }
    plot.setLook = (next) => {
      look = next;
      if (places) load();
    };
    plot.setOwn = (next) => { own = next; redraw(); };
    plot.mark = (i) => { plot.marked = i; redraw(); };
    plot.setOutline = (path) => { plot.outline = path; redraw(); };

    /* ---- the camera ---- */

    const keep = (i) => !look || !look.hidden[i];
    plot.toScreen = (x, y) => [
      camera.width / 2 + (x - camera.x) * camera.scale,
      camera.height / 2 - (y - camera.y) * camera.scale,
    ];
    plot.toPlace = (px, py) => [
      camera.x + (px - camera.width / 2) / camera.scale,
      camera.y - (py - camera.height / 2) / camera.scale,
    ];
    /* Room at the rim, so that all of a picture is seen there. */
    const margin = (all) => {
      const pictures = places && places.length / 2 <= room();
      return Math.min(Math.max(0.04 * all, pictures ? sideOf(places.length / 2) / 2 + RIM : 0), all / 4);
    };
    const sideOf = (count) => {
      const free = Math.sqrt((camera.width * camera.height) / count);
      return Math.round(Math.min(Math.max(0.5 * free, 28), 72));
    };
    function fitted() {
      const [x0, y0, x1, y1] = bounds;
      const [width, height] = [camera.width, camera.height].map((all) => all - 2 * margin(all));
      return Math.min(width / (x1 - x0 || 1), height / (y1 - y0 || 1));
    }
    const whole = () => {
      const [x0, y0, x1, y1] = bounds;
      return [(x0 + x1) / 2, (y0 + y1) / 2, fitted()];
    };
    plot.fit = () => set(...whole());
    /* Whether all is shown, as at the beginning. */
    plot.isFitted = () =>
      whole().every((value, at) => Math.abs([camera.x, camera.y, camera.scale][at] / value - 1) < 1e-3);
    plot.magnification = () => camera.scale / fitted();
    plot.pan = (dx, dy) => set(camera.x - dx / camera.scale, camera.y + dy / camera.scale, camera.scale);
    plot.zoom = (factor, px = camera.width / 2, py = camera.height / 2) => {
      const [x, y] = plot.toPlace(px, py), least = 0.5 * fitted();
      const scale = Math.min(Math.max(camera.scale * factor, least), DEEPEST * fitted());
      // The place under the pointer stays under it.
      set(x - (px - camera.width / 2) / scale, y + (py - camera.height / 2) / scale, scale);
    };
    plot.frame = (points) => {
      const chosen = extent(points.flatMap(plot.placeOf)), [x0, y0, x1, y1] = chosen;
      const room = Math.min(camera.width / (x1 - x0 || 1e-9), camera.height / (y1 - y0 || 1e-9));
      set((x0 + x1) / 2, (y0 + y1) / 2, Math.min(0.8 * room, DEEPEST * fitted()));
    };
    plot.setCamera = (x, y, magnification) => set(x, y, magnification * fitted());
    plot.show = (i) => {
      const [px, py] = plot.toScreen(places[2 * i], places[2 * i + 1]);
      const edge = 30, inside = px > edge && py > edge && px < camera.width - edge && py < camera.height - edge;
      if (!inside) set(places[2 * i], places[2 * i + 1], camera.scale);
    };
    function set(x, y, scale) {
      const [x0, y0, x1, y1] = bounds;
      camera.x = Math.min(Math.max(x, x0), x1); // nobody gets lost beyond the points
      camera.y = Math.min(Math.max(y, y0), y1);
      camera.scale = scale;
      settle();
      redraw();
      told.moved();
    }
    plot.resize = () => {
      const { width, height } = host.getBoundingClientRect();
      if (!width || !height) return;
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      const first = camera.width === 1 || plot.isFitted();
      const magnification = first ? 1 : plot.magnification();
      Object.assign(camera, { width, height, ratio });
      for (const canvas of [base, over]) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      if (first) plot.fit();
      else set(camera.x, camera.y, magnification * fitted());
    };

    /* ---- picking ---- */

    plot.at = (px, py, reach) =>
      grid.nearest(...plot.toPlace(px, py), 1, keep, reach / camera.scale)[0] ?? null;
    plot.inside = (path) => grid.inside(path.map(([px, py]) => plot.toPlace(px, py)), keep);
    plot.around = (i, k) =>
      grid.nearest(places[2 * i], places[2 * i + 1], k + 1, keep).filter((j) => j !== i).slice(0, k);
    /* The nearest point in a direction (dx, dy; y up), within 45 degrees of it. */
    plot.towards = (i, dx, dy) => {
      const x = places[2 * i], y = places[2 * i + 1];
      const ahead = (j) => {
        const ax = places[2 * j] - x, ay = places[2 * j + 1] - y;
        const along = ax * dx + ay * dy;
        return j !== i && keep(j) && along > 0 && along >= Math.abs(ax * dy - ay * dx);
      };
      return grid.nearest(x, y, 1, ahead)[0] ?? null;
    };
    /* Points in the picture, or null when they are more than `most`. */
    plot.visible = (most) => {
      const [x0, y1] = plot.toPlace(0, 0), [x1, y0] = plot.toPlace(camera.width, camera.height);
      return grid.within(x0, y0, x1, y1, keep, most);
    };
    plot.placeOf = (i) => [places[2 * i], places[2 * i + 1]];
    plot.nearestTo = (x, y) => grid.nearest(x, y, 1, keep)[0] ?? 0;

    /* ---- drawing ---- */

    function redraw() {
      if (!asked && !closed) asked = requestAnimationFrame(draw);
    }
    plot.redraw = redraw;

    function draw(time) {
      asked = 0;
      if (!places || !look || closed) return;
      if (moved < 1) {
        moved = Math.min(1, Math.max(0, (time - morph) / MORPH));
        redraw();
      }
      renderer.draw(camera, eased(moved));
      pen.setTransform(camera.ratio, 0, 0, camera.ratio, 0, 0);
      pen.clearRect(0, 0, camera.width, camera.height);
      if (moved === 1) drawThumbs();
      drawMarks();
    }
    const room = () => (camera.width * camera.height) / SPARSE ** 2;
    function settle() {
      clearTimeout(settling);
      settling = setTimeout(() => {
        if (closed || !grid) return;
        const shown = plot.visible(room());
        if (!shown || !shown.length) return;
        side = sideOf(shown.length);
        thumbs.want(shown.map(told.id));
        redraw();
      }, SETTLED);
    }

    function drawThumbs() {
      let drawn = 0;
      const shown = plot.visible(room()) || [];
      // What is pointed at lies above the others.
      const above = shown.includes(plot.marked) ? [plot.marked] : [];
      for (const i of [...shown, ...above]) {
        const thumb = thumbs.get(told.id(i));
        if (!thumb) continue;
        const [px, py] = plot.toScreen(places[2 * i], places[2 * i + 1]);
        const left = Math.round(px - side / 2), top = Math.round(py - side / 2);
        const [r, g, b] = look.colour.subarray(4 * i, 4 * i + 3);
        pen.fillStyle = look.ring[i] ? ibot.mapInk(look.ink) : `rgb(${r},${g},${b})`;
        const rim = look.ring[i] ? 4 : 2;
        pen.fillRect(left - rim, top - rim, side + 2 * rim, side + 2 * rim);
        pen.drawImage(thumb.image, thumb.x, thumb.y, thumb.side, thumb.side, left, top, side, side);
        drawn++;
      }
      host.dataset.pictures = drawn - above.length;
    }

    function drawMarks() {
      const ink = ibot.mapInk(look.ink), paper = ibot.mapInk(look.paper);
      for (const { x, y } of own) star(pen, ...plot.rim(x, y), ink, paper);
      if (plot.marked !== null) {
        const [px, py] = plot.toScreen(places[2 * plot.marked], places[2 * plot.marked + 1]);
        for (const [width, colour] of [[5, paper], [2, ink]]) {
          pen.lineWidth = width;
          pen.strokeStyle = colour;
          pen.beginPath();
          pen.arc(px, py, 10, 0, 7);
          pen.stroke();
        }
      }
      if (plot.outline) outlined(pen, plot.outline, ink);
    }
    /* Where a point beyond the picture is drawn: at its rim. */
    plot.rim = (x, y) => {
      const [px, py] = plot.toScreen(x, y), edge = 14;
      return [
        Math.min(Math.max(px, edge), camera.width - edge),
        Math.min(Math.max(py, edge), camera.height - edge),
      ];
    };

    const observer = new ResizeObserver(plot.resize);
    plot.close = () => {
      closed = true;
      observer.disconnect();
      clearTimeout(settling);
      cancelAnimationFrame(asked);
      thumbs.close();
      renderer.close();
    };
    start(told.renderer !== "canvas");
    observer.observe(host);
    plot.resize();
    return plot;
  };

  ibot.mapInk = ([r, g, b]) => `rgb(${r},${g},${b})`;

  function swapped(canvas) {
    const fresh = canvas.cloneNode();
    canvas.replaceWith(fresh);
    return fresh;
  }

  function extent(places) {
    let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let at = 0; at < places.length; at += 2) {
      x0 = Math.min(x0, places[at]);
      x1 = Math.max(x1, places[at]);
      y0 = Math.min(y0, places[at + 1]);
      y1 = Math.max(y1, places[at + 1]);
    }
    return x1 > x0 || y1 > y0 ? [x0, y0, x1, y1] : [x0 - 0.5, y0 - 0.5, x0 + 0.5, y0 + 0.5];
  }

  function star(pen, x, y, ink, paper) {
    pen.beginPath();
    for (let at = 0; at < 10; at++) {
      const radius = at % 2 ? 5 : 12, angle = (at * Math.PI) / 5 - Math.PI / 2;
      pen.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
    }
    pen.closePath();
    pen.lineWidth = 4;
    pen.strokeStyle = paper;
    pen.stroke();
    pen.fillStyle = ink;
    pen.fill();
  }

  function outlined(pen, path, ink) {
    pen.beginPath();
    for (const [x, y] of path) pen.lineTo(x, y);
    pen.closePath();
    pen.globalAlpha = 0.12;
    pen.fillStyle = ink;
    pen.fill();
    pen.globalAlpha = 1;
    pen.lineWidth = 1.5;
    pen.setLineDash([5, 4]);
    pen.strokeStyle = ink;
    pen.stroke();
    pen.setLineDash([]);
  }
})();
