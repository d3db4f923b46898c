import { createServer, type Server } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { probePort } from '../../../src/channel/data-probe.js';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

/** Listens and says this to whoever connects. */
async function listening(says: string, { ends = true } = {}): Promise<number> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    if (ends) socket.end(says);
    else socket.write(says);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as { port: number }).port;
}

describe('trying a port', () => {
  const signal = new AbortController().signal;
  const at = (port: number) => ({ address: '127.0.0.1', port, nonce: 'nonce' });

  it('reaches one that says the nonce, and measures the round trip', async () => {
    const result = await probePort(at(await listening('nonce')), { signal });
    expect(result).toEqual({ reached: true, roundTripMs: expect.any(Number) });
  });

  it.each(['', 'nonc', 'nonce2', 'else'])(
    'takes no other host for it that says %j',
    async (says) => {
      const result = await probePort(at(await listening(says)), { signal });
      expect(result).toEqual({ reached: false, why: 'is answered by somebody else' });
    },
  );

  it('says that nobody listens', async () => {
    const port = await listening('');
    const [server] = servers.splice(0);
    await new Promise((resolve) => server?.close(resolve));
    const result = await probePort(at(port), { signal });
    expect(result).toEqual({ reached: false, why: 'cannot be reached (ECONNREFUSED)' });
  });

  it('does not wait for a silent one for longer than two seconds', async () => {
    const port = await listening('', { ends: false });
    const result = await probePort(at(port), { signal });
    expect(result).toEqual({ reached: false, why: 'did not answer within 2000 ms' });
  });

  it('ends with the signal', async () => {
    const port = await listening('', { ends: false });
    const reason = new Error('enough');
    await expect(probePort(at(port), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});
