'use strict';
// Asks this manager for its state every two seconds and shows it. Text from elsewhere (names,
// zones, events) is only ever set as text, never as markup.

const POLL_MS = 2000;
const GIVE_UP_MS = 8000;
const HISTORY = 600;  // samples, one a second
const EVENTS = 200;

const state = {
  run: null, status: null, samples: [], events: [], answeredAt: 0, problem: null,
  sort: {key: 'state', down: false}, filter: '',
};
const at = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function setText(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

// ---- Numbers for people

function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; ++unit; }
  const digits = unit === 0 || bytes >= 100 ? 0 : 1;
  return `${bytes.toFixed(digits)} ${units[unit]}`;
}

function count(number) {
  if (number >= 1e9) return `${(number / 1e9).toFixed(1)} G`;
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(0)} k`;
  if (number >= 1e3) return `${(number / 1e3).toFixed(1)} k`;
  return number === 0 || number >= 10 ? number.toFixed(0) : number.toFixed(1);
}

const share = (part, whole) => whole > 0 ? part / whole : null;
const percent = (part) => part === null ? '-' : `${(part * 100).toFixed(part < .1 ? 1 : 0)} %`;

function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) {
    return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  }
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
}

// ---- Head: health, findings, capacity

function drawHealth() {
  const {status, problem} = state;
  const silent = state.answeredAt && Date.now() - state.answeredAt > GIVE_UP_MS;
  const word = silent || problem || !status ? 'unknown' : status.health.word;
  if (!status && !problem && !state.answeredAt) return;
  at('health').className = `badge ${word}`;
  setText('health', word);
  document.title = `SiMM: ${word}`;
  const findings = [];
  if (silent) {
    findings.push({problem: true, what: 'The manager does not answer.',
      mend: 'The data path goes on without it. What is below was true when it last answered.'});
  } else if (problem) {
    findings.push({problem: true, what: problem.problem,
      mend: problem.leader ? `The manager that decides is at ${problem.leader}: look there.`
        : 'The data path goes on. See the log of this manager.'});
  } else if (status) {
    findings.push(...status.health.findings);
  }
  const notes = findings.map((finding) => {
    const note = make('div', finding.problem ? 'note problem' : 'note');
    note.append(make('strong', '', finding.what), make('span', '', finding.mend));
    return note;
  });
  at('findings').replaceChildren(...notes);
  const age = state.answeredAt ? Math.round((Date.now() - state.answeredAt) / 1000) : null;
  setText('updated', age === null ? 'no answer yet' : age < 4 ? 'live' : `as of ${age} s ago`);
}

function drawCapacity() {
  const stats = state.status.stats;
  const parts = [
    ['live', stats.live_bytes, 'first'], ['pinned', stats.pinned_bytes, 'second'],
    ['granted', stats.granted_bytes + stats.limbo_bytes, 'third'],
    ['free', stats.free_bytes, 'quiet'],
  ];
  setText('capacity-figure', stats.data_bytes === 0 ? 'no memory'
    : `${size(stats.live_bytes)} of ${size(stats.data_bytes)}`);
  at('capacity-bar').replaceChildren(...parts.map(([, bytes, name]) => {
    const part = make('div', name);
    part.style.width = `${100 * (share(bytes, stats.data_bytes) || 0)}%`;
    return part;
  }));
  const said = parts.map(([name, bytes]) => `${name} ${size(bytes)}`).join(', ');
  at('capacity-bar').setAttribute('aria-label', `Capacity: ${said}`);
  at('capacity-legend').replaceChildren(...parts.map(([name, bytes, colour]) => {
    const item = make('li');
    item.append(make('i', colour), `${name} ${size(bytes)}`);
    return item;
  }));
  setText('capacity-text', `${count(stats.entries)} entries, ${size(stats.live_value_bytes)} of ` +
    'values. A full cache is normal: the coldest values make room.');
}

// ---- Charts

const SVG = 'http://www.w3.org/2000/svg';

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// A line with gaps where there is no value. x: seconds ago, y: 0 to `top`.
function pathOf(values, now, top) {
  let path = '', pen = false, lastX = 0;
  for (const [time, value] of values) {
    const x = HISTORY - (now - time) / 1000;
    if (x < 0 || value === null) { pen = pen && value !== null; continue; }
    if (pen && x - lastX > 10) pen = false;
    path += `${pen ? 'L' : 'M'}${x.toFixed(1)} ${(100 - 100 * value / top).toFixed(1)}`;
    pen = true;
    lastX = x;
  }
  return path;
}

// `lines`: [name, colour, sample -> number or null]. `top`: a fixed one, or 0 to fit.
function drawChart(id, lines, top, format) {
  const now = state.samples.length ? state.samples[state.samples.length - 1].unix_ms : Date.now();
  const series = lines.map(([, , pick]) => state.samples.map((s) => [s.unix_ms, pick(s)]));
  const peak = Math.max(...series.flat().map(([, value]) => value || 0), 0);
  const scale = top || peak * 1.1 || 1;
  const chart = svg('svg', {viewBox: `0 0 ${HISTORY} 100`, preserveAspectRatio: 'none',
    'aria-hidden': 'true'});
  for (const y of [0, 50, 100]) chart.append(svg('line', {x1: 0, x2: HISTORY, y1: y, y2: y}));
  lines.forEach(([, colour], i) => {
    chart.append(svg('path', {class: colour, d: pathOf(series[i], now, scale)}));
  });
  const axis = make('div', 'axis faint');
  axis.append(make('span', '', '10 min ago'), make('span', '', `top ${format(scale)}`),
    make('span', '', 'now'));
  const parts = [chart, axis];
  if (lines.length > 1) {
    const legend = make('ul', 'legend');
    for (const [name, colour] of lines) {
      const item = make('li');
      item.append(make('i', colour), name);
      legend.append(item);
    }
    parts.push(legend);
  }
  at(id).replaceChildren(...parts);
  at(id).setAttribute('role', 'img');
  const said = lines.map(([name], i) => {
    const known = series[i].map(([, value]) => value).filter((value) => value !== null);
    return known.length ? `${name} now ${format(known[known.length - 1])}` : `${name}: no data`;
  });
  at(id).setAttribute('aria-label', `Last ten minutes: ${said.join(', ')}, peak ${format(peak)}`);
}

function drawRates() {
  const rates = state.status.rates;
  const hitRate = (r) => share(r.hits, r.hits + r.misses);
  const now = hitRate(rates);
  setText('hit-figure', now === null ? 'no gets' : percent(now));
  setText('bytes-figure', `${size(rates.bytes_read)}/s out, ${size(rates.bytes_written)}/s in`);
  setText('keys-figure', `${count(rates.hits + rates.misses)} gets/s, ${count(rates.puts)} puts/s`);
  drawChart('hit-chart', [['hits', 'first', hitRate]], 1, percent);
  drawChart('bytes-chart', [['read', 'first', (s) => s.bytes_read],
    ['written', 'second', (s) => s.bytes_written]], 0, (v) => `${size(v)}/s`);
  drawChart('keys-chart', [['gets', 'first', (s) => s.hits + s.misses],
    ['puts', 'second', (s) => s.puts], ['evictions', 'third', (s) => s.evictions]], 0,
  (v) => `${count(v)}/s`);
}

// ---- Data servers

const URGENCY = {dead: 0, suspect: 1, draining: 2, alive: 3};
const moving = (n) => n.shards_coming + n.shards_leaving;
// key, heading, value to sort by, cell to show (text or element); left: of text.
const COLUMNS = [
  {key: 'name', head: 'Name', left: true, value: (n) => n.name},
  {key: 'state', head: 'State', left: true, value: (n) => URGENCY[n.state] ?? 9,
    cell: (n) => make('span', `state ${n.state}`, n.state)},
  {key: 'used', head: 'Used', value: (n) => share(n.stats.live_bytes, n.stats.data_bytes) || 0,
    cell: usedCell},
  {key: 'shards', head: 'Shards', value: (n) => n.shards, cell: (n) => n.shards.toLocaleString()},
  {key: 'moving', head: 'Moving', value: moving, cell: movingCell},
  {key: 'entries', head: 'Entries', value: (n) => n.stats.entries,
    cell: (n) => count(n.stats.entries)},
  {key: 'hits', head: 'Hit rate', value: (n) => share(n.rates.hits, n.rates.hits + n.rates.misses),
    cell: (n) => percent(share(n.rates.hits, n.rates.hits + n.rates.misses))},
  {key: 'out', head: 'Out', value: (n) => n.rates.bytes_read,
    cell: (n) => `${size(n.rates.bytes_read)}/s`},
  {key: 'in', head: 'In', value: (n) => n.rates.bytes_written,
    cell: (n) => `${size(n.rates.bytes_written)}/s`},
  {key: 'silent', head: 'Heard', value: (n) => n.silent_ms,
    cell: (n) => n.silent_ms < 2500 ? 'now' : `${duration(n.silent_ms)} ago`},
  {key: 'zone', head: 'Zone', left: true, value: (n) => n.zone, cell: (n) => n.zone || '-'},
  {key: 'version', head: 'Version', left: true, value: (n) => n.version},
  {key: 'address', head: 'Address', left: true, value: (n) => n.address},
];

function usedCell(node) {
  const part = share(node.stats.live_bytes, node.stats.data_bytes);
  const cell = make('span');
  const meter = make('span', 'meter');
  const fill = make('div');
  fill.style.width = `${100 * (part || 0)}%`;
  meter.append(fill);
  cell.append(meter, `${percent(part)} of ${size(node.stats.data_bytes)}`);
  return cell;
}

function movingCell(node) {
  const parts = [];
  if (node.shards_coming) parts.push(`${node.shards_coming.toLocaleString()} in`);
  if (node.shards_leaving) parts.push(`${node.shards_leaving.toLocaleString()} out`);
  return parts.join(', ') || '-';
}

function drawHeads() {
  at('server-heads').replaceChildren(...COLUMNS.map((column) => {
    const head = make('th', column.left ? 'left' : '');
    head.scope = 'col';
    const button = make('button', '', column.head);
    button.type = 'button';
    button.addEventListener('click', () => {
      const down = state.sort.key === column.key ? !state.sort.down : !column.left;
      state.sort = {key: column.key, down};
      drawServers();
    });
    head.append(button);
    return head;
  }));
}

function compare(a, b) {
  const column = COLUMNS.find((c) => c.key === state.sort.key);
  const [x, y] = [column.value(a), column.value(b)];
  const order = typeof x === 'string' ? x.localeCompare(y, undefined, {numeric: true})
    : (x ?? -1) - (y ?? -1);
  if (order !== 0) return state.sort.down ? -order : order;
  return a.name.localeCompare(b.name, undefined, {numeric: true});
}

function drawServers() {
  if (!state.status) return;
  COLUMNS.forEach((column, i) => {
    const head = at('server-heads').children[i];
    if (column.key !== state.sort.key) head.removeAttribute('aria-sort');
    else head.setAttribute('aria-sort', state.sort.down ? 'descending' : 'ascending');
  });
  const all = state.status.nodes;
  const wanted = state.filter.toLowerCase();
  const shown = all.filter((n) =>
    [n.name, n.state, n.zone, n.address].some((text) => text.toLowerCase().includes(wanted)));
  shown.sort(compare);
  at('server-rows').replaceChildren(...shown.map((node) => {
    const row = make('tr');
    COLUMNS.forEach((column, i) => {
      const cell = make(i === 0 ? 'th' : 'td', column.left ? 'left' : '');
      if (i === 0) { cell.scope = 'row'; cell.title = node.name; }
      cell.append(column.cell ? column.cell(node) : column.value(node));
      row.append(cell);
    });
    return row;
  }));
  const by = state.status.servers;
  const parts = ['alive', 'draining', 'suspect', 'dead'].filter((name) => by[name])
    .map((name) => `${by[name]} ${name}`);
  setText('servers-count', parts.join(', '));
  setText('servers-empty', all.length === 0 ? 'No data server has joined yet.'
    : shown.length === 0 ? `None of ${all.length} fits "${state.filter}".` : '');
}

function drawShards() {
  const nodes = state.status.nodes.filter((n) => n.shards > 0 || n.state === 'alive');
  const shards = nodes.map((n) => n.shards);
  const most = Math.max(...shards, 1);
  setText('shards-text', nodes.length === 0 ? 'Nobody owns a shard.'
    : `${state.status.shards.toLocaleString()} shards of the key map on ${nodes.length} servers, ` +
      `${Math.min(...shards).toLocaleString()} to ${most.toLocaleString()} each; ` +
      (state.status.shards_moving === 0 ? 'none is on its way.'
        : `${state.status.shards_moving.toLocaleString()} on their way (orange).`));
  const sorted = nodes.slice().sort((a, b) => b.shards - a.shards);
  at('shards-bars').replaceChildren(...sorted.map((node) => {
    const column = make('div', moving(node) ? 'moving' : '');
    column.style.height = `${100 * node.shards / most}%`;
    column.title = `${node.name}: ${node.shards.toLocaleString()} shards`;
    return column;
  }));
  at('shards-bars').setAttribute('aria-label', at('shards-text').textContent);
}

// ---- Events

function drawEvents() {
  const epochs = at('epochs').checked;
  const shown = state.events.filter((event) => epochs || event.kind !== 'epoch').reverse();
  at('events').replaceChildren(...shown.map((event) => {
    const item = make('li');
    const when = new Date(event.unix_ms);
    const time = make('time', '', when.toLocaleString([], {month: 'short', day: 'numeric',
      hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false}));
    time.dateTime = when.toISOString();
    const who = event.server ? `${event.server}: ` : '';
    item.append(time, make('span', '', event.kind), make('span', '', who + event.text));
    return item;
  }));
  at('events-empty').hidden = shown.length > 0;
}

// ---- The loop

function draw() {
  drawHealth();
  document.body.classList.toggle('bare', !state.status);
  if (!state.status) return;
  const {cluster, term, epoch} = state.status;
  setText('cluster', `cluster ${cluster.slice(0, 8)}, term ${term}, epoch ${epoch}`);
  const {manager_version: version, uptime_ms: uptime, leader, watchers} = state.status;
  setText('manager', `Manager ${version}, up ${duration(uptime)}, ${watchers} watchers of the map` +
    (leader ? `, leader ${leader}` : ''));
  drawCapacity();
  drawRates();
  drawServers();
  drawShards();
}

async function ask(path) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), GIVE_UP_MS);
  try {
    const answer = await fetch(path, {signal: stop.signal, cache: 'no-store'});
    const object = await answer.json();
    if (object.run !== state.run) {  // another manager: its numbers begin anew
      Object.assign(state, {run: object.run, samples: [], events: []});
      drawEvents();
    }
    return answer.ok ? {object} : {failure: object};
  } finally {
    clearTimeout(timer);
  }
}

const newest = (list) => list.length ? list[list.length - 1].number : 0;

async function poll() {
  try {
    const status = await ask('/api/status');
    state.answeredAt = Date.now();
    state.problem = status.failure || null;
    if (status.object) state.status = status.object;
    const history = await ask(`/api/history?after=${newest(state.samples)}`);
    if (history.object) {
      state.samples = state.samples.concat(history.object.samples).slice(-HISTORY);
    }
    const events = await ask(`/api/events?after=${newest(state.events)}`);
    if (events.object && events.object.events.length) {
      state.events = state.events.concat(events.object.events).slice(-EVENTS);
      drawEvents();
    }
  } catch (error) {
    // Nobody answers: drawHealth says so when it has lasted.
    if (!state.answeredAt) state.answeredAt = 1;
  }
  draw();
  document.documentElement.dataset.polls = Number(document.documentElement.dataset.polls || 0) + 1;
  setTimeout(poll, POLL_MS);
}

drawHeads();
at('filter').addEventListener('input', (event) => {
  state.filter = event.target.value;
  drawServers();
});
at('epochs').addEventListener('change', drawEvents);
poll();
