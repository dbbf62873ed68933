// Lets a reader pick a cell of a grid that is drawn on a canvas: click, drag (mouse, pen or finger) or keys.
// `pick({ row, column })` takes the cell under the pointer, the nearest one when it is dragged off the canvas;
// `step(name, by)` takes a key's step: "row", "column" or (page up, page down) "frame", and -1 or 1.
const pickCells = (canvas, [gh, gw], pick, step) => {
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const cell = (at, length, n) => Math.min(n - 1, Math.max(0, Math.floor(at / length * n)));
    pick({
      row: cell(event.clientY - box.top, box.height, gh),
      column: cell(event.clientX - box.left, box.width, gw),
    });
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    point(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) point(event);
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const moves = {
      ArrowUp: ["row", -1], ArrowDown: ["row", 1], ArrowLeft: ["column", -1], ArrowRight: ["column", 1],
      PageUp: ["frame", -1], PageDown: ["frame", 1],
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    step(...move);
  });
};
