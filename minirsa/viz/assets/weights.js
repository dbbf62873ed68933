// Weights of one query as `pack_weights` stores them: 0 .. 1 of the query's largest, and -1 where exactly zero.
const weightsAt = (field, levels, query, places) => Float32Array.from({ length: places }, (_, place) => {
  const level = levels[field.offset + query * places + place];
  return level ? (level - 1) / (field.levels - 1) : -1;
});

const weightLegend = (...words) => element("div", { class: "mx-legend" },
  element("span", {}, "0"), element("span", { class: "mx-scale", "aria-hidden": "true" }),
  element("span", {}, "largest"), ...words);
