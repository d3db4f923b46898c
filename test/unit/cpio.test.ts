import { expect, test } from 'vitest';
import { cpioArchive } from '../../scripts/guest/cpio.js';

test('an archive holds each entry at its aligned place and ends with the trailer', () => {
  const archive = cpioArchive([
    { path: 'dev', kind: 'folder', permissions: 0o755 },
    { path: 'dev/console', kind: 'character-device', permissions: 0o600, device: [5, 1] },
    { path: 'init', kind: 'file', permissions: 0o755, content: Buffer.from('hello') },
  ]);
  const found = entries(archive);
  expect(found).toEqual([
    { name: 'dev', mode: 0o040755, device: [0, 0], content: '' },
    { name: 'dev/console', mode: 0o020600, device: [5, 1], content: '' },
    { name: 'init', mode: 0o100755, device: [0, 0], content: 'hello' },
    { name: 'TRAILER!!!', mode: 0o100000, device: [0, 0], content: '' },
  ]);
});

test('the same entries give the same bytes', () => {
  const entry = { path: 'a', kind: 'file', permissions: 0o644, content: Buffer.from('x') } as const;
  expect(cpioArchive([entry]).equals(cpioArchive([entry]))).toBe(true);
});

/** Reads an archive by the format's description, independently of the writer. */
function entries(archive: Buffer): object[] {
  const found: object[] = [];
  const aligned = (at: number): number => Math.ceil(at / 4) * 4;
  for (let at = 0; at < archive.length; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (index: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const [size, nameSize] = [field(6), field(11)];
    const name = archive.toString('latin1', at + 110, at + 110 + nameSize - 1);
    const start = aligned(at + 110 + nameSize);
    const content = archive.toString('latin1', start, start + size);
    found.push({ name, mode: field(1), device: [field(9), field(10)], content });
    at = aligned(start + size);
  }
  return found;
}
