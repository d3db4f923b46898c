import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FRAME, FrameReader, frame, writeHeader } from '../../../src/channel/frames.js';

/** What a reader says of bytes that come in pieces. */
function read(pieces: readonly Uint8Array[]) {
  const heard: string[] = [];
  let data = '';
  const reader = new FrameReader({
    data: (start, end) => {
      data += Buffer.from(now.subarray(start, end)).toString('latin1');
    },
    end: () => heard.push('end'),
    broken: (text) => heard.push(`broken ${text}`),
    ready: () => heard.push('ready'),
    invalid: () => heard.push('invalid'),
  });
  let now: Uint8Array = new Uint8Array();
  for (const piece of pieces) {
    now = piece;
    reader.read(piece, 0, piece.length);
  }
  return { heard, data };
}

function dataFrame(text: string): Buffer {
  const head = Buffer.alloc(4);
  writeHeader(head, FRAME.data, text.length);
  return Buffer.concat([head, Buffer.from(text, 'latin1')]);
}

const header = (type: number, lengthBytes: number) => {
  const head = Buffer.alloc(4);
  writeHeader(head, type, lengthBytes);
  return head;
};

describe('frames', () => {
  it('say the same however they are cut', () => {
    const whole = Buffer.concat([
      frame(FRAME.ready),
      dataFrame('one'),
      frame(FRAME.alive),
      dataFrame('x'.repeat(300)),
      frame(FRAME.end),
      frame(FRAME.alive),
      frame(FRAME.broken, 'STALLED It took too long.'),
    ]);
    const heard = ['ready', 'end', 'broken STALLED It took too long.'];
    fc.assert(
      fc.property(fc.array(fc.nat(whole.length), { maxLength: 40 }), (cuts) => {
        const places = [0, ...cuts.sort((one, other) => one - other), whole.length];
        const pieces = places.slice(1).map((end, index) => whole.subarray(places[index], end));
        expect(read(pieces)).toEqual({ heard, data: `one${'x'.repeat(300)}` });
      }),
    );
  });

  it.each([
    ['of an unknown type', header(9, 0)],
    ['of data without any', header(FRAME.data, 0)],
    ['of an end with something in it', header(FRAME.end, 1)],
    ['of a sign of life with something in it', header(FRAME.alive, 1)],
    ['with too long a reason', header(FRAME.broken, 1025)],
    ['of data after the end', Buffer.concat([frame(FRAME.end), dataFrame('x')])],
    ['of a second end', Buffer.concat([frame(FRAME.end), frame(FRAME.end)])],
  ])('%s are none, and nothing is read after them', (_what, bytes) => {
    const { heard, data } = read([bytes, dataFrame('more'), frame(FRAME.broken, 'x')]);
    expect(heard.filter((word) => word !== 'end')).toEqual(['invalid']);
    expect(data).toBe('');
  });

  it('may break a stream off without a word', () => {
    expect(read([frame(FRAME.broken)]).heard).toEqual(['broken ']);
  });

  it('cut a reason that is too long', () => {
    expect(read([frame(FRAME.broken, 'x'.repeat(5000))]).heard).toEqual([
      `broken ${'x'.repeat(1024)}`,
    ]);
  });
});
