/* Points drawn by WebGL: one buffer, one call. Same interface as points_canvas.js. */
"use strict";

(() => {
  ibot.points = ibot.points || {};

  const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;
  const BYTES = 24; // to.xy, from.xy float32; rgba; size, shape, ring, unused

  // Places in 0..1; camera = (centre, 2 * scale / size of the canvas), so that y points up. A
  // diamond reaches 1.25 times its radius.
  const VERTEX = `
    attribute vec4 place; attribute vec4 colour; attribute vec4 form;
    uniform vec4 camera; uniform float moved; uniform mediump float ratio;
    varying vec4 fill; varying vec4 look;
    void main() {
      gl_Position = vec4((mix(place.zw, place.xy, moved) - camera.xy) * camera.zw, 0.0, 1.0);
      float radius = form.x * 0.25 * ratio, reach = radius + form.z * 2.5 * ratio;
      float half_side = (form.y > 1.5 ? 1.25 : 1.0) * (reach + 0.5);
      gl_PointSize = 2.0 * half_side;
      fill = colour; look = vec4(radius, form.y, form.z, half_side);
    }`;
  // Edges are smoothed over one pixel; the rim is darker, so that neighbours stay apart.
  const FRAGMENT = `
    precision mediump float;
    varying vec4 fill; varying vec4 look; uniform vec3 ink; uniform mediump float ratio;
    void main() {
      vec2 at = abs((gl_PointCoord * 2.0 - 1.0) * look.w);
      float away = look.y < 0.5 ? length(at)
        : look.y < 1.5 ? max(at.x, at.y) * 1.13 : (at.x + at.y) * 0.8;
      float inside = clamp(look.x - away + 0.5, 0.0, 1.0);
      float rim = clamp(away - look.x + 1.5, 0.0, 1.0);
      vec3 rgb = fill.rgb * (1.0 - 0.35 * rim);
      float alpha = inside * fill.a;
      float outside = away - look.x - 1.2 * ratio;
      float ring = look.z * clamp(1.0 * ratio - abs(outside) + 0.5, 0.0, 1.0);
      gl_FragColor = vec4(rgb * alpha, alpha) * (1.0 - ring) + vec4(ink * ring, ring);
      if (gl_FragColor.a < 0.004) discard;
    }`;

  // A renderer on `canvas`, or null where there is no WebGL; `lost` is called when it goes away.
  // WebGL without a graphics card costs several times what Canvas does: taken only if `software`.
  ibot.points.webgl = function (canvas, lost, software = false) {
    const options = { alpha: false, antialias: false, depth: false, premultipliedAlpha: true,
      preserveDrawingBuffer: true, failIfMajorPerformanceCaveat: !software };
    const gl = canvas.getContext("webgl", options);
    if (!gl || (!software && SOFTWARE.test(named(gl)))) return null;
    let program;
    try {
      program = link(gl);
    } catch (error) {
      return null;
    }
    const onLost = (event) => { event.preventDefault(); lost(); };
    canvas.addEventListener("webglcontextlost", onLost);
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    attribute(gl, program, "place", gl.FLOAT, false, 0);
    attribute(gl, program, "colour", gl.UNSIGNED_BYTE, true, 16);
    attribute(gl, program, "form", gl.UNSIGNED_BYTE, false, 20);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    const uniform = {};
    for (const name of ["camera", "moved", "ratio", "ink"])
      uniform[name] = gl.getUniformLocation(program, name);
    let count = 0;

    return {
      kind: "WebGL",
      load(scene) {
        count = scene.order.length;
        gl.bufferData(gl.ARRAY_BUFFER, packed(scene), gl.DYNAMIC_DRAW);
        gl.clearColor(...scene.paper.map((value) => value / 255), 1);
        gl.uniform3f(uniform.ink, ...scene.ink.map((value) => value / 255));
      },
      draw(camera, moved) {
        const { width, height, ratio } = camera;
        gl.viewport(0, 0, canvas.width, canvas.height);
        gl.clear(gl.COLOR_BUFFER_BIT);
        const across = (2 * camera.scale) / width, up = (2 * camera.scale) / height;
        gl.uniform4f(uniform.camera, camera.x, camera.y, across, up);
        gl.uniform1f(uniform.moved, moved);
        gl.uniform1f(uniform.ratio, ratio);
        gl.drawArrays(gl.POINTS, 0, count);
      },
      // Waits until what was drawn is there; for measurements.
      finish() {
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
      },
      close() {
        canvas.removeEventListener("webglcontextlost", onLost);
        const extension = gl.getExtension("WEBGL_lose_context");
        if (extension) extension.loseContext(); // browsers hold few contexts at once
      },
    };
  };

  // Of the graphics card, or of what stands in for one.
  function named(gl) {
    const info = gl.getExtension("WEBGL_debug_renderer_info");
    return String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  }

  // One interleaved buffer in drawing order.
  function packed({ order, to, from, colour, size, shape, ring }) {
    const buffer = new ArrayBuffer(BYTES * order.length);
    const floats = new Float32Array(buffer), bytes = new Uint8Array(buffer);
    for (let at = 0; at < order.length; at++) {
      const i = order[at], f = (at * BYTES) / 4, b = at * BYTES + 16;
      floats[f] = to[2 * i];
      floats[f + 1] = to[2 * i + 1];
      floats[f + 2] = from[2 * i];
      floats[f + 3] = from[2 * i + 1];
      for (let c = 0; c < 4; c++) bytes[b + c] = colour[4 * i + c];
      bytes[b + 4] = size[i];
      bytes[b + 5] = shape[i];
      bytes[b + 6] = ring[i];
    }
    return buffer;
  }

  function attribute(gl, program, name, type, normalised, offset) {
    const at = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 4, type, normalised, BYTES, offset);
  }

  function link(gl) {
    const program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS))
        throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS))
      throw new Error(gl.getProgramInfoLog(program));
    return program;
  }
})();
