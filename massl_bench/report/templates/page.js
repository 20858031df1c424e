"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  let parsed = null;
  const data = () => (parsed ??= JSON.parse($("#data").textContent));

  // Elements. Every text goes through textContent: nothing that a record says becomes markup.
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value);
    }
    for (const child of children) if (child !== null && child !== undefined && child !== "") node.append(child);
    return node;
  }
  function svg(tag, attributes = {}, text = null) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== null) node.textContent = text;
    return node;
  }

  // Light and dark.
  const root = document.documentElement;
  const remembered = (() => { try { return localStorage.getItem("massl-bench-theme"); } catch { return null; } })();
  if (remembered === "dark" || remembered === "light") root.dataset.theme = remembered;
  $("#theme")?.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("massl-bench-theme", root.dataset.theme); } catch { /* a page without storage */ }
  });

  // Tables. They wait inside <noscript>, so that thousands of values cost nothing before they are looked at: a suite's
  // table is made when it is chosen, its first rows at once, the others whenever nothing else is to be done.
  const FIRST = 40;
  const waiting = new Map();
  const later = window.requestIdleCallback ?? ((work) => setTimeout(work, 20));
  const chosen = (table) => $$("td.tick input:checked", table);
  function complete(table, count = Infinity) {
    const rows = waiting.get(table);
    table.tBodies[0].insertAdjacentHTML("beforeend", rows.splice(0, count).join(""));
    return rows.length > 0;
  }

  // Sorting, filters, one stop of the tabulator with arrow keys inside.
  const value = (cell) => (cell.dataset.v === undefined ? null : Number(cell.dataset.v));
  function sort(table, head, direction) {
    complete(table);
    const column = head.cellIndex;
    const text = $("button", head).dataset.sort === "text";
    const of = (row) => (text ? row.cells[column].textContent.trim().toLowerCase() || null : value(row.cells[column]));
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("title"));
      rows.forEach((row, place) => { row.dataset.order ??= String(place); });
      const keyed = rows.map((row) => [direction === 0 ? Number(row.dataset.order) : of(row), Number(row.dataset.order), row]);
      keyed.sort(([a, i], [b, j]) => {
        if (a === null || b === null) return (a === null) - (b === null) || i - j;
        const order = a < b ? -1 : a > b ? 1 : 0;
        return (direction < 0 ? -order : order) || i - j;
      });
      body.append(...keyed.map(([, , row]) => row));
    }
    for (const other of $$("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    if (direction) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  }
  function prepare(table) {
    for (const head of $$("th[colspan]", table)) head.style.gridColumnEnd = `span ${head.colSpan}`;
    for (const button of $$("thead button", table)) {
      const head = button.closest("th");
      const first = button.dataset.sort === "text" || button.dataset.first === "up" ? 1 : -1;
      button.addEventListener("click", () => {
        const now = { ascending: 1, descending: -1 }[head.getAttribute("aria-sort")] ?? 0;
        sort(table, head, now === 0 ? first : now === first ? -first : 0);
      });
    }
    const inside = "button, input, a";
    table.addEventListener("focusin", (event) => {
      for (const old of $$('[tabindex="0"]', table)) old.tabIndex = -1;
      if (event.target.matches(inside)) event.target.tabIndex = 0;
    });
    table.addEventListener("keydown", (event) => {
      const from = event.target.closest("th, td");
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -1e9], End: [0, 1e9] }[event.key];
      if (!from || !step) return;
      complete(table);
      const rows = $$("tr:not([hidden]):not(.title)", table).filter((row) => $(inside, row));
      const wanted = walk(rows, rows.indexOf(from.parentElement), from.cellIndex, step, inside);
      if (wanted) { wanted.focus(); event.preventDefault(); }
    });
  }
  function walk(rows, row, column, [down, right], inside) {
    const usable = (cell) => { const found = cell && $(inside, cell); return found && found.offsetParent !== null ? found : null; };
    if (Math.abs(right) > 1) {
      const cells = [...rows[row].cells];
      return (right > 0 ? cells.reverse() : cells).map(usable).find(Boolean);
    }
    for (let r = row + down, c = column + right; rows[r] && c >= 0 && c < rows[r].cells.length; r += down, c += right) {
      const found = usable(rows[r].cells[c]);
      if (found) return found;
    }
    return null;
  }

  function filter(form, table) {
    complete(table);
    const asked = Object.fromEntries(new FormData(form));
    const number = (name) => (asked[name] ? Number(asked[name]) : null);
    const between = (text, scale, low, high) => {
      if (low === null && high === null) return true;
      if (text === undefined) return false;
      const found = Number(text) / scale;
      return (low === null || found >= low) && (high === null || found <= high);
    };
    const name = (asked.name ?? "").trim().toLowerCase();
    let shown = 0, all = 0;
    for (const row of $$("tbody tr:not(.title)", table)) {
      const ours = row.parentElement.classList.contains("ours");
      const fits = ["method", "architecture", "precision"].every((key) => !asked[key] || row.dataset[key] === asked[key])
        && (!name || row.cells[0].textContent.toLowerCase().includes(name))
        && between(row.dataset.size, 1e6, number("size-low"), number("size-high"))
        && between(row.dataset.epochs, 1, number("epochs-low"), number("epochs-high"));
      row.hidden = !fits || (!ours && !form.elements.published?.checked);
      if (ours) { all += 1; shown += fits; }
    }
    const title = $("tr.title", table);
    if (title) title.hidden = !form.elements.published.checked;
    $("output", form).textContent = `${shown} of ${all} models`;
  }
  function make(section) {
    const place = $("noscript", section), form = $("form", section);
    if (!place) return; // made before, or of no model
    const html = place.textContent, end = html.indexOf("</tbody>");
    const [start, ...rows] = html.slice(0, end).split(/\n(?=<tr data-model=)/);
    $("output", form).textContent = `${rows.length} of ${rows.length} models`;
    place.insertAdjacentHTML("afterend", start + rows.splice(0, FIRST).join("") + html.slice(end));
    place.remove();
    const table = $("table", section), button = $(".compare", form);
    waiting.set(table, rows);
    form.hidden = false;
    $("details", form).open = matchMedia("(min-width: 701px)").matches;
    prepare(table);
    form.addEventListener("input", () => filter(form, table));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => {
      filter(form, table);
      for (const box of chosen(table)) box.checked = false;
      button.disabled = true;
    }));
    table.addEventListener("change", () => { button.disabled = chosen(table).length < 2; });
    button.addEventListener("click", () => compare(table, chosen(table).map((box) => box.closest("tr"))));
    table.addEventListener("click", (event) => {
      const from = event.target.closest("td a, button[data-m]");
      if (!from) return;
      event.preventDefault();
      if (from.dataset.m !== undefined) model(data().tables[Number(table.dataset.section)].models[Number(from.dataset.m)]);
      else if (from.hash.startsWith("#r")) record(unpacked(Number(from.hash.slice(2))));
      else published(data().claims[Number(from.hash.slice(2))]);
    });
    const more = () => { if (complete(table, FIRST)) later(more); };
    later(more);
  }

  // Suites, one at a time.
  const tabs = $$('[role="tab"]');
  function choose(tab, focus) {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      const section = document.getElementById(other.getAttribute("aria-controls"));
      section.hidden = !chosen;
      if (chosen) make(section);
    }
    if (focus) tab.focus();
  }
  if (tabs.length) {
    $(".tabs").hidden = false;
    choose(tabs.find((tab) => tab.getAttribute("aria-selected") === "true") ?? tabs[0], false);
    tabs.forEach((tab, place) => {
      tab.addEventListener("click", () => choose(tab, false));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) { choose(tabs[(place + step + tabs.length) % tabs.length], true); event.preventDefault(); }
      });
    });
  }

  if (!tabs.length) $$("section.suite").forEach(make);
  addEventListener("beforeprint", () => { for (const table of waiting.keys()) complete(table); });

  // The dialog.
  const dialog = $("#dialog");
  $("#close")?.addEventListener("click", () => dialog.close());
  dialog?.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  function open(title, ...content) {
    $("#dialog-title").textContent = title;
    const body = $("#dialog-body");
    body.replaceChildren(...content.filter(Boolean));
    dialog.showModal();
    body.scrollTop = 0;
    $("#close").focus();
  }
  function pairs(values) {
    const list = el("dl");
    for (const [name, content] of Object.entries(values)) {
      if (content === null || content === undefined || content === "") continue;
      const plain = typeof content === "object" && !(content instanceof Node) ? JSON.stringify(content) : content;
      list.append(el("dt", {}, name), el("dd", {}, plain instanceof Node ? plain : String(plain)));
    }
    return list;
  }
  function copyable(text) {
    const button = el("button", { type: "button", class: "quiet" }, "Copy");
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
      catch {
        getSelection().selectAllChildren(code);
        button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl-C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    const code = el("code", {}, text);
    return el("div", { class: "command" }, code, button);
  }
  const fixed = (number, scale) => (number * scale).toFixed(2);
  function interval([, low, high], scale) {
    return typeof low === "number" ? `${fixed(low, scale)}–${fixed(high, scale)}` : "";
  }
  function grid(heads, rows) {
    const head = el("thead", {}, el("tr", {}, ...heads.map((name) => el("th", { scope: "col" }, name))));
    return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": heads[0] },
      el("table", { class: "plain" }, head, el("tbody", {}, ...rows)));
  }
  const line = (name, ...cells) => el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((text) => el("td", { class: "number" }, text)));

  // A record as the page keeps it, to one that can be shown.
  function unpacked(number) {
    const { fields, shared, records, href } = data();
    const found = Object.fromEntries(fields.map((name, place) => [name, records[number][place]]));
    for (const name of ["model", "task", "data", "machine"]) found[name] = shared[found[name]];
    const small = (part) => (typeof part === "number" ? part / 100000 : Array.isArray(part) ? part.map(small) : part);
    found.metrics = Object.fromEntries(found.task.metrics.map((name, place) => [name, found.metrics[place].map(small)]));
    found.scale = found.task.scale;
    found.headline = found.task.headline;
    const linked = href !== null && !found.path.startsWith("packaged/");
    found.href = linked ? href + found.path.split("/").map(encodeURIComponent).join("/") : null;
    return found;
  }
  function record(found) {
    const head = found.metrics[found.headline];
    const scale = found.scale;
    const place = (name) => name.replace(/\d+/g, (digits) => digits.padStart(6, "0"));
    const rows = Object.entries(found.metrics).sort(([a], [b]) => (place(a) < place(b) ? -1 : 1)).map(([name, metric]) =>
      line(name, fixed(metric[0], scale), interval(metric, scale),
        typeof metric[3] === "number" ? `± ${fixed(metric[3], scale)} over ${metric[4]?.length ?? "?"} draws` : ""));
    const seconds = ["setup", "data", "extract", "protocol", "total"].map((name, n) => [`seconds, ${name}`, found.seconds[n]]);
    const memory = Object.entries(found.memory).map(([name, size]) => [`peak memory of the ${name}, MB`, size]);
    const { name: weightsName, ...weights } = found.model;
    const { name: dataName, ...facts } = found.data;
    open(`${weightsName} · ${found.task.name}, version ${found.task.version} · ${dataName}`,
      el("p", {}, el("span", { class: "big" }, fixed(head[0], scale)), ` ${found.headline} `,
        el("span", { class: "summary" }, interval(head, scale) && `95 % interval ${interval(head, scale)}`)),
      pictures(found),
      el("h3", {}, "Every metric"), grid(["Metric", "Value", "95 % interval", "Deviation"], rows),
      ...classes(found),
      el("h3", {}, "How it was measured"),
      pairs({ ...found.task.parameters, "selected on": found["selected on"], ...(head[5] ?? {}) }),
      el("h3", {}, "The model"), pairs(weights),
      el("h3", {}, "The data"), pairs(facts),
      el("h3", {}, "The machine"), pairs({ ...found.machine, ...Object.fromEntries([...seconds, ...memory]), measured: found.measured }),
      el("h3", {}, "The same again"),
      found.command ? copyable(found.command) : el("p", { class: "note" }, "A name holds characters that no terminal should see: no command is given."),
      copyable(`massl-bench verify ${quoted(found.path)}`),
      el("p", {}, "Record: ", found.href ? el("a", { href: found.href }, found.path) : el("span", { class: "path" }, found.path)));
  }
  function model([name, , numbers]) {
    const records = numbers.map(unpacked);
    const { name: ignored, ...facts } = records[0].model;
    const rows = records.map((found) => {
      const head = found.metrics[found.headline];
      const row = line(`${found.task.name} ${found.data.name}`, fixed(head[0], found.scale), interval(head, found.scale), found.headline);
      row.cells[0].replaceChildren(el("button", { type: "button", class: "link", onclick: () => { dialog.close(); record(found); } }, row.cells[0].textContent));
      return row;
    });
    open(name, grid(["Cell", "Value", "95 % interval", "Metric"], rows), el("h3", {}, "The model"), pairs(facts));
  }
  function classes(found) {
    if (!found.classes) return [];
    const { metric, all, listed } = found.classes;
    const title = all > listed.length ? `Classes: the ten that come out worst and the ten best, of ${all}` : "Classes, the worst first";
    return [el("h3", {}, title), grid(["Class", `${metric}, %`, "Items"],
      listed.map(([name, part, count]) => line(name, (part / 1000).toFixed(1), String(count))))];
  }
  function pictures(found) {
    const curves = {};
    for (const [name, metric] of Object.entries(found.metrics)) {
      const [metricName, at] = name.split("@");
      const x = Number((at ?? "").replace(/^[a-z]+/i, ""));
      if (at && at !== "full" && Number.isFinite(x) && x > 0) (curves[metricName] ??= []).push([x, metric]);
    }
    const first = found.headline.split("@")[0];
    const over = (name) => ({ s: "images a class", b: "block" })[Object.keys(found.metrics).find((key) => key.startsWith(`${name}@`)).split("@")[1][0]] ?? "k";
    const drawn = Object.entries(curves).sort(([a], [b]) => (b === first) - (a === first)).filter(([, points]) => points.length > 1)
      .map(([name, points]) => figure(`${name} over ${over(name)}`, points.sort((a, b) => a[0] - b[0]), found.scale));
    const strengths = Object.entries(found.selection ?? {}).map(([x, y]) => [Number(x), [y]]).sort((a, b) => a[0] - b[0]);
    if (strengths.length > 1) drawn.push(figure(`selection over the ${found.task.parameters.lr ? "learning rate" : "strength C"}`, strengths, found.scale));
    return drawn.length ? el("div", { class: "pictures" }, ...drawn) : null;
  }
  function figure(caption, points, scale) {
    const [width, height, left, bottom] = [360, 190, 46, 26];
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": caption });
    const ys = points.flatMap(([, metric]) => metric.slice(0, 3).filter((y) => typeof y === "number"));
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const pad = (high - low || Math.abs(high) || 1) * 0.08;
    const xs = points.map(([x]) => Math.log(x));
    const px = (x) => left + 8 + ((Math.log(x) - xs[0]) / (xs[xs.length - 1] - xs[0] || 1)) * (width - left - 26);
    const py = (y) => 10 + ((high + pad - y) / (high - low + 2 * pad)) * (height - bottom - 14);
    picture.append(svg("path", { class: "axis", d: `M${left} 6V${height - bottom}H${width - 6}`, fill: "none" }));
    for (const y of [low, (low + high) / 2, high]) picture.append(svg("text", { x: left - 5, y: py(y) + 4, "text-anchor": "end" }, fixed(y, scale)));
    let last = -1e9;
    points.forEach(([x, metric]) => {
      if (px(x) - last > 34) { picture.append(svg("text", { x: px(x), y: height - 8, "text-anchor": "middle" }, x >= 1 ? String(Number(x.toPrecision(4))) : x.toExponential(0))); last = px(x); }
      if (typeof metric[1] === "number") picture.append(svg("path", { class: "bars", d: `M${px(x)} ${py(metric[1])}V${py(metric[2])}` }));
      picture.append(svg("circle", { class: "dot", cx: px(x), cy: py(metric[0]), r: 3 }));
    });
    picture.append(svg("path", { class: "curve", d: points.map(([x, metric], place) => `${place ? "L" : "M"}${px(x)} ${py(metric[0])}`).join("") }));
    return el("figure", {}, picture, el("figcaption", {}, caption));
  }

  function published(claim) {
    open(`${claim.weights} · ${claim.cell}`,
      el("p", {}, el("span", { class: "big" }, claim.value.toFixed(1)), " published"),
      pairs({ source: claim.source, revision: claim.revision, read: claim.read, epochs: claim.epochs, "known to differ": claim.note }),
      claim.measure.length ? el("h3", {}, "Measure it here") : null, ...claim.measure.map(copyable));
  }

  function compare(table, rows) {
    const section = data().tables[Number(table.dataset.section)];
    const chosen = rows.map((row) => Number(row.dataset.model));
    const offset = 2 + $$(".heads .sum", table).length;
    const names = chosen.map((place) => section.models[place][0]);
    const body = section.columns.map((column, place) => {
      const values = rows.map((row) => value(row.cells[offset + place]));
      if (values.every((one) => one === null)) return null;
      const cells = values.map((one, n) => {
        if (one === null) return el("td", { class: "none" }, "–");
        const cell = el("td", { class: "number" }, fixed(one, column.scale));
        if (n > 0 && values[0] !== null) {
          const different = told(column, chosen[0], chosen[n]);
          const gap = (one - values[0]) * column.scale;
          cell.append(el("small", { class: different ? ((gap > 0) !== column.less ? "up" : "down") : "" },
            `${gap >= 0 ? "+" : "−"}${Math.abs(gap).toFixed(2)}, ${different === null ? "not tested" : different ? "different" : "not told apart"}`));
        }
        return cell;
      });
      return el("tr", {}, el("th", { scope: "row" }, column.name), ...cells);
    });
    open(`${names.length} models, against ${names[0]}`,
      el("p", { class: "note" }, "Told apart at 5 %, all pairs of a column together (Holm). p-values and intervals of the differences:"),
      copyable(`massl-bench compare ${rows.map((row) => quoted(section.models[Number(row.dataset.model)][0])).join(" ")}`),
      grid(["Cell", ...names], body.filter(Boolean)));
  }
  // Maps of features: the dot that is pointed at, or that the arrow keys come to, shows its image.
  for (const map of $$(".map")) {
    const picture = $("svg", map), dots = $$("circle", picture), figure = $("figure", map);
    const images = JSON.parse($("script", map).textContent);
    let at = -1;
    function point(place) {
      if (place < 0 || place === at) return;
      dots[at]?.classList.remove("at");
      at = place;
      dots[at].classList.add("at");
      [$("img", figure).src, $("figcaption", figure).textContent] = images[at];
      $("img", figure).alt = images[at][1];
      figure.hidden = false;
    }
    picture.addEventListener("pointerover", (event) => point(dots.indexOf(event.target)));
    picture.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      point((at + step + dots.length) % dots.length);
      event.preventDefault();
    });
  }

  const quoted = (name) => (/^[\w@%+=:,./-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\"'\"'")}'`);
  function told(column, one, other) {
    const count = column.order.length;
    let [i, j] = [column.order.indexOf(one), column.order.indexOf(other)];
    if (i < 0 || j < 0) return null;
    if (i > j) [i, j] = [j, i];
    const place = i * count - (i * (i + 1)) / 2 + (j - i - 1);
    column.bytes ??= atob(column.bits);
    return Boolean((column.bytes.charCodeAt(place >> 3) >> (7 - (place & 7))) & 1);
  }
})();
