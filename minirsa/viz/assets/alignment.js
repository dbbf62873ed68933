const begin = (root) => {
  const { examples, unit } = DATA;
  const state = { example: 0, target: 0, source: -1 };
  const largest = examples.map(({ weights }) => Math.max(1, ...weights.flat()));
  const weight = (target, source) => (examples[state.example].weights[target][source] / unit).toFixed(2);

  const choice = element("select", {});
  examples.forEach(({ title }, i) => choice.append(element("option", { value: i }, title)));
  const say = element("div", { class: "mx-say", role: "status", "aria-live": "polite" });
  const note = element("span", {});
  const sources = element("div", { class: "mx-tokens", role: "list", "aria-label": "Input words" });
  const targets = element("div", { class: "mx-tokens", role: "radiogroup", "aria-label": "Output words: pick one" });
  const grid = element("div", { class: "mx-grid", "aria-hidden": "true" });
  const scroll = element("div", { class: "mx-scroll", tabindex: 0, role: "region", "aria-label": "All weights: a row for each output word" }, grid);
  let bars = [], chips = [], heads = [], lines = [];

  const visible = (word) => (word.trim() ? word : "\u2423");  // an output of characters has blanks
  const wordAndGloss = (word, gloss) => [element("b", {}, visible(word)), ...(gloss ? [element("i", {}, gloss)] : [])];

  // What an example needs, made anew: a chip for each word, and the grid.
  const lay = () => {
    const { source, target, gloss, targetGloss, weights } = examples[state.example];
    bars = source.map(() => ({ bar: element("span", {}), value: element("small", {}) }));
    sources.replaceChildren(...source.map((word, s) => element("div", { class: "mx-token", role: "listitem" },
      ...wordAndGloss(word, gloss && gloss[s]),
      element("span", { class: "mx-bar", "aria-hidden": "true" }, bars[s].bar), bars[s].value)));
    chips = target.map((word, t) => {
      const chip = element("button", { class: "mx-token", type: "button", role: "radio" },
        ...wordAndGloss(word, targetGloss && targetGloss[t]));
      chip.addEventListener("click", () => update({ target: t, source: -1 }, true));
      chip.addEventListener("pointerenter", (event) => {
        if (event.pointerType === "mouse") update({ target: t, source: -1 }, true);
      });
      return chip;
    });
    targets.replaceChildren(...chips);

    const upright = [...source, ...(gloss || [])].every((word) => [...word].length <= 2);
    grid.classList.toggle("mx-turned", !upright);
    grid.style.gridTemplateColumns = `max-content repeat(${source.length}, minmax(16px, 38px))`;
    heads = source.map((word, s) => element("span", { class: "mx-head" }, ...wordAndGloss(word, gloss && gloss[s])));
    lines = target.map((word, t) => [
      element("span", { class: "mx-side", "data-target": t }, ...wordAndGloss(word, targetGloss && targetGloss[t])),
      ...source.map((_, s) => {
        const fill = element("span", { style: `opacity: ${(weights[t][s] / largest[state.example]).toFixed(3)}` });
        return element("span", { class: "mx-cell", "data-target": t, "data-source": s }, fill);
      }),
    ]);
    grid.replaceChildren(element("span", { class: "mx-side" }), ...heads, ...lines.flat());
    note.textContent = `Full colour, full bar: ${shortNumber(largest[state.example] / unit)}, the largest weight of this example.`;
    scroll.scrollLeft = 0;
  };

  const update = (change, follow) => {
    const other = change.example !== undefined && change.example !== state.example;
    Object.assign(state, change);
    if (other) Object.assign(state, { target: 0, source: -1 });
    const { source, target, weights } = examples[state.example];
    state.target = (state.target + target.length) % target.length;
    if (other) lay();
    choice.value = state.example;
    const values = weights[state.target].map((value) => value / largest[state.example]);
    bars.forEach(({ bar, value }, s) => {
      bar.style.width = `${(100 * values[s]).toFixed(1)}%`;
      value.textContent = weight(state.target, s);
      value.classList.toggle("mx-little", values[s] < 0.1);
    });
    chips.forEach((chip, t) => {
      chip.setAttribute("aria-checked", t === state.target);
      chip.tabIndex = t === state.target ? 0 : -1;
    });
    heads.forEach((head, s) => head.classList.toggle("mx-picked", s === state.source));
    lines.forEach((line, t) => line.forEach((cell) => cell.classList.toggle("mx-row", t === state.target)));
    const order = source.map((_, s) => s).sort((a, b) => values[b] - values[a]);
    if (follow && scroll.scrollWidth > scroll.clientWidth) {
      const cell = lines[state.target][order[0] + 1];
      scroll.scrollLeft = cell.offsetLeft - (scroll.clientWidth - cell.offsetWidth) / 2;
    }
    const named = state.source < 0 ? order.slice(0, 3).filter((s) => weight(state.target, s) !== "0.00") : [state.source];
    say.textContent = `Output word ${state.target + 1} of ${target.length}, \u201c${visible(target[state.target])}\u201d, looked at ` +
      (named.length ? named.map((s) => `\u201c${visible(source[s])}\u201d ${weight(state.target, s)}`).join(", ") : "nothing") + ".";
    root.dataset.state = `example=${state.example} target=${state.target} most=${order[0]}` +
      (state.source < 0 ? "" : ` source=${state.source}`);
  };

  choice.addEventListener("change", () => update({ example: Number(choice.value) }));
  targets.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const last = chips.length - 1;
    const to = { ArrowRight: state.target + 1, ArrowDown: state.target + 1, ArrowLeft: state.target - 1,
      ArrowUp: state.target - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    update({ target: to, source: -1 }, true);
    chips[state.target].focus({ preventScroll: true });
  });
  const pick = (event) => {
    const cell = event.target.closest("[data-target]");
    if (cell) update({ target: Number(cell.dataset.target), source: Number(cell.dataset.source ?? -1) });
  };
  grid.addEventListener("click", pick);
  grid.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse") pick(event);
  });

  root.querySelector(".mx-stage").replaceChildren(
    ...(examples.length > 1 ? [element("div", { class: "mx-controls" }, element("label", {}, "Example", choice))] : []),
    element("div", { class: "mx-title" }, "Input ", element("span", {}, "bars: the weights of the chosen output word")),
    sources,
    element("div", { class: "mx-title" }, "Output ", element("span", {}, "point at a word, tap it, or use the arrow keys")),
    targets,
    scroll,
    weightLegend(note),
    say);
  lay();
  update({});
};
start(DATA.id, begin);
