// The page that serab-byols explore makes: a map of clips, drawn by plotly.
// What comes from a table or a file name goes into the page as text (textContent), never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const decode = (text, Type) => new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const [x, y] = [decode(data.x, Float32Array), decode(data.y, Float32Array)];
const fileOf = decode(data.files.codes, Int32Array);
const neighbours = decode(data.neighbours, Int32Array);
const similarities = decode(data.similarities, Float32Array);
const columns = data.columns.map((column) => ({
  ...column,
  codes: column.codes && decode(column.codes, Int32Array),
  numbers: column.numbers && decode(column.numbers, Float64Array),
  categories: column.categories && decode(column.categories, Int32Array),
}));
const SHOWN = 200;
// Named one by one: among plotly's own is one that would send the data to its makers.
const BUTTONS = ["lasso2d", "select2d", "pan2d", "zoom2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"];
const SYMBOLS = ["circle", "diamond", "cross"];
let current = -1;
let selected = null;
let haystack = null;
let stopAt = Infinity;

const fullName = (row) => data.files.names[fileOf[row]];
const folder = commonFolder(data.files.names);
const nameOf = (row) => fullName(row).slice(folder.length);
const value = (column, row) =>
  column.codes ? column.values[column.codes[row]]
    : Number.isNaN(column.numbers[row]) ? "" : String(column.numbers[row]);
const numberOf = (name, row) => columns.find((column) => column.name === name)?.numbers?.[row];
const seconds = (name, row) => (Number.isFinite(numberOf(name, row)) ? numberOf(name, row).toFixed(2) : "");
const span = (row) => (data.hasSegments ? ` ${seconds("start", row)} to ${seconds("end", row)} s` : "");
// plotly reads tags and entities in names of traces.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;") || "(none)";

// What all names begin with, up to a slash: it would fill the page and tell no clip from another.
function commonFolder(names) {
  let common = names[0] ?? "";
  for (const name of names) while (!name.startsWith(common)) common = common.slice(0, -1);
  return common.slice(0, Math.max(common.lastIndexOf("/"), common.lastIndexOf("\\")) + 1);
}

function canDraw() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl") || canvas.getContext("webgl2"));
}
const type = canDraw() ? "scattergl" : "scatter";

function trace(rows, options, marker) {
  const at = new Map(rows.map((row, i) => [row, i]));
  return { type, mode: "markers", x: rows.map((row) => x[row]), y: rows.map((row) => y[row]), customdata: rows,
    hoverinfo: "none", at, marker: { size: data.pointSize, opacity: 0.8, ...marker },
    unselected: { marker: { opacity: 0.08 } }, ...options };
}

function traces() {
  const column = columns[$("colour").value];
  const all = Array.from(x.keys());
  if (!column) return [trace(all, { showlegend: false }, { color: data.colours[0] })];
  if (column.scale) {
    const color = Array.from(column.numbers);
    const colorbar = { title: { text: plain(column.label), side: "right" }, thickness: 12 };
    return [trace(all, { showlegend: false }, { color, colorscale: "Viridis", colorbar })];
  }
  return column.styles.map(([color, symbol, name], code) =>
    trace(all.filter((row) => column.categories[row] === code), { name: plain(name) }, { color, symbol: SYMBOLS[symbol] }));
}

function marked(rows, size, color) {
  const marker = { size, color: "rgba(0,0,0,0)", line: { width: 2, color }, symbol: "circle" };
  return { type: "scatter", mode: "markers", x: rows.map((row) => x[row]), y: rows.map((row) => y[row]), marker,
    hoverinfo: "skip", showlegend: false };
}
const nearestTo = (row) => (row < 0 ? []
  : Array.from(neighbours.subarray(row * data.k, (row + 1) * data.k)).filter((other) => other >= 0));

let view = null;
let outline = 0; // of the lasso: plotly forgets it when this number changes
function draw() {
  const rings = [marked(nearestTo(current), 12, "#444444"), marked(current < 0 ? [] : [current], 18, "#000000")];
  const dots = traces();
  for (const dot of dots) {
    if (selected) dot.selectedpoints = selected.filter((row) => dot.at.has(row)).map((row) => dot.at.get(row));
    delete dot.at;
  }
  const axis = { zeroline: false, ticks: "outside", showgrid: false };
  const layout = { xaxis: { ...axis, title: { text: data.axes[0] } }, yaxis: { ...axis, title: { text: data.axes[1] } },
    margin: { l: 70, r: 20, t: 20, b: 50 }, dragmode: view ?? "pan", hovermode: "closest", uirevision: "kept",
    selectionrevision: outline, plot_bgcolor: "#fff",
    legend: { itemsizing: "constant", title: { text: plain(columns[$("colour").value]?.label ?? "") } } };
  const config = { displaylogo: false, responsive: true, scrollZoom: true, displayModeBar: true,
    plotlyServerURL: "", modeBarButtons: [BUTTONS] };
  return Plotly.react($("map"), [...dots, ...rings], layout, config);
}

function items(list, rows, note = () => "") {
  list.replaceChildren(...rows.map((row) => {
    const button = document.createElement("button");
    button.textContent = nameOf(row) + span(row);
    button.title = fullName(row);
    button.addEventListener("click", () => choose(row));
    const item = document.createElement("li");
    item.append(button, note(row));
    return item;
  }));
}

function play(row) {
  const url = data.files.urls[fileOf[row]];
  const [start, end] = [numberOf("start", row), numberOf("end", row)];
  const bounds = Number.isFinite(start) ? `#t=${start}${Number.isFinite(end) ? `,${end}` : ""}` : "";
  $("audio").hidden = url === null;
  $("problem").textContent = url === null ? "This file is not on this machine." : "";
  if (url === null) return $("audio").pause();
  $("audio").src = url + bounds;
  stopAt = Number.isFinite(end) ? end : Infinity;
  $("audio").play().catch(() => {}); // an error of the file comes as an event
}
// Browsers end a fragment of a file up to a quarter of a second too late.
function watch() {
  if ($("audio").currentTime >= stopAt) {
    $("audio").pause();
    stopAt = Infinity; // who presses play again wants to hear what follows
  } else if (!$("audio").paused) requestAnimationFrame(watch);
}
$("audio").addEventListener("playing", watch);
$("audio").addEventListener("error", () => {
  const audio = $("audio");
  const [url, bounds] = audio.getAttribute("src").split("#");
  if (data.served && !url.endsWith(".wav")) { // the server's decoder reads more formats
    audio.src = `${url}.wav${bounds ? `#${bounds}` : ""}`;
    audio.play().catch(() => {});
  } else {
    $("problem").textContent = "The browser cannot play this file. Is it where it was when the page was made?" +
      (data.served ? "" : " Formats that browsers do not know play with serab-byols explore --serve.");
  }
});

function choose(row) {
  current = row;
  $("name").textContent = nameOf(row) + span(row);
  $("name").title = fullName(row);
  play(row);
  $("facts").replaceChildren(...columns.filter((column) => column.name !== "file").map((column) => {
    const line = document.createElement("tr");
    line.insertCell().textContent = column.label;
    line.insertCell().textContent = value(column, row);
    return line;
  }));
  $("nearest").hidden = false;
  const near = nearestTo(row);
  items($("neighbours"), near, (other) => ` (${similarities[row * data.k + near.indexOf(other)].toFixed(3)})`);
  draw();
}

function select(rows) {
  selected = rows;
  if (!rows) outline++;
  $("count").textContent = rows ? `${rows.length} of ${x.length} clips` : `${x.length} clips`;
  $("clear").hidden = $("export").hidden = $("chosen").hidden = !rows;
  items($("selection"), (rows ?? []).slice(0, SHOWN));
}

function search() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  haystack ??= Array.from(x.keys(), (row) => columns.map((column) => value(column, row)).join("\n").toLowerCase());
  const found = (row) => words.every((word) => haystack[row].includes(word));
  select(words.length ? Array.from(x.keys()).filter(found) : null);
  draw();
}

function csv(rows) {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  const lines = [columns.map((column) => column.name), ...rows.map((row) => columns.map((column) => value(column, row)))];
  return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
}
$("export").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(selected)], { type: "text/csv" }));
  link.download = "selection.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
$("clear").addEventListener("click", () => { $("search").value = ""; select(null); draw(); });
let pause = 0;
$("search").addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(search, 150); });
$("colour").addEventListener("change", draw);

for (const [i, label] of [[-1, "(none)"], ...columns.map((column, i) => [i, column.label])]) {
  $("colour").add(new Option(label, i, false, i === data.colour));
}
select(null);
draw().then((map) => {
  const rowsOf = (event) => (event?.points ?? []).map((point) => point.customdata).filter(Number.isInteger);
  map.on("plotly_click", (event) => rowsOf(event).slice(0, 1).forEach(choose));
  map.on("plotly_hover", (event) => {
    const [row] = rowsOf(event);
    if (row === undefined) return;
    const column = columns[$("colour").value];
    $("tip").textContent = nameOf(row) + span(row) + (column ? `\n${column.label}: ${value(column, row)}` : "");
    $("tip").style.left = `${Math.min(event.event.clientX + 12, innerWidth - 260)}px`;
    $("tip").style.top = `${event.event.clientY + 12}px`;
    $("tip").hidden = false;
  });
  map.on("plotly_unhover", () => { $("tip").hidden = true; });
  map.on("plotly_relayout", (change) => { view = change.dragmode ?? view; });
  map.on("plotly_selected", (event) => { if (event) select(rowsOf(event).sort((a, b) => a - b)); });
  map.on("plotly_deselect", () => { select(null); draw(); });
  document.body.dataset.ready = "yes";
});
