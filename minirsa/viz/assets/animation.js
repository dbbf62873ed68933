const begin = async (root) => {
  const images = await loadImages(DATA.images);
  const bytes = new Int8Array(fromBase64(DATA.bytes).buffer);
  const { grid, kernel, fields, place } = DATA;
  const T = DATA.panels[0].frames.length;
  const size = kernel[0] * kernel[1] * kernel[2];
  const positions = DATA.panels.length * T;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const state = { frame: DATA.frame, playing: !still.matches };

  const button = element("button", { type: "button" });
  const slider = element("input", { type: "range", min: 1, max: T, step: 1, "aria-label": "Frame" });
  const count = element("output", {});

  const panels = DATA.panels.map((panel, p) => {
    const own = panel.frames.map((i) => images[i]);
    const aspect = own[0].naturalHeight / grid[0] / (own[0].naturalWidth / grid[1]);
    const frame = element("canvas", { class: "mx-frame", role: "img", "aria-label": `The clip played ${panel.title.toLowerCase()}` });
    const rows = rowsOfMaps(kernel[0]);
    const seen = element("canvas", { role: "img", "aria-label": "The neighbourhood in each frame that the kernels cover" });
    rows.append(element("div", { class: "mx-name" }, element("b", {}, "what they look at")), seen);
    const maps = fields.map((field) => {
      const canvas = element("canvas", { role: "img", "aria-label": `${field.name}, ${panel.title.toLowerCase()}: one map a step in time` });
      rows.append(element("div", { class: "mx-name" }, element("b", {}, field.name)), canvas);
      return canvas;
    });
    rows.append(element("div", { class: "mx-steps", "aria-hidden": "true" }, ...stepNames(kernel[0]).map((s) => element("span", {}, s))));
    const draw = (colors) => {
      const t = state.frame;
      drawFrame(frame, own[t], place, grid, kernel, null, colors);
      drawSeen(seen, own, t, place, grid, kernel, colors);
      maps.forEach((canvas, i) =>
        drawMaps(canvas, kernelAt(fields[i], bytes, p * T + t, size, positions), kernel, aspect, colors, -1));
    };
    return { draw, node: element("div", { class: "mx-panel" }, element("div", { class: "mx-title" }, panel.title), frame, rows) };
  });

  const draw = () => {
    const colors = theme(root);
    for (const panel of panels) panel.draw(colors);
  };
  const update = (change) => {
    Object.assign(state, change);
    slider.value = state.frame + 1;
    count.value = `${state.frame + 1} of ${T}`;
    button.textContent = state.playing ? "Pause" : "Play";
    root.dataset.state = `${state.playing ? "playing" : "paused"} frame=${state.frame}`;
    draw();
  };
  button.addEventListener("click", () => update({ playing: !state.playing }));
  slider.addEventListener("input", () => update({ playing: false, frame: Number(slider.value) - 1 }));
  still.addEventListener("change", () => update({ playing: !still.matches }));

  const stage = element("div", { class: "mx-panels" }, ...panels.map((p) => p.node));
  root.querySelector(".mx-stage").replaceChildren(
    element("div", { class: "mx-controls" }, button, element("label", {}, "Frame", slider, count)),
    stage,
    legend("Columns: steps in time from the query's frame, 0."));
  update({});

  let visible = true;
  let rest = 0;
  new IntersectionObserver((entries) => { visible = entries[entries.length - 1].isIntersecting; }).observe(root);
  setInterval(() => {
    if (!state.playing || !visible || document.hidden) return;
    if (state.frame === T - 1 && rest++ < 2) return; // a moment's rest on the last frame: the start is then plain
    rest = 0;
    update({ frame: (state.frame + 1) % T });
  }, DATA.interval);
  let width = 0;
  new ResizeObserver(() => {
    if (stage.clientWidth === width) return;
    width = stage.clientWidth;
    draw();
  }).observe(stage);
  onThemeChange(draw);
};
start(DATA.id, begin);
