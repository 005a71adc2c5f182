// The projections of the Moon as the server has them, and lines of longitude and latitude.
import { Feature, LineString, Projection } from './ol.js';

const RAD = Math.PI / 180;

/** Longitude and latitude (degrees) of metres on a grid; null where that is no place. */
export function toLonLat(grid, x, y, R) {
  if (grid === 'global') {
    const lat = y / R / RAD;
    return Math.abs(lat) > 90 ? null : [wrap(x / R / RAD), lat];
  }
  const rho = Math.hypot(x, y);
  const lat = 90 - 2 * Math.atan(rho / (2 * R)) / RAD;
  return grid === 'north' ? [wrap(Math.atan2(x, -y) / RAD), lat] : [wrap(Math.atan2(x, y) / RAD), -lat];
}

/** Metres on a grid of longitude and latitude. */
export function fromLonLat(grid, lon, lat, R) {
  if (grid === 'global') return [lon * RAD * R, lat * RAD * R];
  const away = grid === 'north' ? 90 - lat : 90 + lat;
  const rho = 2 * R * Math.tan(away * RAD / 2);
  const y = rho * Math.cos(lon * RAD);
  return [rho * Math.sin(lon * RAD), grid === 'north' ? -y : y];
}

export function wrap(lon) { return ((lon + 180) % 360 + 360) % 360 - 180; }

/** A projection whose scale is right where one looks. */
export function projection(grid, R) {
  return new Projection({
    code: grid.code,
    units: 'm',
    extent: grid.bounds,
    worldExtent: grid.bounds,
    global: grid.name === 'global',
    getPointResolution: (resolution, [x, y]) => {
      if (grid.name === 'global') return resolution * Math.max(Math.cos(y / R), 0.01);
      return resolution / (1 + (x * x + y * y) / (4 * R * R));
    },
  });
}

const STEPS = [90, 45, 30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4];

/** Lines of longitude and latitude in a view, five or so across it, with the label of each. */
export function graticule(grid, view, R) {
  const [left, bottom, right, top] = view;
  const lons = [], lats = [];
  const N = 24;
  const middle = toLonLat(grid.name, (left + right) / 2, (bottom + top) / 2, R) || [0, 0];
  for (let i = 0; i <= N; i++) {
    for (let j = 0; j <= N; j++) {
      const p = toLonLat(grid.name, left + (right - left) * i / N, bottom + (top - bottom) * j / N, R);
      if (p) { lons.push(middle[0] + wrap(p[0] - middle[0])); lats.push(p[1]); }
    }
  }
  if (!lats.length) return [];
  let [lat0, lat1] = [Math.min(...lats), Math.max(...lats)];
  let [lon0, lon1] = [Math.min(...lons), Math.max(...lons)];
  let pole = false;
  if (grid.name !== 'global') {
    pole = left < 0 && right > 0 && bottom < 0 && top > 0;
    if (pole) { if (grid.name === 'north') lat1 = 90; else lat0 = -90; }
    if (pole || lon1 - lon0 > 300) [lon0, lon1] = [-180, 180];
    if (grid.name === 'north') lat0 = Math.max(lat0, -10); else lat1 = Math.min(lat1, 10);
  } else {
    [lon0, lon1] = [left / R / RAD, right / R / RAD];
    if (lon1 - lon0 > 360) [lon0, lon1] = [-180, 180];
    [lat0, lat1] = [Math.max(-90, bottom / R / RAD), Math.min(90, top / R / RAD)];
  }
  const stepOf = (span, most) => STEPS.findLast((s) => span / s <= most) || 90;
  const dLat = stepOf(lat1 - lat0, 7);
  const dLon = pole ? 30 : stepOf(lon1 - lon0, 9);
  const found = [];
  const line = (points, label) => {
    const feature = new Feature(new LineString(points.map(([a, b]) => fromLonLat(grid.name, a, b, R))));
    feature.set('label', label);
    found.push(feature);
  };
  const places = (d) => Math.max(0, Math.ceil(-Math.log10(d) - 1e-9));
  const range = (a, b, d) => Array.from({ length: Math.floor(b / d + 1e-9) - Math.ceil(a / d - 1e-9) + 1 }, (_, k) => (Math.ceil(a / d - 1e-9) + k) * d);
  const along = (a, b) => Array.from({ length: 65 }, (_, k) => a + (b - a) * k / 64);
  for (const lat of range(lat0, lat1, dLat)) {
    if (Math.abs(lat) < 89.9999) line(along(lon0, lon1).map((lon) => [lon, lat]), degrees(lat, 'NS', places(dLat)));
  }
  for (const lon of range(lon0, lon1, dLon)) {
    if (pole && lon <= -180) continue;
    // At a pole every second meridian would do; all end before it.
    const [a, b] = grid.name === 'north' ? [lat0, Math.min(lat1, 90 - dLat / 8)] : grid.name === 'south' ? [Math.max(lat0, -90 + dLat / 8), lat1] : [lat0, lat1];
    line(along(a, b).map((lat) => [lon, lat]), degrees(wrap(lon), 'EW', places(dLon)));
  }
  return found;
}

export function degrees(value, letters, digits) {
  const text = Math.abs(value).toFixed(digits);
  const zero = Number(text) === 0 || Number(text) === 180;
  return `${text}°${zero && letters === 'EW' ? '' : Number(text) === 0 ? '' : value > 0 ? letters[0] : letters[1]}`;
}
