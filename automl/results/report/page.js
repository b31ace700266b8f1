"use strict";
// Draws the plots of #figures, in the colours of page.css: again when light turns dark.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const colours = ["ink", "muted", "line", "paper", "sunken", "veil", "blue", "orange"];

  // A copy in which the names of colours, wherever a colour stands, are colours.
  function painted(value, palette, inColour) {
    if (typeof value === "string") return inColour && value in palette ? palette[value] : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, palette, inColour));
    if (value === null || typeof value !== "object") return value;
    const copy = {};
    for (const [key, item] of Object.entries(value)) {
      copy[key] = painted(item, palette, /color/.test(key));
    }
    return copy;
  }

  function layout(own, palette) {
    const style = getComputedStyle(document.body);
    const axis = {
      gridcolor: palette.line,
      linecolor: palette.line,
      tickcolor: palette.line,
      zeroline: false,
      automargin: true,
      fixedrange: !matchMedia("(pointer: fine)").matches,
      title: { standoff: 8, font: { size: 13 } },
    };
    const merged = (given) => ({
      ...axis,
      ...given,
      title: { ...axis.title, ...(given && given.title) },
    });
    return {
      font: { family: style.fontFamily, size: 13, color: palette.ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 40, r: 10, t: 10, b: 30 },
      hovermode: "closest",
      dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
      hoverlabel: {
        bgcolor: palette.paper,
        bordercolor: palette.muted,
        font: { color: palette.ink },
      },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
      showlegend: true,
      ...own,
      xaxis: merged(own.xaxis),
      yaxis: merged(own.yaxis),
    };
  }

  function draw() {
    const style = getComputedStyle(root);
    const palette = {};
    for (const name of colours) palette[name] = style.getPropertyValue("--" + name).trim();
    for (const [id, figure] of Object.entries(figures)) {
      const own = painted(figure, palette, false);
      Plotly.react(id, own.data, layout(own.layout, palette), {
        displayModeBar: false,
        responsive: true,
      });
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  root.dataset.drawn = Object.keys(figures).length;
})();
