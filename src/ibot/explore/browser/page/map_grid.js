/* Points by place: which is nearest, which are inside. A grid of about two points a cell. */
"use strict";

(() => {
  // `places` float32 [2n]. Distances are those of `places`; `keep(i)` says which points count.
  ibot.pointGrid = function (places) {
    const n = places.length / 2;
    const side = Math.max(1, Math.min(512, Math.round(Math.sqrt(n / 2))));
    let [left, low, right, high] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < n; i++) {
      left = Math.min(left, places[2 * i]);
      right = Math.max(right, places[2 * i]);
      low = Math.min(low, places[2 * i + 1]);
      high = Math.max(high, places[2 * i + 1]);
    }
    const cell = Math.max(right - left, high - low, 1e-9) / side;
    const column = (x) => Math.min(side - 1, Math.max(0, Math.floor((x - left) / cell)));
    const row = (y) => Math.min(side - 1, Math.max(0, Math.floor((y - low) / cell)));
    const starts = new Uint32Array(side * side + 1), members = new Uint32Array(n);
    const cells = new Uint32Array(n);
    for (let i = 0; i < n; i++) {
      cells[i] = row(places[2 * i + 1]) * side + column(places[2 * i]);
      starts[cells[i] + 1]++;
    }
    for (let c = 0; c < side * side; c++) starts[c + 1] += starts[c];
    const next = starts.slice();
    for (let i = 0; i < n; i++) members[next[cells[i]]++] = i;

    function eachInCell(r, c, visit) {
      if (r < 0 || c < 0 || r >= side || c >= side) return;
      const at = r * side + c;
      for (let m = starts[at]; m < starts[at + 1]; m++) visit(members[m]);
    }

    // Points inside of the box, in no order; null when there are more than `most`.
    function within(x0, y0, x1, y1, keep, most = Infinity) {
      const found = [];
      if (x1 < left || y1 < low || x0 > right || y0 > high) return found;
      for (let r = row(y0); r <= row(y1); r++)
        for (let c = column(x0); c <= column(x1); c++) {
          if (found.length > most) return null;
          eachInCell(r, c, (i) => {
            const x = places[2 * i], y = places[2 * i + 1];
            if (x >= x0 && x <= x1 && y >= y0 && y <= y1 && keep(i)) found.push(i);
          });
        }
      return found.length > most ? null : found;
    }

    // The k nearest points, nearest first, none beyond `limit`: rings of cells around the place.
    function nearest(x, y, k, keep, limit = Infinity) {
      const found = [], r0 = row(y), c0 = column(x);
      // A place outside of the grid is this much farther from every cell than its rim is.
      const outside = Math.hypot(x - Math.min(Math.max(x, left), right), y - Math.min(Math.max(y, low), high));
      for (let ring = 0; ring <= side; ring++) {
        const visit = (i) => {
          if (!keep(i)) return;
          const away = Math.hypot(places[2 * i] - x, places[2 * i + 1] - y);
          if (away <= limit) found.push([away, i]);
        };
        for (let r = r0 - ring; r <= r0 + ring; r++) {
          const step = Math.abs(r - r0) === ring ? 1 : 2 * ring || 1;
          for (let c = c0 - ring; c <= c0 + ring; c += step) eachInCell(r, c, visit);
        }
        // Everything nearer than `ring` cells has been seen.
        const sure = Math.max(ring * cell - outside, 0);
        if (sure >= limit) break;
        if (found.length >= k) {
          found.sort((a, b) => a[0] - b[0]);
          if (found[k - 1][0] <= sure) break;
        }
      }
      return found.sort((a, b) => a[0] - b[0]).slice(0, k).map((pair) => pair[1]);
    }

    // Points inside of a polygon [[x, y], ...]: the even-odd rule.
    function inside(polygon, keep) {
      const xs = polygon.map((p) => p[0]), ys = polygon.map((p) => p[1]);
      const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
      return within(...box, (i) => keep(i) && holds(polygon, places[2 * i], places[2 * i + 1]));
    }

    return { within, nearest, inside };
  };

  function holds(polygon, x, y) {
    let odd = false;
    for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
      const [xa, ya] = polygon[a], [xb, yb] = polygon[b];
      if (ya > y !== yb > y && x < ((xb - xa) * (y - ya)) / (yb - ya) + xa) odd = !odd;
    }
    return odd;
  }
})();
