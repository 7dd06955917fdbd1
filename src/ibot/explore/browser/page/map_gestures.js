/* Pointer, wheel and keys on the map: moving, zooming, drawing around points, pointing at one. */
"use strict";

(() => {
  const SLIP = { mouse: 4, pen: 6, touch: 10 }; // pixels that a tap may move
  const REACH = { mouse: 10, pen: 14, touch: 22 }; // pixels from a point that still mean it
  const STEP = 0.15; // of the picture, at one press of an arrow
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  /* told: {hover(i, px, py), tap(i, extend), around(points, extend), open(i), toggle(i), clear()};
     the answer has `mode`: "move", "lasso" or "box". */
  ibot.mapGestures = (plot, told) => {
    const host = plot.host, pointers = new Map(), gestures = { mode: "move" };
    let path = null, start = null, slipped = false, spread = null;

    const local = (event) => {
      const box = host.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };

    function down(event) {
      if (event.button > 0 || event.target.closest("button, a, .map-card")) return;
      host.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, local(event));
      if (pointers.size === 2) {
        path = null;
        plot.setOutline(null);
        spread = span();
        slipped = true;
        return;
      }
      start = local(event);
      slipped = false;
      path = event.shiftKey || gestures.mode !== "move" ? [start] : null;
      host.focus({ preventScroll: true });
    }

    function move(event) {
      const at = local(event), before = pointers.get(event.pointerId);
      if (!before) {
        if (event.pointerType !== "touch") told.hover(plot.at(...at, REACH.mouse), ...at);
        return;
      }
      pointers.set(event.pointerId, at);
      if (pointers.size === 2) return pinch();
      if (Math.hypot(at[0] - start[0], at[1] - start[1]) > (SLIP[event.pointerType] ?? SLIP.mouse)) slipped = true;
      if (!slipped || pointers.size > 1) return;
      told.hover(null);
      if (!path) {
        host.classList.add("moving");
        plot.pan(at[0] - before[0], at[1] - before[1]);
      } else drawn(at, event);
    }

    function drawn(at, event) {
      if (gestures.mode === "box" && !event.shiftKey)
        path = [start, [at[0], start[1]], at, [start[0], at[1]]];
      else path.push(at);
      plot.setOutline(path);
    }

    function span() {
      const [[ax, ay], [bx, by]] = [...pointers.values()];
      return { x: (ax + bx) / 2, y: (ay + by) / 2, far: Math.hypot(ax - bx, ay - by) || 1 };
    }
    function pinch() {
      const next = span();
      plot.pan(next.x - spread.x, next.y - spread.y);
      plot.zoom(next.far / spread.far, next.x, next.y);
      spread = next;
    }

    function up(event) {
      if (!pointers.delete(event.pointerId)) return;
      host.classList.remove("moving");
      if (pointers.size) {
        start = [...pointers.values()][0]; // the finger that stays goes on moving the map
        return;
      }
      const extend = event.ctrlKey || event.metaKey;
      if (event.type === "pointercancel") path = null;
      else if (path && slipped && path.length > 2) told.around(plot.inside(path), extend);
      else if (!slipped) tapped(local(event), event.pointerType, extend);
      path = null;
      plot.setOutline(null);
    }

    const tapped = (at, type, extend) =>
      told.tap(plot.at(...at, REACH[type] ?? REACH.mouse), extend, at);

    function wheel(event) {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
      // Pinching on a touch pad arrives as a wheel with Ctrl and small steps.
      const speed = event.ctrlKey ? 0.01 : 0.002;
      plot.zoom(Math.exp(-event.deltaY * lines * speed), ...local(event));
    }

    function key(event) {
      if (event.target !== host || event.ctrlKey || event.metaKey || event.altKey) return;
      const arrow = ARROWS[event.key];
      if (arrow && event.shiftKey) walk(...arrow);
      else if (arrow) {
        const { width, height } = plot.camera;
        plot.pan(-arrow[0] * STEP * width, arrow[1] * STEP * height);
      } else if (event.key === "Enter" && plot.marked !== null) told.open(plot.marked);
      else if (event.key === " " && plot.marked !== null) told.toggle(plot.marked);
      else return;
      event.preventDefault();
    }
    function walk(dx, dy) {
      const { width, height } = plot.camera;
      const next = plot.marked === null
        ? plot.at(width / 2, height / 2, Infinity) : plot.towards(plot.marked, dx, dy);
      if (next === null) return;
      plot.show(next);
      told.tap(next, false);
    }

    host.addEventListener("pointerdown", down);
    host.addEventListener("pointermove", move);
    host.addEventListener("pointerup", up);
    host.addEventListener("pointercancel", up);
    host.addEventListener("pointerleave", () => told.hover(null));
    host.addEventListener("wheel", wheel, { passive: false });
    host.addEventListener("keydown", key);
    host.addEventListener("dblclick", (event) => {
      if (event.target.tagName === "CANVAS" && gestures.mode === "move") plot.zoom(2, ...local(event));
    });
    return gestures;
  };
})();
