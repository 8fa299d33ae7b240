// The heatmap's colours, and a line around what is unusual. The colours are those of the stored pictures (anomaly/heatmap.py),
// inferno's up to its orange: its pale yellow cannot be seen on a bright part. The line is dark and light, so that it shows on any picture.

const STOPS = [[0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84], [222, 73, 40], [235, 90, 16]];

const TABLE = new Uint8ClampedArray(256 * 4);
for (let i = 0; i < 256; i++) {
  const at = (i / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  for (let c = 0; c < 3; c++) TABLE[i * 4 + c] = STOPS[low][c] + (at - low) * (STOPS[low + 1][c] - STOPS[low][c]);
  TABLE[i * 4 + 3] = i; // nothing unusual covers nothing
}

/**
 * Draws a grid of bytes over the whole of a canvas, smoothly.
 * @param header of the frame: the grid's rows and columns, what 0 and 255 mean, and the threshold
 */
export function drawHeat(canvas, small, grid, { grid: [rows, columns], grid_range: [low, high], threshold }) {
  small.width = columns;
  small.height = rows;
  const inside = small.getContext("2d");
  const image = inside.createImageData(columns, rows);
  for (let i = 0; i < grid.length; i++) image.data.set(TABLE.subarray(grid[i] * 4, grid[i] * 4 + 4), i * 4);
  inside.putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (threshold === null || threshold === undefined) return;
  const line = contour(grid, rows, columns, (255 * (threshold - low)) / (high - low), canvas.width / columns, canvas.height / rows);
  context.lineJoin = context.lineCap = "round";
  for (const [colour, width] of [["#10161d", 4], ["#fff", 1.6]]) {
    context.strokeStyle = colour;
    context.lineWidth = (width * canvas.width) / 640;
    context.stroke(line);
  }
}

/** The line at which a grid crosses a level, between the centres of its cells (marching squares); outside all is cold. */
function contour(grid, rows, columns, level, wide, high) {
  const path = new Path2D();
  const at = (x, y) => (x < 0 || y < 0 || x >= columns || y >= rows ? 0 : grid[y * columns + x]);
  for (let y = -1; y < rows; y++) {
    for (let x = -1; x < columns; x++) {
      const corners = [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]];
      const values = corners.map(([cx, cy]) => at(cx, cy));
      const crossed = [];
      for (let i = 0; i < 4; i++) {
        const [a, b] = [values[i], values[(i + 1) % 4]];
        if (a >= level === b >= level) continue;
        const share = (level - a) / (b - a), [ax, ay] = corners[i], [bx, by] = corners[(i + 1) % 4];
        crossed.push([(ax + share * (bx - ax) + 0.5) * wide, (ay + share * (by - ay) + 0.5) * high]);
      }
      for (let i = 0; i + 1 < crossed.length; i += 2) { path.moveTo(...crossed[i]); path.lineTo(...crossed[i + 1]); }
    }
  }
  return path;
}
