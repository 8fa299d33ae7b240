// The heatmap's colours: inferno, as in the stored pictures; even steps of brightness, so that they need no hue.

const STOPS = [[0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84], [228, 90, 49], [249, 142, 9], [249, 203, 53], [252, 255, 164]];

const TABLE = new Uint8ClampedArray(256 * 4);
for (let i = 0; i < 256; i++) {
  const at = (i / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  for (let c = 0; c < 3; c++) TABLE[i * 4 + c] = STOPS[low][c] + (at - low) * (STOPS[low + 1][c] - STOPS[low][c]);
  TABLE[i * 4 + 3] = i; // nothing unusual covers nothing
}

/** Draws a grid of bytes (rows × columns) over the whole of a canvas, smoothly. */
export function drawHeat(canvas, small, grid, [rows, columns]) {
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
}
