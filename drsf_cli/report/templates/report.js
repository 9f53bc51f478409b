"use strict";
(() => {
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = event.message; });

  // One sample at a time, chosen by a slider; without this script all are there.
  for (const box of document.querySelectorAll("[data-scrub]")) {
    const items = [...box.querySelectorAll(".samples > li")];
    const slider = box.querySelector("input[type=range]");
    const show = (index) => {
      items.forEach((item, position) => { item.hidden = position !== index; });
      slider.value = index;
      slider.setAttribute("aria-valuetext", items[index].dataset.caption);
    };
    const step = (by) => show(Math.min(items.length - 1, Math.max(0, Number(slider.value) + by)));
    slider.addEventListener("input", () => show(Number(slider.value)));
    box.querySelector("[data-step='-1']").addEventListener("click", () => step(-1));
    box.querySelector("[data-step='1']").addEventListener("click", () => step(1));
    box.classList.add("scripted");
    show(0);
  }

  // Values under the pointer, or by the arrow keys.
  let charts = 0;
  for (const chart of document.querySelectorAll(".chart")) {
    const data = JSON.parse(chart.querySelector("script[type='application/json']").textContent);
    const drawing = chart.querySelector("svg");
    const cursor = chart.querySelector(".cursor");
    const output = chart.querySelector("output");
    let current = -1;
    const point = (index) => {
      current = Math.min(data.x.length - 1, Math.max(0, index));
      cursor.setAttribute("x1", data.x[current]);
      cursor.setAttribute("x2", data.x[current]);
      cursor.classList.add("on");
      const floor = data.floor ? ` (codec ${data.floor[current]})` : "";
      output.textContent = `frame ${data.frame[current]}: ${data.recovered ? data.recovered[current] : "–"}${floor}`;
    };
    drawing.addEventListener("pointermove", (event) => {
      const frame = drawing.getBoundingClientRect();
      const x = (event.clientX - frame.left) / frame.width * drawing.viewBox.baseVal.width;
      let nearest = 0;
      data.x.forEach((at, index) => {
        if (Math.abs(at - x) < Math.abs(data.x[nearest] - x)) nearest = index;
      });
      point(nearest);
    });
    drawing.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) { event.preventDefault(); point(current + by); }
      else if (event.key === "Home" || event.key === "End") { event.preventDefault(); point(event.key === "Home" ? 0 : data.x.length - 1); }
    });
    charts += 1;
  }
  // Paper has no summary to click.
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  root.dataset.charts = charts;
})();
