import { createServer, type Server } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { chooseTransport } from '../../../src/migration/transport.js';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

const wait = { signal: new AbortController().signal };

/** A destination's port, which says the nonce to whoever comes. */
async function open(says = 'nonce') {
  const server = createServer((socket) => void socket.on('error', () => undefined).end(says));
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    address: '127.0.0.1',
    port: (server.address() as { port: number }).port,
    nonce: 'nonce',
  };
}

async function shut() {
  const place = await open();
  const server = servers.pop();
  await new Promise((resolve) => server?.close(resolve));
  return place;
}

describe('the transport', () => {
  it('is direct where a data port of the destination is reached', async () => {
    const chosen = await chooseTransport('auto', () => open(), wait);
    expect(chosen).toMatchObject({
      transport: 'direct',
      reason: expect.stringMatching(/^127\.0\.0\.1:\d+ answered within [\d.]+ ms$/),
      roundTripMs: expect.any(Number),
    });
  });

  it('is stream where it is not reached, and says why', async () => {
    const place = await shut();
    await expect(chooseTransport('auto', async () => place, wait)).resolves.toEqual({
      transport: 'stream',
      reason: `127.0.0.1:${place.port} cannot be reached (ECONNREFUSED)`,
    });
  });

  it('is stream where another host answers at that address', async () => {
    const chosen = await chooseTransport('auto', () => open('somebody'), wait);
    expect(chosen).toMatchObject({
      transport: 'stream',
      reason: expect.stringContaining('is answered by somebody else'),
    });
  });

  it('is what was asked for, and a port is tried for direct only', async () => {
    const probe = vi.fn(() => open());
    await expect(chooseTransport('stream', probe, wait)).resolves.toEqual({
      transport: 'stream',
      reason: 'asked for',
    });
    expect(probe).not.toHaveBeenCalled();
    const direct = await chooseTransport('direct', probe, wait);
    expect(direct).toMatchObject({ transport: 'direct', reason: 'asked for' });
  });

  it('is refused where direct was asked for and cannot be', async () => {
    const place = await shut();
    await expect(chooseTransport('direct', async () => place, wait)).rejects.toMatchObject({
      reason: 'DATA_UNREACHABLE',
      facts: { address: '127.0.0.1', port: place.port },
    });
  });
});
