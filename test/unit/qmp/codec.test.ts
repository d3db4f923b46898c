import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { encodeMessage, MessageDecoder } from '../../../src/qmp/codec.js';

const decode = (text: string) => new MessageDecoder().push(Buffer.from(text));

describe('the decoder of QMP', () => {
  test('gives the same messages however the bytes are cut', () => {
    const objects = fc.array(
      fc.dictionary(
        fc.string().filter((key) => key !== '__proto__'),
        fc.string(),
      ),
    );
    fc.assert(
      fc.property(objects, fc.array(fc.nat(50)), (messages, cuts) => {
        const bytes = Buffer.from(messages.map(encodeMessage).join(''));
        const decoder = new MessageDecoder();
        const decoded: unknown[] = [];
        let start = 0;
        for (const cut of [...cuts, bytes.length]) {
          decoded.push(...decoder.push(bytes.subarray(start, start + cut)));
          start += cut;
        }
        expect(decoded).toEqual(JSON.parse(JSON.stringify(messages)));
      }),
    );
  });

  test('skips empty lines and takes both kinds of line ends', () => {
    expect(decode('{"a":1}\r\n\n\r\n{"b":2}\n')).toEqual([{ a: 1 }, { b: 2 }]);
  });

  test.each([
    ['broken JSON', '{"a":\n'],
    ['a list', '[1]\n'],
    ['a bare value', '7\n'],
    ['the key __proto__', '{"return":{"__proto__":{"polluted":true}}}\n'],
    ['deep nesting', `{"a":${'['.repeat(300)}${']'.repeat(300)}}\n`],
    ['very deep nesting', `{"a":${'['.repeat(1_000_000)}\n`],
  ])('refuses %s', (_name, line) => {
    expect(() => decode(line)).toThrow(expect.objectContaining({ name: 'QmpProtocolError' }));
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });

  test('does not count brackets in strings as nesting', () => {
    const text = `${'['.repeat(500)}\\"${'{'.repeat(500)}`;
    expect(decode(`{"a":"${text}"}\n`)).toHaveLength(1);
  });

  test('refuses a line over the limit, also one that comes in small pieces', () => {
    const decoder = new MessageDecoder(100);
    expect(decoder.push(Buffer.from('x'.repeat(90)))).toEqual([]);
    expect(() => decoder.push(Buffer.from('x'.repeat(11)))).toThrow('more than 100 bytes');
  });

  test.each([
    ['in part', '{"return":{"__pr\\u006fto__":1}}\n'],
    ['as a whole', '{"a":[{"\\u005f\\u005fproto\\u005f\\u005f":{"polluted":true}}]}\n'],
  ])('refuses the key __proto__ written in escapes %s', (_name, line) => {
    expect(() => decode(line)).toThrow(expect.objectContaining({ name: 'QmpProtocolError' }));
    expect(decode('{"a":"__proto__ \\u005f"}\n')).toEqual([{ a: '__proto__ _' }]);
  });

  test('keeps little more than the bytes of a line that comes one by one', () => {
    const decoder = new MessageDecoder();
    const before = process.memoryUsage().rss;
    const byte = Buffer.from('x');
    const start = process.cpuUsage();
    for (let count = 0; count < 1_000_000; count += 1) decoder.push(byte);
    expect(process.memoryUsage().rss - before).toBeLessThan(150 * 1024 ** 2);
    expect(process.cpuUsage(start).user / 1000).toBeLessThan(8000);
  });

  test('reads the longest message in a short time', () => {
    const line = `{"a":[${'0,'.repeat(2 * 1024 ** 2 - 10)}0]}\n`;
    const start = process.cpuUsage();
    expect(decode(line)).toHaveLength(1);
    expect(process.cpuUsage(start).user / 1000).toBeLessThan(2500);
    expect(() => decode(`{"a":"${'x'.repeat(4 * 1024 ** 2)}"}\n`)).toThrow('more than');
  });
});
