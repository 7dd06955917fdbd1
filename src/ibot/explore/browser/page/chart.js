/* One of many small charts with a common x: lines that differ by colour and by dashes. */
"use strict";

(() => {
  const { el, svg } = ibot;
  const { ticks, logTicks, scale, written, short, nearest } = ibot.chartScale;
  const HEIGHT = 176, TOP = 10, BOTTOM = 26, LEFT = 46, RIGHT = 12;
  const STEEP = 8; // ratio of the largest to the smallest value that a log scale is offered for
  const FEW = 40; // points that are drawn one by one
  let made = 0;

  /* common: {domain: [low, high], factor: images per unit of x, marks: [{x, number, text}],
     cursor: x | null, log: Set of ids, gesture(chart)}. */
  ibot.chart = (first, common) => {
    const clip = `chart-${++made}`, chart = { curve: first, common, x: null, width: 0 };
    const caption = el("h3", {}), keys = el("ul", { class: "chart-keys" });
    const log = el("button", { class: "button quiet small", title: "Logarithmic scale", onclick: () => {
      if (!common.log.delete(chart.curve.id)) common.log.add(chart.curve.id);
      chart.draw();
    } }, "log");
    const picture = svg("svg", { class: "chart-picture", height: HEIGHT, tabindex: 0, role: "img" });
    chart.picture = picture;
    chart.box = el("figure", { class: "chart", "data-curve": first.id },
      el("figcaption", { class: "chart-head" }, caption, log), keys, picture);
    common.gesture(chart);

    const all = () => chart.curve.series.flatMap(({ points }) => points);
    const shown = () => {
      const [low, high] = common.domain;
      const inside = all().filter(([x]) => x >= low && x <= high);
      return inside.length ? inside : all();
    };

    function yScale() {
      const points = shown(), { level } = chart.curve;
      const values = points.flatMap(([, value, low, high]) =>
        [value, low, high].filter((v) => Number.isFinite(v)));
      if (Number.isFinite(level)) values.push(level);
      const least = Math.min(...values), most = Math.max(...values);
      const possible = least > 0 && most / least >= STEEP;
      const logarithmic = possible && common.log.has(chart.curve.id);
      log.hidden = !possible;
      log.setAttribute("aria-pressed", logarithmic);
      const bottom = HEIGHT - BOTTOM;
      if (logarithmic) return { ...scale(least / 1.15, most * 1.15, bottom, TOP, true), logarithmic };
      const room = 0.07 * (most - least) || Math.abs(most) * 0.05 || 1;
      const floor = least >= 0 ? Math.max(least - room, 0) : least - room;
      return { ...scale(floor, most + room, bottom, TOP), logarithmic };
    }

    /* ---- drawing ---- */

    chart.draw = () => {
      chart.width = Math.max(picture.getBoundingClientRect().width, 160);
      const { curve, width } = chart, y = yScale();
      chart.x = scale(...common.domain, LEFT, width - RIGHT);
      chart.y = y;
      caption.replaceChildren(curve.title, curve.unit ? el("span", { class: "quiet" }, ` ${curve.unit}`) : "");
      picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      picture.setAttribute("width", width);
      picture.setAttribute("aria-label", spoken(curve));
      const area = { x: LEFT - 4, y: TOP - 4, width: width - LEFT - RIGHT + 8, height: HEIGHT - TOP - BOTTOM + 8 };
      picture.replaceChildren(
        svg("clipPath", { id: clip }, svg("rect", area)),
        ...grid(y), ...levelled(y),
        svg("g", { "clip-path": `url(#${clip})` }, curve.series.flatMap((one, at) => drawn(one, at, y))),
        ...common.marks.filter(({ x }) => x >= common.domain[0] && x <= common.domain[1]).map(mark),
        ...levelName(y), svg("g", { class: "cursor" }));
      chart.point();
    };

    function grid(y) {
      const bottom = HEIGHT - BOTTOM, right = chart.width - RIGHT, { factor } = common;
      const [low, high] = common.domain.map((value) => value / factor);
      const across = ticks(low, high, Math.max(2, Math.floor(chart.width / 90)));
      const up = y.logarithmic ? logTicks(y.low, y.high) : ticks(y.low, y.high, 4);
      return [
        ...up.flatMap((value) => [
          svg("line", { class: "grid", x1: LEFT, x2: right, y1: y.place(value), y2: y.place(value) }),
          svg("text", { class: "tick", x: LEFT - 6, y: y.place(value) + 4, "text-anchor": "end" }, short(value)),
        ]),
        svg("line", { class: "axis", x1: LEFT, x2: right, y1: bottom, y2: bottom }),
        ...across.flatMap((value) => {
          const x = chart.x.place(value * factor);
          const anchor = x > right - 14 ? "end" : "middle";
          return [svg("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }),
            svg("text", { class: "tick", x, y: bottom + 17, "text-anchor": anchor }, short(value))];
        }),
      ];
    }

    function levelled(y) {
      const { level } = chart.curve;
      if (!Number.isFinite(level)) return [];
      const at = y.place(level);
      return [svg("line", { class: "level", x1: LEFT, x2: chart.width - RIGHT, y1: at, y2: at })];
    }

    /* The name of the level, at the corner of its line where the fewest points lie. */
    function levelName(y) {
      const { level, level_name: name } = chart.curve;
      if (!Number.isFinite(level)) return [];
      const at = y.place(level), text = name || written(level), wide = 7 * text.length + 8;
      const points = shown().map(([x, value]) => [chart.x.place(x), y.place(value)]);
      const corners = [["end", -4], ["start", -4], ["end", 12], ["start", 12]]
        .filter(([, by]) => at + by > TOP + 8 && at + by < HEIGHT - BOTTOM)
        .map(([anchor, by]) => {
          const [low, high] = anchor === "end"
            ? [chart.width - RIGHT - wide, chart.width] : [0, LEFT + wide];
          const [top, bottom] = by < 0 ? [at - 16, at] : [at, at + 16];
          const covered = points.filter(([px, py]) => px > low && px < high && py > top && py < bottom);
          return { anchor, by, covered: covered.length };
        });
      const { anchor, by } = corners.sort((a, b) => a.covered - b.covered)[0] || { anchor: "end", by: -4 };
      return [svg("text", { class: "level-name", y: at + by, "text-anchor": anchor,
        x: anchor === "end" ? chart.width - RIGHT - 2 : LEFT + 2 }, text)];
    }

    function drawn({ points }, at, y) {
      const place = ([x, value]) => `${chart.x.place(x).toFixed(1)} ${y.place(value).toFixed(1)}`;
      const style = (at % 8) + 1, found = [];
      const held = points.filter(([, , low, high]) => Number.isFinite(low) && Number.isFinite(high));
      if (held.length > 1) {
        const edge = [...held.map(([x, , , high]) => place([x, high])),
          ...held.map(([x, , low]) => place([x, low])).reverse()];
        found.push(svg("path", { class: `band line-${style}`, d: `M${edge.join("L")}Z` }));
      }
      if (points.length < FEW)
        for (const [x, , low, high] of held)
          found.push(svg("line", { class: `whisker line-${style}`, x1: chart.x.place(x), x2: chart.x.place(x),
            y1: y.place(low), y2: y.place(high) }));
      found.push(svg("path", { class: `line line-${style}`, d: `M${points.map(place).join("L")}` }));
      if (points.length < FEW)
        found.push(...points.map(([x, value]) => svg("circle", { class: `dot line-${style}`, r: 2.5,
          cx: chart.x.place(x), cy: y.place(value) })));
      return found;
    }

    function mark({ x, number, text }) {
      const at = chart.x.place(x), bottom = HEIGHT - BOTTOM;
      return svg("g", { class: "verdict-mark" }, svg("title", {}, text),
        svg("line", { x1: at, x2: at, y1: TOP, y2: bottom }),
        svg("path", { d: `M${at} ${bottom - 9}l6 10h-12z` }),
        svg("text", { x: at, y: bottom - 11, "text-anchor": "middle" }, number));
    }

    /* ---- reading ---- */

    /* The cursor and what the lines are there; the last values where nothing is pointed at. */
    chart.point = () => {
      const at = common.cursor, layer = picture.querySelector(".cursor");
      const marks = [];
      if (at !== null && layer) {
        const x = chart.x.place(at);
        if (x >= LEFT - 1 && x <= chart.width - RIGHT + 1)
          marks.push(svg("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
      }
      keys.replaceChildren(...chart.curve.series.map(({ name, points }, number) => {
        const point = points[at === null ? points.length - 1 : nearest(points, at)];
        const style = (number % 8) + 1;
        if (at !== null && point && point[0] >= common.domain[0] && point[0] <= common.domain[1])
          marks.push(svg("circle", { class: `line-${style}`, r: 4, cx: chart.x.place(point[0]),
            cy: chart.y.place(point[1]) }));
        return el("li", {}, sample(style), el("span", { class: "name" }, name),
          el("span", { class: "numbers" }, point ? valued(point) : "–"));
      }));
      if (layer) layer.replaceChildren(...marks);
    };

    chart.update = (curve) => {
      chart.curve = curve;
      chart.draw();
    };
    chart.said = () => [...keys.children].map((row) => row.textContent).join(", ");
    return chart;
  };

  function valued([, value, low, high]) {
    const known = Number.isFinite(low) && Number.isFinite(high);
    return known ? `${written(value)} (${written(low)} to ${written(high)})` : written(value);
  }

  const sample = (style) => svg("svg", { class: "sample", viewBox: "0 0 26 10", "aria-hidden": "true" },
    svg("path", { class: `line line-${style}`, d: "M0 5L26 5" }));

  function spoken({ title, unit, series }) {
    const parts = series.filter(({ points }) => points.length).map(({ name, points }) =>
      `${name} from ${written(points[0][1])} to ${written(points[points.length - 1][1])}`);
    return `${title}${unit ? `, ${unit}` : ""}: ${parts.join("; ")}. Left and right read values.`;
  }
})();
