/* Reading and zooming many charts at once: a pointer or the arrows on one moves the cursor of all. */
"use strict";

(() => {
  const SLIP = 6, ROOM = 30; // pixels

  /* told: {cursor(x | null), domain([low, high] | null), xs(): all x in order, said(chart)};
     made once for a page of charts. */
  ibot.chartGestures = (common, told) => (chart) => {
    const { picture } = chart;
    let start = null, brush = null;
    const pixel = (event) => event.clientX - picture.getBoundingClientRect().left;
    const inside = (x) => Math.min(Math.max(x, common.domain[0]), common.domain[1]);
    const at = (event) => inside(chart.x.value(pixel(event)));

    picture.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      told.cursor(at(event));
      // Fingers read; a mouse that is pressed marks what to enlarge.
      if (event.pointerType === "mouse") start = pixel(event);
      picture.setPointerCapture(event.pointerId);
    });
    picture.addEventListener("pointermove", (event) => {
      told.cursor(at(event));
      if (start === null) return;
      brush = Math.abs(pixel(event) - start) > SLIP ? [start, pixel(event)] : null;
      shade();
    });
    picture.addEventListener("pointerup", () => {
      const range = brush && brush.map((x) => inside(chart.x.value(x))).sort((a, b) => a - b);
      start = brush = null;
      shade();
      if (range && chart.x.place(range[1]) - chart.x.place(range[0]) > ROOM / 4) told.domain(range);
    });
    picture.addEventListener("pointercancel", () => { start = brush = null; shade(); });
    picture.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && document.activeElement !== picture) told.cursor(null);
    });
    picture.addEventListener("dblclick", () => told.domain(null));
    picture.addEventListener("blur", () => told.cursor(null));
    picture.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
      if (by) step(by);
      else if (event.key === "Home") told.cursor(common.domain[0]);
      else if (event.key === "End") told.cursor(common.domain[1]);
      else if (event.key === "Escape") told.cursor(null);
      else if (event.key === "+" || event.key === "=") zoom(0.5);
      else if (event.key === "-") zoom(2);
      else if (event.key === "0") told.domain(null);
      else return;
      event.preventDefault();
      if (common.cursor !== null) told.said(chart);
    });

    function step(by) {
      const xs = told.xs(chart).filter((x) => x >= common.domain[0] && x <= common.domain[1]);
      if (!xs.length) return;
      const here = common.cursor === null ? xs.length - 1
        : ibot.chartScale.nearest(xs.map((x) => [x]), common.cursor) + by;
      told.cursor(xs[Math.min(Math.max(here, 0), xs.length - 1)]);
    }
    function zoom(factor) {
      const [low, high] = common.domain, centre = common.cursor ?? (low + high) / 2;
      told.domain([centre - (centre - low) * factor, centre + (high - centre) * factor]);
    }
    function shade() {
      picture.querySelectorAll(".brush").forEach((old) => old.remove());
      if (!brush) return;
      const [left, right] = [...brush].sort((a, b) => a - b);
      picture.append(ibot.svg("rect", { class: "brush", x: left, y: 10, width: right - left, height: 140 }));
    }
  };
})();
