// Drawing the mask of a head: a window of cells (x, y, span) on a square of the canvas, and two lanes below it that share
// its keys: the keys of the query that is followed, and what it hears of after some layers.

const LEFT = 46, TOP = 30, LANE = 14, GAP = 8, RIGHT = 6, LANES_HEIGHT = 2 * (LANE + GAP) + 6;
const MAX_COLOURS = 9;
const SMALLEST_SPAN = 8;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const rgb = (colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));

const mixed = (from, to, share) => from.map((part, i) => Math.round(part + (to[i] - part) * share));

const colourNumber = (member) => Math.min(member, MAX_COLOURS - 1) + 1;

const branchColour = (member) => css(`--b${colourNumber(member)}`);

/** The colour of each number of hops, 1 to most: steps of one ramp. */
const hopColours = (most) => {
  const steps = [1, 2, 3, 4, 5].map((step) => rgb(css(`--h${step}`)));
  return Array.from({ length: most + 1 }, (_, hop) => {
    const place = most > 1 ? (Math.max(hop, 1) - 1) / (most - 1) * 4 : 0;
    const low = Math.min(Math.floor(place), 3);
    return `rgb(${mixed(steps[low], steps[low + 1], place - low).join(" ")})`;
  });
};

class Mask {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.cells = document.createElement("canvas");
    this.rows = document.createElement("canvas");
    this.hidden = new Set();
    this.pending = false;
    this.cursor = null;
  }

  /** Show a head: its view, its codes. The window stays where it is if the view is the same. */
  show(view, codes) {
    if (view !== this.view) {
      this.view = view;
      Object.assign(this, { x: 0, y: 0, span: view.n, cursor: null, followed: null });
    }
    this.codes = codes;
    this.paint();
  }

  /** The first member that holds a cell and is not hidden; -1 for a cell whose members are hidden, or that has none. */
  owner(code) {
    const visible = this.view.cells[code][1].find((member) => !this.hidden.has(colourNumber(member)));
    return visible === undefined ? -1 : visible;
  }

  /** Colours of all cells, one pixel each. */
  paint() {
    const { n, cells, largest } = this.view;
    const shade = rgb(css("--shade"));
    const table = new Uint32Array(cells.length);
    const bytes = new Uint8Array(table.buffer);
    cells.forEach(([m, members], code) => {
      const owner = this.owner(code);
      if (!m || (owner < 0 && members.length)) return;
      const base = owner < 0 ? rgb(css("--b9")) : rgb(branchColour(owner));
      const colour = mixed(base, shade, largest > 1 ? 0.5 * (m - 1) / (largest - 1) : 0);
      bytes.set([...colour, 255], code * 4);
    });
    this.cells.width = this.cells.height = n;
    const image = new ImageData(n, n);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i += 1) pixels[i] = table[this.codes[i]];
    this.cells.getContext("2d").putImageData(image, 0, 0);
    this.invalidate();
  }

  /** Follow a query: {query, keys, hops, most, layers}; null for none. */
  follow(followed) {
    this.followed = followed;
    this.invalidate();
  }

  get scale() { return this.side / this.span; }

  /** Zoom around a cell so that it stays where it is. */
  zoom(factor, x = this.x + this.span / 2, y = this.y + this.span / 2) {
    const { n } = this.view;
    const span = Math.min(n, Math.max(Math.min(SMALLEST_SPAN, n), this.span / factor));
    const kept = span / this.span;
    this.window(x - (x - this.x) * kept, y - (y - this.y) * kept, span);
  }

  move(dx, dy) { this.window(this.x + dx, this.y + dy, this.span); }

  window(x, y, span) {
    const last = this.view.n - span;
    this.x = Math.min(Math.max(0, x), last);
    this.y = Math.min(Math.max(0, y), last);
    this.span = span;
    this.canvas.classList.toggle("zoomed", span < this.view.n);
    this.invalidate();
  }

  /** Move as little as needed to see a cell. */
  reveal({ q, k }) {
    const into = (place, start) => Math.min(Math.max(start, place + 1 - this.span), place);
    this.window(into(k, this.x), into(q, this.y), this.span);
  }

  /** The cell at a place of the canvas (CSS pixels); on the lanes a key alone. */
  at(px, py) {
    const k = Math.floor(this.x + (px - LEFT) / this.scale);
    const q = Math.floor(this.y + (py - TOP) / this.scale);
    const { n } = this.view;
    if (px < LEFT || px >= LEFT + this.side || k < 0 || k >= n) return null;
    if (py >= TOP + this.side + GAP / 2 && py < TOP + this.side + LANES_HEIGHT) return { q: null, k };
    return py >= TOP && py < TOP + this.side && q >= 0 && q < n ? { q, k } : null;
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.parentElement.clientWidth;
    const room = Math.max(120, Math.min(width - LEFT - RIGHT, 680));
    const { n } = this.view;
    const device = room * ratio;
    this.side = n <= device ? Math.floor(device / n) * n / ratio : room; // whole device pixels a cell, where there are any
    if (this.side < 0.75 * room) this.side = room;
    const height = TOP + this.side + LANES_HEIGHT;
    const wanted = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== wanted[0] || this.canvas.height !== wanted[1]) {
      [this.canvas.width, this.canvas.height] = wanted;
      this.canvas.style.height = `${height}px`;
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.smooth = this.scale * ratio < 1;
  }

  invalidate() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  draw() {
    if (!this.view) return;
    this.resize();
    const { context: c, side } = this;
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    c.fillStyle = css("--paper");
    c.fillRect(LEFT, TOP, side, side);
    this.image(this.cells, this.x, this.y, this.span, this.span, LEFT, TOP, side, side);
    if (this.followed) this.veil();
    this.lines();
    this.ticks();
    this.lanes();
    this.crosshair();
    this.report();
  }

  image(from, x, y, w, h, left, top, width, height) {
    this.context.imageSmoothingEnabled = this.smooth;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(from, x, y, w, h, left, top, width, height);
  }

  /** Rows that the receptive field does not pass through step back; the row of the query stands out. */
  veil() {
    const { context: c, side, span, followed: { query, hops, layers } } = this;
    const { n } = this.view;
    this.rows.width = 1;
    this.rows.height = n;
    const image = new ImageData(1, n);
    const veil = css("--veil").split(",").map(Number);
    hops.forEach((hop, position) => {
      const passed = hop >= 0 && hop < layers;
      image.data.set([...veil, passed ? 0 : 205], position * 4);
    });
    this.rows.getContext("2d").putImageData(image, 0, 0);
    c.imageSmoothingEnabled = false;
    c.drawImage(this.rows, 0, this.y, 1, span, LEFT, TOP, side, side);
    const height = Math.max(this.scale, 5);
    const top = TOP + (query + 0.5 - this.y) * this.scale - height / 2;
    if (top + height < TOP || top > TOP + side) return;
    c.save();
    c.beginPath();
    c.rect(LEFT, TOP, side, side);
    c.clip();
    c.fillStyle = css("--paper");
    c.fillRect(LEFT, top, side, height);
    this.image(this.cells, this.x, query, span, 1, LEFT, top, side, height);
    c.strokeStyle = css("--ink");
    c.lineWidth = 1;
    c.strokeRect(LEFT + 0.5, top - 0.5, side - 1, height + 1);
    c.restore();
  }

  lines() {
    const { context: c, side, scale } = this;
    if (scale >= 9) {
      c.strokeStyle = css("--rule");
      c.lineWidth = 0.5;
      c.beginPath();
      for (let i = Math.ceil(this.x); i <= this.x + this.span; i += 1) {
        c.moveTo(LEFT + (i - this.x) * scale, TOP);
        c.lineTo(LEFT + (i - this.x) * scale, TOP + side);
      }
      for (let i = Math.ceil(this.y); i <= this.y + this.span; i += 1) {
        c.moveTo(LEFT, TOP + (i - this.y) * scale);
        c.lineTo(LEFT + side, TOP + (i - this.y) * scale);
      }
      c.stroke();
    }
    c.strokeStyle = css("--muted");
    c.lineWidth = 1;
    c.strokeRect(LEFT - 0.5, TOP - 0.5, side + 1, side + 1);
  }

  ticks() {
    const { context: c, side, scale } = this;
    const step = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024].find((each) => each * scale >= 44) || 1024;
    c.font = `11px ${css("--sans")}`;
    c.fillStyle = c.strokeStyle = css("--muted");
    c.textBaseline = "middle";
    c.beginPath();
    for (let i = Math.ceil(this.x / step) * step; i < this.x + this.span; i += step) {
      const px = LEFT + (i + 0.5 - this.x) * scale;
      if (px < LEFT || px > LEFT + side) continue;
      c.moveTo(px, TOP - 1);
      c.lineTo(px, TOP - 5);
      c.textAlign = "center";
      c.fillText(i, px, TOP - 12);
    }
    for (let i = Math.ceil(this.y / step) * step; i < this.y + this.span; i += step) {
      const py = TOP + (i + 0.5 - this.y) * scale;
      if (py < TOP || py > TOP + side) continue;
      c.moveTo(LEFT - 1, py);
      c.lineTo(LEFT - 5, py);
      c.textAlign = "right";
      c.fillText(i, LEFT - 8, py);
    }
    c.stroke();
    c.textAlign = "left";
    c.fillText("q ↓  k →", 0, 7);
  }

  lanes() {
    const { context: c, side, followed, scale } = this;
    const first = TOP + side + GAP, second = first + LANE + GAP;
    c.font = `11px ${css("--sans")}`;
    c.textAlign = "right";
    c.textBaseline = "middle";
    for (const [top, name] of [[first, "keys"], [second, "layers"]]) {
      c.fillStyle = css("--sunk");
      c.fillRect(LEFT, top, side, LANE);
      c.fillStyle = css("--muted");
      c.fillText(name, LEFT - 8, top + LANE / 2);
    }
    if (!followed) return;
    const { query, hops, most, layers } = followed;
    const colours = hopColours(most);
    const { n } = this.view;
    const wide = Math.max(scale, 1);
    for (let k = Math.max(0, Math.floor(this.x)); k < Math.min(n, this.x + this.span); k += 1) {
      const left = Math.max(LEFT, LEFT + (k - this.x) * scale);
      const width = Math.min(wide, LEFT + side - left);
      const code = this.codes[query * n + k];
      if (this.view.cells[code][0]) {
        const owner = this.owner(code);
        c.fillStyle = owner < 0 ? css("--muted") : branchColour(owner);
        c.fillRect(left, first, width, LANE);
      }
      if (hops[k] >= 0 && hops[k] <= layers) {
        c.fillStyle = hops[k] ? colours[hops[k]] : css("--ink");
        c.fillRect(left, second, width, LANE);
      }
    }
  }

  crosshair() {
    const { context: c, side, cursor, scale } = this;
    if (!cursor) return;
    c.strokeStyle = css("--ink");
    c.globalAlpha = 0.55;
    c.lineWidth = 1;
    c.beginPath();
    const px = LEFT + (cursor.k + 0.5 - this.x) * scale;
    c.moveTo(px, TOP);
    c.lineTo(px, TOP + side + LANES_HEIGHT - GAP);
    if (cursor.q !== null) {
      const py = TOP + (cursor.q + 0.5 - this.y) * scale;
      c.moveTo(LEFT, py);
      c.lineTo(LEFT + side, py);
    }
    c.stroke();
    c.globalAlpha = 1;
    if (cursor.q !== null && scale >= 4) {
      c.lineWidth = 2;
      c.strokeRect(LEFT + (cursor.k - this.x) * scale, TOP + (cursor.q - this.y) * scale, scale, scale);
    }
  }

  /** What is shown and where, for whoever wants to know it from outside. */
  report() {
    const { x, y, span, side, followed } = this;
    const query = followed ? followed.query : null;
    this.canvas.dataset.state = JSON.stringify({ n: this.view.n, x, y, span, side, left: LEFT, top: TOP, query });
  }
}
