"use strict";
// On a page that is served: what is running and what failed, and the page anew when records changed.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const place = $("#live");
  const key = "massl-bench-view";
  const el = (tag, text, ...children) => {
    const node = document.createElement(tag);
    if (text) node.textContent = text;
    node.append(...children);
    return node;
  };

  // The view survives a new page: suite, filters, order, chosen models, where it was scrolled to.
  function remember() {
    const view = {
      tab: $('[role="tab"][aria-selected="true"]')?.id,
      scroll: [scrollX, scrollY],
      tables: Object.fromEntries($$("table[data-section]").map((table) => {
        const section = table.closest("section"), box = table.closest(".scroll"), form = $("form", section);
        const head = $("th[aria-sort]", table);
        return [section.id, {
          scroll: [box.scrollLeft, box.scrollTop],
          filters: [...form.elements].filter((field) => field.name).map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]),
          open: $("details", form).open,
          sort: head && [head.innerText, head.getAttribute("aria-sort")],
          chosen: $$("td.tick input:checked", table).map((input) => input.getAttribute("aria-label")),
        }];
      })),
    };
    try { sessionStorage.setItem(key, JSON.stringify(view)); } catch { /* a page without storage */ }
  }
  function restore() {
    let view = null;
    try {
      view = JSON.parse(sessionStorage.getItem(key));
      sessionStorage.removeItem(key);
    } catch { /* the same */ }
    if (!view) return;
    const last = ([id]) => `tab-${id}` === view.tab;
    for (const [id, before] of Object.entries(view.tables).sort((a, b) => last(a) - last(b))) {
      document.getElementById(`tab-${id}`)?.click(); // which makes its table
      const table = document.getElementById(id) && $("table", document.getElementById(id));
      if (!table) continue;
      const box = table.closest(".scroll"), form = $("form", table.closest("section"));
      for (const [name, value] of before.filters) {
        const field = form.elements[name];
        if (field?.type === "checkbox") field.checked = value;
        else if (field) field.value = value;
      }
      $("details", form).open = before.open;
      form.dispatchEvent(new Event("input"));
      const head = before.sort && $$(".heads th", table).find((one) => one.innerText === before.sort[0]);
      for (let click = 0; head && head.getAttribute("aria-sort") !== before.sort[1] && click < 2; click += 1) $("button", head).click();
      for (const box of $$("td.tick input", table)) box.checked = before.chosen.includes(box.getAttribute("aria-label"));
      table.dispatchEvent(new Event("change"));
      [box.scrollLeft, box.scrollTop] = before.scroll;
    }
    scrollTo(...view.scroll);
  }

  function run(one) {
    const bar = document.createElement("progress");
    bar.max = one.total;
    bar.value = one.done;
    bar.setAttribute("aria-label", `${one.done} of ${one.total} cells`);
    const note = [`${one.done} of ${one.total} cells done`, one.progress, one.where, `since ${one.since}`];
    if (one.state === "unknown") note.push("whether it still runs is not known");
    return el("li", "", el("strong", one.what), " ", bar, el("small", note.filter(Boolean).join(" · ")));
  }
  let last = "", failing = false;
  function show(state) {
    const text = JSON.stringify([state.running, state.failed, state.problem, state.unreadable]);
    if (text === last) return;
    last = text;
    const words = [state.running.length ? `Running: ${state.running.length}` : "Nothing is running"];
    if (state.num_failed) words.push(`failed: ${state.num_failed}`);
    const summary = $("#live-summary");
    if (summary.textContent !== words.join(", ")) summary.textContent = words.join(", ");
    $("#live-running").replaceChildren(...state.running.map(run));
    $("#live-failed").hidden = !state.num_failed;
    $("#live-failed ul").replaceChildren(...state.failed.map((one) => el("li", "", el("strong", one.cell), `: ${one.error}`, el("small", one.at))));
    const trouble = [...(state.problem ? [`The table could not be built anew: ${state.problem}`] : []), ...state.unreadable.map((name) => `${name}: not readable as the file of a run`)];
    $("#live-trouble").replaceChildren(...trouble.map((line) => el("li", line)));
  }
  async function look() {
    try {
      const answer = await fetch("/state", { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const state = await answer.json();
      failing = false;
      show(state);
      if (state.version !== place.dataset.version && !$("#dialog").open) {
        remember();
        location.reload();
        return;
      }
    } catch {
      if (!failing) $("#live-summary").textContent = "The server does not answer: this is the last table that it gave";
      failing = true;
      last = "";
    }
    setTimeout(look, 2000);
  }
  restore();
  look();
})();
