// Reads values off the curves: the step under the pointer, and every line's number there.
for (const chart of document.querySelectorAll("figure.chart")) {
  const numbers = (name) => chart.dataset[name].split(" ").map(Number);
  const [x0, y0, x1, y1] = numbers("plot"), [s0, s1] = numbers("steps"), [v0, v1] = numbers("values");
  const svg = chart.querySelector("svg"), out = chart.querySelector("output"), here = svg.querySelector(".here");
  const lines = [...svg.querySelectorAll("polyline")].map((line) => ({
    name: line.dataset.name,
    points: [...line.points].map((p) => [p.x, p.y]),
  }));
  const short = (n) => Number(n.toPrecision(4)).toString();
  const read = (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const step = Math.round(s0 + (Math.min(Math.max(x, x0), x1) - x0) / (x1 - x0) * (s1 - s0));
    const at = x0 + (step - s0) / (s1 - s0) * (x1 - x0);
    const values = lines.map(({ name, points }) => {
      const [, y] = points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
      return `${name} ${short(v0 + (y1 - y) / (y1 - y0) * (v1 - v0))}`;
    });
    out.textContent = `step ${step}: ${values.join(", ")}`;
    for (const [name, value] of Object.entries({ x1: at, x2: at, y1: y0, y2: y1 })) here.setAttribute(name, value);
    here.removeAttribute("hidden");
  };
  svg.addEventListener("pointermove", read);
  svg.addEventListener("pointerdown", read);
  svg.addEventListener("pointerleave", () => { out.textContent = ""; here.setAttribute("hidden", ""); });
}
