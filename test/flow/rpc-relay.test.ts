import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { expect, it } from 'vitest';
import { startRelay } from '../../src/channel/relay.js';
import { connectUnix } from '../../src/channel/unix-socket.js';
import { makeTestCertificates } from '../support/certificates.js';
import { patiently, peersOf, startFakeAgent } from '../support/fake-agent.js';

const MIB = 1024 * 1024;
const CARRIED = 192 * MIB;

/*
 * The whole way of the RAM, with both agents, both ends of TLS and both QEMUs' parts in this one
 * process. The figures are printed; the bounds asserted are wide, because a busy machine delays
 * everybody, but they fail where a relay copies without end or holds the event loop for long.
 */
it('carries the RAM between two unix sockets without holding up the agent', async () => {
  await using certificates = await makeTestCertificates();
  const directory = await mkdtemp(join(tmpdir(), 'drover-relay-'));
  const arrival = join(directory, 'arrival.sock');
  const departure = join(directory, 'departure.sock');
  let arrivedBytes = 0;
  const destinationQemu = await listen(arrival, (socket) => {
    socket.on('data', (bytes) => {
      arrivedBytes += bytes.length;
    });
    socket.on('end', () => socket.end('loaded'));
  });
  const sourceQemu = await listen(departure, (socket) => {
    socket.resume();
    const chunk = Buffer.alloc(MIB, 7);
    let sentBytes = 0;
    const send = () => {
      while (sentBytes < CARRIED) {
        sentBytes += chunk.length;
        if (!socket.write(chunk)) {
          socket.once('drain', send);
          return;
        }
      }
      socket.end();
    };
    send();
  });
  await using agent = await startFakeAgent(await certificates.host('host-b'), {
    peer: {
      streamRam: async (_ticket, _caller, stream, options) => {
        await startRelay(await connectUnix(arrival, options), stream).done;
      },
    },
  });
  using peers = peersOf('host-a', await certificates.host('host-a'), { 'host-b': agent.address });

  const before = process.memoryUsage.rss();
  const delay = monitorEventLoopDelay({ resolution: 1 });
  const stream = await peers.calls('host-b').openRam('ticket', patiently());
  const socket = await connectUnix(departure, patiently());
  delay.enable();
  const startedMs = performance.now();
  const totals = await startRelay(socket, stream).done;
  const seconds = (performance.now() - startedMs) / 1000;
  delay.disable();

  const bytesPerSecond = CARRIED / seconds;
  const p99Ms = delay.percentile(99) / 1e6;
  const grownBytes = process.memoryUsage.rss() - before;
  console.info(
    `relay: ${Math.round(bytesPerSecond / 1e6)} MB/s, ` +
      `event loop delay p99 ${p99Ms.toFixed(1)} ms, memory +${Math.round(grownBytes / MIB)} MiB`,
  );
  expect(totals).toEqual({ sentBytes: CARRIED, receivedBytes: 'loaded'.length });
  expect(arrivedBytes).toBe(CARRIED);
  expect(bytesPerSecond).toBeGreaterThan(5e6);
  expect(p99Ms).toBeLessThan(250);
  expect(grownBytes).toBeLessThan(CARRIED);
  destinationQemu.close();
  sourceQemu.close();
  await rm(directory, { recursive: true, force: true });
});

async function listen(path: string, onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, onConnection);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return server;
}
