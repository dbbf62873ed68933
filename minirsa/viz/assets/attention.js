const begin = async (root) => {
  const levels = await inflate(fromBase64(DATA.bytes));
  const images = await loadImages(DATA.images);
  const { grid, fields } = DATA;
  const [gh, gw] = grid;
  const frames = DATA.frames.map((i) => images[i]);
  const T = frames.length, patches = gh * gw, places = T * patches;
  const state = { frame: DATA.query[0], row: DATA.query[1], column: DATA.query[2], shown: DATA.shown };
  const aspect = frames[0].naturalHeight / frames[0].naturalWidth;

  const grey = images.map((image) => {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [image.naturalWidth, image.naturalHeight];
    const context = copy.getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, copy.width, copy.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const mean = (pixels.data[i] + pixels.data[i + 1] + pixels.data[i + 2]) / 3;
      pixels.data.fill(mean, i, i + 3);
    }
    context.putImageData(pixels, 0, 0);
    return copy;
  });

  const ring = (context, x, y, width, height) => {
    for (const [color, line] of [["#1b2430", 4], ["#f2b705", 2]]) {
      context.strokeStyle = color;
      context.lineWidth = line;
      context.strokeRect(x, y, width, height);
    }
  };
  const paint = (context, weights, t, left, width, height, colors, strength) => {
    const across = (x) => Math.round(left + x * width / gw), down = (y) => Math.round(y * height / gh);
    for (let y = 0; y < gh; y++) {
      for (let x = 0; x < gw; x++) {
        const value = weights[t * patches + y * gw + x];
        context.fillStyle = value < 0 ? colors.outside : `rgb(${colors.attention.join(",")})`;
        context.globalAlpha = value < 0 ? strength.zero : strength.full * value;
        context.fillRect(across(x), down(y), across(x + 1) - across(x), down(y + 1) - down(y));
      }
    }
    context.globalAlpha = 1;
  };

  // A frame in grey under its weights, or in its own colours when nothing is shown; the query's patch is outlined.
  const drawLook = (canvas, t, weights, colors) => {
    const [context, width, height] = prepare(canvas, (w) => w * aspect);
    if (!context) return;
    context.imageSmoothingEnabled = frames[t].naturalWidth > 96;
    if (weights) {
      context.fillStyle = `rgb(${colors.neutral.join(",")})`;
      context.fillRect(0, 0, width, height);
      context.globalAlpha = 0.55;
      context.drawImage(grey[DATA.frames[t]], 0, 0, width, height);
      paint(context, weights, t, 0, width, height, colors, { full: 0.85, zero: 0.6 });
    } else context.drawImage(frames[t], 0, 0, width, height);
    if (t !== state.frame) return;
    const cw = width / gw, ch = height / gh;
    const x0 = Math.max(2, state.column * cw), y0 = Math.max(2, state.row * ch);
    ring(context, x0, y0, Math.min(width - 2, (state.column + 1) * cw) - x0, Math.min(height - 2, (state.row + 1) * ch) - y0);
  };
  // The same weights without the picture, all frames side by side.
  const drawStrip = (canvas, weights, chosen, colors) => {
    const [context, width, height] = prepare(canvas, (w) => mapWidth(w, T) * aspect);
    if (!context) return;
    const side = mapWidth(width, T);
    for (let t = 0; t < T; t++) {
      const left = t * (side + GAP);
      context.fillStyle = `rgb(${colors.neutral.join(",")})`;
      context.fillRect(left, 0, side, height);
      paint(context, weights, t, left, side, height, colors, { full: 1, zero: 1 });
      frameStep(context, left, side, height, chosen && t === state.frame, colors);
      if (t !== state.frame) continue;
      context.beginPath();
      context.arc(left + (state.column + 0.5) * side / gw, (state.row + 0.5) * height / gh, Math.max(1.5, side / gw / 4), 0, 2 * Math.PI);
      context.fillStyle = colors.highlight;
      context.strokeStyle = "#1b2430";
      context.lineWidth = 1;
      context.fill();
      context.stroke();
    }
  };

  const slider = element("input", { type: "range", min: 1, max: T, step: 1, "aria-label": "Frame of the query" });
  const count = element("output", {});
  const choice = element("select", {});
  fields.forEach((field, i) => choice.append(element("option", { value: i }, field.name)));
  choice.append(element("option", { value: -1 }, "nothing"));
  const say = element("div", { class: "mx-say", role: "status", "aria-live": "polite" });

  const step = (name, by) => {
    update({ [name]: state[name] + by });
    looks[state.frame].canvas.focus({ preventScroll: true });
  };
  const looks = frames.map((_, t) => {
    const canvas = element("canvas", {
      class: "mx-frame", role: "application",
      "aria-label": (T > 1 ? `Frame ${t + 1}: ` : "") + "click, drag or use the arrow keys to move the query" +
        (T > 1 ? "; page up and page down change its frame." : "."),
    });
    pickCells(canvas, grid, (cell) => update({ frame: t, ...cell }), step);
    const node = element("div", { class: "mx-look" }, ...(T > 1 ? [element("span", {}, `frame ${t + 1}`)] : []), canvas);
    return { canvas, node };
  });
  const rows = element("div", { class: "mx-rows" });
  const strips = fields.map((field, i) => {
    const canvas = element("canvas", { role: "img", "aria-label": `${field.name}: the query's weights` + (T > 1 ? ", one map a frame" : "") });
    const numbers = element("div", { class: "mx-numbers" });
    canvas.addEventListener("click", () => update({ shown: i }));
    rows.append(element("div", { class: "mx-strip" }, element("div", { class: "mx-name" }, element("b", {}, field.name), numbers), canvas));
    return { canvas, numbers };
  });

  const query = () => state.frame * patches + state.row * gw + state.column;
  const inWords = (value) => (value < 9.95 ? value.toFixed(1) : value.toFixed(0));
  const draw = () => {
    const colors = theme(root);
    const all = fields.map((field) => weightsAt(field, levels, query(), places));
    looks.forEach(({ canvas }, t) => drawLook(canvas, t, all[state.shown], colors));
    strips.forEach(({ canvas }, i) => drawStrip(canvas, all[i], i === state.shown, colors));
  };
  const update = (change) => {
    Object.assign(state, change);
    const clamp = (value, n) => Math.min(n - 1, Math.max(0, value));
    state.frame = clamp(state.frame, T);
    state.row = clamp(state.row, gh);
    state.column = clamp(state.column, gw);
    slider.value = state.frame + 1;
    slider.setAttribute("aria-valuetext", `frame ${state.frame + 1} of ${T}`);
    count.value = `${state.frame + 1} of ${T}`;
    choice.value = state.shown;
    looks.forEach(({ canvas, node }, t) => {
      canvas.tabIndex = t === state.frame ? 0 : -1;
      node.classList.toggle("mx-own", t === state.frame);
    });
    strips.forEach(({ numbers }, i) => {
      const largest = shortNumber(fields[i].largest[query()]);
      numbers.replaceChildren(element("span", {}, `largest ${largest};`), " ",
        element("span", {}, `\u2248 ${inWords(fields[i].spread[query()])} of ${places} patches`));
    });
    const shown = state.shown < 0 ? "nothing" : fields[state.shown].name;
    const place = `row ${state.row + 1} of ${gh}, column ${state.column + 1} of ${gw}` + (T > 1 ? `, frame ${state.frame + 1} of ${T}` : "");
    say.textContent = `Query: ${place}.` + (state.shown < 0 ? "" : ` ${shown}: ${strips[state.shown].numbers.textContent}.`);
    root.dataset.state = `frame=${state.frame} row=${state.row} column=${state.column} shown=${shown}`;
    draw();
  };
  slider.addEventListener("input", () => update({ frame: Number(slider.value) - 1 }));
  choice.addEventListener("change", () => update({ shown: Number(choice.value) }));

  const stage = element("div", { class: T > 1 ? "mx-panels" : "mx-panels mx-one" },
    element("div", { class: "mx-panel" }, element("div", { class: "mx-looks" }, ...looks.map((look) => look.node)), rows));
  const zeros = levels.includes(0) ? [element("span", { class: "mx-zero", "aria-hidden": "true" }), element("span", {}, "weight exactly 0")] : [];
  root.querySelector(".mx-stage").replaceChildren(
    element("div", { class: "mx-controls" }, element("label", {}, "On the picture", choice),
      ...(T > 1 ? [element("label", {}, "Query's frame", slider, count)] : [])),
    stage,
    element("div", { class: "mx-hint" }, `Click or drag on ${T > 1 ? "any frame" : "the picture"}, or use the arrow keys, to move the query.`),
    weightLegend(...zeros, element("span", {},
      "Full colour is the query's largest weight. \u2248 n patches: as spread out as equal weights on n of them.")),
    say);
  update({});
  let width = 0;
  new ResizeObserver(() => {
    if (stage.clientWidth === width) return;
    width = stage.clientWidth;
    draw();
  }).observe(stage);
  onThemeChange(draw);
};
start(DATA.id, begin);
