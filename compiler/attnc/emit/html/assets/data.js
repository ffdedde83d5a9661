// The views that the page carries (attnc/emit/html/cells.py says how they are packed), and paths through them.

const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

class View {
  constructor(data) {
    Object.assign(this, data);
    this.heads_ = new Map();
    this.largest = Math.max(...this.cells.map(([m]) => m));
  }

  /** Codes of a head, a row a query; null for a head that the page does not carry. */
  async head(number) {
    const place = this.head_of[number];
    if (place < 0) return null;
    if (!this.heads_.has(place)) {
      const bytes = await unpack(this.matrices[place]);
      this.heads_.set(place, this.width === 1 ? bytes : new Uint16Array(bytes.buffer));
    }
    return this.heads_.get(place);
  }

  /** For every query the keys that any head holds: a function from a query to whether it holds a key. */
  async anyHead() {
    this.union_ ??= await unpack(this.union);
    const stride = Math.ceil(this.n / 8);
    return (q, k) => (this.union_[q * stride + (k >> 3)] >> (k & 7)) & 1;
  }

  oneHead(codes) {
    return (q, k) => this.cells[codes[q * this.n + k]][0] > 0;
  }
}

/** After how many layers each position is heard of by the query, and from which position it was: -1 for never.

    A residual goes around every layer, so the query knows itself after 0 layers. */
const hopsFrom = (query, n, holds) => {
  const hops = new Int32Array(n).fill(-1);
  const through = new Int32Array(n).fill(-1);
  hops[query] = 0;
  let frontier = [query];
  for (let layer = 1; frontier.length; layer += 1) {
    const next = [];
    for (const q of frontier) {
      for (let k = 0; k < n; k += 1) {
        if (hops[k] < 0 && holds(q, k)) {
          hops[k] = layer;
          through[k] = q;
          next.push(k);
        }
      }
    }
    frontier = next;
  }
  return { hops, through, most: hops.reduce((most, each) => Math.max(most, each), 0) };
};

const pathTo = (key, through) => {
  const path = [key];
  while (through[path[0]] >= 0) path.unshift(through[path[0]]);
  return path;
};

/** Positions as ranges: 0–3, 8, 16–20. */
const ranges = (positions) => {
  const parts = [];
  for (let i = 0; i < positions.length; ) {
    let j = i;
    while (j + 1 < positions.length && positions[j + 1] === positions[j] + 1) j += 1;
    parts.push(j > i ? `${positions[i]}–${positions[j]}` : `${positions[i]}`);
    i = j + 1;
  }
  return parts.join(", ");
};
