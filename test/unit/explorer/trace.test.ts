import { describe, expect, it } from 'vitest';
import { isPath } from './trace.js';

const lines = (text: string): string[] =>
  text
    .split(';')
    .map((line) => line.trim())
    .filter((line) => line !== '');

const source = lines(`
  write STARTED; event prepared; write DST_PREPARED; qemu running; qemu pre-switchover;
  event switching; write SWITCHING; qemu completed; event loaded; write COMMITTED; send Commit;
  event taken; write DONE; qemu gone; send SourceGone`);
const destination = lines(`
  write PREPARED; qemu waiting; qemu loaded; event loaded; write LOADED; event commit; write OWNED;
  qemu running; event resumed; write RUNNING; answer RUNNING; event source-gone; write SOURCE_GONE`);

function replaced(trace: readonly string[], from: string, to: string): string[] {
  const at = trace.indexOf(from);
  return [...trace.slice(0, at), ...lines(to)];
}

describe('the trace check', () => {
  it('knows a migration that goes well, as far as it has come', () => {
    expect(isPath(source, destination)).toEqual({ ok: true });
    expect(isPath(source.slice(0, 7), destination.slice(0, 3))).toEqual({ ok: true });
  });

  it('knows a refusal, a crash in every place and a commit that is sent again', () => {
    const crashed = replaced(
      source,
      'event taken',
      'crash; event restarted completed; send Commit; send Commit; event taken; write DONE',
    );
    expect(isPath(crashed, destination)).toEqual({ ok: true });
    const refused = replaced(source, 'event taken', 'event refused; write RECLAIMED; qemu running');
    const refuses = replaced(destination, 'qemu running', 'event never-ran; write ABORTED');
    expect(isPath(refused, refuses)).toEqual({ ok: true });
    const lost = replaced(
      destination,
      'qemu running',
      'power-loss; event restarted gone; event peer COMMITTED; event lost; write RUNNING; answer OWNED_LOST',
    );
    expect(isPath(source.slice(0, 13), lost)).toEqual({ ok: true });
  });

  it('knows the rescue process, and a record that only the next life finds', () => {
    const rescued = replaced(
      source,
      'event loaded',
      'crash; rescue; event restarted completed; write ABORTED; qemu running; rescue-end; event restarted running',
    );
    const gaveUp = [...destination.slice(0, 5), 'event peer ABORTED', 'write ABORTED'];
    expect(isPath(rescued, gaveUp)).toEqual({ ok: true });
    const found = replaced(
      source,
      'write COMMITTED',
      'crash; event restarted completed; send Commit',
    );
    expect(isPath(found, destination.slice(0, 7))).toEqual({ ok: true });
  });

  it('knows a journal that takes no record for once', () => {
    const refused = replaced(source, 'event taken', 'event refused; unwritten RECLAIMED');
    const refuses = replaced(
      destination,
      'write OWNED',
      'unwritten OWNED; event abort; write ABORTED; answer REFUSED',
    );
    const again = [...refused, 'event refused', 'write RECLAIMED'];
    expect(isPath(again, refuses)).toEqual({ ok: true });
    const runs = replaced(destination, 'write RUNNING', 'unwritten RUNNING; event source-gone');
    expect(isPath(source, runs)).toEqual({ ok: true });
  });

  it.each([
    ['a source that goes on without a vote', source, destination.slice(0, 3), 'source'],
    [
      'a destination that owns what was not committed',
      source.slice(0, 8),
      destination,
      'destination',
    ],
    [
      'a guest that runs on the source after the commit',
      [...source.slice(0, 10), 'event failed', 'qemu running'],
      destination,
      'source',
    ],
    [
      'a guest that runs on the destination before OWNED',
      source,
      replaced(destination, 'event commit', 'qemu running'),
      'source',
    ],
    [
      'a source that takes back what the destination has',
      replaced(source, 'event taken', 'event refused; write RECLAIMED'),
      destination,
      'source',
    ],
    [
      'a refusal that was not written',
      replaced(source, 'event taken', 'event refused; write RECLAIMED'),
      replaced(destination, 'write OWNED', 'unwritten OWNED; event abort; unwritten ABORTED'),
      'source',
    ],
    [
      'a record that was there and is gone after a restart',
      replaced(source, 'event taken', 'crash; event restarted completed; write ABORTED'),
      destination.slice(0, 7),
      'source',
    ],
    [
      'a source that is gone before the destination has the guest',
      source.slice(0, 12),
      destination.slice(0, 7),
      'source',
    ],
  ])('refuses %s', (_name, ofSource, ofDestination, side) => {
    const verdict = isPath(ofSource, ofDestination);
    expect(verdict.ok).toBe(false);
    expect(verdict).toMatchObject({ side });
  });
});
