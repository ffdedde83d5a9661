// The explorer: what the reader does with the mask, and what the page says about it.

{
  const element = (id) => document.getElementById(id);
  const data = element("views") ? JSON.parse(element("views").textContent) : [];
  const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

  if (data.length && element("mask")) start(data.map((each) => new View(each)));

  function start(views) {
    const canvas = element("mask");
    const mask = new Mask(canvas);
    const state = { view: views[0], head: 0, query: null, layers: 1, mixed: true };
    let latest = 0;

    // what is shown ------------------------------------------------------------------------------------------------

    async function showView(number) {
      state.view = views[number];
      state.head = Math.min(state.head, state.view.heads - 1);
      state.query = null;
      mask.hidden.clear();
      element("view-note").textContent = state.view.note;
      element("view-note").title = state.view.call;
      const heads = element("head");
      heads.replaceChildren(...state.view.head_of.map((place, head) => {
        const option = new Option(place < 0 ? `${head} (not on this page)` : `${head}`, head);
        option.disabled = place < 0;
        return option;
      }));
      element("query").max = state.view.n - 1;
      await showHead(state.head);
    }

    async function showHead(head) {
      const mine = ++latest;
      const codes = await state.view.head(head);
      if (mine !== latest || !codes) return; // another head was asked for meanwhile
      state.head = head;
      state.codes = codes;
      element("head").value = head;
      element("head-previous").disabled = neighbour(-1) === null;
      element("head-next").disabled = neighbour(1) === null;
      mask.show(state.view, codes);
      legend();
      canvas.setAttribute("aria-label", `The mask of head ${head}: ${state.view.n} queries downwards, keys across`);
      await follow(state.query);
      canvas.dataset.head = head;
      canvas.dataset.ready = "yes";
    }

    /** The next head, in a direction, that the page carries; null at the end. */
    function neighbour(direction) {
      for (let head = state.head + direction; head >= 0 && head < state.view.heads; head += direction) {
        if (state.view.head_of[head] >= 0) return head;
      }
      return null;
    }

    function legend() {
      const { cells, members } = state.view;
      const often = new Float64Array(cells.length);
      for (const code of state.codes) often[code] += 1;
      const held = new Float64Array(MAX_COLOURS + 1);
      cells.forEach(([, holders], code) => {
        for (const number of new Set(holders.map(colourNumber))) held[number] += often[code];
      });
      const several = members.length > MAX_COLOURS;
      const labels = members.slice(0, MAX_COLOURS);
      if (several) labels[MAX_COLOURS - 1] = `${members.length - MAX_COLOURS + 1} more`;
      element("legend").replaceChildren(...labels.map((label, member) => {
        const number = colourNumber(member);
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.member = member;
        button.setAttribute("aria-pressed", String(!mask.hidden.has(number)));
        button.append(swatch(member), text("code", label), text("span", held[number].toLocaleString("en"), "count"));
        button.title = `${count(held[number], "pair")} of this head`;
        button.addEventListener("click", () => {
          if (!mask.hidden.delete(number)) mask.hidden.add(number);
          button.setAttribute("aria-pressed", String(!mask.hidden.has(number)));
          mask.paint();
        });
        return button;
      }));
    }

    const text = (tag, content, name = "") => {
      const made = document.createElement(tag);
      made.textContent = content;
      made.className = name;
      return made;
    };

    const swatch = (member) => {
      const made = text("span", "", "swatch");
      made.style.color = `var(--b${colourNumber(member)})`;
      return made;
    };

    // following a query --------------------------------------------------------------------------------------------

    async function follow(query) {
      const { view, codes } = state;
      state.query = query;
      element("following").hidden = query === null;
      element("not-following").hidden = query !== null;
      element("query").value = query === null ? "" : query;
      if (query === null) {
        state.found = null;
        mask.follow(null);
        canvas.dataset.following = "none";
        return;
      }
      const holds = state.mixed ? await view.anyHead() : view.oneHead(codes);
      if (state.query !== query || state.view !== view) return;
      state.found = hopsFrom(query, view.n, holds);
      const own = view.oneHead(codes);
      state.keys = Array.from({ length: view.n }, (_, k) => k).filter((k) => own(query, k));
      const slider = element("layers");
      slider.max = Math.max(1, state.found.most);
      state.layers = Math.min(state.layers, Number(slider.max));
      slider.value = state.layers;
      slider.disabled = state.found.most <= 1;
      element("key-count").textContent = `${count(state.keys.length, "key")} of query ${query} on head ${state.head}`;
      element("keys").textContent = ranges(state.keys) || "none";
      receptiveField();
    }

    function receptiveField() {
      const { query, layers, found: { hops, most } } = state;
      const reached = [...hops.keys()].filter((k) => hops[k] >= 0 && hops[k] <= layers);
      const after = `after ${count(layers, "layer")}`;
      element("layer-count").textContent = `${layers} of ${Math.max(1, most)}`;
      element("layers").setAttribute("aria-valuetext", `${after}: ${count(reached.length, "position")}`);
      element("field-count").textContent = `${count(reached.length, "position")} known ${after}`;
      element("field").textContent = ranges(reached);
      const colours = hopColours(most);
      const often = new Array(most + 1).fill(0);
      const never = { earlier: 0, later: 0 };
      hops.forEach((hop, k) => {
        if (hop < 0) never[k < query ? "earlier" : "later"] += 1;
        else often[hop] += 1;
      });
      element("hops").replaceChildren(...often.slice(1).map((number, place) => {
        const chip = document.createElement("span");
        const colour = text("span", "", "swatch");
        colour.style.color = colours[place + 1];
        chip.append(colour, `${place + 1}: +${number.toLocaleString("en")}`);
        chip.className = place + 1 > layers ? "later" : "";
        return chip;
      }), text("span", `never: ${never.earlier.toLocaleString("en")} earlier, ${never.later.toLocaleString("en")} later`));
      mask.follow({ query, hops, most, layers });
      canvas.dataset.following = `${query}, ${state.mixed ? "mixed" : "alone"}`;
    }

    // pointing at a cell -------------------------------------------------------------------------------------------

    /** What there is to say about a cell: a heading, lines, the members that hold it. */
    function about({ q, k }) {
      const lines = [];
      let members = [];
      let heading = `key ${k}`;
      if (q !== null) {
        const [m, holders] = state.view.cells[state.codes[q * state.view.n + k]];
        heading = `query ${q}, key ${k}`;
        lines.push(m === 0 ? "no pair" : m === 1 ? "counts once" : `counts ${m} times`);
        members = holders;
      }
      const { query, found } = state;
      if (query !== null && found && (q === null || q === query)) {
        const hop = found.hops[k];
        if (hop < 0) lines.push(`query ${query} never hears of it`);
        else if (hop === 0) lines.push("the query itself");
        else lines.push(`heard of after ${count(hop, "layer")}: ${shortened(pathTo(k, found.through)).join(" ← ")}`);
      }
      return { heading, lines, members };
    }

    const shortened = (path) => path.length <= 8 ? path : [...path.slice(0, 4), "…", ...path.slice(-3)];

    function tell(cell, place) {
      mask.cursor = cell;
      mask.invalidate();
      const tooltip = element("tooltip");
      tooltip.hidden = !cell || !place;
      if (!cell) {
        element("readout").textContent = "Point at a pair, or click a query.";
        return;
      }
      const { heading, lines, members } = about(cell);
      const labels = members.map((member) => state.view.members[member]);
      const said = [heading, ...lines, ...labels].join(" · ");
      element("readout").textContent = said;
      if (!place) {
        element("announcer").textContent = said;
        return;
      }
      tooltip.replaceChildren(text("b", heading), ...lines.map((line) => text("div", line)), ...members.map((member) => {
        const line = text("div", "");
        line.append(swatch(member), state.view.members[member]);
        return line;
      }));
      const room = canvas.parentElement;
      const left = Math.min(place.x + 16, room.clientWidth - tooltip.offsetWidth - 4);
      const above = place.y + 20 + tooltip.offsetHeight > room.clientHeight;
      tooltip.style.left = `${Math.max(0, left)}px`;
      tooltip.style.top = `${above ? Math.max(0, place.y - tooltip.offsetHeight - 14) : place.y + 20}px`;
    }

    // pointer ------------------------------------------------------------------------------------------------------

    const pointers = new Map();
    let dragged = false;
    const placeOf = (event) => {
      const box = canvas.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    const cellAt = ({ x, y }) => [mask.x + (x - LEFT) / mask.scale, mask.y + (y - TOP) / mask.scale];

    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, placeOf(event));
      dragged = pointers.size > 1;
    });
    canvas.addEventListener("pointermove", (event) => {
      const to = placeOf(event);
      const from = pointers.get(event.pointerId);
      if (!from) {
        if (event.pointerType === "mouse") tell(mask.at(to.x, to.y), to);
        return;
      }
      if (pointers.size === 1) {
        if (!dragged && Math.hypot(to.x - from.x, to.y - from.y) < 4) return;
        dragged = true;
        canvas.classList.add("moving");
        tell(null);
        mask.move((from.x - to.x) / mask.scale, (from.y - to.y) / mask.scale);
      } else {
        pinch(event.pointerId, from, to);
      }
      pointers.set(event.pointerId, to);
    });

    function pinch(pointer, from, to) {
      const [, other] = [...pointers].find(([each]) => each !== pointer);
      const middle = { x: (to.x + other.x) / 2, y: (to.y + other.y) / 2 };
      const apart = (place) => Math.max(1, Math.hypot(place.x - other.x, place.y - other.y));
      mask.zoom(apart(to) / apart(from), ...cellAt(middle));
      mask.move((from.x - to.x) / 2 / mask.scale, (from.y - to.y) / 2 / mask.scale);
    }

    const released = (event) => {
      const place = pointers.get(event.pointerId);
      pointers.delete(event.pointerId);
      if (!pointers.size) canvas.classList.remove("moving");
      if (event.type === "pointercancel" || !place || dragged) return;
      const cell = mask.at(place.x, place.y);
      if (!cell || cell.q === null) return;
      if (event.pointerType !== "mouse") tell(cell, place);
      follow(cell.q === state.query ? null : cell.q);
    };
    canvas.addEventListener("pointerup", released);
    canvas.addEventListener("pointercancel", released);
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") tell(null); });
    canvas.addEventListener("wheel", (event) => {
      const place = placeOf(event);
      if (!mask.at(place.x, place.y)) return;
      if (event.deltaY > 0 && mask.span >= state.view.n) return; // nothing to zoom out of: let the page scroll
      event.preventDefault();
      const pixels = event.deltaMode === 1 ? 30 * event.deltaY : event.deltaY;
      mask.zoom(Math.exp(-Math.max(-240, Math.min(240, pixels)) / 300), ...cellAt(place));
      tell(mask.at(place.x, place.y), place);
    }, { passive: false });

    // keyboard -----------------------------------------------------------------------------------------------------

    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const actions = {
      "+": () => zoomAtCursor(1.5),
      "=": () => zoomAtCursor(1.5),
      "-": () => zoomAtCursor(1 / 1.5),
      0: () => mask.window(0, 0, state.view.n),
      Enter: () => followCursor(),
      " ": () => followCursor(),
      Escape: () => { tell(null); follow(null); },
      PageUp: () => step(-1),
      PageDown: () => step(1),
      "[": () => setLayers(state.layers - 1),
      "]": () => setLayers(state.layers + 1),
    };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const direction = steps[event.key];
      if (direction) moveCursor(direction, event.shiftKey ? Math.max(1, Math.round(mask.span / 16)) : 1);
      else if (event.key in actions) actions[event.key]();
      else return;
      event.preventDefault();
    });

    function moveCursor([down, right], by) {
      const last = state.view.n - 1;
      const from = mask.cursor && mask.cursor.q !== null ? mask.cursor : middleCell();
      const within = (place) => Math.min(Math.max(0, place), last);
      const cell = mask.cursor ? { q: within(from.q + down * by), k: within(from.k + right * by) } : from;
      mask.reveal(cell);
      tell(cell);
    }

    const middleCell = () => ({ q: Math.floor(mask.y + mask.span / 2), k: Math.floor(mask.x + mask.span / 2) });
    const followCursor = () => { if (mask.cursor && mask.cursor.q !== null) follow(mask.cursor.q); };
    const zoomAtCursor = (factor) => {
      if (mask.cursor && mask.cursor.q !== null) mask.zoom(factor, mask.cursor.k + 0.5, mask.cursor.q + 0.5);
      else mask.zoom(factor);
    };
    const step = (direction) => { if (neighbour(direction) !== null) showHead(neighbour(direction)); };

    function setLayers(layers) {
      if (!state.found) return;
      state.layers = Math.min(Math.max(1, layers), Math.max(1, state.found.most));
      element("layers").value = state.layers;
      receptiveField();
      element("announcer").textContent = element("field-count").textContent;
    }

    // the panel ----------------------------------------------------------------------------------------------------

    element("view").addEventListener("change", (event) => showView(Number(event.target.value)));
    element("head").addEventListener("change", (event) => showHead(Number(event.target.value)));
    element("head-previous").addEventListener("click", () => step(-1));
    element("head-next").addEventListener("click", () => step(1));
    element("zoom-in").addEventListener("click", () => zoomAtCursor(1.5));
    element("zoom-out").addEventListener("click", () => zoomAtCursor(1 / 1.5));
    element("zoom-fit").addEventListener("click", () => mask.window(0, 0, state.view.n));
    element("layers").addEventListener("input", (event) => setLayers(Number(event.target.value)));
    element("query-clear").addEventListener("click", () => follow(null));
    element("query").addEventListener("change", (event) => {
      const wanted = event.target.value === "" ? NaN : Number(event.target.value);
      const known = Number.isInteger(wanted) && wanted >= 0 && wanted < state.view.n;
      follow(known ? wanted : null);
      if (known) mask.reveal({ q: wanted, k: Math.floor(mask.x) });
    });
    for (const id of ["mixed", "alone"]) {
      element(id).addEventListener("change", () => {
        state.mixed = element("mixed").checked;
        follow(state.query);
      });
    }

    const repaint = () => { if (mask.view) { mask.paint(); if (state.found) receptiveField(); } };
    whenThemeChanges(repaint);
    addEventListener("beforeprint", repaint);
    addEventListener("afterprint", repaint);
    new ResizeObserver(() => { if (mask.view) mask.invalidate(); }).observe(canvas.parentElement);
    if (typeof DecompressionStream === "undefined") {
      element("readout").textContent = "This browser is too old for the explorer: it cannot unpack the mask.";
      return;
    }
    showView(0);
  }
}
