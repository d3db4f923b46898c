import { connect as connectTcp, type Socket } from 'node:net';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AttackedAgent } from '../support/attacked-agent.js';
import { callRaw, METHODS, rawClient } from '../support/raw-grpc.js';
import {
  callFields,
  FLAGS,
  FRAMES,
  fields,
  frame,
  PREFACE,
  pour,
  tlsTo,
} from '../support/raw-http2.js';

/*
 * Callers with good papers who send too much, too little or nonsense. After each of them the guest
 * runs, the agent has not grown, and an honest caller was answered all the while. Connections and
 * calls that only wait are in rpc-limits.test.ts, messages in hostile-messages.test.ts.
 */

const GET_HOST = '/drover.v1.HostService/GetHost';

let stage: AttackedAgent;
beforeAll(async () => {
  stage = await AttackedAgent.start();
});
afterAll(() => stage?.[Symbol.asyncDispose]());

function* times(count: number, piece: (index: number) => Buffer): Iterable<Buffer> {
  // Frames in packets of a hundred, as an attacker would send them.
  for (let at = 0; at < count; at += 100) {
    const many = Array.from({ length: Math.min(100, count - at) }, (_, i) => piece(at + i));
    yield Buffer.concat(many);
  }
}

describe('frames of HTTP/2 that nobody needs', () => {
  const head = fields(callFields(GET_HOST));
  const open = (i: number) => frame(FRAMES.headers, FLAGS.endHeaders, 2 * i + 1, head);
  const floods: Record<string, () => Iterable<Buffer>> = {
    '10,000 calls that are reset at once': () =>
      times(10_000, (i) =>
        Buffer.concat([open(i), frame(FRAMES.reset, 0, 2 * i + 1, Buffer.from([0, 0, 0, 8]))]),
      ),
    '10,000 calls that are never sent': () => times(10_000, open),
    '50,000 settings': () => times(50_000, () => frame(FRAMES.settings, 0, 0)),
    'settings with 2,000 values': () =>
      times(100, () => frame(FRAMES.settings, 0, 0, Buffer.alloc(6 * 2_000, 1))),
    '50,000 pings': () => times(50_000, () => frame(FRAMES.ping, 0, 0, Buffer.alloc(8))),
    '100,000 priorities': () =>
      times(100_000, (i) => frame(FRAMES.priority, 0, 2 * i + 1, Buffer.from([0, 0, 0, 1, 9]))),
    '100,000 empty frames of data': () =>
      (function* () {
        yield open(0);
        yield* times(100_000, () => frame(FRAMES.data, 0, 1));
      })(),
    'a header without end': () =>
      (function* () {
        yield frame(FRAMES.headers, 0, 1, head);
        const more = fields([['x-more', 'y'.repeat(8_000)]]);
        yield* times(2_000, () => frame(FRAMES.continuation, 0, 1, more));
      })(),
    '10,000 empty parts of a header': () =>
      (function* () {
        yield frame(FRAMES.headers, 0, 1, head);
        yield* times(10_000, () => frame(FRAMES.continuation, 0, 1));
      })(),
    'a window of nothing': () =>
      times(1_000, () => frame(FRAMES.windowUpdate, 0, 0, Buffer.alloc(4))),
    'a window beyond all': () =>
      times(10, () => frame(FRAMES.windowUpdate, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff]))),
    'data of no stream': () => times(100, () => frame(FRAMES.data, 0, 0, Buffer.alloc(16_000))),
    'data of a stream that was never opened': () =>
      times(1_000, () => frame(FRAMES.data, 0, 99, Buffer.alloc(16_000))),
    'a frame that says it has 16 MiB': () =>
      times(1, () => frame(FRAMES.data, 0, 1, Buffer.alloc(100), 0xff_ff_ff)),
    'promises of a client': () =>
      times(100, () => frame(FRAMES.push, FLAGS.endHeaders, 1, Buffer.alloc(40))),
    'types that nobody knows': () => times(20_000, (i) => frame(20 + (i % 200), 0xff, i, head)),
    'an even stream': () => times(10, (i) => frame(FRAMES.headers, 5, 2 * i + 2, head)),
    'a table of HPACK that is not there': () =>
      times(10, (i) => frame(FRAMES.headers, 5, 2 * i + 1, Buffer.from([0xff, 0xff, 0xff, 0x7f]))),
    'goodbye again and again': () =>
      times(1_000, () => frame(FRAMES.goAway, 0, 0, Buffer.alloc(8))),
    'bytes of no meaning': () => times(2_000, () => Buffer.alloc(1_000, 0xa5)),
  };

  it.each(Object.keys(floods))('%s', async (what) => {
    await stage.survive(async () => {
      const socket = await stage.greeted();
      await pour(socket, floods[what]?.() ?? []);
      socket.destroy();
    });
  });

  it('a preface that is none, and one in a thousand pieces', async () => {
    await stage.survive(async () => {
      const none = await tlsTo(stage.address, stage.operator);
      await pour(none, [Buffer.from('PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n'), Buffer.alloc(1e5)]);
      none.destroy();
      const slow = await tlsTo(stage.address, stage.operator);
      await pour(
        slow,
        [...PREFACE].map((byte) => Buffer.from([byte])),
      );
      slow.destroy();
    });
  });
});

describe('many at once', () => {
  it('2,000 calls on one connection are answered or refused, one by one', async () => {
    const codes = await stage.survive(async () => {
      const client = rawClient(stage.address, stage.operator);
      const codes = new Set<number>();
      // More at once than one connection may have, again and again.
      for (let wave = 0; wave < 5; wave++) {
        const calls = Array.from({ length: 400 }, () =>
          callRaw(client, GET_HOST, 'unary', { sends: true }),
        );
        for (const { code } of await Promise.all(calls)) codes.add(code);
      }
      client.close();
      return codes;
    });
    const allowed: number[] = [status.OK, status.RESOURCE_EXHAUSTED, status.DEADLINE_EXCEEDED];
    expect([...codes].filter((code) => !allowed.includes(code))).toEqual([]);
  });

  it('2,000 connections that say nothing, from an address of their own', async () => {
    const sockets: Socket[] = [];
    const port = Number(stage.address.split(':').at(-1));
    await stage.survive(async () => {
      await Promise.all(
        Array.from({ length: 2_000 }, async () => {
          const socket = connectTcp({ host: '127.0.0.1', port, localAddress: '127.0.0.9' });
          sockets.push(socket);
          socket.on('error', () => undefined);
          await new Promise<void>((resolve) => {
            socket.once('connect', () => resolve());
            socket.once('close', () => resolve());
          });
        }),
      );
      // From another address there is room for a new one.
      const client = rawClient(stage.address, stage.operator);
      const answer = await callRaw(client, GET_HOST, 'unary', { sends: true });
      client.close();
      expect(answer.code).toBe(status.OK);
    });
    for (const socket of sockets) socket.destroy();
  });

  it('metadata of a megabyte and of ten thousand names', async () => {
    const large = [fields([['x-large', 'y'.repeat(1_000_000)]])];
    const many = Array.from({ length: 10_000 }, (_, i) => fields([[`x-${i}`, 'y']]));
    for (const extra of [large, many]) {
      await stage.survive(async () => {
        const block = Buffer.concat([fields(callFields(GET_HOST)), ...extra]);
        const socket = await stage.greeted();
        const parts: Buffer[] = [];
        for (let at = 0; at < block.length; at += 16_000) {
          const isLast = at + 16_000 >= block.length;
          const type = at === 0 ? FRAMES.headers : FRAMES.continuation;
          const flags = (isLast ? FLAGS.endHeaders : 0) | (at === 0 ? FLAGS.endStream : 0);
          parts.push(frame(type, flags, 1, block.subarray(at, at + 16_000)));
        }
        await pour(socket, parts);
        socket.destroy();
      });
    }
  });

  it('streams of all kinds that begin and never go on end with their connection', async () => {
    const open = await stage.survive(async () => {
      const sessions = await Promise.all([stage.session(), stage.session(stage.host)]);
      let count = 0;
      for (const one of sessions) {
        for (const path of Object.keys(METHODS)) {
          for (let i = 0; i < 20; i++) {
            const call = one.request({ ':method': 'POST', ':path': path, te: 'trailers' });
            call.on('error', () => undefined);
            call.resume();
            count += 1;
          }
        }
      }
      for (const one of sessions) one.destroy();
      return count;
    });
    expect(open).toBeGreaterThan(1_000);
  });
});
