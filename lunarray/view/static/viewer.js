// The page: what is shown stands in `state`, and the address of the page says it all again.
import * as ol from './ol.js';
import { degrees, fromLonLat, graticule, projection, toLonLat } from './moon.js';

const $ = (id) => document.getElementById(id);
const el = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  for (const [key, value] of Object.entries(props)) if (key.startsWith('aria-')) node.setAttribute(key, value);
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
};
const short = (v) => v === null || v === undefined ? 'none' : Number(v.toPrecision(5)).toString();

let about;                 // what the server has
let grid;                  // the projection now
let map, graticuleLayer, markLayer;
const grids = {};          // each: what the server says, its projection, its tiles
const shown = [];          // layers of the map, the lowest first
const views = {};          // where each projection was left

async function ask(what, query = {}) {
  const answer = await fetch(`api/${what}?${new URLSearchParams(query)}`);
  const told = await answer.json();
  if (!answer.ok) { trouble(told.error || answer.statusText); throw new Error(told.error); }
  return told;
}

let silence;
function trouble(text) {
  $('trouble').textContent = text;
  $('trouble').hidden = false;
  clearTimeout(silence);
  silence = setTimeout(() => { $('trouble').hidden = true; }, 8000);
}

// --- layers ------------------------------------------------------------------------------------

function tileAddress(one) {
  const query = { low: one.low, high: one.high, cmap: one.cmap, v: `${about.version}.${one.reads}` };
  if (one.band) query.band = one.band;
  if (one.minus !== null) { query.minus = one.minus; query.minus_band = one.minusBand; }
  return `api/tile/${one.id}/${grid.name}/{z}/{x}/{y}.png?${new URLSearchParams(query)}`;
}

function tileSource(one) {
  const address = tileAddress(one);
  return new ol.TileImage({
    projection: grid.projection,
    tileGrid: grid.tiles,
    wrapX: grid.name === 'global',
    interpolate: false,
    transition: 0,
    tileUrlFunction: ([z, x, y]) => address.replace('{z}', z).replace('{x}', x).replace('{y}', y),
  });
}

function vectorSource(one) {
  const source = new ol.VectorSource({
    wrapX: grid.name === 'global',
    strategy: ol.bboxStrategy,
    loader: async (extent, resolution, _, success, failure) => {
      try {
        const told = await ask('vectors', { layer: one.id, grid: grid.name, view: extent.join(), resolution });
        const read = new ol.GeoJSON().readFeatures(told);
        source.clear(true);
        source.addFeatures(read);
        one.left = told.total - told.features.length;
        if (one.told) one.told.textContent = one.left > 0 ? `${one.left} more in view: zoom in` : '';
        success(read);
      } catch { source.removeLoadedExtent(extent); failure(); }
    },
  });
  return source;
}

function colourOf(one, value) {
  const colours = about.cmaps.find((c) => c.name === one.cmap).colours;
  const share = (value - one.low) / (one.high - one.low);
  return colours[Math.round(Math.min(1, Math.max(0, share)) * (colours.length - 1))];
}

function vectorStyle(one) {
  return (feature) => {
    const value = one.column ? feature.get(one.column) : undefined;
    const colour = one.column ? (value === null || value === undefined ? '#888888' : colourOf(one, value)) : one.colour;
    const flat = feature.getGeometry().getType().includes('Polygon');
    return new ol.Style({
      stroke: new ol.Stroke({ color: colour, width: flat && one.column ? 1 : 1.8 }),
      fill: new ol.Fill({ color: colour + (one.column ? 'b0' : '22') }),
      image: new ol.Circle({ radius: 4, fill: new ol.Fill({ color: colour }), stroke: new ol.Stroke({ color: '#000', width: 0.7 }) }),
    });
  };
}

const VECTOR_COLOURS = ['#56b4e9', '#e69f00', '#cc79a7', '#00d7a0', '#f0e442'];

async function addLayer(id, given = {}) {
  const told = about.layers[id];
  if (!told || shown.some((s) => s.id === id)) return;
  const vector = told.kind === 'vector';
  const one = {
    id, told: null, about: told, vector, opacity: 1, band: 0, cmap: vector ? 'viridis' : told.cmap, low: null, high: null,
    own: false, minus: null, minusBand: 0, column: '', visible: true, reads: 0,
    colour: VECTOR_COLOURS[shown.filter((s) => s.vector).length % VECTOR_COLOURS.length], ...given,
  };
  one.layer = vector ? new ol.VectorLayer({ style: vectorStyle(one) }) : new ol.TileLayer({ preload: 0, cacheSize: 512 });
  one.layer.setOpacity(one.opacity);
  one.layer.setVisible(one.visible);
  shown.push(one);
  map.addLayer(one.layer);
  await renew(one);
  order();
}

/** Read what a layer shows anew: after another projection, band, or scale. */
async function renew(one, limits = true) {
  if (one.vector) {
    if (one.column && !one.own) [one.low, one.high] = one.about.columns[one.column];
    one.layer.setSource(vectorSource(one));
  } else {
    if (limits && !one.own) {
      const query = { layer: one.id, band: one.band };
      if (one.minus !== null) { query.minus = one.minus; query.minus_band = one.minusBand; }
      const told = await ask('limits', query);
      [one.low, one.high] = [Number(told.low.toPrecision(4)), Number(told.high.toPrecision(4))];
      if (!(one.low < one.high)) [one.low, one.high] = [told.low, told.high];
      if (!told.whole) watch();
    }
    one.layer.setSource(tileSource(one));
  }
  list();
  remember();
}

function order() {
  shown.forEach((one, k) => one.layer.setZIndex(k));
  list();
  remember();
}

function removeLayer(one) {
  map.removeLayer(one.layer);
  shown.splice(shown.indexOf(one), 1);
  order();
}

function move(one, by) {
  const k = shown.indexOf(one);
  if (k + by < 0 || k + by >= shown.length) return;
  shown.splice(k, 1);
  shown.splice(k + by, 0, one);
  order();
}

// --- overviews that are being made ---------------------------------------------------------------

let watching = false;
async function watch() {
  if (watching) return;
  watching = true;
  let waited = new Set();
  for (;;) {
    const told = await ask('progress').catch(() => ({}));
    const now = new Set(Object.keys(told).filter((k) => typeof told[k] === 'number').map(Number));
    for (const [id, what] of Object.entries(told)) if (typeof what === 'string') trouble(`${about.layers[id].name}: ${what}`);
    for (const one of shown) {
      one.progress = told[one.id];
      const ids = [one.id, one.minus];
      if (ids.some((i) => now.has(i) || waited.has(i))) { one.reads += 1; await renew(one); }
    }
    waited = now;
    if (!now.size) break;
    await new Promise((go) => setTimeout(go, 1500));
  }
  watching = false;
}

// --- the panel -----------------------------------------------------------------------------------

function list() {
  const focus = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
  $('layers').replaceChildren(...[...shown].reverse().map(card));
  if (focus) { const again = document.querySelector(`[data-key="${CSS.escape(focus)}"]`); if (again) again.focus(); }
  const groups = new Map();
  for (const layer of about.layers) {
    if (shown.some((s) => s.id === layer.id)) continue;
    if (!groups.has(layer.source)) groups.set(layer.source, []);
    groups.get(layer.source).push(layer);
  }
  $('add').replaceChildren(el('option', { value: '', textContent: groups.size ? 'choose…' : 'all are shown' }));
  for (const [source, layers] of groups) {
    const group = el('optgroup', { label: source });
    for (const l of layers) group.append(el('option', { value: l.id, textContent: l.kind === 'vector' ? `${l.name} (vectors)` : l.name + (l.units ? ` (${l.units})` : '') }));
    $('add').append(group);
  }
}

function keyed(node, one, what) { node.dataset.key = `${one.id}.${what}`; return node; }

function card(one) {
  const item = el('li');
  const name = one.minus === null ? one.about.name : `${one.about.name} − ${about.layers[one.minus].name}`;
  const unit = one.vector ? '' : one.about.units;
  const button = (text, title, what, does) => keyed(el('button', { type: 'button', textContent: text, title, onclick: does, 'aria-label': `${title}: ${name}` }), one, what);
  const eye = keyed(el('input', { type: 'checkbox', checked: one.visible, title: 'Visible', 'aria-label': `Show ${name}` }), one, 'eye');
  eye.onchange = () => { one.visible = eye.checked; one.layer.setVisible(one.visible); remember(); };
  item.append(el('div', { className: 'head' }, eye, el('strong', { textContent: name + (unit ? ` (${unit})` : '') }),
    button('▲', 'Further up', 'up', () => move(one, 1)), button('▼', 'Further down', 'down', () => move(one, -1)),
    button('□', 'Show all of it', 'fit', () => fit([one])), button('✕', 'Take away', 'away', () => removeLayer(one))));
  const more = [one.about.title, one.about.source, one.about.note].filter(Boolean).join(' · ');
  item.append(el('div', { className: 'small', textContent: more }));
  if (!one.about.extents[grid.name]) item.append(el('div', { className: 'small', textContent: 'Not on this projection' }));
  if (one.about.bands && one.about.bands.length) {
    const band = keyed(el('input', { type: 'range', min: 0, max: one.about.bands.length - 1, value: one.band, 'aria-label': `${one.about.band_name} of ${name}` }), one, 'band');
    const label = el('span', { className: 'small', textContent: one.about.bands[one.band] });
    band.oninput = () => { label.textContent = one.about.bands[band.value]; };
    band.onchange = () => { one.band = Number(band.value); renew(one); };
    item.append(el('label', { className: 'row' }, el('span', { textContent: one.about.band_name }), band, label));
  }
  if (!one.vector || one.column) {
    const colours = about.cmaps.find((c) => c.name === one.cmap).colours;
    item.append(el('div', { className: 'bar', style: `background:linear-gradient(to right,${colours.join()})` }),
      el('div', { className: 'ends' }, el('span', { textContent: short(one.low) }), el('span', { textContent: unit }), el('span', { textContent: short(one.high) })));
  }
  const opacity = keyed(el('input', { type: 'range', min: 0, max: 100, value: Math.round(one.opacity * 100), 'aria-label': `Opacity of ${name}` }), one, 'opacity');
  opacity.oninput = () => { one.opacity = opacity.value / 100; one.layer.setOpacity(one.opacity); };
  opacity.onchange = remember;
  item.append(el('label', { className: 'row' }, el('span', { textContent: 'Opacity' }), opacity));
  item.append(settings(one, name));
  one.told = el('div', { className: 'small', textContent: one.left > 0 ? `${one.left} more in view: zoom in` : '' });
  item.append(one.told);
  if (typeof one.progress === 'number') {
    item.append(el('div', { className: 'small', textContent: `Reading the whole map: ${Math.round(one.progress * 100)} %` }),
      el('div', { className: 'progress' }, el('div', { style: `width:${one.progress * 100}%` })));
  }
  return item;
}

function settings(one, name) {
  const box = el('details', { open: Boolean(one.open) }, el('summary', { textContent: one.vector ? 'Colours' : 'Colours and difference' }));
  box.ontoggle = () => { one.open = box.open; };
  if (one.vector) {
    const column = keyed(el('select', { 'aria-label': `Colour ${name} by` }), one, 'column');
    column.append(el('option', { value: '', textContent: 'one colour' }), ...Object.keys(one.about.columns).map((c) => el('option', { value: c, textContent: c, selected: c === one.column })));
    column.onchange = () => { one.column = column.value; one.own = false; renew(one); };
    box.append(el('label', { className: 'row' }, el('span', { textContent: 'Colour by' }), column));
    if (!one.column) return box;
  }
  const cmap = keyed(el('select', { 'aria-label': `Colours of ${name}` }), one, 'cmap');
  cmap.append(...about.cmaps.map((c) => el('option', { value: c.name, textContent: c.name, selected: c.name === one.cmap })));
  cmap.onchange = () => { one.cmap = cmap.value; renew(one, false); };
  box.append(el('label', { className: 'row' }, el('span', { textContent: 'Colours' }), cmap));
  const end = (which) => {
    const input = keyed(el('input', { type: 'number', step: 'any', value: one[which], 'aria-label': `${which === 'low' ? 'Lower' : 'Upper'} end of ${name}` }), one, which);
    input.onchange = () => {
      const before = one[which];
      one[which] = Number(input.value);
      if (input.value === '' || !(one.low < one.high)) { one[which] = before; trouble('The lower end must be below the upper one.'); list(); return; }
      one.own = true;
      renew(one, false);
    };
    return input;
  };
  const reset = keyed(el('button', { type: 'button', textContent: '↺', title: 'Ends from the data', 'aria-label': `Ends of ${name} from the data`, onclick: () => { one.own = false; renew(one); } }), one, 'reset');
  box.append(el('div', { className: 'row' }, el('span', { textContent: 'Scale' }), end('low'), end('high'), reset));
  if (one.vector) return box;
  const minus = keyed(el('select', { 'aria-label': `Subtract from ${name}` }), one, 'minus');
  minus.append(el('option', { value: '', textContent: 'nothing' }));
  for (const other of about.layers) {
    if (other.kind !== 'map' || other.id === one.id) continue;
    minus.append(el('option', { value: other.id, textContent: `${other.name} · ${other.source}`, selected: other.id === one.minus }));
  }
  minus.onchange = () => subtract(one, minus.value === '' ? null : Number(minus.value));
  box.append(el('label', { className: 'row' }, el('span', { textContent: 'Minus' }), minus));
  if (one.minus !== null && about.layers[one.minus].bands.length) {
    const band = keyed(el('select', { 'aria-label': 'Band that is subtracted' }), one, 'minusBand');
    band.append(...about.layers[one.minus].bands.map((b, k) => el('option', { value: k, textContent: b, selected: k === one.minusBand })));
    band.onchange = () => { one.minusBand = Number(band.value); renew(one); };
    box.append(el('label', { className: 'row' }, el('span', { textContent: 'Band' }), band));
  }
  return box;
}

function subtract(one, other) {
  one.minus = other;
  one.minusBand = other === null ? 0 : Math.min(one.band, Math.max(0, about.layers[other].bands.length - 1));
  one.own = false;
  one.cmap = other === null ? one.about.cmap : about.diverging;
  if (other !== null && about.layers[other].units !== one.about.units) trouble(`${one.about.name} is in ${one.about.units || 'no unit'}, ${about.layers[other].name} in ${about.layers[other].units || 'no unit'}.`);
  return renew(one);
}

// --- values ----------------------------------------------------------------------------------------

async function tell(lon, lat, features = []) {
  mark(lon, lat);
  $('values').replaceChildren(el('p', { className: 'hint', textContent: 'Reading…' }));
  let told = await ask('at', { lon, lat });
  const parts = [el('h2', { textContent: `${degrees(lat, 'NS', 4)} ${degrees(lon, 'EW', 4)}` })];
  for (const { one, feature } of features) {
    const place = feature.get('place');
    const rows = Object.entries(feature.getProperties()).filter(([k]) => k !== 'geometry' && k !== 'place').slice(0, 30);
    parts.push(el('h2', { textContent: one.about.name + (place === undefined ? '' : `, no. ${place}`) }), table(rows.map(([k, v]) => [k, typeof v === 'number' ? short(v) : String(v ?? 'none')])));
    if (place !== undefined) {
      const own = await ask('along', { layer: one.id, place });
      for (const source of own.sources) parts.push(...source.spectra.map(spectrum));
    }
  }
  for (const source of told.sources) {
    parts.push(el('h2', { textContent: source.source }), el('div', { className: 'small', textContent: `row ${source.row}, column ${source.column}; middle ${degrees(source.lat, 'NS', 4)} ${degrees(source.lon, 'EW', 4)}` }));
    parts.push(...source.spectra.map(spectrum));
    parts.push(table(source.values.map((v) => {
      let text = short(v.value);
      if (v.error !== undefined) text += ` ± ${short(v.error)}`;
      if (v.interval) text += ` (${short(v.interval[0])} to ${short(v.interval[1])})`;
      if (v.units && v.value !== null) text += ` ${v.units}`;
      if (v.meanings) text += `: ${v.meanings.join(', ').replaceAll('_', ' ')}`;
      return [v.name, text];
    })));
  }
  if (!told.sources.length && !features.length) parts.push(el('p', { className: 'hint', textContent: 'There is nothing here.' }));
  $('values').replaceChildren(...parts);
  $('values').scrollIntoView({ block: window.innerWidth <= 640 ? 'start' : 'nearest' });
}

function table(rows) {
  return el('table', {}, el('tbody', {}, ...rows.map(([a, b]) => el('tr', {}, el('td', { textContent: a }), el('td', { textContent: b })))));
}

/** A curve with the band of its errors. */
function spectrum(told) {
  const NS = 'http://www.w3.org/2000/svg';
  const make = (tag, attrs, text) => {
    const node = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attrs)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const [W, H, L, B, T] = [300, 170, 46, 30, 18];
  const svg = make('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': `${told.name} along ${told.dim}`, class: 'spectrum' });
  const points = told.x.map((x, k) => [x, told.y[k], told.error ? told.error[k] : null]).filter((p) => p[1] !== null);
  svg.append(make('text', { x: L, y: 12, 'font-size': 11 }, told.name + (told.units ? ` (${told.units})` : '')));
  if (!points.length) { svg.append(make('text', { x: W / 2, y: H / 2, 'font-size': 11, 'text-anchor': 'middle' }, 'no data')); return svg; }
  const lows = points.map((p) => p[1] - (p[2] || 0)), highs = points.map((p) => p[1] + (p[2] || 0));
  let [y0, y1] = [Math.min(...lows), Math.max(...highs)];
  if (y0 === y1) { y0 -= Math.abs(y0) * 0.01 + 1e-6; y1 += Math.abs(y1) * 0.01 + 1e-6; }
  const [x0, x1] = [Math.min(...told.x), Math.max(...told.x)];
  const X = (x) => L + (W - L - 8) * (x - x0) / (x1 - x0 || 1);
  const Y = (y) => H - B - (H - B - T) * (y - y0) / (y1 - y0);
  for (const t of ticks(y0, y1, 4)) svg.append(make('line', { x1: L, x2: W - 8, y1: Y(t), y2: Y(t), stroke: '#ddd' }), make('text', { x: L - 4, y: Y(t) + 4, 'font-size': 10, 'text-anchor': 'end' }, short(t)));
  for (const t of ticks(x0, x1, 5)) svg.append(make('line', { x1: X(t), x2: X(t), y1: H - B, y2: H - B + 4, stroke: '#555' }), make('text', { x: X(t), y: H - B + 14, 'font-size': 10, 'text-anchor': 'middle' }, short(t)));
  svg.append(make('text', { x: (L + W) / 2, y: H - 4, 'font-size': 10, 'text-anchor': 'middle' }, told.dim + (told.dim_units ? ` (${told.dim_units})` : '')));
  if (told.error) {
    const band = [...points.map((p) => `${X(p[0])},${Y(p[1] + (p[2] || 0))}`), ...[...points].reverse().map((p) => `${X(p[0])},${Y(p[1] - (p[2] || 0))}`)];
    svg.append(make('polygon', { points: band.join(' '), fill: '#0b5fa5', opacity: 0.2 }));
  }
  svg.append(make('polyline', { points: points.map((p) => `${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`).join(' '), fill: 'none', stroke: '#0b5fa5', 'stroke-width': 1.5 }));
  return svg;
}

function ticks(a, b, count) {
  const raw = (b - a) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let t = Math.ceil(a / step) * step; t <= b + step * 1e-9; t += step) found.push(Number(t.toPrecision(10)));
  return found;
}

let marked = null;
function mark(lon, lat) {
  marked = [lon, lat];
  const source = markLayer.getSource();
  source.clear();
  source.addFeature(new ol.Feature(new ol.Point(fromLonLat(grid.name, lon, lat, about.radius))));
  remember();
}

// --- projections and views ---------------------------------------------------------------------------

function fit(layers) {
  const found = layers.map((l) => l.about.extents[grid.name]).filter(Boolean);
  const extent = found.length ? found.reduce((a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]) : grid.bounds;
  map.getView().fit(extent, { size: map.getSize(), padding: [20, 20, 20, 20] });
}

async function project(name, view = null) {
  if (grid) views[grid.name] = { centre: map.getView().getCenter(), resolution: map.getView().getResolution() };
  grid = grids[name];
  for (const button of $('grids').children) {
    const own = button.dataset.grid === name;
    button.setAttribute('aria-checked', String(own));
    button.tabIndex = own ? 0 : -1;
  }
  map.setView(new ol.View({
    projection: grid.projection, maxResolution: grid.resolutions[0] * 2, minResolution: grid.resolutions.at(-1),
    center: [0, 0], resolution: grid.resolutions[0], constrainResolution: false, showFullExtent: true,
    extent: name === 'global' ? [-Infinity, grid.bounds[1], Infinity, grid.bounds[3]] : grid.bounds, constrainOnlyCenter: true,
    enableRotation: false,
  }));
  const known = view || views[name];
  if (known) { map.getView().setCenter(known.centre); map.getView().setResolution(known.resolution); } else fit(shown);
  if (marked) mark(...marked);
  await Promise.all(shown.map((one) => renew(one, false)));
  drawGraticule();
}

function drawGraticule() {
  const source = graticuleLayer.getSource();
  source.clear(true);
  if ($('graticule').checked && map.getSize()) source.addFeatures(graticule(grid, map.getView().calculateExtent(map.getSize()), about.radius));
}

// --- the address of a view ---------------------------------------------------------------------------

function remember() {
  if (!grid) return;
  const view = map.getView(), centre = view.getCenter();
  const query = new URLSearchParams({ grid: grid.name, x: centre[0].toFixed(0), y: centre[1].toFixed(0), r: view.getResolution().toPrecision(6) });
  if (!$('graticule').checked) query.set('graticule', '0');
  if (marked) query.set('at', marked.map((v) => v.toFixed(5)).join());
  for (const one of shown) {
    const told = { id: one.id };
    if (one.opacity !== 1) told.opacity = one.opacity;
    if (!one.visible) told.visible = 0;
    if (one.band) told.band = one.band;
    if (one.column) told.column = one.column;
    if (one.own) { told.low = one.low; told.high = one.high; }
    if (one.minus !== null) { told.minus = one.minus; told.minusBand = one.minusBand; }
    if (one.cmap !== (one.about.cmap || 'viridis')) told.cmap = one.cmap;
    query.append('layer', new URLSearchParams(told).toString());
  }
  const text = `#${query}`;
  if (text !== location.hash) { history.replaceState(null, '', text); }
}

function recalled() {
  const query = new URLSearchParams(location.hash.slice(1));
  if (!grids[query.get('grid')]) return null;
  const [x, y, r] = ['x', 'y', 'r'].map((k) => Number(query.get(k)));
  const layers = query.getAll('layer').map((text) => {
    const own = new URLSearchParams(text), found = {};
    const number = (k) => (own.has(k) && Number.isFinite(Number(own.get(k))) ? Number(own.get(k)) : undefined);
    const layer = about.layers[number('id')];
    if (!layer) return null;
    const set = (k, v) => { if (v !== undefined) found[k] = v; };
    set('opacity', number('opacity'));
    if (number('visible') === 0) found.visible = false;
    const band = number('band');
    if (layer.bands && layer.bands[band] !== undefined) found.band = band;
    if (layer.columns && layer.columns[own.get('column')]) found.column = own.get('column');
    const [low, high] = [number('low'), number('high')];
    if (low < high) Object.assign(found, { low, high, own: true });
    const minus = about.layers[number('minus')];
    if (minus && minus.kind === 'map') Object.assign(found, { minus: minus.id, minusBand: minus.bands[number('minusBand')] ? number('minusBand') : 0 });
    if (about.cmaps.some((c) => c.name === own.get('cmap'))) found.cmap = own.get('cmap');
    return [layer.id, found];
  }).filter(Boolean);
  const at = (query.get('at') || '').split(',').map(Number);
  return {
    grid: query.get('grid'), layers, view: [x, y, r].every(Number.isFinite) && r > 0 ? { centre: [x, y], resolution: r } : null,
    at: at.length === 2 && at.every(Number.isFinite) ? at : null, graticule: query.get('graticule') !== '0',
  };
}

// --- start -------------------------------------------------------------------------------------------

async function start() {
  about = await ask('described');
  for (const told of about.grids) {
    grids[told.name] = {
      ...told, projection: projection(told, about.radius),
      tiles: new ol.TileGrid({ extent: told.bounds, origin: [told.bounds[0], told.bounds[3]], resolutions: told.resolutions, tileSize: 256 }),
    };
    const button = el('button', { type: 'button', textContent: told.title, title: told.code, onclick: () => project(told.name), 'aria-checked': 'false' });
    button.setAttribute('role', 'radio');
    button.dataset.grid = told.name;
    button.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const all = [...$('grids').children], next = all[(all.indexOf(button) + by + all.length) % all.length];
      next.focus();
      next.click();
    };
    $('grids').append(button);
  }
  const halo = new ol.Stroke({ color: 'rgba(0,0,0,.8)', width: 3 });
  graticuleLayer = new ol.VectorLayer({
    source: new ol.VectorSource({ wrapX: false }), zIndex: 900, declutter: true,
    style: (feature) => new ol.Style({
      stroke: new ol.Stroke({ color: 'rgba(255,255,255,.45)', width: 1 }),
      text: new ol.Text({ text: feature.get('label'), placement: 'line', repeat: 420, font: '11px system-ui, sans-serif', fill: new ol.Fill({ color: '#fff' }), stroke: halo, overflow: false }),
    }),
  });
  markLayer = new ol.VectorLayer({
    source: new ol.VectorSource(), zIndex: 950,
    style: new ol.Style({ image: new ol.Circle({ radius: 7, stroke: new ol.Stroke({ color: '#ffb000', width: 2.5 }) }) }),
  });
  const scale = new ol.ScaleLine({ minWidth: 80 });
  map = new ol.Map({ target: 'map', layers: [graticuleLayer, markLayer], controls: ol.controls({ attribution: false, rotate: false }).extend([scale]), interactions: ol.interactions({ altShiftDragRotate: false, pinchRotate: false }) });
  if (window.innerWidth <= 640) panel(false);
  const recall = recalled();
  const first = about.layers.find((l) => l.kind === 'map') || about.layers[0];
  if (recall) $('graticule').checked = recall.graticule;
  await project(recall ? recall.grid : first.home, recall && recall.view);
  const wanted = recall ? recall.layers : [[first.id, {}], ...about.layers.filter((l) => l.kind === 'vector' && l !== first).slice(0, 4).map((l) => [l.id, {}])];
  for (const [id, given] of wanted) await addLayer(id, given).catch((error) => console.warn(error));
  if (!(recall && recall.view)) fit(shown.slice(0, 1));
  if (recall && recall.at) tell(...recall.at);
  listen();
  document.body.dataset.ready = 'yes';
}

function panel(open) {
  $('page').classList.toggle('closed', !open);
  $('menu').setAttribute('aria-expanded', String(open));
  if (map) map.updateSize();
}

function listen() {
  const place = (pixel) => { const c = map.getCoordinateFromPixel(pixel); return c && toLonLat(grid.name, ...c, about.radius); };
  map.on('pointermove', (event) => {
    const p = place(event.pixel);
    $('position').textContent = p ? `${degrees(p[1], 'NS', 3)} ${degrees(p[0], 'EW', 3)}` : '';
  });
  const look = (pixel) => {
    const p = place(pixel);
    if (!p) return;
    const features = [];
    map.forEachFeatureAtPixel(pixel, (feature, layer) => {
      const one = shown.find((s) => s.layer === layer);
      if (one && features.length < 5) features.push({ one, feature });
    }, { hitTolerance: 4 });
    if (window.innerWidth <= 640) panel(true);
    tell(...p, features).catch((error) => console.warn(error));
  };
  map.on('singleclick', (event) => look(event.pixel));
  let resolution = map.getView().getResolution();
  map.on('moveend', () => {
    drawGraticule();
    remember();
    const now = map.getView().getResolution();
    // Vectors are as fine as could be seen when they were read.
    if (Math.abs(Math.log2(now / resolution)) > 0.9) { resolution = now; for (const one of shown) if (one.vector && one.layer.getSource()) one.layer.getSource().refresh(); }
  });
  $('add').onchange = () => { const id = Number($('add').value); if ($('add').value !== '') addLayer(id).catch((error) => console.warn(error)); };
  $('graticule').onchange = () => { drawGraticule(); remember(); };
  $('menu').onclick = () => panel($('page').classList.contains('closed'));
  $('link').onclick = async () => {
    remember();
    try { await navigator.clipboard.writeText(location.href); $('said').textContent = 'Copied.'; } catch { $('said').textContent = location.href; }
  };
  $('map').addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const names = about.grids.map((g) => g.name);
    const does = {
      Enter: () => look([map.getSize()[0] / 2, map.getSize()[1] / 2]),
      f: () => fit(shown),
      g: () => { $('graticule').checked = !$('graticule').checked; drawGraticule(); remember(); },
      m: () => panel($('page').classList.contains('closed')),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (does) { does(); event.preventDefault(); } else if (names[Number(event.key) - 1]) project(names[Number(event.key) - 1]);
  });
  const cross = (on) => {
    const box = $('map').getBoundingClientRect();
    Object.assign($('cross').style, { display: on ? 'block' : 'none', left: `${box.left + box.width / 2}px`, top: `${box.top + box.height / 2}px` });
  };
  let pointer = false;
  $('map').addEventListener('pointerdown', () => { pointer = true; cross(false); });
  $('map').addEventListener('keydown', () => { pointer = false; cross(true); });
  $('map').addEventListener('focus', () => cross(!pointer && $('map').matches(':focus-visible')));
  $('map').addEventListener('blur', () => cross(false));
  window.addEventListener('hashchange', () => location.reload());
  map.on('loadend', () => { if (!watching) ask('progress').then((told) => { if (Object.keys(told).length) watch(); }).catch(() => {}); });
}

start().catch((error) => trouble(String(error.message || error)));
