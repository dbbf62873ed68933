// Shared by every figure: finding the figure's elements, decoding its arrays, drawing frames and kernels.
const element = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

// The same figure may stand several times on a page, and a notebook may run a script before its output is in the
// document: take every copy that has not been started, and look again for a second.
const start = (id, begin) => {
  let tries = 60;
  const look = () => {
    const found = document.querySelectorAll(`[data-minirsa="${id}"]:not([data-started])`);
    for (const root of found) {
      root.setAttribute("data-started", "");
      Promise.resolve(begin(root)).catch((error) => {
        root.removeAttribute("data-started");
        console.error("minirsa figure:", error);
      });
    }
    if (!found.length && tries-- > 0) requestAnimationFrame(look);
  };
  look();
};

const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const inflate = async (bytes) => {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int8Array(await new Response(stream).arrayBuffer());
};

const loadImages = (addresses) => Promise.all(addresses.map((address) => {
  const image = new Image();
  image.src = address;
  return image.decode().then(() => image);
}));

// A kernel at one position, as floats in -1 .. 1 (1 = the strongest colour of its scale). Positions count panels,
// frames, rows and columns in this order. Stored either value by value or as coefficients times a basis.
const kernelAt = (field, bytes, position, size, positions) => {
  const kernel = new Float32Array(size);
  if (field.rank === 0) {
    for (let k = 0; k < size; k++) kernel[k] = bytes[field.offset + k * positions + position] / field.levels;
    return kernel;
  }
  const basis = field.offset + field.rank * positions;
  for (let r = 0; r < field.rank; r++) {
    const weight = bytes[field.offset + r * positions + position] * field.weights[r];
    if (weight) for (let k = 0; k < size; k++) kernel[k] += weight * bytes[basis + r * size + k];
  }
  return kernel;
};

const parseColor = (text) => {
  const digits = text.trim().replace("#", "");
  return [0, 2, 4].map((i) => parseInt(digits.slice(i, i + 2), 16));
};

const theme = (root) => {
  const style = getComputedStyle(root);
  const value = (name) => style.getPropertyValue(`--mx-${name}`).trim();
  const colors = {};
  for (const name of ["negative", "neutral", "positive", "attention"]) colors[name] = parseColor(value(name));
  for (const name of ["line", "highlight", "outside"]) colors[name] = value(name);
  return colors;
};

const onThemeChange = (redraw) => {
  const observer = new MutationObserver(redraw);
  const attributeFilter = ["data-theme", "theme", "class", "data-jp-theme-light"];
  observer.observe(document.documentElement, { attributes: true, attributeFilter });
  if (document.body) observer.observe(document.body, { attributes: true, attributeFilter });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
};

const mix = (colors, value) => {
  const end = value < 0 ? colors.negative : colors.positive;
  const share = Math.min(1, Math.abs(value));
  return `rgb(${colors.neutral.map((from, i) => Math.round(from + (end[i] - from) * share)).join(",")})`;
};

// Gives the canvas `height` CSS pixels and one backing pixel for each of the screen's; returns [context, width].
const prepare = (canvas, heightOf) => {
  const width = canvas.clientWidth;
  if (!width) return [null, 0, 0];
  const height = Math.round(heightOf(width));
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return [context, width, height];
};

const GAP = 4;
const LARGEST_MAP = 92;
const rowsOfMaps = (kT) =>
  element("div", { class: "mx-rows", style: `max-width: ${kT * (LARGEST_MAP + GAP) - GAP}px` });
const mapWidth = (width, steps) => (width - GAP * (steps - 1)) / steps;

const frameStep = (context, x, width, height, chosen, colors) => {
  context.lineWidth = chosen ? 2 : 1;
  context.strokeStyle = chosen ? colors.highlight : colors.line;
  const inset = context.lineWidth / 2;
  context.strokeRect(x + inset, inset, width - 2 * inset, height - 2 * inset);
};

// A kernel (kT, kH, kW) as kT maps in a row, cells `aspect` times as high as wide; `chosen`: step to outline, or -1.
const drawMaps = (canvas, kernel, [kT, kH, kW], aspect, colors, chosen) => {
  const [context, width, height] = prepare(canvas, (w) => mapWidth(w, kT) * aspect * kH / kW);
  if (!context) return;
  const side = mapWidth(width, kT);
  for (let t = 0; t < kT; t++) {
    const left = t * (side + GAP);
    for (let y = 0; y < kH; y++) {
      for (let x = 0; x < kW; x++) {
        const x0 = left + x * side / kW, y0 = y * height / kH;
        context.fillStyle = mix(colors, kernel[(t * kH + y) * kW + x]);
        context.fillRect(x0, y0, side / kW + 0.6, height / kH + 0.6);
      }
    }
    context.clearRect(left + side, 0, GAP, height);
    frameStep(context, left, side, height, t === chosen, colors);
  }
};

// What the kernel looks at: the neighbourhood cut out of each of the kT frames; outside the clip stays plain.
const drawSeen = (canvas, images, frame, [row, column], [gh, gw], [kT, kH, kW], colors) => {
  const cell = [images[0].naturalHeight / gh, images[0].naturalWidth / gw];
  const aspect = (kH * cell[0]) / (kW * cell[1]);
  const [context, width, height] = prepare(canvas, (w) => mapWidth(w, kT) * aspect);
  if (!context) return;
  const side = mapWidth(width, kT);
  const size = [kH * cell[0], kW * cell[1]];
  const origin = [(row - (kH >> 1)) * cell[0], (column - (kW >> 1)) * cell[1]];
  for (let t = 0; t < kT; t++) {
    const left = t * (side + GAP);
    const image = images[frame + t - (kT >> 1)];
    context.fillStyle = colors.outside;
    context.fillRect(left, 0, side, height);
    if (image) {
      const y0 = Math.max(0, origin[0]), x0 = Math.max(0, origin[1]);
      const y1 = Math.min(image.naturalHeight, origin[0] + size[0]);
      const x1 = Math.min(image.naturalWidth, origin[1] + size[1]);
      const scale = side / size[1];
      context.imageSmoothingEnabled = image.naturalWidth > 96;
      context.drawImage(image, x0, y0, x1 - x0, y1 - y0,
        left + (x0 - origin[1]) * scale, (y0 - origin[0]) * scale, (x1 - x0) * scale, (y1 - y0) * scale);
    }
    frameStep(context, left, side, height, false, colors);
  }
};

// A frame with the query's place, its neighbourhood and, over it, the kernel's slice at the query's own time.
const drawFrame = (canvas, image, [row, column], [gh, gw], [kT, kH, kW], kernel, colors) => {
  const [context, width, height] = prepare(canvas, (w) => w * image.naturalHeight / image.naturalWidth);
  if (!context) return;
  context.imageSmoothingEnabled = image.naturalWidth > 96;
  context.drawImage(image, 0, 0, width, height);
  const cw = width / gw, ch = height / gh;
  const top = (row - (kH >> 1)) * ch, left = (column - (kW >> 1)) * cw;
  if (kernel) {
    const slice = (kT >> 1) * kH * kW;
    for (let y = 0; y < kH; y++) {
      for (let x = 0; x < kW; x++) {
        const value = kernel[slice + y * kW + x];
        const [r, g, b] = value < 0 ? colors.negative : colors.positive;
        context.fillStyle = `rgba(${r},${g},${b},${(0.75 * Math.min(1, Math.abs(value))).toFixed(3)})`;
        context.fillRect(left + x * cw, top + y * ch, cw + 0.3, ch + 0.3);
      }
    }
  }
  const y0 = Math.max(1, top), x0 = Math.max(1, left);
  const y1 = Math.min(height - 1, top + kH * ch), x1 = Math.min(width - 1, left + kW * cw);
  const middle = [(column + 0.5) * cw, (row + 0.5) * ch];
  for (const [color, line] of [["#1b2430", 4], [colors.highlight, 2]]) {
    context.strokeStyle = color;
    context.lineWidth = line;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.beginPath();
    context.arc(middle[0], middle[1], 6, 0, 2 * Math.PI);
    context.stroke();
  }
};

const stepNames = (kT) => Array.from({ length: kT }, (_, t) => {
  const offset = t - (kT >> 1);
  return offset ? (offset > 0 ? "+" : "\u2212") + Math.abs(offset) : "0";
});

const shortNumber = (value) => Number(value.toPrecision(2)).toString().replace("-", "\u2212");

const legend = (text) => element("div", { class: "mx-legend" },
  element("span", {}, "negative"), element("span", { class: "mx-scale", "aria-hidden": "true" }),
  element("span", {}, "positive"), element("span", {}, text));
