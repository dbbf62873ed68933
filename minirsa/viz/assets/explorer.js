const begin = async (root) => {
  const bytes = await inflate(fromBase64(DATA.bytes));
  const images = await loadImages(DATA.images);
  const { grid, kernel, fields } = DATA;
  const [gh, gw] = grid;
  const T = DATA.panels[0].frames.length;
  const size = kernel[0] * kernel[1] * kernel[2];
  const positions = DATA.panels.length * T * gh * gw;
  const state = { frame: DATA.query[0], row: DATA.query[1], column: DATA.query[2], shown: DATA.shown };

  const slider = element("input", { type: "range", min: 1, max: T, step: 1, "aria-label": "Frame" });
  const count = element("output", {});
  const choice = element("select", {});
  fields.forEach((field, i) => choice.append(element("option", { value: i }, field.name)));
  choice.append(element("option", { value: -1 }, "nothing"));
  const say = element("div", { class: "mx-say", role: "status", "aria-live": "polite" });

  const panels = DATA.panels.map((panel, p) => {
    const title = element("div", { class: "mx-title" });
    const frame = element("canvas", {
      class: "mx-frame", tabindex: 0, role: "application",
      "aria-label": `${panel.title}: click, drag or use the arrow keys to move the point; page up and page down change the frame.`,
    });
    const rows = rowsOfMaps(kernel[0]);
    const seen = element("canvas", { role: "img", "aria-label": "The neighbourhood in each frame that the kernel covers" });
    rows.append(element("div", { class: "mx-name" }, element("b", {}, "what it looks at")), seen);
    const maps = fields.map((field, i) => {
      const canvas = element("canvas", { role: "img", "aria-label": `${field.name}, ${panel.title.toLowerCase()}: one map a step in time` });
      const scale = element("span", {}, `\u00b1${shortNumber(field.scale)}`);
      rows.append(element("div", { class: "mx-name" }, element("b", {}, field.name), scale), canvas);
      canvas.addEventListener("click", () => update({ shown: i }));
      return canvas;
    });
    rows.append(element("div", { class: "mx-steps", "aria-hidden": "true" }, ...stepNames(kernel[0]).map((s) => element("span", {}, s))));
    const own = panel.frames.map((i) => images[i]);
    const aspect = own[0].naturalHeight / gh / (own[0].naturalWidth / gw);

    pickCells(frame, grid, (cell) => update(cell), (name, by) => update({ [name]: state[name] + by }));

    const draw = (colors) => {
      const t = panel.reversed ? T - 1 - state.frame : state.frame;
      title.replaceChildren(`${panel.title} `, element("span", {}, `frame ${t + 1} of ${T}`));
      const position = ((p * T + t) * gh + state.row) * gw + state.column;
      const kernels = fields.map((field) => kernelAt(field, bytes, position, size, positions));
      const place = [state.row, state.column];
      drawFrame(frame, own[t], place, grid, kernel, kernels[state.shown], colors);
      drawSeen(seen, own, t, place, grid, kernel, colors);
      maps.forEach((canvas, i) => drawMaps(canvas, kernels[i], kernel, aspect, colors, i === state.shown ? kernel[0] >> 1 : -1));
    };
    return { draw, node: element("div", { class: "mx-panel" }, title, frame, rows) };
  });

  const draw = () => {
    const colors = theme(root);
    for (const panel of panels) panel.draw(colors);
  };
  const update = (change) => {
    Object.assign(state, change);
    const clamp = (value, n) => Math.min(n - 1, Math.max(0, value));
    state.frame = clamp(state.frame, T);
    state.row = clamp(state.row, gh);
    state.column = clamp(state.column, gw);
    slider.value = state.frame + 1;
    slider.setAttribute("aria-valuetext", `frame ${state.frame + 1} of ${T}`);
    choice.value = state.shown;
    count.value = `${state.frame + 1} of ${T}`;
    const shown = state.shown < 0 ? "nothing" : fields[state.shown].name;
    say.textContent =
      `Point: row ${state.row + 1} of ${gh}, column ${state.column + 1} of ${gw}; frame ${state.frame + 1} of ${T}.`;
    root.dataset.state = `frame=${state.frame} row=${state.row} column=${state.column} shown=${shown}`;
    draw();
  };
  slider.addEventListener("input", () => update({ frame: Number(slider.value) - 1 }));
  choice.addEventListener("change", () => update({ shown: Number(choice.value) }));

  const stage = element("div", { class: panels.length > 1 ? "mx-panels" : "mx-panels mx-one" }, ...panels.map((p) => p.node));
  root.querySelector(".mx-stage").replaceChildren(
    element("div", { class: "mx-controls" },
      element("label", {}, "Frame", slider, count), element("label", {}, "On the picture", choice)),
    stage,
    element("div", { class: "mx-hint" }, "Click or drag on a picture, or use the arrow keys, to move the point."),
    legend("Full colour is the \u00b1 number beside each name; 0 is the query's own frame."),
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
