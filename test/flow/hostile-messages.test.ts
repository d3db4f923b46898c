import { gzipSync } from 'node:zlib';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PrepareRequest } from '../../src/gen/drover/v1/peer_service.js';
import { MESSAGE_LIMIT_BYTES } from '../../src/rpc/limits.js';
import { AttackedAgent } from '../support/attacked-agent.js';
import { grpcMessage } from '../support/raw-http2.js';

/* Messages that are too large, cut off, packed or no messages at all, from callers with good papers. */

const MIB = 1024 ** 2;
const GET_HOST = '/drover.v1.HostService/GetHost';
const PREPARE = '/drover.v1.PeerService/Prepare';

let stage: AttackedAgent;
beforeAll(async () => {
  stage = await AttackedAgent.start();
});
afterAll(() => stage?.[Symbol.asyncDispose]());

describe('messages', () => {
  /** The status of a call with these bytes, and whether the request ended after them. */
  async function send(
    path: string,
    pieces: Iterable<Buffer>,
    { ends = true, headers = {} }: { ends?: boolean; headers?: object } = {},
  ): Promise<string> {
    const opened = await stage.session(path === PREPARE ? stage.host : stage.operator);
    const call = opened.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...headers,
    });
    let answer = 'closed';
    const over = new Promise<void>((resolve) => {
      const hear = (got: Record<string, unknown>) => {
        answer = String(got['grpc-status'] ?? answer);
      };
      call.on('response', hear);
      call.on('trailers', hear);
      call.on('error', () => undefined);
      call.on('close', () => resolve());
    });
    call.resume();
    for (const piece of pieces) {
      if (call.destroyed || !call.writable) break;
      if (call.write(piece)) continue;
      await Promise.race([new Promise((resolve) => call.once('drain', resolve)), over]);
    }
    if (ends && call.writable) call.end();
    await over;
    opened.destroy();
    return answer;
  }

  const groups = (depth: number) => Buffer.alloc(depth, 0x7b);
  const odd: Record<string, () => Iterable<Buffer>> = {
    'a byte above the limit': () => [grpcMessage(Buffer.alloc(MESSAGE_LIMIT_BYTES + 1))],
    'a hundred MiB': () =>
      (function* () {
        yield grpcMessage(Buffer.alloc(0), 100 * MIB);
        for (let sent = 0; sent < 100; sent++) yield Buffer.alloc(MIB);
      })(),
    'four GiB, as it says': () => [grpcMessage(Buffer.alloc(1_000), 0xff_ff_ff_ff)],
    'less than it says': () => [grpcMessage(Buffer.alloc(50), 100)],
    'half a head': () => [Buffer.from([0, 0, 0])],
    'two where there is one': () => [grpcMessage(Buffer.alloc(0)), grpcMessage(Buffer.alloc(0))],
    'packed by nobody': () => [grpcMessage(Buffer.alloc(100), 100, 1)],
    'a flag that nobody knows': () => [grpcMessage(Buffer.alloc(0), 0, 0x42)],
    'bytes of no meaning': () => [grpcMessage(Buffer.alloc(10_000, 0xff))],
    'a field that is cut off': () => [grpcMessage(Buffer.from([0x0a, 0x7f, 0x01]))],
    'a field of two GiB, as it says': () => [
      grpcMessage(Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0x07])),
    ],
    'a number that never ends': () => [grpcMessage(Buffer.alloc(100_000, 0x80))],
    'a million groups in each other': () => [grpcMessage(groups(1_000_000))],
    'the end of a group that never began': () => [grpcMessage(Buffer.from([0x7c, 0x7c]))],
    'field 0': () => [grpcMessage(Buffer.from([0x00, 0x00]))],
    'an empty field half a million times': () => [
      grpcMessage(Buffer.alloc(MESSAGE_LIMIT_BYTES - 2, Buffer.from([0x0a, 0x00]))),
    ],
  };
  const paths = [GET_HOST, '/drover.v1.DomainService/CreateDomain', PREPARE];

  it.each(Object.keys(odd))('of %s are answered with an error, or harmless', async (what) => {
    const answers = await stage.survive(async () => {
      const got: string[] = [];
      for (const path of paths) got.push(await send(path, odd[what]?.() ?? []));
      return got;
    });
    // GetHost has no fields: what is in its request does not matter to it.
    expect(answers.slice(1), answers.join()).not.toContain(String(status.OK));
  });

  it('of a gigabyte in a megabyte are refused before they are a gigabyte', async () => {
    const bomb = gzipSync(Buffer.alloc(200 * MIB));
    expect(bomb.length).toBeLessThan(MESSAGE_LIMIT_BYTES);
    const answers = await stage.survive(async () => {
      const packed = [grpcMessage(bomb, bomb.length, 1)];
      const one = (name: string) => send(GET_HOST, packed, { headers: { 'grpc-encoding': name } });
      return await Promise.all([one('gzip'), one('deflate'), one('br'), one('../gzip')]);
    });
    expect(answers).not.toContain(String(status.OK));
  });

  it('with unknown fields in each other are no launch spec', async () => {
    const request = PrepareRequest.encode(PrepareRequest.fromPartial({ launchSpec: {} })).finish();
    const deep = Buffer.concat([request, groups(500_000)]);
    const answer = await stage.survive(() => send(PREPARE, [grpcMessage(deep)]));
    expect(answer).not.toBe(String(status.OK));
  });
});
