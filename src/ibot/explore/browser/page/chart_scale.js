/* Numbers to pixels: round ticks, linear and logarithmic scales, numbers as people write them. */
"use strict";

(() => {
  /* Round numbers between low and high, about `count` of them. */
  function ticks(low, high, count) {
    const raw = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 2.5, 5, 10].find((times) => times * power >= raw * 0.999);
    if (!(step > 0)) return [low];
    const found = [];
    for (let at = Math.ceil(low / step - 1e-6); at * step <= high + step * 1e-6; at++) {
      found.push(Number((at * step).toPrecision(12)));
      if (found.length > 50) break;
    }
    return found;
  }

  /* Powers of ten; with 2 and 5 between where there is room. */
  function logTicks(low, high) {
    const found = [], few = Math.log10(high / low) < 2.5;
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const times of few ? [1, 2, 5] : [1]) {
        const tick = Number((times * 10 ** power).toPrecision(6));
        if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick);
      }
    return found.length < 2 ? [low, high] : found.length > 6 ? found.filter((_, at) => at % 2 === 0) : found;
  }

  /* place(value) in start..end pixels, and value(place) back. */
  function scale(low, high, start, end, logarithmic = false) {
    const into = logarithmic ? Math.log : (v) => v, back = logarithmic ? Math.exp : (v) => v;
    const from = into(low), width = into(high) - from || 1;
    return {
      low, high,
      place: (value) => start + ((into(value) - from) / width) * (end - start),
      value: (place) => back(from + ((place - start) / (end - start)) * width),
    };
  }

  const SUPER = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const raised = (power) =>
    (power < 0 ? "⁻" : "") + [...String(Math.abs(power))].map((digit) => SUPER[digit]).join("");

  /* A value with three or four digits that matter. */
  function written(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1000) return ibot.number(Math.round(value));
    if (size >= 100) return String(Number(value.toFixed(1)));
    if (size >= 1) return value.toFixed(2);
    if (size >= 0.001) return String(Number(value.toPrecision(3)));
    const [digits, power] = value.toExponential(1).split("e");
    return `${Number(digits)} · 10${raised(Number(power))}`;
  }

  /* A tick: as few digits as tell it apart from its neighbours. */
  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))} M`;
    if (size >= 10000) return `${Number((value / 1e3).toPrecision(4))} k`;
    if (size > 0 && size < 0.0001) return written(value);
    if (size >= 1000) return ibot.number(Math.round(value));
    return String(Number(value.toPrecision(4)));
  }

  /* Index of the point whose x is nearest; points in rising order of x. */
  function nearest(points, x) {
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle + 1;
      else high = middle;
    }
    if (low > 0 && x - points[low - 1][0] < points[low][0] - x) low--;
    return low;
  }

  ibot.chartScale = { ticks, logTicks, scale, written, short, nearest };
})();
