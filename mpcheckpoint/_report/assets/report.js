"use strict";
// Draws what report.html.jinja leaves to scripts. All text of a log goes through textContent, or through the plain text
// formatter of the table: nothing of it is ever parsed as HTML.
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const KIND_COLOUR = { ok: "ok", failed: "failed", "to retry": "retry", died: "failed", killed: "failed", running: "run" };
  const two = (number) => String(number).padStart(2, "0");

  const span = (seconds) => {
    if (seconds === 0) return "0";
    if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
    if (seconds < 1) return `${+(seconds * 1e3).toPrecision(3)} ms`;
    if (seconds < 120) return `${+seconds.toPrecision(3)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };

  const clock = (ms, isWhole) => {
    const at = new Date(ms);
    const time = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}`;
    return isWhole ? `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ${time}` : time;
  };

  // Gaps are shown short, so a place on the axis is not simply so long after the beginning.
  const realTime = (pieces, shown) => {
    let index = 0;
    while (index < pieces.length - 2 && pieces[index + 1][0] <= shown) index++;
    const [x0, t0] = pieces[index];
    const [x1, t1] = pieces[index + 1];
    return x1 === x0 ? t0 : t0 + ((shown - x0) / (x1 - x0)) * (t1 - t0);
  };

  const text = (tag, content, className) => {
    const element = document.createElement(tag);
    element.textContent = content;
    if (className) element.className = className;
    return element;
  };

  const axisColours = () => ({ stroke: colour("ink"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 } });

  const timeAxis = (log) => ({
    ...axisColours(),
    space: 90,
    values: (_, splits) => splits.map((at) => (at < 0 || at > log.span_s * 1.001 ? "" : clock(realTime(log.pieces, at), false))),
  });

  const shadeGaps = (log) => (chart) => {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.fillStyle = colour("gap");
    for (const [from, to] of log.gaps) {
      const left = chart.valToPos(from, "x", true);
      ctx.fillRect(left, bbox.top, Math.max(2, chart.valToPos(to, "x", true) - left), bbox.height);
    }
    ctx.strokeStyle = colour("run");
    ctx.setLineDash([4, 4]);
    for (const at of log.runs) {
      const left = Math.round(chart.valToPos(at, "x", true)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };

  const drawBars = (log) => (chart) => {
    const { ctx, bbox } = chart;
    const colours = log.kinds.map((kind) => colour(KIND_COLOUR[kind]));
    const height = Math.max(1, Math.abs(chart.valToPos(1, "y", true) - chart.valToPos(0, "y", true)) * 0.8);
    const top = (lane) => chart.valToPos(lane, "y", true) - height / 2;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    if (log.bars) {
      for (const [lane, from, to, kind] of log.bars) {
        const left = chart.valToPos(from, "x", true);
        const width = Math.max(2, chart.valToPos(to, "x", true) - left - 1);
        ctx.fillStyle = colours[kind];
        ctx.fillRect(left, top(lane), width, height);
      }
    } else {
      log.shares.forEach(([busy, bad], lane) => {
        const part = log.span_s / busy.length;
        for (let index = 0; index < busy.length; index++) {
          const left = chart.valToPos(index * part, "x", true);
          const width = chart.valToPos((index + 1) * part, "x", true) - left;
          if (busy[index] !== "0") {
            ctx.globalAlpha = 0.2 + (0.8 * +busy[index]) / 9;
            ctx.fillStyle = colour("ok");
            ctx.fillRect(left, top(lane), width + 0.5, height);
          }
          if (bad[index] === "1") {
            ctx.globalAlpha = 1;
            ctx.fillStyle = colour("failed");
            ctx.fillRect(left, top(lane) + height * 0.7, Math.max(1, width), height * 0.3);
          }
        }
      });
    }
    ctx.restore();
  };

  const barAt = (log, x, y) => {
    if (!log.bars || x === null) return null;
    const lane = Math.round(y);
    return log.bars.findLast((bar) => bar[0] === lane && bar[1] <= x && x <= bar[2]) || null;
  };

  const showBar = (log, reading) => (chart) => {
    const { left, top } = chart.cursor;
    if (left < 0) return;
    const x = chart.posToVal(left, "x");
    const bar = barAt(log, x, chart.posToVal(top, "y"));
    const at = clock(realTime(log.pieces, x), true);
    reading.textContent = bar ? `${at}: ${bar[4]}, ${log.kinds[bar[3]]}, ${span(bar[2] - bar[1])}` : at;
  };

  const size = (place, height) => ({ width: Math.max(200, place.clientWidth), height });

  const timeline = (log, article, sync) => {
    const place = article.querySelector(".timeline");
    const height = Math.min(900, 70 + log.lanes * Math.max(6, Math.min(26, 600 / Math.max(1, log.lanes))));
    const most = Math.max(0, log.lanes - 1);
    const options = {
      ...size(place, height),
      legend: { show: false },
      cursor: { sync: { key: sync }, y: false, points: { show: false }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: (_, from, to) => [from, to] }, y: { range: () => [-0.6, most + 0.6], dir: -1 } },
      axes: [
        timeAxis(log),
        { ...axisColours(), size: 40, space: 16, incrs: [1, 2, 5, 10, 20, 50, 100], values: (_, splits) => splits.map((lane) => (Number.isInteger(lane) && lane >= 0 && lane <= most ? lane + 1 : "")) },
      ],
      series: [{}, { show: true, stroke: "transparent", points: { show: false } }],
      hooks: { draw: [shadeGaps(log), drawBars(log)], setCursor: [showBar(log, article.querySelector(".reading"))] },
    };
    return [new uPlot(options, [[0, log.span_s || 1], [null, null]], place), place, height];
  };

  const rate = (log, article, sync) => {
    const place = article.querySelector(".rate");
    const { part_s, ok, failed } = log.rate;
    const middles = ok.map((_, index) => (index + 0.5) * part_s);
    const all = ok.map((count, index) => (count + failed[index]) / part_s);
    const steps = uPlot.paths.stepped({ align: 0 });
    const options = {
      ...size(place, 200),
      legend: { show: false },
      cursor: { sync: { key: sync }, y: false, drag: { x: true, y: false } },
      scales: { x: { time: false, range: (_, from, to) => [from, to] }, y: { range: (_, __, most) => [0, most * 1.05 || 1] } },
      axes: [timeAxis(log), { ...axisColours(), size: 60 }],
      series: [
        {},
        { label: "all", stroke: () => colour("ok"), fill: () => `${colour("ok")}40`, paths: steps, points: { show: false } },
        { label: "failed", stroke: () => colour("failed"), fill: () => `${colour("failed")}60`, paths: steps, points: { show: false } },
      ],
      hooks: { draw: [shadeGaps(log)] },
    };
    const ends = [0, ...middles, log.span_s || 1];
    const padded = (values) => [values[0] ?? 0, ...values, values[values.length - 1] ?? 0];
    return [new uPlot(options, [ends, padded(all), padded(failed.map((count) => count / part_s))], place), place, 200];
  };

  const durations = (log, article) => {
    const place = article.querySelector(".durations");
    const { edges_s, ok, failed } = log.durations;
    const bars = uPlot.paths.bars({ size: [0.9, 60], align: 0 });
    const options = {
      ...size(place, 200),
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, y: false },
      scales: { x: { time: false, range: () => [-0.6, Math.max(0.6, ok.length - 0.4)] }, y: { range: (_, __, most) => [0, most * 1.05 || 1] } },
      axes: [
        { ...axisColours(), space: 70, incrs: [1, 2, 4, 8, 16, 32], values: (_, splits) => splits.map((at) => (Number.isInteger(at) && at >= 0 && at < edges_s.length - 1 ? span(edges_s[at]) : "")) },
        { ...axisColours(), size: 60 },
      ],
      series: [
        {},
        { label: "all", stroke: () => colour("ok"), fill: () => `${colour("ok")}90`, paths: bars, points: { show: false } },
        { label: "failed", stroke: () => colour("failed"), fill: () => colour("failed"), paths: bars, points: { show: false } },
      ],
    };
    return [new uPlot(options, [ok.map((_, index) => index), ok.map((count, index) => count + failed[index]), failed], place), place, 200];
  };

  const rowsOf = (log) => {
    const { key, kind, began, took, attempts, run, cause, detail } = log.items;
    return key.map((name, id) => ({
      id,
      name,
      kind: log.kinds[kind[id]],
      began: began[id],
      took: took[id],
      attempts: attempts[id],
      run: run[id],
      cause: cause[id] ?? "",
      detail: detail[id] ?? null,
    }));
  };

  const showChosen = (log, place, row) => {
    place.hidden = false;
    place.replaceChildren(
      text("span", row.kind, `kind ${row.kind}`),
      text("h4", row.name, "name"),
      text("p", `began ${clock(log.begin_ms + row.began / 1e3, true)}, took ${span(row.took / 1e6)}, ${row.attempts} attempt${row.attempts === 1 ? "" : "s"}, run ${row.run}`),
    );
    const [error, output] = row.detail ?? [row.cause, ""];
    if (error) place.append(text("pre", error));
    if (output) place.append(text("h4", "output"), text("pre", output));
    if (!row.detail) place.append(text("p", "Its output is not in this report: mpcheckpoint results has it."));
  };

  const table = (log, article) => {
    const rows = rowsOf(log);
    const counted = article.querySelector(".counted");
    const kinds = Object.fromEntries([["", "all"], ...[...new Set(rows.map((row) => row.kind))].map((kind) => [kind, kind])]);
    const isNumber = { headerSortStartingDir: "desc", hozAlign: "right" };
    const grid = new Tabulator(article.querySelector(".table"), {
      data: rows,
      height: Math.min(520, 90 + rows.length * 36),
      layout: "fitColumns",
      responsiveLayout: "hide",
      rowHeight: 36,
      columns: [
        { title: "item", field: "name", responsive: 0, minWidth: 150, widthGrow: 3, headerFilter: "input", headerFilterPlaceholder: "part of a name", cssClass: "name" },
        { title: "state", field: "kind", responsive: 0, width: 96, headerFilter: "list", headerFilterParams: { values: kinds }, headerFilterFunc: (wanted, kind) => !wanted || wanted === kind },
        { title: "took", field: "took", responsive: 0, width: 86, ...isNumber, formatter: (cell) => span(cell.getValue() / 1e6) },
        { title: "began", field: "began", responsive: 2, width: 170, formatter: (cell) => clock(log.begin_ms + cell.getValue() / 1e3, true) },
        { title: "attempts", field: "attempts", responsive: 4, width: 106, ...isNumber },
        { title: "run", field: "run", responsive: 5, width: 76, ...isNumber },
        { title: "why", field: "cause", responsive: 3, minWidth: 140, widthGrow: 2, headerFilter: "input" },
      ],
    });
    const say = (shown) => (counted.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} items; a click on one shows more`);
    grid.on("dataFiltered", (_, found) => say(found.length));
    grid.on("rowClick", (_, row) => showChosen(log, article.querySelector(".chosen"), row.getData()));
    return new Promise((done) => grid.on("tableBuilt", () => { say(rows.length); done(); }));
  };

  const draw = (logs) => {
    const charts = logs.flatMap((log, index) => {
      const article = document.querySelector(`article[data-log="${index}"]`);
      article.querySelectorAll(".scripted").forEach((section) => (section.hidden = false));
      return [timeline(log, article, `log${index}`), rate(log, article, `log${index}`), durations(log, article)];
    });
    addEventListener("resize", () => charts.forEach(([chart, place, height]) => chart.setSize(size(place, height))));
    return charts;
  };

  const start = async () => {
    if (typeof DecompressionStream === "undefined" || !Array.prototype.findLast) {
      document.getElementById("too-old").hidden = false;
      return;
    }
    const packed = Uint8Array.from(atob(document.getElementById("data").textContent), (char) => char.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const logs = await new Response(stream).json();
    let charts = draw(logs);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      charts.forEach(([chart]) => chart.destroy());
      charts = draw(logs);
    });
    await Promise.all(logs.map((log, index) => table(log, document.querySelector(`article[data-log="${index}"]`))));
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  };

  start();
})();
