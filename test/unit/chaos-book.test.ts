import { appendFileSync, mkdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GuestBook } from '../chaos/book.js';
import { writeDisk } from '../support/blocks.js';

let folder: string;
let book: GuestBook;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-book-'));
  for (const host of ['alpha', 'beta']) mkdirSync(join(folder, host));
  book = new GuestBook(new Map(['alpha', 'beta'].map((host) => [host, join(folder, host)])));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const line = (seq: number) => `A 0 ${seq.toString(16).padStart(8, '0')}\n`;
const lines = (first: number, last: number) =>
  Array.from({ length: last - first + 1 }, (_, index) => line(first + index)).join('');
/** Lets a QEMU print; those started later have a higher number. */
const print = (host: string, qemu: number, text: string) =>
  appendFileSync(join(folder, host, `100${qemu}-1-1.log`), text);
const image = async (...seqs: number[]) => {
  const path = join(folder, 'disk.raw');
  await writeDisk(
    path,
    'boot-sector',
    seqs.map((seq) => ({ disk: 0, seq })),
  );
  return path;
};

describe('the book of a guest that is moved', () => {
  it('takes numbers that go on in another QEMU, also from the middle of a line', () => {
    print('alpha', 1, `${lines(1, 9)}A 0 0000`);
    print('beta', 2, `000a\n${lines(11, 20)}`);
    expect(book.read()).toEqual([]);
    print('beta', 2, lines(21, 30));
    expect(book.read()).toEqual([]);
    expect(book.ackedWrites).toBe(30);
  });

  it('tells of a guest that runs on both hosts', () => {
    print('alpha', 1, lines(1, 12));
    print('beta', 2, lines(10, 20));
    expect(book.read()[0]).toContain('beta: write 10 of disk 0 again, after 12');
  });

  it('tells of a guest that goes on on its source later', () => {
    print('alpha', 1, lines(1, 10));
    print('beta', 2, lines(11, 20));
    expect(book.read()).toEqual([]);
    print('alpha', 1, lines(11, 11));
    print('beta', 2, lines(21, 22));
    expect(book.read()[0]).toContain('alpha: write 11 of disk 0 again');
  });

  it('tells of numbers that were skipped', () => {
    print('alpha', 1, lines(1, 10));
    print('beta', 2, lines(12, 14));
    expect(book.read()).toEqual(['beta: writes of disk 0 jump from 10 to 12']);
  });

  it('takes a guest that begins anew only when it may', () => {
    print('alpha', 1, lines(1, 10) + lines(1, 5));
    expect(book.read(1)).toEqual([]);
    print('alpha', 1, lines(1, 5));
    expect(book.read(0)[0]).toContain('again');
  });

  it('tells of acknowledged writes that are not on the disk, and takes one in flight', async () => {
    print('alpha', 1, lines(1, 5));
    expect(book.read()).toEqual([]);
    expect(await book.compare([await image(1, 2, 3, 4, 5, 6)])).toEqual([]);
    const [fault] = await book.compare([await image(1, 2, 4, 5)]);
    expect(fault).toContain('1 acknowledged writes lost; 3 in slot 3, found nothing');
  });

  it('tells of a disk that has gone back in time', async () => {
    print('alpha', 1, lines(1, 8200));
    expect(book.read()).toEqual([]);
    const newest = Array.from({ length: 8192 }, (_, index) => index + 9);
    expect(await book.compare([await image(...newest)])).toEqual([]);
    const old = newest.map((seq) => (seq === 8200 ? 8 : seq));
    expect((await book.compare([await image(...old)]))[0]).toContain('8200 in slot 8, found 8');
  });
});
