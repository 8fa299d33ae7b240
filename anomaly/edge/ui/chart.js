// Score over time on a canvas: line, threshold (dashed), what lies above it filled, time without scores hatched.

import { clock, minute } from "./format.js";

/** Makes a canvas as fine as the screen; its context, width and height in CSS pixels. */
export function sharp(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A step for marks on the time axis: about `most` of them fit. */
export function timeStep(span, most) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  return steps.find((step) => span / step <= most) ?? 86400;
}

/** Stripes over a stretch of the chart: time in which nothing could be scored. */
export function hatch(context, x0, x1, y0, y1, ink) {
  context.save();
  context.beginPath();
  context.rect(x0, y0, Math.max(1, x1 - x0), y1 - y0);
  context.clip();
  context.strokeStyle = ink;
  context.lineWidth = 1;
  context.beginPath();
  for (let x = x0 - (y1 - y0); x < x1; x += 6) {
    context.moveTo(x, y1);
    context.lineTo(x + (y1 - y0), y0);
  }
  context.stroke();
  context.restore();
}

/**
 * Draws scores.
 * @param points [utc_s, score or null] in order of time
 * @returns how times become pixels
 */
export function drawScores(canvas, points, { since, until, threshold, gaps = [], bottom = 16 }) {
  const [context, width, height] = sharp(canvas);
  const floor = height - bottom;
  let top = threshold ? threshold * 1.25 : 1;
  for (const [, score] of points) if (score > top) top = score * 1.05;
  const x = (utc_s) => ((utc_s - since) / (until - since)) * width;
  const y = (score) => floor - (Math.max(0, score) / top) * (floor - 4);
  context.font = `11px ${getComputedStyle(canvas).fontFamily}`;
  context.textBaseline = "bottom";
  for (const gap of gaps) hatch(context, x(gap.start_utc_s), x(gap.end_utc_s), 0, floor, colour("faint"));

  const step = timeStep(until - since, width / 90);
  context.fillStyle = colour("quiet");
  context.strokeStyle = colour("line");
  context.lineWidth = 1;
  const mark = step >= 60 ? minute : clock;
  for (let at = Math.ceil(since / step) * step; at < until; at += step) {
    const left = Math.round(x(at)) + 0.5;
    context.beginPath();
    context.moveTo(left, 0);
    context.lineTo(left, floor);
    context.stroke();
    const label = mark(at), wide = context.measureText(label).width;
    if (left - wide / 2 > 0 && left + wide / 2 < width) context.fillText(label, left - wide / 2, height);
  }
  context.beginPath();
  context.moveTo(0, floor + 0.5);
  context.lineTo(width, floor + 0.5);
  context.stroke();

  const line = new Path2D();
  const area = new Path2D();
  let on = false, last = 0;
  // A stretch without scores is not bridged by a line.
  const widest = Math.max(5, (until - since) / 50);
  const close = () => { if (on) { area.lineTo(x(last), floor); area.closePath(); } on = false; };
  for (const [at, score] of points) {
    if (score === null || (on && at - last > widest)) close();
    if (score === null) continue;
    if (on) { line.lineTo(x(at), y(score)); area.lineTo(x(at), y(score)); } else {
      line.moveTo(x(at), y(score));
      area.moveTo(x(at), floor);
      area.lineTo(x(at), y(score));
    }
    on = true;
    last = at;
  }
  close();
  context.save();
  if (threshold) {
    context.beginPath();
    context.rect(0, 0, width, y(threshold));
    context.clip();
    context.fillStyle = colour("alarm");
    context.globalAlpha = 0.55;
    context.fill(area);
    context.globalAlpha = 1;
  }
  context.restore();
  context.strokeStyle = colour("accent");
  context.lineWidth = 1.6;
  context.lineJoin = "round";
  context.stroke(line);
  if (threshold) {
    context.strokeStyle = colour("alarm-ink");
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(0, y(threshold));
    context.lineTo(width, y(threshold));
    context.stroke();
    context.setLineDash([]);
    const label = `threshold ${threshold.toFixed(2)}`;
    context.fillStyle = colour("card");
    context.fillRect(2, y(threshold) - 16, context.measureText(label).width + 4, 14);
    context.fillStyle = colour("alarm-ink");
    context.fillText(label, 4, y(threshold) - 2);
  }
  return { x, time: (left) => since + (left / width) * (until - since), floor, context, width };
}
