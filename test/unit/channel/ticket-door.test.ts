import { connect, createServer, type Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { bringTicket, TicketDoor } from '../../../src/channel/ticket-door.js';
import { freePorts } from '../../support/free-ports.js';

const { signal } = new AbortController();
const ticket = 't'.repeat(43);
const address = '127.0.0.1';
const open: { destroy(): void }[] = [];

afterEach(() => {
  for (const socket of open.splice(0)) socket.destroy();
});

async function opened(): Promise<{ door: TicketDoor; port: number }> {
  const [port = 0] = await freePorts(1);
  const door = await TicketDoor.open(address, port, ticket);
  open.push({ destroy: () => door.close() });
  return { door, port };
}

/** What becomes of somebody who says this. */
async function says(port: number, words: string): Promise<Socket> {
  const socket = connect(port, address, () => socket.write(words));
  socket.on('error', () => undefined);
  open.push(socket);
  await new Promise((resolve) => socket.once('connect', resolve));
  return socket;
}

describe('a ticket door', () => {
  it('gives away the connection of whoever brings the ticket, and shuts', async () => {
    const { door, port } = await opened();
    const guest = await bringTicket({ address, port, ticket }, { signal });
    const host = await door.came;
    open.push(guest, host);
    await expect(bringTicket({ address, port, ticket }, { signal })).rejects.toThrow();
  });

  it('turns everybody else away, and waits on', async () => {
    const { door, port } = await opened();
    for (const words of [`${'x'.repeat(43)}\n`, `${ticket}\nmore`, 'y'.repeat(4096)]) {
      const stranger = await says(port, words);
      stranger.resume();
      await new Promise((resolve) => stranger.once('close', resolve));
    }
    await says(port, '');
    open.push(await bringTicket({ address, port, ticket }, { signal }), await door.came);
  });

  it('is not kept shut by strangers who stand in it and say nothing', async () => {
    const { door, port } = await opened();
    for (let stranger = 0; stranger < 40; stranger++) await says(port, '');
    open.push(await bringTicket({ address, port, ticket }, { signal }), await door.came);
  });

  it('takes no more than the ticket out of the connection, however long that stands', async () => {
    const { door, port } = await opened();
    const guest = await bringTicket({ address, port, ticket }, { signal });
    const host = await door.came;
    open.push(guest, host);
    guest.write('for QEMU');
    for (let turns = 0; turns < 200; turns++) await turn();
    expect(host.bytesRead).toBe(ticket.length + 1);
    expect(host.readableLength).toBe(0);
  });

  it('lets nobody in once it is shut', async () => {
    const { door, port } = await opened();
    door.close();
    await expect(door.came).rejects.toThrow('shut');
    await expect(bringTicket({ address, port, ticket }, { signal })).rejects.toThrow();
  });

  it('is told from anything else that listens', async () => {
    const server = createServer((socket) => socket.end('HTTP/1.1 400\r\n'));
    await new Promise<void>((resolve) => server.listen(0, address, resolve));
    const { port } = server.address() as { port: number };
    await expect(bringTicket({ address, port, ticket }, { signal })).rejects.toThrow(
      'no such door',
    );
    server.close();
  });
});
