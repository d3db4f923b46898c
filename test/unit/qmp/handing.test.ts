import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { QmpClient } from '../../../src/qmp/client.js';
import { canHandSockets } from '../../../src/qmp/handing-pipe.js';
import { deferred } from '../../../src/util/deferred.js';
import { takenWith, taking } from '../../support/handed-sockets.js';

const GREETING = {
  QMP: { version: { qemu: { major: 10, minor: 0, micro: 2 }, package: '' }, capabilities: [] },
};

let folder: string;
const servers: Server[] = [];
const sockets: Socket[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-handing-'));
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const server of servers.splice(0)) server.close();
  await rm(folder, { recursive: true });
});

/** A monitor that takes sockets, and answers all commands with this. */
async function monitor(answer: object): Promise<{ path: string; taken: Promise<Socket> }> {
  const taken = deferred<Socket>();
  const server = createServer({ pauseOnConnect: true }, (accepted) => {
    const socket = taking(accepted);
    sockets.push(socket);
    socket.write(`${JSON.stringify(GREETING)}\n`);
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      const handed = takenWith(socket);
      for (const line of text.trim().split('\n')) {
        const { execute, id } = JSON.parse(line);
        if (execute === 'getfd' && handed) taken.resolve(handed);
        const said = execute === 'getfd' ? answer : { return: {} };
        socket.write(`${JSON.stringify({ ...said, id })}\n`);
      }
    });
  });
  servers.push(server);
  const path = join(folder, 'qmp.sock');
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return { path, taken: taken.promise };
}

/** Both ends of one connection over TCP. */
async function connection(): Promise<readonly [Socket, Socket]> {
  const accepted = deferred<Socket>();
  const server = createServer(accepted.resolve);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const here = connect((server.address() as { port: number }).port, '127.0.0.1');
  const ends = [here, await accepted.promise] as const;
  sockets.push(...ends);
  return ends;
}

describe('a socket that is handed to QEMU', () => {
  it('is possible with this Node', () => {
    expect(canHandSockets).toBe(true);
  });

  it('goes on over there when the own end of it is closed', async () => {
    const { path, taken } = await monitor({ return: {} });
    await using client = await QmpClient.connect(path);
    const [here, there] = await connection();
    await client.handOver(here, 'ram');
    expect(here.destroyed).toBe(true);
    const theirs = await taken;
    sockets.push(theirs);
    const heard = deferred<string>();
    there.once('data', (bytes) => heard.resolve(String(bytes)));
    theirs.write('from QEMU');
    expect(await heard.promise).toBe('from QEMU');
  });

  it('is closed where QEMU does not take it', async () => {
    const { path } = await monitor({ error: { class: 'GenericError', desc: 'no' } });
    await using client = await QmpClient.connect(path);
    const [here] = await connection();
    await expect(client.handOver(here, 'ram')).rejects.toMatchObject({ name: 'QmpError' });
    expect(here.destroyed).toBe(true);
  });

  it('takes no place in the line of commands where it could not be handed over', async () => {
    const { path } = await monitor({ return: {} });
    await using client = await QmpClient.connect(path);
    for (let time = 0; time < 20; time++) {
      const [here] = await connection();
      here.destroy();
      await expect(client.handOver(here, 'ram', { limitMs: 1_000 })).rejects.toThrow();
    }
    expect(await client.execute('query-status', {}, { limitMs: 1_000 })).toEqual({});
  });

  it('is closed where its turn does not come', async () => {
    const { path } = await monitor({ return: {} });
    await using client = await QmpClient.connect(path);
    const [here] = await connection();
    const signal = AbortSignal.abort(new Error('cancelled'));
    await expect(client.handOver(here, 'ram', { signal })).rejects.toThrow('cancelled');
    expect(here.destroyed).toBe(true);
  });

  it('is closed where it has ended before', async () => {
    const { path } = await monitor({ return: {} });
    await using client = await QmpClient.connect(path);
    const [here] = await connection();
    here.destroy();
    await expect(client.handOver(here, 'ram')).rejects.toThrow('cannot be handed over');
    // The client is none the worse for it.
    await client.execute('query-status');
  });
});
