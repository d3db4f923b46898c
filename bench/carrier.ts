import { type ChildProcess, fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { CarriageTotals, Carrier, StreamPlace } from '../src/channel/types.js';
import { initAuthority } from '../src/pki/authority.js';
import { issue } from '../src/pki/issue.js';
import type { TlsFiles } from '../src/rpc/tls-material.js';
import { type LoopDelay, watchLoop } from './loop-probe.js';

/*
 * What carrying a stream costs by itself: two processes with a carrier each, joined over loopback,
 * and this one, which writes at one end and reads at the other. Needs `npm run build`: what runs
 * there is what an agent runs.
 *
 * node --import tsx bench/carrier.ts [--gib 4] [--turns 3] [--thread main]
 */

const BLOCK_BYTES = 1024 ** 2;
const GIB = 1024 ** 3;
const BUILT = new URL('../dist/rpc/', import.meta.url);
const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** What an end is told to do. */
type Order =
  | { readonly do: 'expect'; readonly ticket: string; readonly path: string }
  | { readonly do: 'carry'; readonly path: string; readonly place: StreamPlace }
  | { readonly do: 'end' };

/** What carrying has cost an end. */
interface Cost {
  readonly totals: CarriageTotals;
  readonly cpuSeconds: number;
  readonly loop: LoopDelay;
  readonly rssBeforeBytes: number;
  readonly rssPeakBytes: number;
}

type Answer = { readonly place?: Pick<StreamPlace, 'address' | 'port'>; readonly cost?: Cost };

async function openCarrier(thread: string, tls: TlsFiles): Promise<Carrier> {
  const settings = { address: '127.0.0.1', port: 0, tls };
  if (thread === 'main') {
    const { LocalCarrier } = await import(new URL('carrier.js', BUILT).href);
    return new LocalCarrier(settings);
  }
  const { WorkerCarrier } = await import(new URL('worker-carrier.js', BUILT).href);
  return new WorkerCarrier(settings);
}

/** One of the two ends, in a process of its own. */
async function runEnd(thread: string, tls: TlsFiles): Promise<void> {
  const carrier = await openCarrier(thread, tls);
  const { signal } = new AbortController();
  const answer = (message: Answer) => process.send?.(message);
  const measure = async (done: Promise<CarriageTotals>): Promise<void> => {
    const rssBeforeBytes = process.memoryUsage.rss();
    let rssPeakBytes = rssBeforeBytes;
    const sampling = setInterval(() => {
      rssPeakBytes = Math.max(rssPeakBytes, process.memoryUsage.rss());
    }, 20);
    const takeLoop = watchLoop();
    const cpu = process.cpuUsage();
    const totals = await done;
    const { user, system } = process.cpuUsage(cpu);
    clearInterval(sampling);
    const cpuSeconds = (user + system) / 1e6;
    answer({ cost: { totals, cpuSeconds, loop: takeLoop(), rssBeforeBytes, rssPeakBytes } });
  };
  process.on('message', async (order: Order) => {
    if (order.do === 'expect') {
      void measure(carrier.expect(order.ticket, 'source', order.path).done);
      answer({ place: await carrier.door({ signal }) });
    } else if (order.do === 'carry') {
      const carriage = await carrier.carry(order.path, order.place, { signal });
      answer({});
      await measure(carriage.done);
    } else {
      await carrier.close();
      process.disconnect();
    }
  });
}

/** The next message of an end in which there is this. */
function next(end: ChildProcess, what?: keyof Answer): Promise<Answer> {
  return new Promise((resolve) => {
    const onMessage = (message: Answer) => {
      if (what !== undefined && !(what in message)) return;
      end.off('message', onMessage);
      resolve(message);
    };
    end.on('message', onMessage);
  });
}

async function writeAll(path: string, sizeBytes: number): Promise<void> {
  const socket = connect({ path, allowHalfOpen: true });
  const block = Buffer.alloc(BLOCK_BYTES, 7);
  for (let sent = 0; sent < sizeBytes; sent += BLOCK_BYTES) {
    if (!socket.write(block)) await new Promise((resolve) => socket.once('drain', resolve));
  }
  socket.end();
  socket.resume();
}

async function turn(
  source: ChildProcess,
  destination: ChildProcess,
  folder: string,
  sizeBytes: number,
): Promise<void> {
  const [arrival, departure] = [join(folder, 'arrival'), join(folder, 'departure')];
  const sink = createServer({ allowHalfOpen: true }, (socket) => {
    socket.resume();
    socket.once('end', () => socket.end());
  });
  await new Promise<void>((resolve) => sink.listen(arrival, resolve));
  const ticket = randomBytes(32).toString('base64url');
  destination.send({ do: 'expect', ticket, path: arrival } satisfies Order);
  const { place = { address: '', port: 0 } } = await next(destination, 'place');
  const to = { ...place, ticket, host: 'destination' };
  source.send({ do: 'carry', path: departure, place: to } satisfies Order);
  await next(source);
  const costs = [source, destination].map((end) => next(end, 'cost'));
  const startedMs = performance.now();
  await writeAll(departure, sizeBytes);
  const ended = await Promise.all(costs);
  const seconds = (performance.now() - startedMs) / 1000;
  sink.close();
  say(`${(sizeBytes / GIB / seconds).toFixed(2)} GiB/s`);
  for (const [at, { cost }] of ended.entries()) {
    if (!cost) continue;
    const mib = (bytes: number) => `${Math.round(bytes / BLOCK_BYTES)} MiB`;
    say(
      `  ${at === 0 ? 'source     ' : 'destination'} ` +
        `${((cost.cpuSeconds * GIB) / sizeBytes).toFixed(2)} s of CPU for each GiB, ` +
        `${mib(cost.rssBeforeBytes)} -> at most ${mib(cost.rssPeakBytes)}, ` +
        `main thread late p99 ${cost.loop.p99Ms.toFixed(1)}, max ${cost.loop.maxMs.toFixed(1)} ms`,
    );
  }
}

async function bench(): Promise<void> {
  const { values } = parseArgs({
    options: {
      gib: { type: 'string', default: '4' },
      turns: { type: 'string', default: '3' },
      thread: { type: 'string', default: 'worker' },
    },
  });
  if (!existsSync(BUILT)) throw new Error('dist/ is missing: run npm run build');
  const folder = await mkdtemp(join(tmpdir(), 'drover-carrier-'));
  const ends: ChildProcess[] = [];
  try {
    const directory = join(folder, 'certs');
    await initAuthority({ directory, trustDomain: 'drover.test', days: 1 });
    for (const name of ['source', 'destination']) {
      const made = await issue({ directory, role: 'host', name, days: 1 });
      const { certificateFile: certificate, keyFile: key, caFile: ca } = made;
      const tls = JSON.stringify({ certificate, key, ca });
      ends.push(fork(fileURLToPath(import.meta.url), ['end', values.thread, tls]));
    }
    const [source, destination] = ends as [ChildProcess, ChildProcess];
    for (let at = 0; at < Number(values.turns); at++) {
      await turn(source, destination, folder, Number(values.gib) * GIB);
    }
  } finally {
    for (const end of ends) end.send({ do: 'end' } satisfies Order);
    await rm(folder, { recursive: true, force: true });
  }
}

const [, , role, thread = '', tls = ''] = process.argv;
if (role === 'end') await runEnd(thread, JSON.parse(tls) as TlsFiles);
else await bench();
