/* Small pictures for the map, 64 to a request, the ones used least recently forgotten first. */
"use strict";

(() => {
  const SIDE = 64, COLUMNS = 8, SPRITES = 24, AT_ONCE = 2;

  /* `arrived` is called when pictures that were asked for are there. */
  ibot.mapThumbs = (arrived) => {
    const places = new Map(); // image -> {sprite, at}
    let sprites = [], waiting = [], under_way = 0, closed = false;

    /* {image, x, y, side} of an image's picture in its sprite, or null. */
    function get(id) {
      const place = places.get(id);
      if (!place || !place.sprite.ready) return null;
      place.sprite.used = performance.now();
      const x = SIDE * (place.at % COLUMNS), y = SIDE * Math.floor(place.at / COLUMNS);
      return { image: place.sprite.image, x, y, side: SIDE };
    }

    /* Fetch what is missing; forgets what was wanted before and has not been asked for. */
    function want(ids) {
      waiting = ids.filter((id) => !places.has(id));
      next();
    }

    function next() {
      while (waiting.length && under_way < AT_ONCE && !closed) fetchSprite(waiting.splice(0, 64));
    }

    function fetchSprite(ids) {
      const source = ibot.api.url("/api/thumbs.jpg", { c: ibot.state.checkpoint, ids: ids.join(","), px: SIDE });
      if (source === null) return;
      const sprite = { ids, image: new Image(), ready: false, used: performance.now() };
      sprites.push(sprite);
      ids.forEach((id, at) => places.set(id, { sprite, at }));
      under_way++;
      const done = (ready) => {
        under_way--;
        sprite.ready = ready;
        if (closed) return;
        forget();
        if (ready) arrived();
        next();
      };
      // Decoded before it is used: drawing would wait for it otherwise.
      sprite.image.src = source;
      sprite.image.decode().then(() => done(true), () => done(false));
    }

    function forget() {
      if (sprites.length <= SPRITES) return;
      sprites.sort((a, b) => b.used - a.used);
      for (const sprite of sprites.splice(SPRITES))
        for (const id of sprite.ids) places.delete(id);
    }

    return { get, want, count: () => sprites.length, close: () => { closed = true; } };
  };
})();
