"use strict";

const content = JSON.parse(document.getElementById("content").textContent);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
// Okabe and Ito's colours, which people with any kind of colour vision tell apart.
const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c7a00"];
const MINUS = "\u2212";

// An element with attributes and children; texts become text nodes, so that no name is HTML.
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function addSection(id, title, explanation, ...children) {
  document.getElementById("sections").append(make("li", {}, make("a", { href: `#${id}` }, title)));
  const heading = make("h2", { id: `${id}-title` }, title);
  const section = make("section", { id, "aria-labelledby": heading.id }, heading);
  if (explanation) section.append(make("p", {}, explanation));
  section.append(...children);
  document.getElementById("main").append(section);
}

const score = (value) => (value === null ? "none" : value.toFixed(3));
const percent = (value) => (value === null ? "none" : `${(100 * value).toFixed(1)}%`);
const signed = (value) => value.toFixed(1).replace("-", MINUS);
const rgb = (color) => `rgb(${color.join(" ")})`;

function swatch(color) {
  return make("span", { class: "swatch", style: `background: ${color}` });
}

// ---------------------------------------------------------------- predictions

function addPredictions() {
  const shown = content.predictions;
  if (!shown.length) return;
  let index = 0;
  let kind = "prediction";
  const base = make("img", { alt: "" });
  const over = make("img", { alt: "" });
  const caption = make("figcaption", { "aria-live": "polite" });
  const here = make("p", { class: "here" });
  const labels = {};

  const opacity = make("input", { type: "range", min: 0, max: 100, value: 60, oninput: setOpacity });
  const kinds = make("fieldset", {}, make("legend", {}, "What is shown over the image"));
  for (const name of ["prediction", "truth", "errors"]) {
    const option = make("input", {
      type: "radio", name: "kind", value: name, checked: name === kind ? "" : null,
      onchange: () => { kind = name; show(index); },
    });
    kinds.append(make("label", {}, option, name));
  }
  const stage = make("div", { class: "stage", onpointermove: tell, onpointerleave: () => here.replaceChildren() }, base, over);
  const previous = make("button", { type: "button", onclick: () => show(index - 1) }, "\u2190 Previous");
  const next = make("button", { type: "button", id: "next-image", onclick: () => show(index + 1) }, "Next \u2192");
  const thumbs = make("div", { class: "thumbs", role: "group", "aria-label": "Images" });
  shown.forEach((each, number) => {
    const picture = make("img", { src: each.image, alt: `image ${number + 1}` });
    thumbs.append(make("button", { type: "button", onclick: () => show(number) }, picture));
  });
  thumbs.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(index + move);
    thumbs.children[index].focus();
  });

  function setOpacity() { over.style.opacity = opacity.value / 100; }

  function show(number) {
    index = (number + shown.length) % shown.length;
    const each = shown[index];
    base.src = each.image;
    // So that the whole of a tall image can be seen at once.
    base.onload = () => { stage.style.maxWidth = `${36 * base.naturalWidth / base.naturalHeight}rem`; };
    base.alt = `held-out image ${index + 1}`;
    over.src = each[kind];
    over.alt = kind === "errors" ? "pixels whose class is predicted wrong" : `classes of the ${kind}`;
    caption.textContent = `image ${index + 1} of ${shown.length}: ${percent(each.pixel_accuracy)} of the pixels right, mean IoU ${score(each.mean_iou)}`;
    [...thumbs.children].forEach((thumb, place) => thumb.setAttribute("aria-current", place === index));
    setOpacity();
    for (const name of ["truth", "prediction"]) readPixels(each[name], (read) => { labels[name] = read; });
  }

  const names = new Map(content.classes.map((each) => [each.color.join(), each.name]));

  function readPixels(source, use) {
    const picture = new Image();
    picture.onload = () => {
      const canvas = make("canvas", { width: picture.width, height: picture.height });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(picture, 0, 0);
      use((x, y) => {
        const place = [Math.floor(x * picture.width), Math.floor(y * picture.height)];
        const [red, green, blue] = context.getImageData(...place, 1, 1).data;
        return names.get([red, green, blue].join()) ?? "void";
      });
    };
    picture.src = source;
  }

  function tell(event) {
    const frame = stage.getBoundingClientRect();
    const at = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    if (!labels.truth || !labels.prediction || Math.max(...at) >= 1 || Math.min(...at) < 0) return;
    here.textContent = `Here: predicted ${labels.prediction(...at)}, labelled ${labels.truth(...at)}.`;
  }

  const key = make("ul", { class: "key", "aria-label": "Colours of the classes" });
  const present = content.scores ? content.scores.classes : content.classes.keys();
  for (const number of present) {
    const each = content.classes[number];
    key.append(make("li", {}, swatch(rgb(each.color)), each.name));
  }
  const controls = make("div", { class: "controls" }, previous, next, kinds, make("label", {}, "strength", opacity));
  addSection("predictions", "Predictions", "Held-out images at the size of training. Point at a pixel to read its class.",
    controls, make("figure", {}, stage, here, caption), thumbs, key);
  show(0);
}

// ---------------------------------------------------------------- boxes

function addBoxes() {
  const motion = content.boxes;
  if (!motion) return;
  const last = motion.steps.length - 1;
  let position = last;
  let frame = 0;
  const panels = motion.layers.map(layerPanel);
  const chart = importanceChart(motion);
  const label = make("output", { for: "moment" });
  const slider = make("input", {
    type: "range", id: "moment", min: 0, max: last, step: 1, value: last,
    "aria-label": "step of training", oninput: () => glide(Number(slider.value), 250),
  });
  const play = make("button", { type: "button", id: "play", onclick: toggle }, "Play");

  // Everything at a moment, between two of the recorded ones if it is no whole number.
  function show(moment) {
    position = moment;
    const before = Math.min(Math.floor(moment), Math.max(last - 1, 0));
    const after = Math.min(before + 1, last);
    const share = moment - before;
    const mix = (values) => (a, b) => values(before, a, b) * (1 - share) + values(after, a, b) * share;
    panels.forEach((panel) => panel(mix));
    chart.show(mix);
    const step = Math.round(motion.steps[before] * (1 - share) + motion.steps[after] * share);
    const epoch = content.steps_per_epoch ? `, epoch ${(step / content.steps_per_epoch).toFixed(1)}` : "";
    label.textContent = `step ${step}${epoch}`;
    slider.setAttribute("aria-valuetext", label.textContent);
  }

  function glide(target, duration, end = () => {}) {
    cancelAnimationFrame(frame);
    play.textContent = "Play";
    if (calm.matches || document.hidden) { show(target); end(); return; }
    const start = position;
    const began = performance.now();
    const advance = (now) => {
      const done = Math.min((now - began) / duration, 1);
      show(start + (target - start) * Math.max(done, 0));
      if (duration > 1000) slider.value = Math.round(position);
      if (done < 1) frame = requestAnimationFrame(advance);
      else end();
    };
    frame = requestAnimationFrame(advance);
  }

  function toggle() {
    if (play.textContent === "Pause") {
      cancelAnimationFrame(frame);
      play.textContent = "Play";
      return;
    }
    if (position >= last) show(0);
    glide(last, 8000 * (1 - position / Math.max(last, 1)) + 1, () => { play.textContent = "Play"; });
    if (!calm.matches) play.textContent = "Pause";
    else slider.value = last;
  }

  const key = make("ul", { class: "key" },
    make("li", {}, make("span", { class: "dash" }), "size of the feature map"),
    make("li", {}, make("span", { class: "solid" }), "limit, beyond which no box may reach"));
  const grid = make("div", { class: "layers" }, ...panels.map((panel) => panel.figure));
  addSection("boxes", "Boxes through training",
    "The most important boxes of each layer around their output pixel, in pixels of the layer\u2019s feature map. Boxes of one channel have one colour; the more important a box is at the moment, the more opaque it is. Point at a box to read its numbers.",
    make("div", { class: "controls sticky" }, play, slider, label), key, grid);
  addSection("importance", "Importance of boxes",
    "Each point is one of the boxes above, at the step that the slider there shows. Scales are logarithmic.",
    make("figure", { class: "wide" }, chart.svg), chart.key);
  show(last);
}

function layerPanel(layer) {
  const [height, width] = layer.window.length ? layer.window : largest(layer);
  const svg = draw("svg", {
    viewBox: [-1.03 * width, -1.03 * height, 2.06 * width, 2.06 * height].join(" "),
    role: "img", "aria-label": `boxes of ${layer.name}`,
  });
  svg.append(
    draw("line", { class: "cross", x1: -width, x2: width, y1: 0, y2: 0 }),
    draw("line", { class: "cross", x1: 0, x2: 0, y1: -height, y2: height }));
  if (layer.window.length) {
    svg.append(
      draw("rect", { class: "frame-limit", x: -width, y: -height, width: 2 * width, height: 2 * height }),
      draw("rect", { class: "frame-map", x: -width / 2, y: -height / 2, width, height }));
  }
  const single = new Set(layer.boxes.map((each) => each.channel)).size === 1;
  const shapes = layer.boxes.map((each, number) => {
    const title = draw("title");
    const color = COLORS[(single ? each.box : each.channel) % COLORS.length];
    const shape = draw("rect", { class: "box", stroke: color }, title);
    shape.addEventListener("pointerenter", () => { title.textContent = describe(each, shape.bounds, shape.weight); });
    svg.append(shape);
    return shape;
  });
  const enlarge = make("button", { type: "button", "aria-expanded": "false", onclick: () => {
    const large = figure.classList.toggle("large");
    enlarge.textContent = large ? "smaller" : "larger";
    enlarge.setAttribute("aria-expanded", large);
  } }, "larger");
  const map = layer.window.length ? `, map ${height} \u00d7 ${width}` : "";
  const text = `${layer.name}: ${layer.boxes.length} of ${layer.total} boxes${map}`;
  const figure = make("figure", {}, svg, make("figcaption", {}, text, enlarge));

  const panel = (mix) => {
    const side = mix((moment, box, place) => layer.theta[moment][box][place]);
    const weight = mix((moment, box) => layer.importance[moment][box]);
    const weights = shapes.map((_, box) => weight(box));
    const most = Math.max(...weights, Number.MIN_VALUE);
    shapes.forEach((shape, box) => {
      const bounds = [0, 1, 2, 3].map((place) => side(box, place));
      shape.bounds = bounds;
      shape.weight = weights[box];
      shape.setAttribute("x", bounds[0]);
      shape.setAttribute("y", bounds[2]);
      shape.setAttribute("width", Math.max(bounds[1] - bounds[0], 0));
      shape.setAttribute("height", Math.max(bounds[3] - bounds[2], 0));
      shape.setAttribute("stroke-opacity", (0.08 + 0.92 * weights[box] / most).toFixed(3));
    });
  };
  panel.figure = figure;
  return panel;
}

function largest(layer) {
  const far = (...places) => Math.max(1, ...layer.theta.flat().map((box) => Math.max(...places.map((place) => Math.abs(box[place])))));
  return [Math.ceil(far(2, 3)), Math.ceil(far(0, 1))];
}

function describe(each, bounds, weight) {
  const [left, right, top, bottom] = bounds.map(signed);
  return `channel ${each.channel}, box ${each.box}: x ${left} to ${right}, y ${top} to ${bottom}; importance ${weight.toPrecision(2)}`;
}

function importanceChart(motion) {
  const areaOf = ([left, right, top, bottom]) => Math.max((right - left) * (bottom - top), 0.1);
  const areas = motion.layers.flatMap((layer) => layer.theta.flat().map(areaOf));
  const weights = motion.layers.flatMap((layer) => layer.importance.flat()).filter((value) => value > 0);
  // Boxes without any importance are drawn at the left edge.
  const least = weights.length ? weights.reduce((a, b) => Math.min(a, b)) : 0.01;
  const most = weights.length ? weights.reduce((a, b) => Math.max(a, b)) : 1;
  const plot = new Plot({
    width: 900, height: 380, x: [least, most], y: [areas.reduce((a, b) => Math.min(a, b)), areas.reduce((a, b) => Math.max(a, b))], log: true,
    xlabel: "importance of the box", ylabel: "area (square pixels)", name: "areas of boxes against their importance",
  });
  const groups = motion.layers.map((layer, number) => layer.boxes.map((each) => {
    const shape = draw("path", { d: MARKS[Math.floor(number / COLORS.length) % MARKS.length], fill: COLORS[number % COLORS.length], "fill-opacity": 0.75 },
      draw("title", {}, `${layer.name}, channel ${each.channel}, box ${each.box}`));
    plot.svg.append(shape);
    return shape;
  }));
  const key = make("ul", { class: "key" });
  motion.layers.forEach((layer, number) => {
    const mark = draw("svg", { viewBox: "-6 -6 12 12", style: "width: .9rem", "aria-hidden": "true" },
      draw("path", { d: MARKS[Math.floor(number / COLORS.length) % MARKS.length], fill: COLORS[number % COLORS.length] }));
    key.append(make("li", {}, mark, layer.name));
  });
  const show = (mix) => motion.layers.forEach((layer, number) => {
    const side = mix((moment, box, place) => layer.theta[moment][box][place]);
    const weight = mix((moment, box) => layer.importance[moment][box]);
    groups[number].forEach((shape, box) => {
      const x = plot.x(Math.max(weight(box), least));
      const y = plot.y(areaOf([0, 1, 2, 3].map((place) => side(box, place))));
      shape.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    });
  });
  return { svg: plot.svg, key, show };
}

const MARKS = ["M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", "M0 -5L5 4H-5Z", "M-4 -4H4V4H-4Z", "M0 -5L5 0L0 5L-5 0Z"];

// ---------------------------------------------------------------- charts

class Plot {
  constructor({ width = 480, height = 300, x, y, log = false, whole = false, xlabel, ylabel, name }) {
    const [left, right, top, bottom] = [58, 12, 10, 46];
    this.log = log;
    this.svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
    const scale = (range, from, to) => {
      const [low, high] = spread(range.map((value) => this.measure(value)));
      return (value) => from + (to - from) * (this.measure(value) - low) / (high - low);
    };
    this.x = scale(x, left, width - right);
    this.y = scale(y, height - bottom, top);
    for (const value of ticks(x, log, whole)) {
      const place = this.x(value);
      this.svg.append(
        draw("line", { class: "grid", x1: place, x2: place, y1: top, y2: height - bottom }),
        draw("text", { x: place, y: height - bottom + 18, "text-anchor": "middle" }, number(value)));
    }
    for (const value of ticks(y, log, false)) {
      const place = this.y(value);
      this.svg.append(
        draw("line", { class: "grid", x1: left, x2: width - right, y1: place, y2: place }),
        draw("text", { x: left - 8, y: place + 4, "text-anchor": "end" }, number(value)));
    }
    this.svg.append(
      draw("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }),
      draw("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xlabel),
      draw("text", { transform: `translate(14 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, ylabel));
  }

  measure(value) { return this.log ? Math.log10(value) : value; }

  // A line through the points that have values; a mark for each if there are few.
  line(xs, ys, series, name, marked) {
    const points = xs.map((x, place) => [x, ys[place]]).filter(([x, y]) => x !== null && y !== null);
    const places = points.map(([x, y]) => `${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`);
    const color = `var(--series-${series})`;
    if (places.length) this.svg.append(draw("path", { class: "curve", stroke: color, d: `M${places.join("L")}` }));
    if (!marked || points.length > 60) return;
    for (const [x, y] of points) {
      this.svg.append(draw("circle", { cx: this.x(x), cy: this.y(y), r: 3.5, fill: color }, draw("title", {}, `${name}: ${number(y)} at ${number(x)}`)));
    }
  }
}

function spread([low, high]) {
  const margin = high > low ? 0.03 * (high - low) : 0.5;
  return [low - margin, high + margin];
}

function ticks([low, high], log, whole) {
  if (log) {
    const found = [];
    for (let power = Math.ceil(Math.log10(low)); 10 ** power <= high; power += 1) found.push(10 ** power);
    return found;
  }
  const rough = Math.max(high - low, 1e-9) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let count = Math.ceil(low / step - 1e-9); count * step <= high + 1e-9; count += 1) found.push(count * step);
  return found;
}

function number(value) {
  const text = Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(0) : String(Number(value.toPrecision(3)));
  return text.replace("-", MINUS);
}

function known(values) { return values.filter((value) => value !== null); }

function range(values, ...others) {
  const all = [...known(values), ...others];
  return [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
}

function addCurves() {
  const curves = content.curves;
  if (!known(curves.epoch).length) return;
  const x = range(curves.epoch);
  const common = { x, whole: true, xlabel: "epoch" };
  const figures = [];
  if (known(curves.loss).length) {
    const loss = new Plot({ ...common, y: range(curves.loss), ylabel: "training loss", name: "training loss over the epochs" });
    loss.line(curves.epoch, curves.loss, 0, "loss", true);
    figures.push(make("figure", {}, loss.svg));
  }
  const scores = new Plot({ ...common, y: [0, 1], ylabel: "held-out score", name: "held-out scores over the epochs" });
  const series = { mean_iou: "mean IoU", pixel_accuracy: "pixel accuracy" };
  const key = make("ul", { class: "key" });
  Object.entries(series).forEach(([metric, name], place) => {
    scores.line(curves.epoch, curves[metric], place, name, true);
    key.append(make("li", {}, swatch(`var(--series-${place})`), name));
  });
  figures.push(make("figure", {}, scores.svg, key));
  const head = make("tr", {}, ...["epoch", "loss", "mean IoU", "pixel accuracy"].map((name) => make("th", { scope: "col" }, name)));
  const rows = curves.epoch.map((epoch, place) => make("tr", {},
    make("th", { scope: "row" }, epoch === null ? "none" : number(epoch)),
    ...["loss", "mean_iou", "pixel_accuracy"].map((metric) => make("td", {}, score(curves[metric][place])))));
  const table = make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  addSection("curves", "Learning curves", "", make("div", { class: "pair" }, ...figures),
    make("details", {}, make("summary", {}, "The numbers"), table));
}

function addFields() {
  const fields = content.fields;
  if (!fields) return;
  const radii = fields[0].radii;
  const plot = new Plot({ width: 900, height: 300, x: [0, radii.at(-1)], y: [0, 1], xlabel: "distance from the middle (pixels of the image)", ylabel: "share of the gradient", name: "share of the gradient within a distance" });
  const key = make("ul", { class: "key" });
  const pictures = fields.map((field, place) => {
    plot.line(field.radii, field.energy, 1 - place, field.caption, false);
    key.append(make("li", {}, swatch(`var(--series-${1 - place})`), field.caption));
    const alt = `how much each pixel moves the middle of the output, ${field.caption}`;
    return make("figure", {}, make("img", { class: "heat", src: field.picture, alt }),
      make("figcaption", {}, field.radius ? `${field.caption}: 95% within ${field.radius} pixels` : field.caption));
  });
  addSection("fields", "Receptive fields",
    "How much each pixel of an image moves the logits of the pixel in the middle: the brighter, the more. Below, the share of the gradient within a distance, the E(r) of the paper.",
    make("div", { class: "pair" }, ...pictures), make("figure", { class: "wide" }, plot.svg, key));
}

// ---------------------------------------------------------------- scores

function addScores() {
  const scores = content.scores;
  if (!scores) return;
  const names = scores.classes.map((number) => content.classes[number].name);
  const rows = names.map((name, place) => {
    const iou = scores.iou[place];
    const bar = make("span", { class: "bar" }, make("span", { style: `width: ${100 * (iou ?? 0)}%` }));
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, score(iou)), make("td", {}, bar), make("td", {}, score(scores.accuracy[place])));
  });
  const head = make("tr", {}, make("th", { scope: "col" }, "class"), make("th", { scope: "col", colspan: 2 }, "IoU"), make("th", { scope: "col" }, "accuracy"));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  addSection("scores", "Scores of the classes", `Mean IoU ${score(scores.mean_iou)}, ${percent(scores.pixel_accuracy)} of the pixels right.`, make("div", { class: "scroll" }, table));

  const absent = scores.absent.length ? ` Not in these images: ${scores.absent.join(", ")}.` : "";
  const matrix = make("table", { class: "confusion" },
    make("thead", {}, make("tr", {}, make("td", {}), ...names.map((name) => make("th", { scope: "col" }, make("span", {}, name))))),
    make("tbody", {}, ...scores.shares.map((shares, row) => make("tr", {}, make("th", { scope: "row" }, names[row]), ...shares.map((share, column) => cell(share, names[row], names[column]))))));
  addSection("confusion", "Confusion matrix",
    `Each row is a labelled class, and its cells say in per cent what its pixels are predicted as.${absent}`,
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "confusion matrix" }, matrix));
}

function cell(share, label, prediction) {
  const strength = Math.sqrt(share);
  const ink = strength > 0.6 ? "color: #fff" : "";
  const title = `${percent(share)} of ${label} is predicted as ${prediction}`;
  return make("td", { title, style: `background: rgb(var(--cell), ${strength.toFixed(3)}); ${ink}` }, share >= 0.005 ? (100 * share).toFixed(0) : "");
}

// ---------------------------------------------------------------- page

function addMissing() {
  if (!content.missing.length) return;
  const list = make("ul", {}, ...content.missing.map((text) => make("li", {}, text)));
  document.getElementById("main").append(make("section", { class: "note", "aria-label": "What is missing" }, list));
}

const finished = content.steps && content.step < content.steps ? ` of ${content.steps}` : "";
document.getElementById("summary").textContent =
  `Run ${content.run}, after step ${content.step}${finished}, images of ${content.size[0]} \u00d7 ${content.size[1]} pixels, ${content.classes.length} classes.`;
for (const add of [addMissing, addPredictions, addBoxes, addFields, addCurves, addScores]) add();
document.documentElement.dataset.drawn = "true";
