"use strict";

// Tables: a heading sorts its column; gaps always go last, rows of headings hide while a table is sorted.

const COLLATOR = new Intl.Collator("en", { numeric: true });

function valueOf(cell) {
  if (cell?.dataset.value) return Number(cell.dataset.value);
  const plain = (cell?.textContent ?? "").trim().replace(/\u2212/g, "-");
  if (plain === "" || plain === "-") return null;
  const number = plain.match(/^[+-]?\d+(\.\d+)?(?=$|[\s%(])/);
  return number ? Number(number[0]) : plain;
}

function compare(a, b) {
  const numbers = typeof a === "number" && typeof b === "number";
  return numbers ? a - b : COLLATOR.compare(String(a), String(b));
}

function sortable(table) {
  const body = table.tBodies[0];
  const order = body ? [...body.rows] : [];
  if (order.length < 2) return;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
      const direction = next === undefined ? "ascending" : next;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (direction) heading.setAttribute("aria-sort", direction);
      const rows = [...order];
      if (direction) {
        const sign = direction === "ascending" ? 1 : -1;
        const value = new Map(rows.map((row) => [row, valueOf(row.cells[column])]));
        rows.sort((a, b) => {
          const [x, y] = [value.get(a), value.get(b)];
          if (x === null || y === null) return (x === null) - (y === null);
          return sign * compare(x, y);
        });
      }
      for (const row of rows) row.hidden = Boolean(direction) && row.classList.contains("group");
      body.replaceChildren(...rows);
    });
  });
}

document.querySelectorAll(".wide table").forEach(sortable);

// A link to a folded entry unfolds it.

function unfold() {
  let target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (const start = target; target; target = target.parentElement) {
    if (target.tagName === "DETAILS") target.open = true;
    if (target.tagName === "BODY") start.scrollIntoView();
  }
}
addEventListener("hashchange", unfold);
unfold();

// The browser of videos.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const [HEIGHT, LEFT, RIGHT, BOTTOM, TOP] = [260, 44, 8, 26, 8]; // pixels; as wide as the page lets it be
const LIGHTNESS = ["#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838"]; // grows with the score
const [HUES, DASHES] = [5, 4]; // of a score's parts, in the style sheet
const part = (name) => document.getElementById(`b-${name}`);
const now = { run: null, video: null, curves: [], frames: [] }; // curves: the score S, then its parts

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function unpacked(curve) {
  const step = (curve.high - curve.low) / 255;
  return Float32Array.from(atob(curve.levels), (byte) => curve.low + byte.charCodeAt(0) * step);
}

function fill(select, values) {
  const before = select.value;
  select.replaceChildren(...values.map(([value, label]) => new Option(label, value)));
  if (values.some(([value]) => value === before)) select.value = before;
}

function ticks(low, high, about) {
  const rough = (high - low || 1) / about;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * unit >= rough) * unit;
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(Number((at * step).toPrecision(6)));
  return found;
}

function scales() {
  const { skip, length } = now.video;
  let [low, high] = [Infinity, -Infinity];
  for (const { values } of now.curves) for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const width = Math.max(part("chart").clientWidth, 280);
  const x = (frame) => LEFT + ((frame - skip) / Math.max(length - 1, 1)) * (width - LEFT - RIGHT);
  const y = (score) => TOP + ((high - score) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  return { x, y, low, high, width };
}

function look(place) {
  return place ? `curve part hue-${(place - 1) % HUES} dash-${(place - 1) % DASHES}` : "curve";
}

function hatch(id) {
  const made = element("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  made.append(element("rect", { width: 3, height: 6, style: "fill: var(--truth)" }));
  return made;
}

function legend() {
  const entry = (text, ...marks) => {
    const made = document.createElement("span");
    const key = element("svg", { class: "key", viewBox: "0 0 26 12" });
    key.append(...marks);
    made.append(key, text);
    return made;
  };
  const curves = now.curves.map(({ name }, place) => entry(name, element("path", { class: look(place), d: "M0 6H26" })));
  const truth = entry("abnormal", hatch("hatch-key"), element("rect", { width: 26, height: 12, fill: "url(#hatch-key)" }));
  part("legend").replaceChildren(...curves, ...(now.video.abnormal.length ? [truth] : []));
}

function chart() {
  const { skip, length, abnormal } = now.video;
  const { x, y, low, high, width } = scales();
  const label = `Score of run ${part("run").selectedOptions[0].text} over video ${part("video").value}: ${length} frames, ` +
    `${abnormal.reduce((sum, [start, end]) => sum + end - start, 0)} of them abnormal.`;
  const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  svg.append(hatch("hatch"));
  for (const [start, end] of abnormal) {
    const from = x(start + skip);
    svg.append(element("rect", { class: "truth", x: from, y: TOP, width: Math.max(x(end - 1 + skip) - from, 1), height: HEIGHT - TOP - BOTTOM, fill: "url(#hatch)" }));
  }
  for (const at of ticks(low, high, 5)) {
    svg.append(element("path", { class: "axis", d: `M${LEFT} ${y(at)}H${width - RIGHT}` }));
    svg.append(element("text", { x: LEFT - 6, y: y(at) + 4, "text-anchor": "end" }, at));
  }
  for (const at of ticks(skip, skip + length - 1, width / 70)) svg.append(element("text", { x: x(at), y: HEIGHT - 8, "text-anchor": "middle" }, at));
  now.curves.forEach(({ values }, place) => {
    const points = [...values].map((value, index) => `${x(index + skip).toFixed(1)} ${y(value).toFixed(1)}`);
    svg.append(element("path", { class: look(place), d: `M${points.join("L")}` }));
  });
  svg.append(element("path", { class: "cursor" }));
  svg.addEventListener("pointerdown", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) * (width / box.width);
    part("frame").value = Math.round(skip + ((at - LEFT) / (width - LEFT - RIGHT)) * (length - 1));
    showFrame();
  });
  part("chart").replaceChildren(svg);
}

function strip() {
  const pictures = DATA.pictures[now.run.dataset]?.[part("video").value] ?? {};
  now.frames = Object.keys(pictures).map(Number).sort((a, b) => a - b);
  part("strip").replaceChildren(...now.frames.map((number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.frame = number;
    const image = new Image();
    image.src = `data:image/jpeg;base64,${pictures[number]}`;
    image.alt = `frame ${number}`;
    button.append(image, String(number));
    button.addEventListener("click", () => {
      part("frame").value = number;
      showFrame();
    });
    return button;
  }));
}

function showPicture(frame) {
  const [number] = [...now.frames].sort((a, b) => Math.abs(a - frame) - Math.abs(b - frame));
  for (const button of part("strip").children) button.setAttribute("aria-current", Number(button.dataset.frame) === number);
  if (number === undefined) {
    part("picture").replaceChildren();
    part("scale").textContent = "No frames of this video are at hand.";
    return;
  }
  const video = part("video").value;
  const boxes = [...(now.video.boxes[number] ?? [])].sort((a, b) => a[4] - b[4]);
  const all = Object.values(now.video.boxes).flat().map((box) => box[4]);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const image = new Image();
  image.src = `data:image/jpeg;base64,${DATA.pictures[now.run.dataset][video][number]}`;
  image.alt = `Frame ${number} of video ${video} with ${boxes.length} boxes` +
    (boxes.length ? `, the highest score is ${boxes.at(-1)[4].toFixed(2)}.` : ".");
  const overlay = element("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const [x0, y0, x1, y1, score] of boxes) {
    const level = (score - low) / (high - low || 1);
    const size = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    const colour = LIGHTNESS[Math.round(level * (LIGHTNESS.length - 1))];
    overlay.append(element("rect", { ...size, stroke: "#000", "stroke-width": 3 + 3 * level }));
    overlay.append(element("rect", { ...size, stroke: colour, "stroke-width": 1.5 + 2 * level }));
  }
  part("picture").replaceChildren(image, overlay);
  const near = number === frame ? `Frame ${number}` : `Frame ${number}, the nearest one at hand`;
  part("scale").textContent = boxes.length
    ? `${near}. Boxes: the lighter and thicker, the more abnormal; scores ${low.toFixed(2)} (thin, dark) to ${high.toFixed(2)} (thick, light) in this video.`
    : `${near}. No scores of its boxes are at hand for this run.`;
}

function showFrame() {
  const frame = Number(part("frame").value);
  const index = frame - now.video.skip;
  const { x } = scales();
  part("chart").querySelector(".cursor").setAttribute("d", `M${x(frame)} ${TOP}V${HEIGHT - BOTTOM}`);
  const scores = now.curves.map(({ name, values }) => `${name} ${values[index].toFixed(2)}`);
  const abnormal = now.video.abnormal.some(([start, end]) => start <= index && index < end);
  part("readout").textContent = `Frame ${frame}: ${scores.join(", ")} (${now.run.unit}); ${abnormal ? "abnormal" : "normal"}.`;
  showPicture(frame);
}

function showVideo() {
  now.video = now.run.videos[part("video").value];
  now.curves = now.video.curves.map((curve) => ({ name: curve.name, values: unpacked(curve) }));
  const slider = part("frame");
  const { skip, length } = now.video;
  [slider.min, slider.max] = [skip, skip + Math.max(length - 1, 0)];
  const score = now.curves[0]?.values ?? [0];
  slider.value = skip + score.indexOf(Math.max(...score));
  chart();
  legend();
  strip();
  if (length) showFrame();
}

function showRun() {
  now.run = DATA.runs.find((run) => run.id === part("run").value && run.dataset === part("dataset").value);
  fill(part("video"), Object.keys(now.run.videos).sort().map((name) => [name, name]));
  showVideo();
}

function showDataset() {
  fill(part("run"), DATA.runs.filter((run) => run.dataset === part("dataset").value).map((run) => [run.id, run.label]));
  showRun();
}

function move(step) {
  const select = part("video");
  select.selectedIndex = (select.selectedIndex + step + select.length) % select.length;
  showVideo();
}

if (DATA.runs.length) {
  fill(part("dataset"), [...new Set(DATA.runs.map((run) => run.dataset))].map((name) => [name, name]));
  part("dataset").addEventListener("change", showDataset);
  part("run").addEventListener("change", showRun);
  part("video").addEventListener("change", showVideo);
  part("frame").addEventListener("input", showFrame);
  part("previous").addEventListener("click", () => move(-1));
  part("next").addEventListener("click", () => move(1));
  addEventListener("resize", () => {
    chart();
    if (now.video.length) showFrame();
  });
  showDataset();
} else {
  part("chart").textContent = "No run has frame scores to show.";
  part("frame").disabled = true;
}
